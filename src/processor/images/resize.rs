//! Two resizes that must equal other people's to the bit: Pillow's of 8-bit images, since one level of one pixel moves
//! logits, and torch's bicubic of float images.

use std::borrow::Cow;

use image::RgbImage;

/// Fraction bits of Pillow's weights (Pillow, Resample.c, PRECISION_BITS).
const BITS: u32 = 22;

/// A filter of Pillow's `resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Bilinear,
    /// With a = -0.5.
    Bicubic,
}

impl Filter {
    /// How far it reaches, in pixels of the smaller image.
    fn reach(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// Pillow, Resample.c, bilinear_filter and bicubic_filter
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let distance = x.abs();
        match self {
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}

/// Pillow's `resize((width, height), filter)`: the filter is widened when shrinking; along rows and along columns, each pass
/// rounded to 8 bits and skipped where the size stays.
///
/// As the recordings of the reference show, and Pillow 13 does, columns come first where that takes away more than twice as
/// many rows as rows lose pixels; else rows do.
pub(super) fn pillow_resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> Cow<'_, RgbImage> {
    let mut image = Cow::Borrowed(image);
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (cols, rows) = (lost(image.width(), width), lost(image.height(), height));
    if rows > 0 && 2 * cols < rows {
        image = Cow::Owned(along_columns(&image, height, filter));
    }
    if cols != 0 {
        image = Cow::Owned(along_rows(&image, width, filter));
    }
    if image.height() != height {
        image = Cow::Owned(along_columns(&image, height, filter));
    }
    image
}

/// Which source positions make one output position, and how much each counts.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Pillow, Resample.c, precompute_coeffs and normalize_coeffs_8bpc
fn taps(from: u32, to: u32, filter: Filter) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let wide = scale.max(1.0);
    let support = filter.reach() * wide;
    let tap = |i: u32| {
        let center = (f64::from(i) + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as u32;
        let end = ((center + support + 0.5) as u32).min(from);
        // Pillow multiplies by the inverse here and divides below; the other way round rounds differently.
        let slope = 1.0 / wide;
        let weight = |j: u32| filter.weight((f64::from(j) - center + 0.5) * slope);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let total: f64 = weights.iter().sum();
        // Rounded away from zero.
        let fixed = |w: &f64| (0.5_f64.copysign(*w) + w / total * f64::from(1 << BITS)) as i32;
        Taps { first: first as usize, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(tap).collect()
}

fn rounded(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (BITS - 1);

fn along_rows(image: &RgbImage, width: u32, filter: Filter) -> RgbImage {
    let taps = taps(image.width(), width, filter);
    let (from, to) = (image.width() as usize * 3, width as usize * 3);
    let mut out = RgbImage::new(width, image.height());
    for (row, out_row) in image.as_raw().chunks_exact(from).zip(out.chunks_exact_mut(to)) {
        for (tap, pixel) in taps.iter().zip(out_row.chunks_exact_mut(3)) {
            let mut sums = [HALF; 3];
            for (source, &weight) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += i32::from(value) * weight;
                }
            }
            pixel.copy_from_slice(&sums.map(rounded));
        }
    }
    out
}

fn along_columns(image: &RgbImage, height: u32, filter: Filter) -> RgbImage {
    let stride = image.width() as usize * 3;
    let mut out = RgbImage::new(image.width(), height);
    let mut sums = vec![HALF; stride];
    for (tap, out_row) in taps(image.height(), height, filter).iter().zip(out.chunks_exact_mut(stride)) {
        sums.fill(HALF);
        for (row, &weight) in image.as_raw()[tap.first * stride..].chunks_exact(stride).zip(&tap.weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (pixel, &sum) in out_row.iter_mut().zip(&sums) {
            *pixel = rounded(sum);
        }
    }
    out
}

/// torch's `interpolate(mode="bicubic", align_corners=False)` without antialiasing: Keys' cubic convolution with
/// a = -0.75, edges repeated. From `[height, width, 3]` to `[side, side, 3]`, where `at` gives the source by row, column.
pub(super) fn torch_bicubic(
    at: impl Fn(usize, usize) -> [f32; 3],
    height: usize,
    width: usize,
    side: usize,
) -> Vec<f32> {
    let cols = cubic_taps(width, side);
    let across = |y: usize, col: &[(usize, f32); 4]| {
        let mut sum = [0.0; 3];
        for (x, weight) in col {
            let source = at(y, *x);
            (0..3).for_each(|c| sum[c] += source[c] * weight);
        }
        sum
    };
    // Along its rows the source is filtered once, `[height, side, 3]`: several rows of the result are made of each.
    let lines: Vec<f32> = (0..height).flat_map(|y| cols.iter().flat_map(move |col| across(y, col))).collect();
    let mut out = vec![0.0; side * side * 3];
    for (row, line) in cubic_taps(height, side).iter().zip(out.chunks_exact_mut(side * 3)) {
        for (y, weight) in row {
            let source = &lines[y * side * 3..][..side * 3];
            line.iter_mut().zip(source).for_each(|(sum, source)| *sum += source * weight);
        }
    }
    out
}

/// Four source positions and weights for every output position.
/// torch, UpSample.h, get_cubic_upsample_coefficients and area_pixel_compute_source_index
fn cubic_taps(from: usize, to: usize) -> Vec<[(usize, f32); 4]> {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f32 / to as f32;
    let tap = |i: usize| {
        let center = scale * (i as f32 + 0.5) - 0.5;
        let (floor, t) = (center.floor(), center - center.floor());
        let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        let position = |k: usize| (floor as isize - 1 + k as isize).clamp(0, from as isize - 1) as usize;
        std::array::from_fn(|k| (position(k), weights[k]))
    };
    (0..to).map(tap).collect()
}
