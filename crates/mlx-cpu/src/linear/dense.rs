//! A few 16-bit vectors by a matrix of floats: bound by memory, so the matrix is read once, as it is stored.

use super::format::{Matrix, convert};
use super::gemv::{AHEAD, MOST_VECTORS};
use crate::element::{Element, load_part};
use crate::level::Level;
use crate::pool::parallel;
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work};
use crate::view::{Rows, SharedMut};

/// Rows of the matrix that one task takes.
const ROWS_PER_TASK: usize = 64;

/// `y = x · weightᵀ + bias` with `x` `[rows, len]`, at most [`MOST_VECTORS`] of them, and `y` `[rows, outputs]`.
pub(crate) fn multiply<T: Element>(
    level: Level,
    weight: &Matrix,
    x: &Rows<T>,
    (rows, len, outputs): (usize, usize, usize),
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    assert!(rows <= MOST_VECTORS);
    let mut vectors = Scratch::new(rows * len);
    let vectors = as_floats(&mut vectors);
    for (row, to) in vectors.chunks_exact_mut(len.max(1)).enumerate() {
        level.dispatch(Widen { from: x.get(row), to });
    }
    let vectors = &*vectors;
    parallel(outputs.div_ceil(ROWS_PER_TASK), |task| {
        for output in task * ROWS_PER_TASK..outputs.min((task + 1) * ROWS_PER_TASK) {
            let sums = match weight {
                Matrix::DenseF32(w) => level.dispatch(OneRow { w: w.get(output), vectors }),
                Matrix::DenseBf16(w) => level.dispatch(OneRow { w: w.get(output), vectors }),
                Matrix::DenseF16(w) => level.dispatch(OneRow { w: w.get(output), vectors }),
                Matrix::Packed(_) => unreachable!("a packed matrix is not dense"),
            };
            for (row, sum) in sums.into_iter().enumerate().take(rows) {
                // SAFETY: each task writes other elements.
                let to = unsafe { y.slice(row * outputs + output, 1) };
                to[0] = T::from_f32(sum + bias.map_or(0.0, |bias| bias[output]));
            }
        }
    });
}

struct Widen<'a, T> {
    from: &'a [T],
    to: &'a mut [f32],
}

impl<T: Element> Work for Widen<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        convert(s, self.from, self.to);
    }
}

/// One row of the matrix by all vectors, which follow one another.
struct OneRow<'a, T> {
    w: &'a [T],
    vectors: &'a [f32],
}

impl<T: Element> Work for OneRow<'_, T> {
    type Output = [f32; MOST_VECTORS];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; MOST_VECTORS] {
        let mut results = [0.0; MOST_VECTORS];
        for (result, x) in results.iter_mut().zip(self.vectors.chunks_exact(self.w.len().max(1))) {
            // Several sums, as each addition waits for the one before.
            let mut sums = [s.splat(0.0); 4];
            let step = 4 * S::LANES;
            for (w, x) in self.w.chunks_exact(step).zip(x.chunks_exact(step)) {
                s.prefetch(w.as_ptr().cast::<u8>().wrapping_add(AHEAD));
                s.prefetch(w.as_ptr().cast::<u8>().wrapping_add(AHEAD + 64));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let at = i * S::LANES..(i + 1) * S::LANES;
                    *sum = s.mul_add(load_part(s, &w[at.clone()]), load_part(s, &x[at]), *sum);
                }
            }
            let done = self.w.len() / step * step;
            for (w, x) in self.w[done..].chunks(S::LANES).zip(x[done..].chunks(S::LANES)) {
                sums[0] = s.mul_add(load_part(s, w), load_part(s, x), sums[0]);
            }
            *result = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
        }
        results
    }
}
