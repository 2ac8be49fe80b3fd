//! Qwen2-VL's dynamic resolution: an image is resized to whole groups of patches and cut into them.
//! Reference: transformers, image_processing_pil_qwen2_vl.py.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use image::{Rgb, RgbImage};
use serde::Deserialize;
use serde_json::{Map, json};

use super::resize::{Filter, pillow_resize};
use super::{Explanation, ImageOption, ImageOptions, ImageProcessor, Layout, Piece, Pixels, preprocessor_config};
use crate::checkpoint::ModelFiles;

/// The keys of `preprocessor_config.json`; defaults are those of the reference's class.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Config {
    patch_size: u32,
    temporal_patch_size: u32,
    merge_size: u32,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    size: Size,
    /// Per channel, red first.
    image_mean: [f32; 3],
    /// Per channel, red first.
    image_std: [f32; 3],
    /// Pillow's number of the filter.
    resample: u32,
}

/// Areas, in spite of their names.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct Size {
    shortest_edge: u64,
    longest_edge: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            min_pixels: None,
            max_pixels: None,
            size: Size::default(),
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            resample: BICUBIC,
        }
    }
}

impl Default for Size {
    fn default() -> Self {
        Self { shortest_edge: 56 * 56, longest_edge: 28 * 28 * 1280 }
    }
}

const BICUBIC: u32 = 3;
/// Sides that differ more are refused.
const MOST_RATIO: u32 = 200;
const PLACEHOLDER: &str = "<|vision_start|><|image_pad|><|vision_end|>";
/// The one token of a placeholder that stands for the image's vectors.
const PAD: &str = "<|image_pad|>";

/// The image processor of a checkpoint.
pub struct Qwen2VlImageProcessor {
    config: Config,
    image_token_id: i64,
}

impl Qwen2VlImageProcessor {
    /// That of a checkpoint.
    ///
    /// # Errors
    /// When its configuration is missing, or not of this kind.
    pub fn new(files: &ModelFiles) -> Result<Self> {
        let config: Config = preprocessor_config(files)?;
        for (key, value, most) in [
            ("patch_size", config.patch_size, 1 << 10),
            ("temporal_patch_size", config.temporal_patch_size, 1 << 4),
            ("merge_size", config.merge_size, 1 << 4),
        ] {
            ensure!(
                (1..=most).contains(&value),
                "preprocessor_config.json: {key} is {value}, where 1 to {most} is expected"
            );
        }
        let resample = config.resample;
        ensure!(resample == BICUBIC, "preprocessor_config.json: resample {resample} is not bicubic, 3");
        let image_token_id =
            files.config["image_token_id"].as_i64().context("config.json: image_token_id is missing")?;
        Ok(Self { config, image_token_id })
    }

    /// Width and height that an image is resized to: multiples of a group of patches, with an area between `least` and
    /// `most`.
    /// image_processing_qwen2_vl.py, smart_resize
    fn resized(&self, (width, height): (u32, u32), least: u64, most: u64) -> Result<(u32, u32)> {
        ensure!(width > 0 && height > 0, "the image has no pixels ({width} × {height})");
        let (long, short) = (width.max(height), width.min(height));
        ensure!(
            u64::from(long) <= u64::from(short) * u64::from(MOST_RATIO),
            "the image is too thin ({long} × {short}): sides up to {MOST_RATIO}:1 are read"
        );
        let factor = f64::from(self.config.patch_size * self.config.merge_size);
        let sides = [f64::from(width), f64::from(height)];
        // As Python rounds: halves to even.
        let rounded = sides.map(|side| (side / factor).round_ties_even() * factor);
        let (least, most) = (least as f64, most as f64);
        let [width, height] = if rounded[0] * rounded[1] > most {
            let shrink = (sides[0] * sides[1] / most).sqrt();
            sides.map(|side| ((side / shrink / factor).floor() * factor).max(factor))
        } else if rounded[0] * rounded[1] < least {
            let grow = (least / (sides[0] * sides[1])).sqrt();
            sides.map(|side| (side * grow / factor).ceil() * factor)
        } else {
            rounded
        };
        Ok((width as u32, height as u32))
    }

    /// Numbers of a patch, `[frames, patch_size, patch_size, 3]`.
    fn patch_len(&self) -> usize {
        3 * (self.config.temporal_patch_size * self.config.patch_size.pow(2)) as usize
    }
}

impl ImageProcessor for Qwen2VlImageProcessor {
    fn options(&self) -> &'static [ImageOption] {
        &[ImageOption::MinPixels, ImageOption::MaxPixels]
    }

    fn layout(&self, size: (u32, u32), _count: usize, options: &ImageOptions) -> Result<Layout> {
        let Config { patch_size, merge_size, min_pixels, max_pixels, size: ref areas, .. } = self.config;
        let least = options.min_pixels.or(min_pixels).unwrap_or(areas.shortest_edge);
        let most = options.max_pixels.or(max_pixels).unwrap_or(areas.longest_edge);
        ensure!(least <= most, "`min_pixels` is {least}, more than `max_pixels`, {most}");
        let (width, height) = self.resized(size, least, most)?;
        let (rows, cols) = ((height / patch_size) as usize, (width / patch_size) as usize);
        let merged = (rows / merge_size as usize, cols / merge_size as usize);
        Ok(Layout {
            tokens: merged.0 * merged.1,
            size: (width, height),
            grid: (rows, cols),
            tower_positions: rows * cols,
            extent: Some(merged),
        })
    }

    /// Patches `[rows · cols, frames, patch_size, patch_size, 3]`: groups of `merge_size` × `merge_size` row by row, and in a
    /// group row by row. A still image is there once for each frame.
    fn pixels(&self, image: &RgbImage, layout: &Layout) -> Pixels {
        let Config { image_mean: mean, image_std: std, patch_size, temporal_patch_size, merge_size, .. } = self.config;
        let resized = pillow_resize(image, layout.size.0, layout.size.1, Filter::Bicubic);
        let table: [[f32; 256]; 3] =
            std::array::from_fn(|c| std::array::from_fn(|value| (value as f32 / 255.0 - mean[c]) / std[c]));
        let (patch, merge) = (patch_size as usize, merge_size as usize);
        let mut values = Vec::with_capacity(layout.tower_positions * self.patch_len());
        for (row, col) in patches_in_order(layout.grid, merge) {
            let start = values.len();
            for y in row * patch..(row + 1) * patch {
                for x in col * patch..(col + 1) * patch {
                    let Rgb(pixel) = *resized.get_pixel(x as u32, y as u32);
                    values.extend((0..3).map(|c| table[c][pixel[c] as usize]));
                }
            }
            let frame = start..values.len();
            (1..temporal_patch_size).for_each(|_| values.extend_from_within(frame.clone()));
        }
        Pixels { values, layout: *layout }
    }

    fn placeholder(&self, _index: usize) -> Cow<'static, str> {
        PLACEHOLDER.into()
    }

    fn separator(&self) -> &'static str {
        ""
    }

    fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for (at, pad) in text.match_indices(PAD) {
            pieces.extend([Piece::Text(&text[start..at]), Piece::Image(None, pad)]);
            start = at + pad.len();
        }
        pieces.push(Piece::Text(&text[start..]));
        pieces
    }

    fn input_id(&self, _index: usize) -> i64 {
        self.image_token_id
    }

    // A patch is [3, frames, patch_size, patch_size] there, and [frames, patch_size, patch_size, 3] here.
    fn reference_index(&self, part: usize, flat: usize) -> usize {
        let of_channel = self.patch_len() / 3;
        part * self.patch_len() + flat % of_channel * 3 + flat / of_channel
    }

    fn part_len(&self) -> usize {
        self.patch_len()
    }

    fn describe(&self, layout: &Layout) -> String {
        let (rows, cols) = layout.grid;
        format!("{rows} × {cols} patches")
    }

    fn explain(&self, layout: &Layout, start: usize) -> Explanation {
        let (rows, cols) = layout.extent.unwrap_or_default();
        let lines = vec![format!("{rows} rows of {cols} tokens, the first from {start}")];
        let parts = [("rows", json!(rows)), ("cols", json!(cols))];
        Explanation { lines, parts: Map::from_iter(parts.map(|(name, value)| (name.to_owned(), value))) }
    }
}

/// Rows and columns of patches in the order in which the tower takes them: groups of `merge` × `merge`, row by row.
pub(crate) fn patches_in_order((rows, cols): (usize, usize), merge: usize) -> impl Iterator<Item = (usize, usize)> {
    let groups = (0..rows / merge).flat_map(move |row| (0..cols / merge).map(move |col| (row * merge, col * merge)));
    groups.flat_map(move |(row, col)| (0..merge * merge).map(move |i| (row + i / merge, col + i % merge)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn processor() -> Qwen2VlImageProcessor {
        Qwen2VlImageProcessor { config: Config::default(), image_token_id: 7 }
    }

    #[test]
    fn sizes_are_those_of_the_reference() {
        let resized = |size, least, most| processor().resized(size, least, most).unwrap();
        // Halves to even: 70 is 2.5 groups, 42 is 1.5.
        assert_eq!(resized((70, 42), 3136, 1_003_520), (56, 56));
        // 14 is half a group: none, and an area below the least.
        assert_eq!(resized((14, 2800), 3136, 1_003_520), (28, 812));
        assert_eq!(resized((1024, 768), 3136, 1_003_520), (1036, 756));
        assert_eq!(resized((4000, 3000), 3136, 1_003_520), (1148, 840));
        assert!(processor().resized((1, 201), 3136, 1_003_520).unwrap_err().to_string().contains("too thin"));
    }

    #[test]
    fn placeholders_are_found_in_their_order() {
        let text = format!("a{PLACEHOLDER}b");
        let pieces = processor().pieces(&text);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1], Piece::Image(None, PAD));
    }

    proptest! {
        #[test]
        fn layouts_keep_their_promises(width in 1u32..4000, height in 1u32..4000) {
            prop_assume!(width.max(height) <= 200 * width.min(height));
            let layout = processor().layout((width, height), 1, &ImageOptions::default()).unwrap();
            prop_assert!(layout.size.0 % 28 == 0 && layout.size.1 % 28 == 0 && layout.tokens > 0);
            prop_assert!(layout.size.0 * layout.size.1 <= 1_003_520 || layout.size.0.min(layout.size.1) == 28);
            prop_assert_eq!(layout.tower_positions, 4 * layout.tokens);
            let patches: Vec<_> = patches_in_order(layout.grid, 2).collect();
            let distinct: std::collections::BTreeSet<_> = patches.iter().collect();
            prop_assert_eq!((patches.len(), distinct.len()), (layout.tower_positions, layout.tower_positions));
        }
    }
}
