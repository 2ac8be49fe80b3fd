//! Images for questions: read, resized, and shown small where the terminal can.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use image::{DynamicImage, RgbImage};
use phi3v::processor::Processor;
use phi3v::processor::images::{self, ImageLimits, ImageOptions, ImageSource};

use super::conversation::Image;
use super::saved::SavedImage;
use super::{Chat, words};
use crate::commands::session::Session;
use crate::interrupt;

/// An image that is read, but not resized.
pub(super) struct Decoded {
    /// Where it can be read again, from any folder.
    source: String,
    image: RgbImage,
}

impl Chat {
    /// Attaches what is named, or shows what is attached.
    pub(super) fn image(&mut self, argument: &str, session: &Session) -> Result<()> {
        let sources = words::sources(argument)?;
        let processor = session.engine.processor();
        if !sources.is_empty() {
            return self.read_and_attach(&sources, processor);
        }
        let number = self.conversation.images().count() + 1;
        for (at, image) in self.conversation.attached.iter().enumerate() {
            self.ui.reply(describe(number + at, image, processor));
        }
        ensure!(!self.conversation.attached.is_empty(), "/image: name a file or an address of an image");
        Ok(())
    }

    pub(super) fn read_and_attach(&mut self, sources: &[String], processor: &Processor) -> Result<()> {
        let reading = Instant::now();
        let decoded = sources.iter().map(|source| read(source, &self.limits)).collect::<Result<Vec<_>>>()?;
        ensure!(!interrupt::requested(), "interrupted; no image is attached");
        self.image_time += reading.elapsed();
        self.attach(decoded, processor)
    }

    /// Attaches all of them or, after an error, none.
    pub(super) fn attach(&mut self, decoded: Vec<Decoded>, processor: &Processor) -> Result<()> {
        let resizing = Instant::now();
        let mut attached = self.conversation.attached.clone();
        let first = attached.len();
        let count = first + decoded.len();
        // The layout of an image may depend on how many there are.
        for image in attached.iter_mut().filter(|_| count > first) {
            let layout = layout(image.size, count, &image.options, processor)?;
            if layout != image.pixels.layout {
                *image = resize(read(&image.source, &self.limits)?, &image.options, count, processor)?;
            }
        }
        let thumbnails: Vec<_> = decoded.iter().map(|it| self.thumbnails.then(|| small(&it.image))).collect();
        for decoded in decoded {
            attached.push(resize(decoded, &self.settings.image_options, count, processor)?);
        }
        let number = self.conversation.images().count() + 1;
        for (at, (image, thumbnail)) in attached[first..].iter().zip(thumbnails).enumerate() {
            thumbnail.iter().for_each(show);
            self.ui.note(describe(number + first + at, image, processor));
        }
        self.conversation.attached = attached;
        self.image_time += resizing.elapsed();
        Ok(())
    }
}

pub(super) fn read(source: &str, limits: &ImageLimits) -> Result<Decoded> {
    let from: ImageSource = source.parse()?;
    let image = match from {
        ImageSource::Stdin => bail!("- is no image here: stdin is the conversation; name a file or an address"),
        _ => images::load(&from, limits)?,
    };
    let source = match from {
        ImageSource::Path(path) => std::path::absolute(&path).unwrap_or(path).display().to_string(),
        _ => source.to_owned(),
    };
    Ok(Decoded { source, image })
}

fn layout(size: (u32, u32), count: usize, options: &ImageOptions, processor: &Processor) -> Result<images::Layout> {
    let layouts = processor.layouts(&vec![size; count], options)?;
    layouts.first().copied().context("there are no images")
}

/// The image for a question with `count` images.
fn resize(decoded: Decoded, options: &ImageOptions, count: usize, processor: &Processor) -> Result<Image> {
    let Decoded { source, image } = decoded;
    let size = image.dimensions();
    let layout = layout(size, count, options, processor)?;
    let processor = processor.images().context("this model has no vision: it takes no images")?;
    Ok(Image { source, options: *options, count, size, pixels: processor.pixels(&image, &layout) })
}

/// Reads an image of an earlier conversation again.
pub(super) fn restore(saved: SavedImage, limits: &ImageLimits, processor: &Processor) -> Result<Image> {
    let SavedImage { source, options, count } = saved;
    let restored = resize(read(&source, limits)?, &options, count.clamp(1, 1 << 16), processor)?;
    Ok(Image { source, ..restored })
}

/// An image as a terminal shows it.
fn small(image: &RgbImage) -> DynamicImage {
    let (width, height) = (u64::from(image.width()), u64::from(image.height()));
    let side = width.max(height).max(1);
    let scaled = |length: u64| (length * 320.min(side) / side).max(1) as u32;
    DynamicImage::ImageRgb8(image::imageops::thumbnail(image, scaled(width), scaled(height)))
}

/// Draws a small image at the cursor. What goes wrong is of no importance.
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

/// An image in a few words.
fn describe(number: usize, image: &Image, processor: &Processor) -> String {
    let name = PathBuf::from(&image.source);
    let name = match name.file_name() {
        Some(file) if !image.source.starts_with("data:") => file.to_string_lossy().into_owned(),
        _ => "data".into(),
    };
    let layout = &image.pixels.layout;
    let grid = processor.images().map(|images| images.describe(layout)).unwrap_or_default();
    format!("image {number}: {name}, {grid}, {} tokens", layout.tokens)
}
