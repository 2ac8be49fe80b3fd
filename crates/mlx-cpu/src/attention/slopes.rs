//! What [`super::gradient`] does between its products, to scores that lie keys by queries, a query to a lane.

use half::bf16;

use super::many::{Bounds, pair_rows};
use crate::element::{Element, load_part, store_part};
use crate::linear::tile::{Tiles, Transpose};
use crate::scratch::{Scratch, as_floats, as_slice_of};
use crate::simd::{Simd, Work, exp};

/// Of each query: the largest score, the sum of the probabilities relative to it, and that of them times the gradients
/// with respect to them.
pub(super) struct Lanes {
    largest: [f32; 32],
    total: [f32; 32],
    mean: [f32; 32],
}

impl Default for Lanes {
    fn default() -> Self {
        Self { largest: [f32::NEG_INFINITY; 32], total: [0.0; 32], mean: [0.0; 32] }
    }
}

/// Scores become those of what is seen.
pub(super) struct Largest<'a> {
    pub scale: f32,
    pub bounds: &'a Bounds,
    pub first_key: usize,
    pub scores: &'a mut [f32],
    pub lanes: &'a mut Lanes,
}

impl Work for Largest<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scores = (self.scores.as_mut_ptr(), self.scores.len() / (2 * S::LANES));
        for half in [0, S::LANES] {
            // SAFETY: scores are whole rows of two vectors, and there are lanes for both.
            unsafe {
                let at = self.lanes.largest.as_mut_ptr().add(half);
                let largest = self.bounds.apply(s, scores, half, self.first_key, self.scale, s.load(at));
                s.store(at, largest);
            }
        }
    }
}

/// Scores become probabilities relative to the largest.
pub(super) struct Probabilities<'a> {
    pub scores: &'a mut [f32],
    /// The gradients with respect to the probabilities.
    pub slopes: &'a [f32],
    pub lanes: &'a mut Lanes,
}

impl Work for Probabilities<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scores, slopes, lanes } = self;
        let width = 2 * S::LANES;
        assert_eq!(scores.len(), slopes.len());
        for half in [0, S::LANES] {
            // SAFETY: both are whole rows of two vectors, and there are lanes for both vectors.
            unsafe {
                // Where nothing is seen, any finite number makes all probabilities 0.
                let largest = s.max(s.load(lanes.largest.as_ptr().add(half)), s.splat(f32::MIN));
                let [total_at, mean_at] = [&mut lanes.total, &mut lanes.mean].map(|lanes| lanes.as_mut_ptr().add(half));
                let (mut total, mut mean) = (s.load(total_at), s.load(mean_at));
                for key in 0..scores.len() / width {
                    let at = scores.as_mut_ptr().add(key * width + half);
                    let probability = exp(s, s.sub(s.load(at), largest));
                    total = s.add(total, probability);
                    mean = s.mul_add(probability, s.load(slopes.as_ptr().add(key * width + half)), mean);
                    s.store(at, probability);
                }
                s.store(total_at, total);
                s.store(mean_at, mean);
            }
        }
    }
}

/// Probabilities become absolute, and the gradients with respect to them those with respect to the scores.
pub(super) struct Slopes<'a> {
    pub probabilities: &'a mut [f32],
    pub slopes: &'a mut [f32],
    /// The derivatives of the soft cap, if there is one.
    pub cap_derivatives: Option<&'a [f32]>,
    pub lanes: &'a Lanes,
}

impl Work for Slopes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { probabilities, slopes, cap_derivatives, lanes } = self;
        let width = 2 * S::LANES;
        assert_eq!(probabilities.len(), slopes.len());
        for half in [0, S::LANES] {
            // SAFETY: both are whole rows of two vectors, and there are lanes for both vectors.
            unsafe {
                let (total, zero) = (s.load(lanes.total.as_ptr().add(half)), s.splat(0.0));
                // A query that sees nothing has no probabilities.
                let inverse = s.select_le(total, zero, zero, s.div(s.splat(1.0), total));
                let mean = s.mul(s.load(lanes.mean.as_ptr().add(half)), inverse);
                for key in 0..probabilities.len() / width {
                    let p_at = probabilities.as_mut_ptr().add(key * width + half);
                    let slope_at = slopes.as_mut_ptr().add(key * width + half);
                    let p = s.mul(s.load(p_at), inverse);
                    s.store(p_at, p);
                    s.store(slope_at, s.mul(p, s.sub(s.load(slope_at), mean)));
                }
            }
        }
        let Some(derivatives) = cap_derivatives else { return };
        for (slopes, derivatives) in slopes.chunks_mut(S::LANES).zip(derivatives.chunks(S::LANES)) {
            store_part(s, slopes, s.mul(load_part(s, slopes), load_part(s, derivatives)));
        }
    }
}

/// Rows `[keys, width]` as a panel whose words run along the keys.
pub(super) struct WordsOfKeys<'a> {
    pub pairs: bool,
    pub rows: &'a [f32],
    pub to: &'a mut [u32],
}

impl Work for WordsOfKeys<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        if self.pairs {
            pair_rows(self.rows, 2 * S::LANES, self.to);
        } else {
            as_floats(self.to).copy_from_slice(self.rows);
        }
    }
}

/// Of each of `keys` keys the words that run along the queries of all panels, and zeros up to a whole panel of keys.
pub(super) struct WordsOfQueries<'a> {
    pub tiles: Tiles,
    pub all: &'a [u32],
    /// Where the first panel's part of the first key lies, and how far it is from one panel to the next.
    pub start: usize,
    pub stride: usize,
    pub panels: usize,
    pub keys: usize,
    /// `[width, words]`
    pub to: &'a mut [u32],
}

impl Work for WordsOfQueries<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * S::LANES;
        let words = self.to.len() / width;
        for (key, to) in self.to.chunks_exact_mut(words).enumerate() {
            if key >= self.keys {
                to.fill(0);
                continue;
            }
            for panel in 0..self.panels {
                let from = &self.all[self.start + panel * self.stride + key * width..][..width];
                if !self.tiles.pairs {
                    to[panel * width..][..width].copy_from_slice(from);
                    continue;
                }
                let to = &mut as_slice_of::<bf16>(to)[panel * width..][..width];
                for half in [0, S::LANES] {
                    // SAFETY: both are two vectors long; the same bits are float32.
                    unsafe { bf16::store(s, to.as_mut_ptr().add(half), s.load(from.as_ptr().cast::<f32>().add(half))) };
                }
            }
        }
    }
}

/// The columns of `sums` `[head_dim, width]` times a factor as rows, as many as there is room for.
pub(super) struct WriteTurned<'a, T> {
    pub sums: &'a [u32],
    pub head_dim: usize,
    pub factor: f32,
    pub to: &'a mut [T],
}

impl<T: Element> Work for WriteTurned<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { sums, head_dim, factor, to } = self;
        let mut rows = Scratch::new(sums.len());
        Transpose { from: sums, rows: head_dim, to: &mut rows, width: head_dim }.run(s);
        let factor = s.splat(factor);
        for (row, to) in as_floats(&mut rows).chunks_exact(head_dim).zip(to.chunks_exact_mut(head_dim)) {
            for (x, to) in row.chunks(S::LANES).zip(to.chunks_mut(S::LANES)) {
                store_part(s, to, s.mul(load_part(s, x), factor));
            }
        }
    }
}
