//! Phi-3-vision's HD transform: a picture becomes a white-padded sheet of 336-pixel tiles and one small view of it all.
//! Reference: image_processing_phi3_v.py, as published with the model.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use image::imageops::{overlay, rotate90};
use image::{Rgb, RgbImage};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::checkpoint::ModelFiles;
use crate::checkpoint::json::parse;
use crate::processor::images::resize::{pillow_bilinear, torch_bicubic};

/// The keys of Phi-3-vision's `preprocessor_config.json`. Defaults are those of the reference's image processor.
#[derive(Debug, Clone, Deserialize)]
pub struct PreprocessorConfig {
    /// The most 336-pixel tiles a picture is cut into.
    #[serde(default = "one")]
    pub num_crops: u32,
    /// Per channel, red first.
    #[serde(default = "clip_mean")]
    pub image_mean: [f32; 3],
    /// Per channel, red first.
    #[serde(default = "clip_std")]
    pub image_std: [f32; 3],
    /// Vectors in a line of a tile, and such lines: `num_img_tokens` is the square of it.
    #[serde(default = "twelve", rename = "num_img_tokens", deserialize_with = "root")]
    pub line: usize,
}

impl PreprocessorConfig {
    /// That of a checkpoint, if it has one.
    pub fn of(files: &ModelFiles) -> Result<Option<Self>> {
        let config = files.preprocessor.as_ref().map(parse).transpose();
        config.with_context(|| format!("{}", files.folder.join("preprocessor_config.json").display()))
    }
}

fn one() -> u32 {
    1
}

fn twelve() -> usize {
    12
}

fn root<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let tokens = usize::deserialize(deserializer)?;
    let root = tokens.isqrt();
    // A line holds at least one vector, and at most one for each two pixels.
    let fits = root * root == tokens && (1..=168).contains(&root);
    fits.then_some(root).ok_or_else(|| D::Error::custom(format!("a tile is a square, which {tokens} vectors are not")))
}

fn clip_mean() -> [f32; 3] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

fn clip_std() -> [f32; 3] {
    [0.268_629_54, 0.261_302_6, 0.275_777_1]
}

/// Pixels on a tile's side.
pub const TILE: u32 = 336;
/// Numbers of a tile.
pub const TILE_LEN: usize = 3 * (TILE * TILE) as usize;

/// How a picture is laid out as tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Whether the picture is upright: it is mirrored along its diagonal, laid out, and mirrored back.
    transposed: bool,
    /// Width of the (lying) picture on the sheet, a multiple of [`TILE`].
    width: u32,
    /// Its height, without the padding.
    height: u32,
}

impl Layout {
    /// The largest sheet of at most `num_crops` tiles for a picture of this size.
    pub fn new(width: u32, height: u32, num_crops: u32) -> Result<Self> {
        ensure!(num_crops > 0, "num-crops is 0: at least one tile is needed");
        ensure!(width > 0 && height > 0, "the picture has no pixels ({width} × {height})");
        let transposed = width < height;
        let (long, short) = if transposed { (height, width) } else { (width, height) };
        let ratio = f64::from(long) / f64::from(short);
        let fits = |scale: &u32| f64::from(*scale) * (f64::from(*scale) / ratio).ceil() <= f64::from(num_crops);
        // One column always fits, as the picture is lying.
        let cols = (1..=num_crops).take_while(fits).last().unwrap_or(1);
        let height = (f64::from(cols * TILE) / ratio) as u32;
        ensure!(
            height > 0,
            "the picture is too thin ({long} × {short}): scaled to {} pixels it would have no height",
            cols * TILE
        );
        Ok(Self { transposed, width: cols * TILE, height })
    }

    /// Rows and columns of tiles, as the picture stands.
    pub fn grid(&self) -> (usize, usize) {
        let (rows, cols) = (self.height.div_ceil(TILE) as usize, (self.width / TILE) as usize);
        if self.transposed { (cols, rows) } else { (rows, cols) }
    }

    /// Tiles, the view of the whole included.
    pub fn tiles(&self) -> usize {
        let (rows, cols) = self.grid();
        rows * cols + 1
    }

    /// Positions the picture takes in the prompt: see [`Tiles::image_tokens`].
    pub fn image_tokens(&self, line: usize) -> usize {
        let (rows, cols) = self.grid();
        image_tokens(rows, cols, line)
    }

    /// The picture on its sheet: resized, padded with white above and below, as it stands.
    pub fn sheet(&self, image: &RgbImage) -> RgbImage {
        let lying = if self.transposed { Cow::Owned(transpose(image)) } else { Cow::Borrowed(image) };
        let resized = pillow_bilinear(&lying, self.width, self.height);
        let padded = self.height.next_multiple_of(TILE);
        let mut sheet = RgbImage::from_pixel(self.width, padded, Rgb([255; 3]));
        overlay(&mut sheet, resized.as_ref(), 0, i64::from((padded - self.height) / 2));
        if self.transposed { transpose(&sheet) } else { sheet }
    }
}

/// Mirrored along the diagonal.
fn transpose(image: &RgbImage) -> RgbImage {
    let mut turned = rotate90(image);
    image::imageops::flip_horizontal_in_place(&mut turned);
    turned
}

fn image_tokens(rows: usize, cols: usize, line: usize) -> usize {
    (rows * cols + 1) * line * line + 1 + (rows + 1) * line
}

/// A picture as the vision tower takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// `[1 + rows · cols, 336, 336, 3]`, normalised: the view of the whole, then the tiles row by row.
    pub pixels: Vec<f32>,
    /// Tiles below each other.
    pub rows: usize,
    /// Tiles beside each other.
    pub cols: usize,
    /// Vectors in a line of a tile, and such lines.
    pub line: usize,
}

impl Tiles {
    /// Cuts a picture into at most `num_crops` tiles, whatever the configuration says of their number.
    pub fn cut(image: &RgbImage, num_crops: u32, config: &PreprocessorConfig) -> Result<Self> {
        let layout = Layout::new(image.width(), image.height(), num_crops)?;
        Ok(Self::of_sheet(&layout.sheet(image), config))
    }

    /// Cuts a sheet, whose sides are multiples of [`TILE`].
    pub fn of_sheet(sheet: &RgbImage, config: &PreprocessorConfig) -> Self {
        let PreprocessorConfig { image_mean: mean, image_std: std, line, .. } = *config;
        let (rows, cols) = ((sheet.height() / TILE) as usize, (sheet.width() / TILE) as usize);
        let side = TILE as usize;
        // All values that can occur, normalised.
        let table: [[f32; 256]; 3] =
            std::array::from_fn(|c| std::array::from_fn(|value| (value as f32 / 255.0 - mean[c]) / std[c]));
        let at = |y: usize, x: usize| {
            let Rgb(pixel) = *sheet.get_pixel(x as u32, y as u32);
            std::array::from_fn(|c| table[c][pixel[c] as usize])
        };
        // Of a sheet of one tile the view is the tile: a cubic at a pixel's own place is the pixel.
        let mut pixels = if rows * cols > 1 { torch_bicubic(at, rows * side, cols * side, side) } else { Vec::new() };
        pixels.reserve_exact((1 + rows * cols) * side * side * 3 - pixels.len());
        for tile in 0..rows * cols {
            let (top, left) = (tile / cols * side, tile % cols * side);
            for y in top..top + side {
                pixels.extend((left..left + side).flat_map(|x| at(y, x)));
            }
        }
        if rows * cols == 1 {
            pixels.extend_from_within(..);
        }
        Self { pixels, rows, cols, line }
    }

    /// The pixels that differ: a sheet of one tile is its own view, and need be looked at only once.
    pub fn distinct(&self) -> &[f32] {
        let (whole, rest) = self.pixels.split_at(TILE_LEN);
        if whole == rest { whole } else { &self.pixels }
    }

    /// Positions the picture takes in the prompt: those of the tiles and of the whole (144 each with patches of 14
    /// pixels), a separator per line, and one between the tiles and the whole.
    pub fn image_tokens(&self) -> usize {
        image_tokens(self.rows, self.cols, self.line)
    }

    /// Height and width of the sheet in pixels.
    pub fn image_size(&self) -> (usize, usize) {
        (self.rows * TILE as usize, self.cols * TILE as usize)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: PreprocessorConfig =
        PreprocessorConfig { num_crops: 1, image_mean: [0.5; 3], image_std: [0.25; 3], line: 12 };

    #[test]
    fn layouts_of_common_ratios() {
        let tokens = |width, height, num_crops| {
            let layout = Layout::new(width, height, num_crops).unwrap();
            (layout.tiles() - 1, layout.image_tokens(12))
        };
        // The model's documentation, at 16 and at 4 crops.
        assert_eq!((tokens(1000, 1000, 16), tokens(1000, 1000, 4)), ((16, 2509), (4, 757)));
        assert_eq!((tokens(4000, 3000, 16), tokens(4000, 3000, 4)), ((12, 1921), (4, 757)));
        assert_eq!((tokens(1920, 1080, 16), tokens(1920, 1080, 4)), ((15, 2353), (4, 757)));
        assert_eq!((tokens(2560, 1080, 16), tokens(2560, 1080, 4)), ((15, 2353), (2, 457)));
    }

    #[test]
    fn impossible_pictures_are_refused() {
        let error = |width, height, num_crops| Layout::new(width, height, num_crops).unwrap_err().to_string();
        assert!(error(0, 5, 4).contains("no pixels"));
        assert!(error(5, 5, 0).contains("num-crops is 0"));
        assert!(error(1, 6000, 16).contains("too thin (6000 × 1)"));
    }

    #[test]
    fn the_whole_is_seen_first_and_white_pads() {
        let image = RgbImage::from_pixel(200, 100, Rgb([0, 128, 255]));
        let layout = Layout::new(200, 100, 1).unwrap();
        let sheet = layout.sheet(&image);
        assert_eq!(sheet.dimensions(), (336, 336));
        assert_eq!((sheet.get_pixel(9, 83).0, sheet.get_pixel(9, 84).0), ([255; 3], [0, 128, 255]));
        assert_eq!((sheet.get_pixel(9, 251).0, sheet.get_pixel(9, 252).0), ([0, 128, 255], [255; 3]));
        let tiles = Tiles::of_sheet(&sheet, &CONFIG);
        let (whole, tile) = tiles.pixels.split_at(336 * 336 * 3);
        // One tile: the view of the whole is the tile itself.
        assert!(whole.iter().zip(tile).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(tile[..3], [2.0, 2.0, 2.0]);
    }

    proptest! {
        #[test]
        fn layouts_keep_their_promises(width in 1u32..5000, height in 1u32..5000, num_crops in 1u32..40) {
            let Ok(layout) = Layout::new(width, height, num_crops) else {
                // Only where the short side would vanish.
                prop_assert!(u64::from(width.min(height)) * 336 * u64::from(num_crops) < u64::from(width.max(height)) * 340);
                return Ok(());
            };
            let (rows, cols) = layout.grid();
            prop_assert!(rows * cols >= 1 && rows * cols <= num_crops as usize);
            prop_assert_eq!(width < height, layout.transposed);
            // Upright pictures are lying ones, turned.
            let turned = Layout::new(height, width, num_crops).unwrap();
            if width != height {
                prop_assert_eq!(turned.grid(), (cols, rows));
            }
            // More crops never make the picture smaller.
            prop_assert!(Layout::new(width, height, num_crops + 1).unwrap().width >= layout.width);
            // The sides' ratio is kept to a pixel.
            let ratio = f64::from(width.max(height)) / f64::from(width.min(height));
            prop_assert!((f64::from(layout.width) / ratio - f64::from(layout.height)).abs() < 1.0 + 1e-6);
        }

        #[test]
        fn upright_and_lying_sheets_are_mirrored(width in 1u32..40, height in 1u32..40, seed: u64) {
            let mut state = seed | 1;
            let image = RgbImage::from_fn(width, height, |_, _| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                Rgb([(state >> 33) as u8, (state >> 41) as u8, (state >> 49) as u8])
            });
            prop_assume!(width != height);
            let sheet = Layout::new(width, height, 2).unwrap().sheet(&image);
            let mirrored = Layout::new(height, width, 2).unwrap().sheet(&transpose(&image));
            prop_assert!(transpose(&sheet) == mirrored);
        }
    }
}
