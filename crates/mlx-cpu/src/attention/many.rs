//! Attention of many queries at once: a running softmax over tiles of keys (Dao et al. 2022), so that the matrix of scores
//! never exists.
//!
//! Scores are computed transposed, keys by queries, so that a query is a lane of a vector: maxima and sums need no
//! shuffles, and the probabilities are already a panel, the form that the product with the values wants.

use std::ops::Range;

use super::scores::soft_cap;
use super::sequence::{HeadRows, Sequence};
use super::{Attention, Call, Mask, Scores, Seen};
use crate::element::Element;
use crate::linear::tile::Tiles;
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work, exp};

/// Left blocks of keys that are scored before the softmax moves on.
const BLOCKS_AT_ONCE: usize = 8;

/// Panels that the queries of a head make up.
pub(super) fn panels(tiles: Tiles, sequence: &Sequence) -> usize {
    sequence.n.div_ceil(tiles.width())
}

/// The result of the queries in `panels` of all heads that share the key head `kv_head`.
pub(super) fn run<T: Element>(call: &Call<T>, sequence: &Sequence, kv_head: usize, panels: Range<usize>) {
    let tiles = Tiles::new(call.attention.level, T::DTYPE);
    let (width, group) = (tiles.width(), call.heads.group());
    let queries = panels.start * width..sequence.n.min(panels.end * width);
    let seen = call.attention.mask.seen_by(queries, sequence.n, sequence.total);
    let head = PackedHead::new(tiles, call.heads.head_dim, sequence, kv_head, &seen);
    let mut panel = Panel::new(tiles, call.heads.head_dim, call.attention);
    for query_head in kv_head * group..(kv_head + 1) * group {
        for index in panels.clone() {
            panel.run(call, sequence, &head, query_head, index * width);
        }
    }
}

/// Keys and values of one head as left operands.
struct PackedHead {
    /// Blocks of keys, `[words of head_dim, rows]` each.
    keys: Scratch,
    /// For every `BLOCKS_AT_ONCE` blocks of keys, blocks of columns of their values, `[words of keys, columns]` each.
    values: Scratch,
}

impl PackedHead {
    /// Of the keys and values that are `seen`; others have room that is not written.
    fn new(tiles: Tiles, head_dim: usize, sequence: &Sequence, kv_head: usize, seen: &Seen) -> Self {
        let (total, keys, values) = (sequence.total, sequence.keys(kv_head), sequence.values(kv_head));
        Self {
            keys: left_rows(tiles, head_dim, &keys, total, seen),
            values: left_columns(tiles, head_dim, &values, total, seen),
        }
    }
}

/// Those rows of a head that are `seen` as left blocks, `[words of head_dim, rows]` each.
pub(super) fn left_rows(tiles: Tiles, head_dim: usize, all: &HeadRows, total: usize, seen: &Seen) -> Scratch {
    let (rows, words) = (tiles.rows(), tiles.words(head_dim));
    let mut packed = Scratch::new(total * words);
    for at in seen.steps(keys_at_once(tiles)) {
        let some = at..total.min(at + keys_at_once(tiles));
        all.as_floats(tiles, some.clone(), head_dim, |matrix, first| {
            for block in (0..some.len()).step_by(rows) {
                let rows = rows.min(some.len() - block);
                let to = &mut packed[(at + block) * words..][..rows * words];
                tiles.pack_left(matrix, first + block, rows, head_dim, to);
            }
        });
    }
    packed
}

/// For every [`keys_at_once`] rows of a head of which some are `seen`, their columns as left blocks, `[words of rows,
/// columns]` each; from [`column_words`] times `head_dim` on.
pub(super) fn left_columns(tiles: Tiles, head_dim: usize, all: &HeadRows, total: usize, seen: &Seen) -> Scratch {
    let mut packed = Scratch::new(column_words(tiles, total) * head_dim);
    for at in seen.steps(keys_at_once(tiles)) {
        let some = at..total.min(at + keys_at_once(tiles));
        let words = tiles.words(some.len());
        let to = &mut packed[column_words(tiles, at) * head_dim..];
        all.as_floats(tiles, some.clone(), head_dim, |matrix, first| {
            for column in (0..head_dim).step_by(tiles.rows()) {
                let columns = tiles.rows().min(head_dim - column);
                let to = &mut to[column * words..][..columns * words];
                tiles.pack_left_columns(matrix, first..first + some.len(), column, columns, to);
            }
        });
    }
    packed
}

/// Keys that are scored before the softmax moves on.
pub(super) fn keys_at_once(tiles: Tiles) -> usize {
    tiles.rows() * BLOCKS_AT_ONCE
}

/// Words that the first `keys` rows take per column in [`left_columns`].
pub(super) fn column_words(tiles: Tiles, keys: usize) -> usize {
    let at_once = keys_at_once(tiles);
    keys / at_once * tiles.words(at_once) + tiles.words(keys % at_once)
}

/// The work on as many queries of one head as a panel is wide.
struct Panel {
    tiles: Tiles,
    attention: Attention,
    /// `[words of head_dim, width]`
    queries: Scratch,
    /// `[keys at once, width]`
    scores: Scratch,
    /// `[words of keys at once, width]`
    probabilities: Scratch,
    /// `[head_dim, width]`
    sums: Scratch,
}

impl Panel {
    fn new(tiles: Tiles, head_dim: usize, attention: Attention) -> Self {
        let (width, at_once) = (tiles.width(), keys_at_once(tiles));
        Self {
            tiles,
            attention,
            queries: Scratch::new(tiles.words(head_dim) * width),
            scores: Scratch::new(at_once * width),
            probabilities: Scratch::new(tiles.words(at_once) * width),
            sums: Scratch::new(head_dim * width),
        }
    }

    /// Queries `first..` of the head, as far as they go.
    fn run<T: Element>(
        &mut self,
        call: &Call<T>,
        sequence: &Sequence,
        head: &PackedHead,
        query_head: usize,
        first: usize,
    ) {
        let (n, total, head_dim) = (sequence.n, sequence.total, call.heads.head_dim);
        let (tiles, width, rows) = (self.tiles, self.tiles.width(), self.tiles.rows());
        let (mask, count) = (self.attention.mask, width.min(n - first));
        tiles.pack_rows(&call.queries, sequence.query(query_head, first), count, head_dim, &mut self.queries);
        let bounds = Bounds::new(mask, first..first + count, width, n, total);
        let sums = as_floats(&mut self.sums);
        sums.fill(0.0);
        let mut state = State { largest: [f32::NEG_INFINITY; 32], total: [0.0; 32] };
        let at_once = keys_at_once(tiles);
        for at in mask.seen_by(first..first + count, n, total).steps(at_once) {
            let count = at_once.min(total - at);
            let scores = as_floats(&mut self.scores);
            let words = tiles.words(head_dim);
            for block in (0..count).step_by(rows) {
                let rows = rows.min(count - block);
                let keys = &head.keys[(at + block) * words..][..rows * words];
                tiles.multiply(keys, rows, &self.queries, &mut scores[block * width..], false);
            }
            tiles.level.dispatch(Softmax {
                pairs: tiles.pairs,
                kind: self.attention.scores,
                first_key: at,
                bounds: &bounds,
                scores: &mut scores[..count * width],
                probabilities: &mut self.probabilities[..tiles.words(count) * width],
                state: &mut state,
                sums: &mut *sums,
            });
            let words = tiles.words(count);
            let values = &head.values[column_words(tiles, at) * head_dim..];
            for column in (0..head_dim).step_by(rows) {
                let columns = rows.min(head_dim - column);
                let left = &values[column * words..][..columns * words];
                tiles.multiply(left, columns, &self.probabilities, &mut sums[column * width..], true);
            }
        }
        for lane in 0..count {
            // SAFETY: each query has its own part of the result.
            let to = unsafe { call.y.slice(sequence.output(call.heads, query_head, first + lane), head_dim) };
            let total = state.total[lane];
            let inverse = if total > 0.0 { 1.0 / total } else { 0.0 };
            for (column, to) in to.iter_mut().enumerate() {
                *to = T::from_f32(sums[column * width + lane] * inverse);
            }
        }
    }
}

/// The first and the last key that each query sees, but for the sinks, which all see.
pub(super) struct Bounds {
    sinks: usize,
    first: Vec<f32>,
    last: Vec<f32>,
}

impl Bounds {
    /// Of `queries`, one to each of `width` lanes. Lanes without a query do as the last one does.
    pub(super) fn new(mask: Mask, queries: Range<usize>, width: usize, n: usize, total: usize) -> Self {
        let seen = (queries.start..queries.start + width).map(|query| mask.seen(query.min(queries.end - 1), n, total));
        Self {
            sinks: mask.sinks(),
            first: seen.clone().map(|seen| seen.recent.start as f32).collect(),
            last: seen.map(|seen| seen.recent.end as f32 - 1.0).collect(),
        }
    }

    /// Scores of the keys from `first_key` on become those of what is seen, by `scale`; the largest of them and `before`.
    ///
    /// # Safety
    /// `scores` are `keys` rows of two vectors, and `half` is the start of one.
    #[inline(always)]
    pub(super) unsafe fn apply<S: Simd>(
        &self,
        s: S,
        (scores, keys): (*mut f32, usize),
        half: usize,
        first_key: usize,
        scale: f32,
        before: S::F,
    ) -> S::F {
        let (width, none) = (2 * S::LANES, s.splat(f32::NEG_INFINITY));
        // SAFETY: by the caller's promise; there are bounds for every lane.
        unsafe {
            let (first, last) = (s.load(self.first.as_ptr().add(half)), s.load(self.last.as_ptr().add(half)));
            let mut largest = before;
            for key in 0..keys {
                let at = scores.add(key * width + half);
                let position = s.splat((first_key + key) as f32);
                let mut score = s.mul(s.load(at), s.splat(scale));
                if first_key + key >= self.sinks {
                    score = s.select_le(first, position, score, none);
                }
                score = s.select_le(position, last, score, none);
                s.store(at, score);
                largest = s.max(largest, score);
            }
            largest
        }
    }
}

/// Of each query, the largest score so far, and the sum of the probabilities relative to it.
struct State {
    largest: [f32; 32],
    total: [f32; 32],
}

/// Scores become probabilities relative to the largest score so far; what was summed before is scaled to match.
struct Softmax<'a> {
    pairs: bool,
    kind: Scores,
    first_key: usize,
    bounds: &'a Bounds,
    scores: &'a mut [f32],
    probabilities: &'a mut [u32],
    state: &'a mut State,
    sums: &'a mut [f32],
}

impl Work for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * S::LANES;
        let keys = self.scores.len() / width;
        let mut scale = self.kind.scale;
        if let Some(cap) = self.kind.softcap {
            soft_cap(s, scale, cap, self.scores);
            scale = 1.0;
        }
        let scores = self.scores.as_mut_ptr();
        // SAFETY: scores, sums and probabilities are whole rows of `width`, bounds and state at least one.
        unsafe {
            for half in [0, S::LANES] {
                let before = s.load(self.state.largest.as_ptr().add(half));
                let largest = self.bounds.apply(s, (scores, keys), half, self.first_key, scale, before);
                // Where nothing is seen yet, any finite number makes all probabilities 0.
                let finite = s.max(largest, s.splat(f32::MIN));
                let factor = exp(s, s.sub(before, finite));
                let mut total = s.mul(s.load(self.state.total.as_ptr().add(half)), factor);
                for key in 0..keys {
                    let at = scores.add(key * width + half);
                    let probability = exp(s, s.sub(s.load(at), finite));
                    total = s.add(total, probability);
                    s.store(at, probability);
                }
                s.store(self.state.largest.as_mut_ptr().add(half), largest);
                s.store(self.state.total.as_mut_ptr().add(half), total);
                for sums in self.sums.chunks_exact_mut(width) {
                    let at = sums.as_mut_ptr().add(half);
                    s.store(at, s.mul(s.load(at), factor));
                }
            }
        }
        if self.pairs {
            pair_rows(self.scores, width, self.probabilities);
        } else {
            as_floats(self.probabilities).copy_from_slice(self.scores);
        }
    }
}

/// Pairs of rows as words of bfloat16, with zeros for what is left of the last words.
#[inline(always)]
pub(super) fn pair_rows(rows: &[f32], width: usize, to: &mut [u32]) {
    let mut rows = rows.chunks_exact(width);
    for to in to.chunks_exact_mut(width) {
        let (low, high) = (rows.next().unwrap_or(&ZEROS[..width]), rows.next().unwrap_or(&ZEROS[..width]));
        for (to, (&low, &high)) in to.iter_mut().zip(low.iter().zip(high)) {
            *to = to_bf16(low) >> 16 | to_bf16(high) & 0xffff_0000;
        }
    }
}

static ZEROS: [f32; 32] = [0.0; 32];

/// The bits of a number, rounded so that the upper 16 are its bfloat16. Of the NaNs some become infinite or zero: those
/// that arithmetic makes stay.
#[inline(always)]
fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1))
}
