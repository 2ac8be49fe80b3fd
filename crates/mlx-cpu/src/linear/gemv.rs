//! A few vectors by a packed matrix: bound by memory, so the matrix is read once, as it is stored.
//!
//! The vectors become 16-bit integers with one scale per group of the matrix, `x ≈ scale · q`, with an error of at most
//! 2⁻¹⁶ of the group's largest element, where bfloat16 has 2⁻⁹ of each. Products of integers are exact, so a group costs
//! one multiply-add per pair of numbers, and its scale is applied once:
//! `Σ (w_scale · w + w_bias) · x = Σ_groups w_scale · x_scale · Σ w q + w_bias · x_scale · Σ q`.

use mlx_quantized::Mode;

use super::format::{Format, Packed};
use crate::element::{Element, load_part};
use crate::level::Level;
use crate::pool::parallel;
use crate::scratch::{Scratch, as_floats, as_words16};
use crate::simd::{Simd, Work};
use crate::view::{Rows, SharedMut};

/// The most vectors that are multiplied at once; more of them are better off as a matrix.
pub(crate) const MOST_VECTORS: usize = 4;

/// Bytes of the matrix between what is asked of memory and what is used.
const AHEAD: usize = 4096;

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
    let vectors: Vec<Vector> = (0..rows).map(|row| level.dispatch(Quantize { x: x.get(row), weight, len })).collect();
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
    q: Scratch,
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
            let mut sum = s.splat(0.0);
            for (x, q) in x.chunks(S::LANES).zip(q[group * group_size..].chunks_exact_mut(S::LANES)) {
                let whole = s.round(s.mul(load_part(s, x), s.splat(inverse)));
                sum = s.add(sum, whole);
                // SAFETY: there is room for so many, as checked.
                unsafe { s.store_words(q.as_mut_ptr(), whole) };
            }
            scales[group] = scale;
            sums[group] = scale * s.sum(sum);
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
fn in_places<S: Simd, const PER_WORD: usize>(q: &[i16]) -> Scratch {
    let words = 2 * S::LANES;
    let mut all = Scratch::new(q.len() / 2);
    let steps = as_words16(&mut all).chunks_exact_mut(words * PER_WORD);
    for (q, placed) in q.chunks_exact(words * PER_WORD).zip(steps) {
        for (place, placed) in placed.chunks_exact_mut(words).enumerate() {
            for (placed, q) in placed.iter_mut().zip(q.chunks_exact(PER_WORD)) {
                *placed = q[place];
            }
        }
    }
    all
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
        match self.vectors.len() {
            1 => self.by_bits::<S, 1>(s),
            2 => self.by_bits::<S, 2>(s),
            3 => self.by_bits::<S, 3>(s),
            _ => self.by_bits::<S, 4>(s),
        }
    }
}

impl SomeRows<'_> {
    #[inline(always)]
    fn by_bits<S: Simd, const V: usize>(&mut self, s: S) {
        match stored_bits(self.weight.bits) {
            2 => self.rows::<S, V, 2>(s),
            4 => self.rows::<S, V, 4>(s),
            _ => self.rows::<S, V, 8>(s),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const V: usize, const BITS: usize>(&mut self, s: S) {
        let groups = self.len / self.weight.group_size;
        let spread = BITS != self.weight.bits;
        // Room for a whole vector of words, and for one of scales, after the last.
        let mut numbers = Scratch::new((self.len * BITS / 8 + 64).div_ceil(4));
        let mut scales = Scratch::new(V * (groups + 2 * S::LANES));
        let scales = as_floats(&mut scales);
        scales.fill(0.0);
        for row in self.first..self.end {
            let mut biased = [0.0; V];
            for ((vector, scales), biased) in
                self.vectors.iter().zip(scales.chunks_exact_mut(groups + 2 * S::LANES)).zip(&mut biased)
            {
                self.weight.scales_times(s, row, &vector.scales[..groups], scales);
                *biased = self.weight.biases_dot(s, row, &vector.sums);
            }
            let sums = if spread {
                self.weight.codes(s, row, 0, &mut bytes_of(&mut numbers)[..self.len]);
                // SAFETY: the scratch has the row's numbers, and the room that `dot` asks for.
                unsafe { self.dot::<S, V, BITS>(s, numbers.as_ptr().cast(), None, scales) }
            } else {
                let (row, end) = (self.weight.words(row), Some(bytes_of(&mut numbers)));
                // SAFETY: as above.
                unsafe { self.dot::<S, V, BITS>(s, row.as_ptr().cast(), end, scales) }
            };
            for v in 0..V {
                self.sums[v][row - self.first] = sums[v] + biased[v];
            }
        }
    }

    /// `Σ scale · Σ w q` of a row with each of V vectors.
    ///
    /// # Safety
    /// `len` numbers of `BITS` bits lie at `numbers`, and those of a whole step after the last may be read; if not, there
    /// is an `end` to copy the last step to. `scales` has a vector's lanes after those of the groups, for each of V.
    #[inline(always)]
    unsafe fn dot<S: Simd, const V: usize, const BITS: usize>(
        &self,
        s: S,
        mut numbers: *const u8,
        mut end: Option<&mut [u8]>,
        scales: &[f32],
    ) -> [f32; V] {
        let bytes = 4 * S::LANES;
        let step = bytes * 8 / BITS;
        let steps = self.len.div_ceil(step);
        // A lane has 32 bits, so this many of them belong to a group.
        let lanes_log2 = (self.weight.group_size * BITS / 32).trailing_zeros();
        let row_scales = scales.len() / V;
        let mut sums = [s.splat(0.0); V];
        for at in 0..steps {
            if (at + 1) * step > self.len
                && let Some(end) = &mut end
            {
                let rest = self.len % step * BITS / 8;
                // SAFETY: `rest` bytes of the row are left, and a step is at most 64 bytes.
                unsafe { std::ptr::copy_nonoverlapping(numbers.add(at * bytes), end.as_mut_ptr(), rest) };
                // What follows is multiplied with zeros.
                numbers = end.as_ptr().wrapping_sub(at * bytes);
            }
            let packed = numbers.wrapping_add(at * bytes);
            s.prefetch(packed.wrapping_add(AHEAD));
            // SAFETY: by this function's own conditions.
            unsafe {
                let dots = self.step::<S, V, BITS>(s, s.load_words(packed.cast()), at * step);
                for v in 0..V {
                    let scales = scales.as_ptr().add(v * row_scales + ((at * S::LANES) >> lanes_log2));
                    sums[v] = s.mul_add(s.to_float(dots[v]), s.repeat_each(scales, lanes_log2), sums[v]);
                }
            }
        }
        sums.map(|sum| s.sum(sum))
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
                            s.load_words(self.vectors[v].q.as_ptr().cast::<u16>().add(start + $place * 2 * S::LANES))
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

fn bytes_of(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: the same memory; bytes have no alignment and no invalid values.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}
