//! A few vectors by a packed matrix: bound by memory, so the matrix is read once, as it is stored.
//!
//! The vectors become 16-bit integers with one scale per group of the matrix, `x ≈ scale · q`, with an error of at most
//! 2⁻¹⁶ of the group's largest element, where bfloat16 has 2⁻⁹ of each. Products of integers are exact, so a group costs
//! one multiply-add per pair of numbers, and its scale is applied once:
//! `Σ (w_scale · w + w_bias) · x = Σ_groups w_scale · x_scale · Σ w q + w_bias · x_scale · Σ q`.

use mlx_quantized::Mode;

use super::format::{Format, Packed};
use crate::element::{Element, load_part, store_part};
use crate::level::Level;
use crate::pool::parallel;
use crate::scratch::{as_floats, with_scratch};
use crate::simd::{Simd, Work};
use crate::view::{Rows, SharedMut};

/// The most vectors that are multiplied at once; more of them are better off as a matrix.
pub(crate) const MOST_VECTORS: usize = 4;

/// Rows of the matrix that one task takes.
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
    let vectors: Vec<Vector> =
        (0..rows).map(|row| level.dispatch(Quantize { x: x.get(row), weight, len })).collect();
    parallel(outputs.div_ceil(ROWS_PER_TASK), |task| {
        let first = task * ROWS_PER_TASK;
        let end = outputs.min(first + ROWS_PER_TASK);
        let mut sums = [[0.0; ROWS_PER_TASK]; MOST_VECTORS];
        level.dispatch(SomeRows { weight, vectors: &vectors, len, first, end, sums: &mut sums });
        for (row, sums) in sums.iter_mut().enumerate().take(rows) {
            if let Some(bias) = bias {
                sums.iter_mut().zip(&bias[first..end]).for_each(|(sum, bias)| *sum += bias);
            }
            // SAFETY: each task writes other elements.
            let to = unsafe { y.slice(row * outputs + first, end - first) };
            to.iter_mut().zip(sums).for_each(|(to, &mut sum)| *to = T::from_f32(sum));
        }
    });
}

/// A vector as integers.
struct Vector {
    /// In the order in which [`dot`] meets them, with zeros at the end.
    q: Vec<i16>,
    /// Of each group, with zeros at the end.
    scales: Vec<f32>,
    /// `scale · Σ q` of each group.
    sums: Vec<f32>,
}

/// How many bits a number has when [`dot`] sees it: those that do not divide a byte are spread to bytes first.
fn stored_bits(bits: usize) -> usize {
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
        let (mut scales, mut sums) = (vec![0.0; groups + 2 * S::LANES], vec![0.0; groups]);
        for (group, x) in x.chunks_exact(group_size).enumerate() {
            let mut largest = s.splat(0.0);
            for x in x.chunks(S::LANES) {
                let x = load_part(s, x);
                largest = s.max(largest, s.max(x, s.sub(s.splat(0.0), x)));
            }
            let scale = s.largest(largest) / 32767.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let mut sum = 0;
            for (q, x) in q[group * group_size..].iter_mut().zip(x) {
                // Adding 1.5 · 2²³ rounds to a whole number.
                *q = (x.to_f32() * inverse + 12_582_912.0 - 12_582_912.0) as i32 as i16;
                sum += i32::from(*q);
            }
            scales[group] = scale;
            sums[group] = scale * sum as f32;
        }
        let q = match per_word {
            2 => in_places::<S, 2>(&q),
            4 => in_places::<S, 4>(&q),
            _ => in_places::<S, 8>(&q),
        };
        Vector { q, scales, sums }
    }
}

/// Of each step, first the numbers that are multiplied with the lowest bits of its words, then those with the next.
#[inline(always)]
fn in_places<S: Simd, const PER_WORD: usize>(q: &[i16]) -> Vec<i16> {
    let words = 2 * S::LANES;
    let mut placed = vec![0; q.len()];
    for (q, placed) in q.chunks_exact(words * PER_WORD).zip(placed.chunks_exact_mut(words * PER_WORD)) {
        for word in 0..words {
            for place in 0..PER_WORD {
                placed[place * words + word] = q[word * PER_WORD + place];
            }
        }
    }
    placed
}

struct SomeRows<'a> {
    weight: &'a Packed<'a>,
    vectors: &'a [Vector],
    len: usize,
    first: usize,
    end: usize,
    sums: &'a mut [[f32; ROWS_PER_TASK]; MOST_VECTORS],
}

impl Work for SomeRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        // Rows that are computed together share the loads of the vectors.
        match self.vectors.len() {
            1 => self.by_bits::<S, 4, 1>(s),
            2 => self.by_bits::<S, 2, 2>(s),
            3 => self.by_bits::<S, 2, 3>(s),
            _ => self.by_bits::<S, 2, 4>(s),
        }
    }
}

impl SomeRows<'_> {
    #[inline(always)]
    fn by_bits<S: Simd, const R: usize, const V: usize>(&mut self, s: S) {
        match stored_bits(self.weight.bits) {
            2 => self.rows::<S, R, V, 2>(s),
            4 => self.rows::<S, R, V, 4>(s),
            _ => self.rows::<S, R, V, 8>(s),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const R: usize, const V: usize, const BITS: usize>(&mut self, s: S) {
        let groups = self.len / self.weight.group_size;
        // Room for a whole vector of words, and for one of scales, after the last.
        let row_words = (self.len * BITS / 8 + 64).div_ceil(4);
        let row_scales = groups + 2 * S::LANES;
        let spread = BITS != self.weight.bits;
        with_scratch(R * (row_words + (1 + V) * row_scales), |scratch| {
            let (words, scales) = scratch.split_at_mut(R * row_words);
            let (biases, scales) = as_floats(scales).split_at_mut(R * row_scales);
            scales.fill(0.0);
            for first in (self.first..self.end).step_by(R) {
                let mut numbers = [std::ptr::null(); R];
                for r in 0..R {
                    // The last rows may stand in for rows that are not there.
                    let row = (first + r).min(self.end - 1);
                    let biases = &mut biases[r * row_scales..][..groups];
                    let scales = &mut scales[r * V * row_scales..][..V * row_scales];
                    self.weight.scales(s, row, &mut scales[..groups]);
                    self.weight.biases(s, row, biases);
                    for v in (0..V).rev() {
                        let (w_scales, v_scales) = scales.split_at_mut(v * row_scales);
                        let w_scales = if v > 0 { Some(&w_scales[..groups]) } else { None };
                        scale_by(s, &mut v_scales[..groups], w_scales, &self.vectors[v].scales[..groups]);
                    }
                    numbers[r] = if spread {
                        let bytes = bytes_of(&mut words[r * row_words..][..row_words]);
                        self.weight.codes(s, row, 0, &mut bytes[..self.len]);
                        bytes.as_ptr()
                    } else {
                        self.weight.words(row).as_ptr().cast()
                    };
                }
                let ends = if spread { None } else { Some(&mut words[..]) };
                // SAFETY: R rows of `len` numbers lie there, and the scratch has the room that `dot` asks for.
                let sums = unsafe { self.dot::<S, R, V, BITS>(s, numbers, ends, row_words, scales, row_scales) };
                for (r, sums) in sums.iter().enumerate().take(self.end - first) {
                    for (v, &sum) in sums.iter().enumerate() {
                        let biased = dot_floats(s, &biases[r * row_scales..][..groups], &self.vectors[v].sums);
                        self.sums[v][first + r - self.first] = sum + biased;
                    }
                }
            }
        });
    }

    /// `Σ scale · Σ w q`, for R rows by V vectors.
    ///
    /// # Safety
    /// `len` numbers of `BITS` bits at each of `numbers`; if `ends` are given, no more of them may be read than that,
    /// and they have `row_words` words for each row's last step. `scales` has `row_scales` floats for each of R times V.
    #[inline(always)]
    unsafe fn dot<S: Simd, const R: usize, const V: usize, const BITS: usize>(
        &self,
        s: S,
        mut numbers: [*const u8; R],
        ends: Option<&mut [u32]>,
        row_words: usize,
        scales: &[f32],
        row_scales: usize,
    ) -> [[f32; V]; R] {
        let per_word = 16 / BITS;
        let words = 2 * S::LANES;
        let step = words * per_word;
        let steps = self.len.div_ceil(step);
        // A lane holds two words, so this many lanes belong to a group.
        let group_lanes = self.weight.group_size / (2 * per_word);
        let mut sums = [[s.splat(0.0); V]; R];
        let mut ends = ends.filter(|_| self.len % step > 0);
        for at in 0..steps {
            if at + 1 == steps
                && let Some(ends) = &mut ends
            {
                for (r, numbers) in numbers.iter_mut().enumerate() {
                    let end = bytes_of(&mut ends[r * row_words..][..row_words]);
                    let (done, rest) = (at * step * BITS / 8, self.len % step * BITS / 8);
                    // SAFETY: `rest` bytes of the row are left, and a step is at most 64 bytes.
                    unsafe { std::ptr::copy_nonoverlapping(numbers.add(done), end.as_mut_ptr(), rest) };
                    // What follows is multiplied with zeros.
                    *numbers = end.as_ptr().wrapping_sub(done);
                }
            }
            let first_group = at * S::LANES / group_lanes;
            for r in 0..R {
                // SAFETY: by this function's own conditions, and by the room behind the last word and scale.
                unsafe {
                    let packed = s.load_words(numbers[r].wrapping_add(at * 2 * words).cast());
                    let dots = self.step::<S, V, BITS>(s, packed, at * step);
                    for (v, dot) in dots.into_iter().enumerate() {
                        let scales = scales.as_ptr().add((r * V + v) * row_scales + first_group);
                        let scales = s.repeat_each(scales, group_lanes.trailing_zeros());
                        sums[r][v] = s.mul_add(s.to_float(dot), scales, sums[r][v]);
                    }
                }
            }
        }
        sums.map(|sums| sums.map(|sum| s.sum(sum)))
    }

    /// The integers' part of a step that starts at number `start`.
    ///
    /// # Safety
    /// The vectors have numbers for the whole step.
    #[inline(always)]
    unsafe fn step<S: Simd, const V: usize, const BITS: usize>(&self, s: S, packed: S::I, start: usize) -> [S::I; V] {
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
                        let q = unsafe {
                            s.load_words(self.vectors[v].q.as_ptr().add(start + $place * 2 * S::LANES).cast())
                        };
                        dots[v] = s.dot_words(dots[v], numbers, q);
                    }
                }
            )*};
        }
        places!(0 1 2 3 4 5 6 7);
        dots
    }
}

/// `to = a · b`, of `to` itself where there is no `a`.
#[inline(always)]
fn scale_by<S: Simd>(s: S, to: &mut [f32], a: Option<&[f32]>, b: &[f32]) {
    for (i, (to, b)) in to.chunks_mut(S::LANES).zip(b.chunks(S::LANES)).enumerate() {
        let a = match a {
            Some(a) => load_part(s, &a[i * S::LANES..]),
            None => load_part(s, to),
        };
        store_part(s, to, s.mul(a, load_part(s, b)));
    }
}

#[inline(always)]
fn dot_floats<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for (a, b) in a.chunks(S::LANES).zip(b.chunks(S::LANES)) {
        sum = s.mul_add(load_part(s, a), load_part(s, b), sum);
    }
    s.sum(sum)
}

fn bytes_of(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: the same memory; bytes have no alignment and no invalid values.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}
