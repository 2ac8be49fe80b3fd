//! Attention of a few queries, as in decoding: bound by reading keys and values once.

use std::ops::Range;

use super::{Attention, Sizes, Unpadded};
use crate::element::{Element, load_part, store_part};
use crate::linear::convert;
use crate::pool::parallel;
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work, exp};
use crate::view::{Rows, SharedMut, View};

/// With more, packing keys and values pays.
pub(super) const MOST_QUERIES: usize = 4;

pub(super) fn run<T: Element>(attention: Attention, sizes: Sizes, inputs: &[View], y: &SharedMut<T>) {
    let [queries, keys, values] = [0, 1, 2].map(|i| inputs[i].rows::<T>());
    let unpadded = Unpadded::new(inputs);
    parallel(inputs[1].dim(0) * sizes.kv_heads, |kv_head| {
        let unpadded = unpadded.of_head(kv_head, sizes);
        for head in kv_head * sizes.group()..(kv_head + 1) * sizes.group() {
            for query in 0..sizes.n {
                // SAFETY: each query has its own part of the result.
                let to = unsafe { y.slice(sizes.output(head, query), sizes.head_dim) };
                let x = queries.get(head * sizes.n + query);
                let (keys, values) = (&keys, &values);
                attention.level.dispatch(One { attention, sizes, kv_head, query, x, keys, values, unpadded, to });
            }
        }
    });
}

/// One query of one head.
struct One<'a, T: Element> {
    attention: Attention,
    sizes: Sizes,
    kv_head: usize,
    query: usize,
    x: &'a [T],
    keys: &'a Rows<'a, T>,
    values: &'a Rows<'a, T>,
    unpadded: Option<&'a [u8]>,
    to: &'a mut [T],
}

impl<T: Element> Work for One<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sizes { n, total, head_dim, .. } = self.sizes;
        let seen = self.attention.mask.seen(self.query, n, total);
        let first_row = self.kv_head * total;
        let padded = head_dim.next_multiple_of(S::LANES);
        let mut scratch = Scratch::new(2 * padded + seen.len().next_multiple_of(S::LANES));
        let (x, rest) = as_floats(&mut scratch).split_at_mut(padded);
        let (sums, scores) = rest.split_at_mut(padded);
        x.fill(0.0);
        sums.fill(0.0);
        convert(s, self.x, &mut x[..head_dim]);
        let scale = self.attention.scale;
        let sum = probabilities(s, x, scale, self.keys, first_row, seen.clone(), self.unpadded, scores);
        // What is not seen has no part in the result, whatever its value.
        for (&probability, key) in scores.iter().zip(seen).filter(|(probability, _)| **probability != 0.0) {
            add_scaled(s, probability, self.values.get(first_row + key), sums);
        }
        let inverse = s.splat(if sum > 0.0 { 1.0 / sum } else { 0.0 });
        for (to, sums) in self.to.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES)) {
            store_part(s, to, s.mul(load_part(s, sums), inverse));
        }
    }
}

/// `e^score` relative to the largest score, of each of the keys `seen`, into `scores`, which is that long up to a whole
/// vector; their sum. The score of a key is `scale · x · key`, and there is none for padding. `x` has zeros up to a whole
/// vector.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Called twice, and each is one thing.
pub(super) fn probabilities<S: Simd, T: Element>(
    s: S,
    x: &[f32],
    scale: f32,
    keys: &Rows<T>,
    first_row: usize,
    seen: Range<usize>,
    unpadded: Option<&[u8]>,
    scores: &mut [f32],
) -> f32 {
    scores.fill(f32::NEG_INFINITY);
    let mut largest = f32::MIN;
    for (score, key) in scores.iter_mut().zip(seen) {
        if unpadded.is_none_or(|unpadded| unpadded[key] > 0) {
            *score = scale * dot(s, keys.get(first_row + key), x);
            largest = largest.max(*score);
        }
    }
    let mut sum = s.splat(0.0);
    for scores in scores.chunks_exact_mut(S::LANES) {
        let probabilities = exp(s, s.sub(load_part(s, scores), s.splat(largest)));
        sum = s.add(sum, probabilities);
        store_part(s, scores, probabilities);
    }
    s.sum(sum)
}

/// `a · b`; `b` has zeros up to a whole vector.
#[inline(always)]
pub(super) fn dot<S: Simd, T: Element>(s: S, a: &[T], b: &[f32]) -> f32 {
    let mut sums = s.splat(0.0);
    for (a, b) in a.chunks(S::LANES).zip(b.chunks_exact(S::LANES)) {
        sums = s.mul_add(load_part(s, a), load_part(s, b), sums);
    }
    s.sum(sums)
}

/// `to += factor · x`; `to` has room up to a whole vector.
#[inline(always)]
pub(super) fn add_scaled<S: Simd, T: Element>(s: S, factor: f32, x: &[T], to: &mut [f32]) {
    for (x, to) in x.chunks(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
        store_part(s, to, s.mul_add(load_part(s, x), s.splat(factor), load_part(s, to)));
    }
}
