//! Texts and images by which quantization is guided and judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::RgbImage;

use crate::processor::images::{self, ImageLimits, ImageOption, ImageOptions, ImageSource, NumCrops};
use crate::processor::{Message, Processor, Prompt, Segment};

/// Positions of one piece of text.
const WINDOW: usize = 512;
const QUESTION: &str = "Describe this picture in detail.";
const TEXTS: &str = include_str!("texts.txt");
const IMAGE: &[u8] = include_bytes!("../../../demo/cat.jpg");

/// Prompts that a model is run on.
#[derive(Clone)]
pub struct Samples {
    /// Pieces of text, and questions about images.
    pub prompts: Vec<Rc<Prompt>>,
}

impl Samples {
    /// Some texts of many kinds and, for models with vision, a photo.
    ///
    /// `longest` is the model's context.
    pub fn built_in(processor: &Processor, longest: usize) -> Result<Self> {
        let image = || ImageSource::Data(format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(IMAGE)));
        let images = if processor.has_vision() { vec![image()] } else { Vec::new() };
        Self::make(TEXTS, &images, processor, longest)
    }

    /// A file of text, an image, or a folder of such: the lines of `*.txt` one after the other, and a question about
    /// each image.
    pub fn read(path: &Path, processor: &Processor, longest: usize) -> Result<Self> {
        let files = if path.is_dir() { files_in(path)? } else { vec![path.to_owned()] };
        let (mut text, mut images) = (String::new(), Vec::new());
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase).as_deref() {
                Some("png" | "jpg" | "jpeg" | "webp" | "gif" | "bmp") => images.push(ImageSource::Path(file)),
                Some("txt") => {
                    text += &fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                    text += "\n";
                }
                _ => bail!("{} is neither text (.txt) nor an image (.png, .jpg, .webp, .gif, .bmp)", file.display()),
            }
        }
        ensure!(processor.has_vision() || images.is_empty(), "{}: this model takes no images", path.display());
        let samples = Self::make(&text, &images, processor, longest)?;
        ensure!(!samples.prompts.is_empty(), "{} holds neither text nor images", path.display());
        Ok(samples)
    }

    fn make(text: &str, images: &[ImageSource], processor: &Processor, longest: usize) -> Result<Self> {
        let tokenizer = &processor.tokenizer;
        let start = tokenizer.encode("", true)?; // a BOS, for most
        let ids = tokenizer.encode(text.trim(), false)?;
        let window = WINDOW.min(longest.saturating_sub(1)).saturating_sub(start.len()).max(1);
        let windows = ids.chunks(window).map(|window| {
            let ids = start.iter().chain(window).copied().collect();
            Prompt { text: String::new(), segments: vec![Segment::Text(ids)], images: Vec::new() }
        });
        // A single position has nothing to predict.
        let mut prompts: Vec<Prompt> = windows.filter(|prompt| prompt.len() > 1).collect();
        for source in images {
            let image = [images::load(source, &ImageLimits::default())?];
            prompts.push(question_about(&image, processor)?);
        }
        Ok(Self { prompts: prompts.into_iter().map(Rc::new).collect() })
    }

    /// Those to be guided by, and every fourth of each kind to be judged by. A single one of its kind is both.
    pub fn split(self) -> (Self, Self) {
        let (text, images): (Vec<_>, Vec<_>) = self.prompts.into_iter().partition(|prompt| prompt.images.is_empty());
        let (mut guide, mut judge) = (Vec::new(), Vec::new());
        for kind in [text, images] {
            let alone = kind.len() == 1;
            for (i, prompt) in kind.into_iter().enumerate() {
                let judges = i % 4 == 1;
                if alone || !judges {
                    guide.push(prompt.clone());
                }
                if alone || judges {
                    judge.push(prompt);
                }
            }
        }
        (Self { prompts: guide }, Self { prompts: judge })
    }

    /// The first that fit into so many positions: images into half of them, texts into what is left; at least one of each
    /// kind.
    #[must_use]
    pub fn up_to(&self, positions: usize) -> Self {
        let mut left = positions;
        let mut prompts = Vec::new();
        for (images, share) in [(true, positions / 2), (false, positions)] {
            let mut room = share.min(left);
            let of_kind = self.prompts.iter().filter(|prompt| prompt.images.is_empty() != images);
            for (i, prompt) in of_kind.enumerate() {
                if i == 0 || prompt.len() <= room {
                    room = room.saturating_sub(prompt.len());
                    left = left.saturating_sub(prompt.len());
                    prompts.push(prompt.clone());
                }
            }
        }
        Self { prompts }
    }

    /// Positions of all prompts.
    pub fn positions(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.len()).sum()
    }
}

/// With as few positions as show the model all that it has for images: of tiles, a single one beside the whole image.
fn question_about(image: &[RgbImage; 1], processor: &Processor) -> Result<Prompt> {
    let has_crops = processor.images().is_some_and(|images| images.options().contains(&ImageOption::NumCrops));
    let options = ImageOptions { num_crops: has_crops.then_some(NumCrops::Fixed(1)), ..ImageOptions::default() };
    if processor.has_chat_template() {
        return processor.prepare(&[Message::new("user", QUESTION)], image, &options);
    }
    let text = processor.join(&[processor.placeholder(0)?, QUESTION.to_owned()]);
    processor.prepare_text(&text, image, &options)
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    files.retain(|path| path.is_file() && !hidden(path));
    files.sort();
    Ok(files)
}
