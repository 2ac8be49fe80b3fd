//! Images: from a source to pixels, and from pixels to the input of an architecture's vision part.

mod decode;
pub mod phi3_v;
pub mod qwen2_vl;
mod resize;
mod sizes;
mod source;

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use image::RgbImage;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use decode::decode;
pub use sizes::ImageSizes;
pub use source::{ImageError, ImageLimits, ImageSource, is_image, load};

use crate::checkpoint::ModelFiles;
use crate::checkpoint::json::parse;

/// A checkpoint's `preprocessor_config.json`.
fn preprocessor_config<T: DeserializeOwned>(files: &ModelFiles) -> Result<T> {
    let Some(config) = &files.preprocessor else {
        bail!(
            "{} has no preprocessor_config.json, which a vision model needs; copy it from the original model",
            files.folder.display()
        );
    };
    parse(config).with_context(|| files.folder.join("preprocessor_config.json").display().to_string())
}

/// What an architecture does with images before its vision part sees them. Of several images in one prompt, the first has
/// the index 0.
pub trait ImageProcessor: Send + Sync {
    /// The options that it has; others are refused.
    fn options(&self) -> &'static [ImageOption];

    /// The layout of an image of this width and height, which is one of `count` in its prompt.
    ///
    /// # Errors
    /// When an option or a size cannot be honoured.
    fn layout(&self, size: (u32, u32), count: usize, options: &ImageOptions) -> Result<Layout>;

    /// Resizes and normalizes an image to this layout, which is one of its size.
    fn pixels(&self, image: &RgbImage, layout: &Layout) -> Pixels;

    /// The text that stands for an image in a prompt.
    fn placeholder(&self, index: usize) -> Cow<'static, str>;

    /// What stands between an image and the text beside it in a message.
    fn separator(&self) -> &'static str;

    /// Splits a prompt at its images: text and images in turn, text first and last, empty or not.
    fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>>;

    /// The id that the reference has in `input_ids` at the positions of an image.
    fn input_id(&self, index: usize) -> i64;

    /// Whether every text between images gets the tokenizer's own special tokens (a BOS, for most).
    fn adds_special_tokens(&self) -> bool {
        false
    }

    /// Where the element `flat` of part `part` (a tile, a patch) is in [`Pixels::values`], in the reference's order of
    /// elements.
    fn reference_index(&self, part: usize, flat: usize) -> usize;

    /// Elements of such a part.
    fn part_len(&self) -> usize;

    /// The layout in words, such as `3 × 4 tiles`.
    fn describe(&self, layout: &Layout) -> String;

    /// Where the parts of an image are that begins at position `start` of its prompt.
    fn explain(&self, layout: &Layout, start: usize) -> Explanation;
}

/// An option of image processing, which only some architectures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageOption {
    /// The most tiles that an image is cut into.
    NumCrops,
    /// The least area in pixels that an image is resized to.
    MinPixels,
    /// The largest area in pixels that an image is resized to.
    MaxPixels,
}

impl ImageOption {
    /// Its name as a setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::NumCrops => "num_crops",
            Self::MinPixels => "min_pixels",
            Self::MaxPixels => "max_pixels",
        }
    }
}

/// The values of options; the checkpoint's own where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageOptions {
    /// See [`ImageOption::NumCrops`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_crops: Option<NumCrops>,
    /// See [`ImageOption::MinPixels`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_pixels: Option<u64>,
    /// See [`ImageOption::MaxPixels`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pixels: Option<u64>,
}

/// How many tiles an image may be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "NumberOrAuto", from = "NumberOrAuto")]
pub enum NumCrops {
    /// Microsoft's advice for Phi-3.5-vision: 16 for a single image, 4 each for several.
    Auto,
    /// This many.
    Fixed(u32),
}

/// How [`NumCrops`] is written: a number, or `"auto"`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrAuto {
    Number(u32),
    Auto(Auto),
}

#[derive(Serialize, Deserialize)]
enum Auto {
    #[serde(rename = "auto")]
    Auto,
}

impl From<NumCrops> for NumberOrAuto {
    fn from(num_crops: NumCrops) -> Self {
        match num_crops {
            NumCrops::Auto => Self::Auto(Auto::Auto),
            NumCrops::Fixed(n) => Self::Number(n),
        }
    }
}

impl From<NumberOrAuto> for NumCrops {
    fn from(written: NumberOrAuto) -> Self {
        match written {
            NumberOrAuto::Number(n) => Self::Fixed(n),
            NumberOrAuto::Auto(Auto::Auto) => Self::Auto,
        }
    }
}

impl ImageOptions {
    /// An error that names the first option that is given and that the model does not have.
    pub fn check(&self, processor: Option<&dyn ImageProcessor>) -> Result<()> {
        let given = [
            (ImageOption::NumCrops, self.num_crops.is_some()),
            (ImageOption::MinPixels, self.min_pixels.is_some()),
            (ImageOption::MaxPixels, self.max_pixels.is_some()),
        ];
        let known = processor.map_or(&[][..], ImageProcessor::options);
        let Some((unknown, _)) = given.iter().find(|(option, given)| *given && !known.contains(option)) else {
            return Ok(());
        };
        let name = unknown.name();
        if processor.is_none() {
            bail!("`{name}`: this model takes no images; leave it out");
        }
        let known: Vec<String> = known.iter().map(|option| format!("`{}`", option.name())).collect();
        bail!("`{name}`: this model does not have that image option; it has {}", known.join(" and "))
    }
}

/// The layout of an image, which follows from its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// Positions that the image takes in the prompt.
    pub tokens: usize,
    /// Width and height in pixels that it is resized and padded to.
    pub size: (u32, u32),
    /// Rows and columns of what it is cut into: tiles or patches.
    pub grid: (usize, usize),
    /// Positions that the vision tower computes.
    pub tower_positions: usize,
    /// Rows and columns in which its tokens stand, where rotary positions have a height and a width.
    pub extent: Option<(usize, usize)>,
}

/// An image as a vision part takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Normalized values, in the order that the architecture wants.
    pub values: Vec<f32>,
    /// Their layout.
    pub layout: Layout,
}

/// A piece of a prompt's text.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'t> {
    /// Text between images.
    Text(&'t str),
    /// An image and its placeholder; the index is none where images are taken in their order.
    Image(Option<usize>, &'t str),
}

/// Where the parts of an image are, for people and for programs.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// For people, a line each.
    pub lines: Vec<String>,
    /// For programs.
    pub parts: serde_json::Map<String, serde_json::Value>,
}
