//! Pictures for questions: read, cut, and shown small where the terminal can.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use image::{DynamicImage, RgbImage};
use phi3v::processor::images::{self, ImageLimits, ImageSource};
use phi3v::processor::{NumCrops, Processor};

use super::conversation::Picture;
use super::saved::SavedPicture;
use super::{Chat, words};
use crate::commands::session::Session;
use crate::interrupt;

/// A picture that is read, but not cut.
pub(super) struct Decoded {
    /// Where it can be read again, from any folder.
    source: String,
    image: RgbImage,
}

impl Chat {
    /// Attaches what is named, or shows what is attached.
    pub(super) fn image(&mut self, argument: &str, session: &Session) -> Result<()> {
        let sources = words::sources(argument)?;
        if !sources.is_empty() {
            return self.read_and_attach(&sources, session);
        }
        let number = self.conversation.pictures().count() + 1;
        for (at, picture) in self.conversation.attached.iter().enumerate() {
            self.ui.reply(describe(number + at, picture));
        }
        ensure!(!self.conversation.attached.is_empty(), "/image: name a file or an address of a picture");
        Ok(())
    }

    pub(super) fn read_and_attach(&mut self, sources: &[String], session: &Session) -> Result<()> {
        let reading = Instant::now();
        let decoded = sources.iter().map(|source| read(source, &self.limits)).collect::<Result<Vec<_>>>()?;
        ensure!(!interrupt::requested(), "interrupted; no picture is attached");
        self.image_time += reading.elapsed();
        self.attach(decoded, session.engine.processor())
    }

    /// Attaches all of them or, after an error, none.
    pub(super) fn attach(&mut self, decoded: Vec<Decoded>, processor: &Processor) -> Result<()> {
        let cutting = Instant::now();
        let num_crops = self.settings.num_crops;
        let mut attached = self.conversation.attached.clone();
        let together = attached.len() + decoded.len();
        if num_crops == NumCrops::Auto && together > 1 {
            // A picture that is alone no more.
            for picture in attached.iter_mut().filter(|picture| picture.num_crops == Some(AUTO_SINGLE)) {
                *picture = cut(read(&picture.source, &self.limits)?, num_crops, together, processor)?;
            }
        }
        let first = attached.len();
        let thumbnails: Vec<_> = decoded.iter().map(|it| self.thumbnails.then(|| small(&it.image))).collect();
        for decoded in decoded {
            attached.push(cut(decoded, num_crops, together, processor)?);
        }
        let number = self.conversation.pictures().count() + 1;
        for (at, (picture, thumbnail)) in attached[first..].iter().zip(thumbnails).enumerate() {
            thumbnail.iter().for_each(show);
            self.ui.note(describe(number + first + at, picture));
        }
        self.conversation.attached = attached;
        self.image_time += cutting.elapsed();
        Ok(())
    }
}

pub(super) fn read(source: &str, limits: &ImageLimits) -> Result<Decoded> {
    let from: ImageSource = source.parse()?;
    let image = match from {
        ImageSource::Stdin => bail!("- is no picture here: stdin is the conversation; name a file or an address"),
        _ => images::load(&from, limits)?,
    };
    let source = match from {
        ImageSource::Path(path) => std::path::absolute(&path).unwrap_or(path).display().to_string(),
        _ => source.to_owned(),
    };
    Ok(Decoded { source, image })
}

/// Cuts a picture for a question with `together` pictures.
fn cut(decoded: Decoded, num_crops: NumCrops, together: usize, processor: &Processor) -> Result<Picture> {
    let num_crops = match num_crops {
        NumCrops::Checkpoint => None,
        NumCrops::Auto if together == 1 => Some(AUTO_SINGLE),
        NumCrops::Auto => Some(AUTO_SEVERAL),
        NumCrops::Fixed(n) => Some(n),
    };
    let crops = num_crops.map_or(NumCrops::Checkpoint, NumCrops::Fixed);
    let [tiles] = processor.tiles(&[decoded.image], crops)?.try_into().expect("one picture in, one out");
    Ok(Picture { source: decoded.source, num_crops, tiles })
}

/// Microsoft's advice for a picture alone, and for each of several.
const AUTO_SINGLE: u32 = 16;
const AUTO_SEVERAL: u32 = 4;

/// Reads a picture of an earlier conversation again.
pub(super) fn restore(saved: SavedPicture, limits: &ImageLimits, processor: &Processor) -> Result<Picture> {
    if saved.num_crops.is_some_and(|n| !(1..=1024).contains(&n)) {
        bail!("it is damaged: num_crops of {} is not from 1 to 1024", saved.source);
    }
    let num_crops = saved.num_crops.map_or(NumCrops::Checkpoint, NumCrops::Fixed);
    let decoded = read(&saved.source, limits)?;
    Ok(Picture { source: saved.source, ..cut(decoded, num_crops, 1, processor)? })
}

/// A picture as a terminal shows it.
fn small(image: &RgbImage) -> DynamicImage {
    let (width, height) = (u64::from(image.width()), u64::from(image.height()));
    let side = width.max(height).max(1);
    let scaled = |length: u64| (length * 320.min(side) / side).max(1) as u32;
    DynamicImage::ImageRgb8(image::imageops::thumbnail(image, scaled(width), scaled(height)))
}

/// Draws a small picture at the cursor. What goes wrong is of no importance.
fn show(image: &DynamicImage) {
    let upright = image.height() > image.width();
    // Whether a terminal has Kitty's protocol is found out by asking it, and waiting: only those with the name are asked.
    let variable = |name: &str| std::env::var(name).unwrap_or_default().to_lowercase();
    let kitty =
        ["TERM", "TERM_PROGRAM"].iter().any(|name| ["kitty", "ghostty"].iter().any(|k| variable(name).contains(k)));
    let config = viuer::Config {
        absolute_offset: false,
        width: (!upright).then_some(32),
        height: upright.then_some(12),
        use_kitty: kitty,
        ..viuer::Config::default()
    };
    let _ = viuer::print(image, &config);
}

/// How a picture is told about.
fn describe(number: usize, picture: &Picture) -> String {
    let tiles = &picture.tiles;
    let name = PathBuf::from(&picture.source);
    let name = match name.file_name() {
        Some(file) if !picture.source.starts_with("data:") => file.to_string_lossy().into_owned(),
        _ => "data".into(),
    };
    format!("picture {number}: {name}, {} × {} tiles, {} tokens", tiles.rows, tiles.cols, tiles.image_tokens())
}
