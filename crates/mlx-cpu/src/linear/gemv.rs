//! A few vectors by a packed matrix: bound by memory, so the matrix is read once, as it is stored.
//!
//! The vectors become 16-bit integers with one scale per group of the matrix, `x ≈ scale · q`, with an error of at most
//! 2⁻¹⁶ of the group's largest element, where bfloat16 has 2⁻⁹ of each. Products of integers are exact, so a group costs
//! one multiply-add per pair of numbers, and its scale is applied once:
//! `Σ (w_scale · w + w_bias) · x = Σ_groups w_scale · x_scale · Σ w q + w_bias · x_scale · Σ q`.

use std::ops::Range;

use mlx_quantized::Mode;

use super::format::{Format, Packed};
use crate::element::{Element, load_part};
use crate::level::Level;
use crate::pool::{self, parallel};
use crate::scratch::{Scratch, as_floats, as_slice_of};
use crate::simd::{Simd, Work};
use crate::view::{Rows, SharedMut};

/// The most vectors that are multiplied at once; more of them are better off as a matrix.
pub(crate) const MOST_VECTORS: usize = 4;

/// How many bytes before it is used memory is asked for the matrix. Hardware does not look beyond a page of 4096.
pub(super) const AHEAD: usize = 12288;

/// Rows whose scales are made at once.
const ROWS_AHEAD: usize = 8;

/// The fewest rows of the matrix that one task takes.
const ROWS_PER_TASK: usize = 64;

/// Whether this form can be read this way.
pub(crate) fn supports(format: Format) -> bool {
    matches!(format, Format::Packed { mode: Mode::Affine, .. })
}

/// `y = x · weightᵀ + bias` with `x` `[rows, len]`, at most [`MOST_VECTORS`] of them, and `y` `[rows, outputs]`.
pub(crate) fn multiply<T: Element>(
    level: Level,
    weight: &Packed,
    x: &Rows<T>,
    (rows, len, outputs): (usize, usize, usize),
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    let vector = |row: usize| level.dispatch(Quantize { x: x.get(row), weight, len });
    macro_rules! some {
        ($v:literal) => {{
            let vectors: [Vector; $v] = std::array::from_fn(vector);
            match stored_bits(weight.bits) {
                2 => some_vectors::<T, $v, 2>(level, weight, &vectors, len, outputs, bias, y),
                4 => some_vectors::<T, $v, 4>(level, weight, &vectors, len, outputs, bias, y),
                _ => some_vectors::<T, $v, 8>(level, weight, &vectors, len, outputs, bias, y),
            }
        }};
    }
    match rows {
        0 => (),
        1 => some!(1),
        2 => some!(2),
        3 => some!(3),
        _ => some!(4),
    }
}

fn some_vectors<T: Element, const V: usize, const BITS: usize>(
    level: Level,
    weight: &Packed,
    vectors: &[Vector; V],
    len: usize,
    outputs: usize,
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    // Large tasks, as at the end of each memory is asked for what another may read.
    let rows_per_task = (outputs / (8 * pool::threads())).max(ROWS_PER_TASK);
    parallel(outputs.div_ceil(rows_per_task), |task| {
        let first = task * rows_per_task;
        let rows = first..outputs.min(first + rows_per_task);
        let mut sums = Scratch::new(V * rows.len());
        let sums = as_floats(&mut sums);
        level.dispatch(SomeRows::<V, BITS> { weight, vectors, len, rows: rows.clone(), sums: &mut *sums });
        for (row, sums) in sums.chunks_exact_mut(rows.len()).enumerate() {
            if let Some(bias) = bias {
                sums.iter_mut().zip(&bias[rows.clone()]).for_each(|(sum, bias)| *sum += bias);
            }
            // SAFETY: each task writes other elements.
            let to = unsafe { y.slice(row * outputs + first, rows.len()) };
            to.iter_mut().zip(sums).for_each(|(to, &mut sum)| *to = T::from_f32(sum));
        }
    });
}

/// A vector as integers.
struct Vector {
    /// In the order in which [`dot_step`] meets them, with zeros at the end.
    q: Scratch,
    /// Of each group.
    scales: Vec<f32>,
    /// `scale · Σ q` of each group.
    sums: Vec<f32>,
}

/// How many bits a number has when [`dot_step`] sees it: those that do not divide a byte are spread to bytes first.
pub(super) fn stored_bits(bits: usize) -> usize {
    if matches!(bits, 2 | 4) { bits } else { 8 }
}

struct Quantize<'a, T> {
    x: &'a [T],
    weight: &'a Packed<'a>,
    len: usize,
}

impl<T: Element> Work for Quantize<'_, T> {
    type Output = Vector;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vector {
        let Self { x, weight, len } = self;
        let (group_size, groups) = (weight.group_size, len / weight.group_size);
        let per_word = 16 / stored_bits(weight.bits);
        let mut q = vec![0; len.next_multiple_of(2 * S::LANES * per_word)];
        let (mut scales, mut sums) = (vec![0.0; groups], vec![0.0; groups]);
        quantize_row(s, x, group_size, i16::MAX, &mut q, &mut scales, &mut sums);
        let q = match per_word {
            2 => in_places::<S, 2>(&q),
            4 => in_places::<S, 4>(&q),
            _ => in_places::<S, 8>(&q),
        };
        Vector { q, scales, sums }
    }
}

/// Integers `q` of a row, `most` at most, and of each group its scale and `scale · Σ q`.
#[inline(always)]
pub(super) fn quantize_row<S: Simd, T: Element>(
    s: S,
    x: &[T],
    group_size: usize,
    most: i16,
    q: &mut [i16],
    scales: &mut [f32],
    sums: &mut [f32],
) {
    for (group, x) in x.chunks_exact(group_size).enumerate() {
        let mut largest = s.splat(0.0);
        for x in x.chunks_exact(S::LANES) {
            let x = load_part(s, x);
            largest = s.max(largest, s.max(x, s.sub(s.splat(0.0), x)));
        }
        let scale = s.largest(largest) / f32::from(most);
        // The inverse of a subnormal number may be infinite.
        let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        let mut sum = s.splat(0.0);
        for (x, q) in x.chunks_exact(S::LANES).zip(q[group * group_size..].chunks_exact_mut(S::LANES)) {
            let whole = s.round(s.mul(load_part(s, x), s.splat(inverse)));
            sum = s.add(sum, whole);
            // SAFETY: there is room for so many, as checked.
            unsafe { s.store_words(q.as_mut_ptr(), whole) };
        }
        scales[group] = scale;
        sums[group] = scale * s.sum(sum);
    }
}

/// Of each step, first the numbers that are multiplied with the lowest bits of its words, then those with the next.
#[inline(always)]
fn in_places<S: Simd, const PER_WORD: usize>(q: &[i16]) -> Scratch {
    let words = 2 * S::LANES;
    let mut all = Scratch::new(q.len() / 2);
    let steps = as_slice_of::<i16>(&mut all).chunks_exact_mut(words * PER_WORD);
    for (q, placed) in q.chunks_exact(words * PER_WORD).zip(steps) {
        for (place, placed) in placed.chunks_exact_mut(words).enumerate() {
            for (placed, q) in placed.iter_mut().zip(q.chunks_exact(PER_WORD)) {
                *placed = q[place];
            }
        }
    }
    all
}

/// The rows `rows` of the matrix by V vectors, in numbers that have `BITS` bits when [`dot_step`] sees them.
struct SomeRows<'a, const V: usize, const BITS: usize> {
    weight: &'a Packed<'a>,
    vectors: &'a [Vector; V],
    len: usize,
    rows: Range<usize>,
    /// Of each vector, one per row.
    sums: &'a mut [f32],
}

impl<const V: usize, const BITS: usize> Work for SomeRows<'_, V, BITS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let groups = self.len / self.weight.group_size;
        let spread = BITS != self.weight.bits;
        let mut spread_numbers = Scratch::new(if spread { self.len.div_ceil(4) } else { 0 });
        // Room for a vector's lanes after the last. Some rows' scales are made before they are used: what was just
        // stored is slow to load in other pieces.
        let row_scales = groups + 2 * S::LANES;
        let mut scales = Scratch::new(ROWS_AHEAD * V * row_scales);
        let scales = as_floats(&mut scales);
        scales.fill(0.0);
        for first in self.rows.clone().step_by(ROWS_AHEAD) {
            let rows = first..self.rows.end.min(first + ROWS_AHEAD);
            for (row, scales) in rows.clone().zip(scales.chunks_exact_mut(V * row_scales)) {
                self.weight.prefetch_scales(s, row + 8 * ROWS_AHEAD);
                for (vector, scales) in self.vectors.iter().zip(scales.chunks_exact_mut(row_scales)) {
                    self.weight.scales_times(s, row, &vector.scales[..groups], scales);
                }
            }
            for (row, scales) in rows.zip(scales.chunks_exact(V * row_scales)) {
                let numbers = if spread {
                    self.weight.codes(s, row, 0, &mut as_slice_of::<u8>(&mut spread_numbers)[..self.len]);
                    &*spread_numbers
                } else {
                    self.weight.words(row)
                };
                // SAFETY: the numbers of a row lie there, and the scales have the room.
                let sums = unsafe { self.dot(s, numbers.as_ptr().cast(), scales) };
                for (v, (sum, vector)) in sums.into_iter().zip(self.vectors).enumerate() {
                    let biased = self.weight.biases_dot(s, row, &vector.sums);
                    self.sums[v * self.rows.len() + row - self.rows.start] = s.sum(s.add(sum, biased));
                }
            }
        }
    }
}

impl<const V: usize, const BITS: usize> SomeRows<'_, V, BITS> {
    /// `Σ scale · Σ w q` of a row with each of V vectors, spread over the lanes.
    ///
    /// # Safety
    /// `len` numbers of `BITS` bits lie at `numbers`. `scales` has a vector's lanes after those of the groups, for each
    /// of V.
    #[inline(always)]
    unsafe fn dot<S: Simd>(&self, s: S, numbers: *const u8, scales: &[f32]) -> [S::F; V] {
        let bytes = 4 * S::LANES;
        let step = bytes * 8 / BITS;
        // A lane has 32 bits, so this many of them belong to a group.
        let lanes_log2 = (self.weight.group_size * BITS / 32).trailing_zeros();
        let q: [*const u16; V] = std::array::from_fn(|v| self.vectors[v].q.as_ptr().cast());
        let scales: [*const f32; V] = std::array::from_fn(|v| scales[v * scales.len() / V..].as_ptr());
        let mut sums = [s.splat(0.0); V];
        macro_rules! step {
            ($at:expr, $packed:expr) => {
                let dots = dot_step::<S, V, BITS>(s, $packed, q.map(|q| q.add($at * step)));
                for v in 0..V {
                    let scale = s.repeat_each(scales[v].add(($at * S::LANES) >> lanes_log2), lanes_log2);
                    sums[v] = s.mul_add(s.to_float(dots[v]), scale, sums[v]);
                }
            };
        }
        let steps = self.len / step;
        // SAFETY: by this function's own conditions; the vectors have numbers for whole steps.
        unsafe {
            for at in 0..steps {
                let packed = numbers.add(at * bytes);
                s.prefetch(packed.wrapping_add(AHEAD));
                step!(at, s.load_words(packed.cast()));
            }
            let rest = self.len % step * BITS / 8;
            if rest > 0 {
                // What is behind the last number is multiplied with zeros.
                let mut end = [0_u8; 64];
                std::ptr::copy_nonoverlapping(numbers.add(steps * bytes), end.as_mut_ptr(), rest);
                step!(steps, s.load_words(end.as_ptr().cast()));
            }
        }
        sums
    }
}

/// The integers' part of a step: `packed` by the next numbers at each of `q`.
///
/// # Safety
/// They lie there.
#[inline(always)]
unsafe fn dot_step<S: Simd, const V: usize, const BITS: usize>(s: S, packed: S::I, q: [*const u16; V]) -> [S::I; V] {
    let mask = (1 << BITS) - 1;
    let mut dots = [s.zero_words(); V];
    macro_rules! places {
        ($($place:literal)*) => {$(
            if $place * BITS < 16 {
                let shifted = match $place * BITS {
                    0 => packed,
                    2 => s.shift_words_right::<2>(packed),
                    4 => s.shift_words_right::<4>(packed),
                    6 => s.shift_words_right::<6>(packed),
                    8 => s.shift_words_right::<8>(packed),
                    10 => s.shift_words_right::<10>(packed),
                    12 => s.shift_words_right::<12>(packed),
                    _ => s.shift_words_right::<14>(packed),
                };
                let last = ($place + 1) * BITS == 16;
                let numbers = if last { shifted } else { s.and_words(shifted, mask) };
                for v in 0..V {
                    // SAFETY: by this function's own condition.
                    unsafe {
                        dots[v] = s.dot_words(dots[v], numbers, s.load_words(q[v].add($place * 2 * S::LANES)));
                    }
                }
            }
        )*};
    }
    places!(0 1 2 3 4 5 6 7);
    dots
}
