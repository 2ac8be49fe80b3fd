//! Attention of a few queries, as in decoding: bound by reading keys and values once. They are read in order, which
//! hardware foresees: asking for memory ahead, as matrices by vectors do, made it slower by a fifth.

use std::borrow::Cow;

use mlx_quantized::Mode;

use super::scores::soft_cap;
use super::sequence::Sequence;
use super::{Call, Seen};
use crate::element::{Element, load_part, store_part};
use crate::linear::{AffineRow, AffineRows, Matrix};
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work, exp};
use crate::view::Rows;

/// With more, packing keys and values pays.
pub(super) const MOST_QUERIES: usize = 4;

/// Keys or values that all queries meet before the next ones are looked at.
const PIECE: usize = 32;

/// Rows that are worked on at once, as each addition waits for the one before.
const AT_ONCE: usize = 4;

/// The result of all queries that share the key head `kv_head`.
pub(super) fn run<T: Element>(call: &Call<T>, sequence: &Sequence, kv_head: usize) {
    call.attention.level.dispatch(Few { call, sequence, kv_head });
}

struct Few<'a, T> {
    call: &'a Call<'a, T>,
    sequence: &'a Sequence<'a>,
    kv_head: usize,
}

/// Rows of whole vectors.
trait Source: Copy {
    /// One of them.
    type Row: Copy;
    /// Row `index`, of which `width` numbers will be read.
    fn row(self, index: usize, width: usize) -> Self::Row;
    /// The lanes of `row` from `at`.
    ///
    /// # Safety
    /// They are among those that [`row`](Self::row) was told of, `at` is whole vectors, and what the rows are in lives.
    unsafe fn lanes<S: Simd>(self, s: S, row: Self::Row, at: usize) -> S::F;
}

/// The rows of a matrix from one on.
#[derive(Clone, Copy)]
struct Dense<'a, E: Element>(&'a Rows<'a, E>, usize);

impl<E: Element> Source for Dense<'_, E> {
    type Row = *const E;
    #[inline(always)]
    fn row(self, index: usize, width: usize) -> *const E {
        self.0.get(self.1 + index)[..width].as_ptr()
    }
    #[inline(always)]
    unsafe fn lanes<S: Simd>(self, s: S, row: *const E, at: usize) -> S::F {
        // SAFETY: by the caller's promise.
        unsafe { E::load(s, row.add(at)) }
    }
}

impl Source for AffineRows<'_> {
    type Row = AffineRow;
    #[inline(always)]
    fn row(self, index: usize, width: usize) -> AffineRow {
        AffineRows::row(self, index, width)
    }
    #[inline(always)]
    unsafe fn lanes<S: Simd>(self, s: S, row: AffineRow, at: usize) -> S::F {
        // SAFETY: by the caller's promise.
        unsafe { AffineRows::lanes(self, s, row, at) }
    }
}

/// Calls `$body` with `$rows`, the rows of a piece. What cannot be read as it is, for want of code or because rows are no
/// whole vectors, becomes floats in `$room`.
macro_rules! with_rows {
    ($s:expr, $piece:expr, $room:expr, $head_dim:expr, $width:expr, $rows:ident => $body:expr) => {{
        let range = $piece.first..$piece.first + $piece.len;
        let whole = $head_dim == $width;
        match $piece.matrix {
            Matrix::DenseBf16(all) if whole => {
                let $rows = Dense(all, range.start);
                $body
            }
            Matrix::DenseF16(all) if whole => {
                let $rows = Dense(all, range.start);
                $body
            }
            Matrix::Packed(packed) if packed.mode == Mode::Affine => {
                let $rows = AffineRows::new($s, packed, range, $room);
                $body
            }
            _ => {
                let room = as_floats($room);
                for (row, to) in range.zip(room.chunks_exact_mut($width)) {
                    let (to, rest) = to.split_at_mut($head_dim);
                    $piece.matrix.read($s, row, 0, to);
                    rest.fill(0.0);
                }
                let unpacked = Rows::Even { all: Cow::Borrowed(&*room), len: $width, stride: $width };
                let $rows = Dense(&unpacked, 0);
                $body
            }
        }
    }};
}

impl<T: Element> Work for Few<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { call, sequence, kv_head } = self;
        let (heads, n, head_dim) = (call.heads, sequence.n, call.heads.head_dim);
        let mask = call.attention.mask;
        let count = heads.group() * n;
        let place = |i: usize| (kv_head * heads.group() + i / n, i % n);
        let seen = mask.seen_by(0..n, n, sequence.total);
        let (width, len) = (head_dim.next_multiple_of(S::LANES), seen.len().next_multiple_of(S::LANES));
        let (mut scratch, mut room) = (Scratch::new(count * (2 * width + len + 1)), Scratch::new(PIECE * width));
        let (x, rest) = as_floats(&mut scratch).split_at_mut(count * width);
        let (sums, rest) = rest.split_at_mut(count * width);
        let (scores, inverses) = rest.split_at_mut(count * len);
        x.fill(0.0);
        sums.fill(0.0);
        scores.fill(f32::NEG_INFINITY);
        for (i, x) in x.chunks_exact_mut(width).enumerate() {
            let (head, query) = place(i);
            call.queries.read(s, sequence.query(head, query), 0, &mut x[..head_dim]);
            x.iter_mut().for_each(|x| *x *= call.attention.scores.scale);
        }
        let keys = sequence.keys(kv_head);
        let mut at = 0;
        for piece in keys.seen_pieces(&seen, PIECE) {
            with_rows!(s, piece, &mut room, head_dim, width, rows => for (i, x) in x.chunks_exact(width).enumerate() {
                dots(s, rows, x, &mut scores[i * len + at..][..piece.len]);
            });
            at += piece.len;
        }
        for i in 0..count {
            let scores = &mut scores[i * len..][..len];
            if let Some(cap) = call.attention.scores.softcap {
                soft_cap(s, 1.0, cap, &mut scores[..seen.len()]);
            }
            hide(scores, &seen, &mask.seen(place(i).1, n, sequence.total));
            let sum = probabilities(s, scores);
            inverses[i] = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        }
        let values = sequence.values(kv_head);
        let mut at = 0;
        for piece in values.seen_pieces(&seen, PIECE) {
            with_rows!(s, piece, &mut room, head_dim, width, rows => for (i, sums) in sums.chunks_exact_mut(width).enumerate() {
                add_rows(s, &scores[i * len + at..][..piece.len], rows, sums);
            });
            at += piece.len;
        }
        for (i, sums) in sums.chunks_exact(width).enumerate() {
            let (head, query) = place(i);
            // SAFETY: each query has its own part of the result.
            let to = unsafe { call.y.slice(sequence.output(heads, head, query), head_dim) };
            for (to, sums) in to.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES)) {
                store_part(s, to, s.mul(load_part(s, sums), s.splat(inverses[i])));
            }
        }
    }
}

/// Takes away the scores of those keys of `all` that are not among `seen`, as `scores` has one for each of `all`.
fn hide(scores: &mut [f32], all: &Seen, seen: &Seen) {
    let hidden = |key: &usize| *key >= seen.sinks && !seen.recent.contains(key);
    // They are near both ends, if there are any.
    let (start, end) = (all.recent.start..seen.recent.start, seen.recent.end..all.recent.end);
    for key in start.chain(end).filter(hidden) {
        scores[all.sinks + key - all.recent.start] = f32::NEG_INFINITY;
    }
}

/// Scores become `e^score` relative to the largest; their sum. They are whole vectors.
#[inline(always)]
fn probabilities<S: Simd>(s: S, scores: &mut [f32]) -> f32 {
    let mut largest = s.splat(f32::MIN);
    for scores in scores.chunks_exact(S::LANES) {
        largest = s.max(load_part(s, scores), largest);
    }
    let largest = s.splat(s.largest(largest));
    let mut sum = s.splat(0.0);
    for scores in scores.chunks_exact_mut(S::LANES) {
        let probabilities = exp(s, s.sub(load_part(s, scores), largest));
        sum = s.add(sum, probabilities);
        store_part(s, scores, probabilities);
    }
    s.sum(sum)
}

/// `x · row` for as many rows as there are scores.
#[inline(always)]
fn dots<S: Simd, R: Source>(s: S, rows: R, x: &[f32], scores: &mut [f32]) {
    for (scores, first) in scores.chunks_mut(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
        let some = some_rows(rows, first, scores.len(), x.len());
        let mut sums = [s.splat(0.0); AT_ONCE];
        for (i, x) in x.chunks_exact(S::LANES).enumerate() {
            let x = load_part(s, x);
            for (sum, row) in sums.iter_mut().zip(&some) {
                // SAFETY: rows are as long as `x`.
                *sum = s.mul_add(unsafe { rows.lanes(s, *row, i * S::LANES) }, x, *sum);
            }
        }
        let mut all = [0.0; AT_ONCE];
        for (score, sum) in all.iter_mut().zip(&sums) {
            *score = s.sum(*sum);
        }
        scores.copy_from_slice(&all[..scores.len()]);
    }
}

/// `to += Σ factor · row` over the rows, one for each factor.
#[inline(always)]
fn add_rows<S: Simd, R: Source>(s: S, factors: &[f32], rows: R, to: &mut [f32]) {
    for (factors, first) in factors.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
        let some = some_rows(rows, first, factors.len(), to.len());
        let mut all = [0.0; AT_ONCE];
        all[..factors.len()].copy_from_slice(factors);
        let mut splat = [s.splat(0.0); AT_ONCE];
        for (splat, factor) in splat.iter_mut().zip(&all) {
            *splat = s.splat(*factor);
        }
        for (i, to) in to.chunks_exact_mut(S::LANES).enumerate() {
            let mut sum = load_part(s, to);
            for (factor, row) in splat.iter().zip(&some) {
                // SAFETY: rows are as long as `to`.
                sum = s.mul_add(unsafe { rows.lanes(s, *row, i * S::LANES) }, *factor, sum);
            }
            store_part(s, to, sum);
        }
    }
}

// Arrays below are indexed by constants only: others would not stay in registers.

/// `count` rows from `first`; where that is fewer, the last one again.
#[inline(always)]
fn some_rows<R: Source>(rows: R, first: usize, count: usize, width: usize) -> [R::Row; AT_ONCE] {
    let last = first + count - 1;
    let mut some = [rows.row(first, width); AT_ONCE];
    for (i, row) in some.iter_mut().enumerate() {
        *row = rows.row(last.min(first + i), width);
    }
    some
}
