//! Phi-3-vision's HD transform: an image becomes a white-padded sheet of 336-pixel tiles and one small view of it all.
//! Reference: image_processing_phi3_v.py and processing_phi3_v.py, as published with the model.

mod explain;

use std::borrow::Cow;

use anyhow::{Result, ensure};
use image::imageops::{overlay, rotate90};
use image::{Rgb, RgbImage};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::resize::{Filter, pillow_resize, torch_bicubic};
use super::{
    Explanation, ImageOption, ImageOptions, ImageProcessor, Layout, NumCrops, Piece, Pixels, preprocessor_config,
};
use crate::checkpoint::ModelFiles;

/// Pixels on a tile's side.
pub const TILE: u32 = 336;
/// Numbers of a tile.
pub const TILE_LEN: usize = 3 * (TILE * TILE) as usize;

/// The keys of `preprocessor_config.json`. Defaults are those of the reference's image processor.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    /// The most 336-pixel tiles that an image is cut into.
    #[serde(default = "one")]
    num_crops: u32,
    /// Per channel, red first.
    #[serde(default = "clip_mean")]
    image_mean: [f32; 3],
    /// Per channel, red first.
    #[serde(default = "clip_std")]
    image_std: [f32; 3],
    /// Tokens on a side of a tile: `num_img_tokens` is the square of it.
    #[serde(default = "twelve", rename = "num_img_tokens", deserialize_with = "root")]
    tokens_per_side: usize,
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
    // At least one token on a side, and at most one for each two pixels.
    let fits = root * root == tokens && (1..=168).contains(&root);
    fits.then_some(root).ok_or_else(|| D::Error::custom(format!("a tile is a square, which {tokens} tokens are not")))
}

fn clip_mean() -> [f32; 3] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

fn clip_std() -> [f32; 3] {
    [0.268_629_54, 0.261_302_6, 0.275_777_1]
}

/// The image processor of a checkpoint.
pub struct Phi3VImageProcessor {
    config: Config,
    /// Positions that the tower computes for a tile: its patches and the class.
    tile_positions: usize,
}

impl Phi3VImageProcessor {
    /// That of a checkpoint, whose tower has patches of `patch_size` pixels.
    ///
    /// # Errors
    /// When `preprocessor_config.json` is missing or does not fit the tower.
    pub fn new(files: &ModelFiles, patch_size: usize) -> Result<Self> {
        let config: Config = preprocessor_config(files)?;
        let patches_per_side = TILE as usize / patch_size;
        ensure!(
            2 * config.tokens_per_side == patches_per_side,
            "preprocessor_config.json: num_img_tokens is {}, but the vision tower makes {} of a tile",
            config.tokens_per_side.pow(2),
            (patches_per_side / 2).pow(2)
        );
        Ok(Self { config, tile_positions: patches_per_side.pow(2) + 1 })
    }

    /// Cuts a sheet, whose sides are multiples of [`TILE`], into normalized tiles `[1 + rows · cols, 336, 336, 3]`: the view
    /// of the whole, then the tiles row by row.
    pub fn tiles(&self, sheet: &RgbImage) -> Vec<f32> {
        let Config { image_mean: mean, image_std: std, .. } = self.config;
        let (rows, cols) = ((sheet.height() / TILE) as usize, (sheet.width() / TILE) as usize);
        let side = TILE as usize;
        // All values that can occur, normalized.
        let table: [[f32; 256]; 3] =
            std::array::from_fn(|c| std::array::from_fn(|value| (value as f32 / 255.0 - mean[c]) / std[c]));
        let at = |y: usize, x: usize| {
            let Rgb(pixel) = *sheet.get_pixel(x as u32, y as u32);
            std::array::from_fn(|c| table[c][pixel[c] as usize])
        };
        // Of a sheet of one tile the view is the tile: a cubic at a pixel's own place is the pixel.
        let mut values = if rows * cols > 1 { torch_bicubic(at, rows * side, cols * side, side) } else { Vec::new() };
        values.reserve_exact((1 + rows * cols) * side * side * 3 - values.len());
        for tile in 0..rows * cols {
            let (top, left) = (tile / cols * side, tile % cols * side);
            for y in top..top + side {
                values.extend((left..left + side).flat_map(|x| at(y, x)));
            }
        }
        if rows * cols == 1 {
            values.extend_from_within(..);
        }
        values
    }

    fn layout_of(&self, sheet: &Sheet) -> Layout {
        let (rows, cols) = sheet.grid();
        let side = self.config.tokens_per_side;
        Layout {
            // The tiles and the whole, a separator per line, and one between the tiles and the whole.
            tokens: (rows * cols + 1) * side * side + 1 + (rows + 1) * side,
            size: (cols as u32 * TILE, rows as u32 * TILE),
            grid: (rows, cols),
            tower_positions: (rows * cols + 1) * self.tile_positions,
            extent: None,
        }
    }
}

impl ImageProcessor for Phi3VImageProcessor {
    fn options(&self) -> &'static [ImageOption] {
        &[ImageOption::NumCrops]
    }

    fn layout(&self, (width, height): (u32, u32), count: usize, options: &ImageOptions) -> Result<Layout> {
        let num_crops = match options.num_crops {
            None => self.config.num_crops,
            Some(NumCrops::Auto) if count == 1 => 16,
            Some(NumCrops::Auto) => 4,
            Some(NumCrops::Fixed(n)) => n,
        };
        Ok(self.layout_of(&Sheet::new(width, height, num_crops)?))
    }

    fn pixels(&self, image: &RgbImage, layout: &Layout) -> Pixels {
        let sheet = Sheet::of_grid(image.width(), image.height(), layout.grid);
        Pixels { values: self.tiles(&sheet.draw(image)), layout: *layout }
    }

    fn placeholder(&self, index: usize) -> Cow<'static, str> {
        format!("<|image_{}|>", index + 1).into()
    }

    fn separator(&self) -> &'static str {
        "\n"
    }

    fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        pieces(text)
    }

    fn input_id(&self, index: usize) -> i64 {
        -(index as i64) - 1
    }

    // processing_phi3_v.py, _convert_images_texts_to_inputs: each text is tokenized by itself, and always with a BOS where
    // the tokenizer adds one.
    fn adds_special_tokens(&self) -> bool {
        true
    }

    // A tile is [3, 336, 336] there, and [336, 336, 3] here.
    fn reference_index(&self, part: usize, flat: usize) -> usize {
        let area = TILE_LEN / 3;
        (part * area + flat % area) * 3 + flat / area
    }

    fn part_len(&self) -> usize {
        TILE_LEN
    }

    fn describe(&self, layout: &Layout) -> String {
        let (rows, cols) = layout.grid;
        format!("{rows} × {cols} tiles")
    }

    fn explain(&self, layout: &Layout, start: usize) -> Explanation {
        explain::explain(layout.grid, self.config.tokens_per_side, start)
    }
}

/// Splits at `<|image_N|>`.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut from = 0;
    while let Some(at) = text[from..].find("<|image_").map(|at| from + at) {
        let digits = &text[at + "<|image_".len()..];
        let len = digits.bytes().take_while(u8::is_ascii_digit).count();
        from = at + "<|image_".len();
        if len > 0 && digits[len..].starts_with("|>") {
            let end = from + len + "|>".len();
            // A number too large for usize names no image either.
            let number: usize = digits[..len].parse().unwrap_or(usize::MAX);
            pieces.extend([Piece::Text(&text[start..at]), Piece::Image(Some(number.wrapping_sub(1)), &text[at..end])]);
            (start, from) = (end, end);
        }
    }
    pieces.push(Piece::Text(&text[start..]));
    pieces
}

/// How an image lies on its sheet of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sheet {
    /// Whether the image is upright: it is mirrored along its diagonal, laid out, and mirrored back.
    transposed: bool,
    /// Width of the (lying) image on the sheet, a multiple of [`TILE`].
    width: u32,
    /// Its height, without the padding.
    height: u32,
}

impl Sheet {
    /// The largest sheet of at most `num_crops` tiles for an image of this size.
    fn new(width: u32, height: u32, num_crops: u32) -> Result<Self> {
        ensure!(num_crops > 0, "`num_crops` is 0: at least one tile is needed");
        ensure!(width > 0 && height > 0, "the image has no pixels ({width} × {height})");
        let (long, short) = (width.max(height), width.min(height));
        let ratio = f64::from(long) / f64::from(short);
        let fits = |scale: &u32| f64::from(*scale) * (f64::from(*scale) / ratio).ceil() <= f64::from(num_crops);
        // One column always fits, as the image is lying.
        let cols = (1..=num_crops).take_while(fits).last().unwrap_or(1);
        let sheet = Self::of_cols(width, height, cols);
        ensure!(
            sheet.height > 0,
            "the image is too thin ({long} × {short}): scaled to {} pixels it would have no height",
            cols * TILE
        );
        Ok(sheet)
    }

    fn of_cols(width: u32, height: u32, cols: u32) -> Self {
        let ratio = f64::from(width.max(height)) / f64::from(width.min(height));
        Self { transposed: width < height, width: cols * TILE, height: (f64::from(cols * TILE) / ratio) as u32 }
    }

    /// The sheet of an image of this size that has so many rows and columns.
    fn of_grid(width: u32, height: u32, (rows, cols): (usize, usize)) -> Self {
        Self::of_cols(width, height, if width < height { rows } else { cols } as u32)
    }

    /// Rows and columns of tiles, as the image stands.
    fn grid(&self) -> (usize, usize) {
        let (rows, cols) = (self.height.div_ceil(TILE) as usize, (self.width / TILE) as usize);
        if self.transposed { (cols, rows) } else { (rows, cols) }
    }

    /// The image on its sheet: resized, padded with white above and below, as it stands.
    fn draw(&self, image: &RgbImage) -> RgbImage {
        let lying = if self.transposed { Cow::Owned(transpose(image)) } else { Cow::Borrowed(image) };
        let resized = pillow_resize(&lying, self.width, self.height, Filter::Bilinear);
        let padded = self.height.next_multiple_of(TILE);
        let mut sheet = RgbImage::from_pixel(self.width, padded, Rgb([255; 3]));
        overlay(&mut sheet, resized.as_ref(), 0, i64::from((padded - self.height) / 2));
        if self.transposed { transpose(&sheet) } else { sheet }
    }
}

/// Mirrored along the diagonal.
fn transpose(image: &RgbImage) -> RgbImage {
    let mut rotated = rotate90(image);
    image::imageops::flip_horizontal_in_place(&mut rotated);
    rotated
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn processor() -> Phi3VImageProcessor {
        let config = Config { num_crops: 1, image_mean: [0.5; 3], image_std: [0.25; 3], tokens_per_side: 12 };
        Phi3VImageProcessor { config, tile_positions: 577 }
    }

    #[test]
    fn layouts_of_common_ratios() {
        let tokens = |width, height, num_crops| {
            let options = ImageOptions { num_crops: Some(NumCrops::Fixed(num_crops)), ..ImageOptions::default() };
            let layout = processor().layout((width, height), 1, &options).unwrap();
            (layout.grid.0 * layout.grid.1, layout.tokens)
        };
        // The model's documentation, at 16 and at 4 crops.
        assert_eq!((tokens(1000, 1000, 16), tokens(1000, 1000, 4)), ((16, 2509), (4, 757)));
        assert_eq!((tokens(4000, 3000, 16), tokens(4000, 3000, 4)), ((12, 1921), (4, 757)));
        assert_eq!((tokens(1920, 1080, 16), tokens(1920, 1080, 4)), ((15, 2353), (4, 757)));
        assert_eq!((tokens(2560, 1080, 16), tokens(2560, 1080, 4)), ((15, 2353), (2, 457)));
    }

    #[test]
    fn impossible_images_are_refused() {
        let error = |width, height, num_crops| Sheet::new(width, height, num_crops).unwrap_err().to_string();
        assert!(error(0, 5, 4).contains("no pixels"));
        assert!(error(5, 5, 0).contains("num_crops` is 0"));
        assert!(error(1, 6000, 16).contains("too thin (6000 × 1)"));
    }

    #[test]
    fn the_whole_is_seen_first_and_white_pads() {
        let image = RgbImage::from_pixel(200, 100, Rgb([0, 128, 255]));
        let layout = Sheet::new(200, 100, 1).unwrap();
        let sheet = layout.draw(&image);
        assert_eq!(sheet.dimensions(), (336, 336));
        assert_eq!((sheet.get_pixel(9, 83).0, sheet.get_pixel(9, 84).0), ([255; 3], [0, 128, 255]));
        assert_eq!((sheet.get_pixel(9, 251).0, sheet.get_pixel(9, 252).0), ([0, 128, 255], [255; 3]));
        let values = processor().tiles(&sheet);
        let (whole, tile) = values.split_at(336 * 336 * 3);
        // One tile: the view of the whole is the tile itself.
        assert!(whole.iter().zip(tile).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(tile[..3], [2.0, 2.0, 2.0]);
    }

    proptest! {
        #[test]
        fn layouts_keep_their_promises(width in 1u32..5000, height in 1u32..5000, num_crops in 1u32..40) {
            let Ok(layout) = Sheet::new(width, height, num_crops) else {
                // Only where the short side would vanish.
                prop_assert!(u64::from(width.min(height)) * 336 * u64::from(num_crops) < u64::from(width.max(height)) * 340);
                return Ok(());
            };
            let (rows, cols) = layout.grid();
            prop_assert!(rows * cols >= 1 && rows * cols <= num_crops as usize);
            prop_assert_eq!(width < height, layout.transposed);
            prop_assert_eq!(Sheet::of_grid(width, height, (rows, cols)), layout);
            // Upright images are lying ones, transposed.
            let transposed = Sheet::new(height, width, num_crops).unwrap();
            if width != height {
                prop_assert_eq!(transposed.grid(), (cols, rows));
            }
            // More crops never make the image smaller.
            prop_assert!(Sheet::new(width, height, num_crops + 1).unwrap().width >= layout.width);
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
            let sheet = Sheet::new(width, height, 2).unwrap().draw(&image);
            let mirrored = Sheet::new(height, width, 2).unwrap().draw(&transpose(&image));
            prop_assert!(transpose(&sheet) == mirrored);
        }
    }
}
