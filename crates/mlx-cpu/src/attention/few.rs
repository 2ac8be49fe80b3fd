//! Attention of a few queries, as in decoding: bound by reading keys and values once.

use super::sequence::{Piece, Sequence};
use super::{Call, Seen};
use crate::element::{Element, load_part, store_part};
use crate::linear::Matrix;
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work, exp};
use crate::view::Rows;

/// With more, packing keys and values pays.
pub(super) const MOST_QUERIES: usize = 4;

/// Keys or values that all queries meet before the next ones are looked at.
const PIECE: usize = 16;

/// How many pieces before it is used memory is asked for one. Hardware does not look beyond a page of 4096.
const AHEAD: usize = 4;

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

/// Calls `$body` with `$rows` and `$first`: the rows of a piece are those of `$rows` from `$first`. Packed ones are
/// unpacked into `$room`.
macro_rules! with_rows {
    ($s:expr, $piece:expr, $room:expr, $head_dim:expr, ($rows:ident, $first:ident) => $body:expr) => {{
        let $first = $piece.first;
        match $piece.matrix {
            Matrix::DenseF32($rows) => $body,
            Matrix::DenseBf16($rows) => $body,
            Matrix::DenseF16($rows) => $body,
            matrix => {
                for (row, to) in $room.chunks_exact_mut($head_dim).enumerate().take($piece.len) {
                    matrix.read($s, $first + row, 0, to);
                }
                let all = std::borrow::Cow::Borrowed(&*$room);
                let ($rows, $first) = (&Rows::Even { all, len: $head_dim, stride: $head_dim }, 0);
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
        let mut scratch = Scratch::new(count * (2 * width + len + 1) + PIECE * head_dim);
        let (x, rest) = as_floats(&mut scratch).split_at_mut(count * width);
        let (sums, rest) = rest.split_at_mut(count * width);
        let (scores, rest) = rest.split_at_mut(count * len);
        let (inverses, room) = rest.split_at_mut(count);
        x.fill(0.0);
        sums.fill(0.0);
        scores.fill(f32::NEG_INFINITY);
        for (i, x) in x.chunks_exact_mut(width).enumerate() {
            let (head, query) = place(i);
            call.queries.read(s, sequence.query(head, query), 0, &mut x[..head_dim]);
            x.iter_mut().for_each(|x| *x *= call.attention.scale);
        }
        let keys = sequence.keys(kv_head);
        let mut ahead = keys.seen_pieces(&seen, PIECE).skip(AHEAD);
        let mut at = 0;
        for piece in keys.seen_pieces(&seen, PIECE) {
            prefetch(s, ahead.next());
            with_rows!(s, piece, room, head_dim, (rows, first) => for (i, x) in x.chunks_exact(width).enumerate() {
                dots(s, rows, first, x, &mut scores[i * len + at..][..piece.len]);
            });
            at += piece.len;
        }
        for i in 0..count {
            let scores = &mut scores[i * len..][..len];
            hide(scores, &seen, &mask.seen(place(i).1, n, sequence.total));
            let sum = probabilities(s, scores);
            inverses[i] = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        }
        let values = sequence.values(kv_head);
        let mut ahead = values.seen_pieces(&seen, PIECE).skip(AHEAD);
        let mut at = 0;
        for piece in values.seen_pieces(&seen, PIECE) {
            prefetch(s, ahead.next());
            with_rows!(s, piece, room, head_dim, (rows, first) => for (i, sums) in sums.chunks_exact_mut(width).enumerate() {
                add_rows(s, &scores[i * len + at..][..piece.len], rows, first, sums);
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
pub(super) fn probabilities<S: Simd>(s: S, scores: &mut [f32]) -> f32 {
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

#[inline(always)]
fn prefetch<S: Simd>(s: S, piece: Option<Piece>) {
    if let Some(Piece { matrix, first, len, .. }) = piece {
        (first..first + len).for_each(|row| matrix.prefetch(s, row));
    }
}

/// `x · row` for as many rows from `first` as there are scores; `x` has zeros up to a whole vector.
#[inline(always)]
fn dots<S: Simd, E: Element>(s: S, rows: &Rows<E>, first: usize, x: &[f32], scores: &mut [f32]) {
    for (scores, first) in scores.chunks_mut(AT_ONCE).zip((first..).step_by(AT_ONCE)) {
        // Where there are fewer, the last one again.
        let last = first + scores.len() - 1;
        let some: [&[E]; AT_ONCE] = std::array::from_fn(|i| rows.get(last.min(first + i)));
        let mut sums = [s.splat(0.0); AT_ONCE];
        for (x, at) in x.chunks_exact(S::LANES).zip((0..).step_by(S::LANES)) {
            let x = load_part(s, x);
            for (sum, row) in sums.iter_mut().zip(some) {
                *sum = s.mul_add(load_part(s, &row[at..]), x, *sum);
            }
        }
        scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = s.sum(sum));
    }
}

/// `to += Σ factor · row` over the rows from `first`, one for each factor; `to` has room up to a whole vector.
#[inline(always)]
fn add_rows<S: Simd, E: Element>(s: S, factors: &[f32], rows: &Rows<E>, first: usize, to: &mut [f32]) {
    for (factors, first) in factors.chunks(AT_ONCE).zip((first..).step_by(AT_ONCE)) {
        let last = first + factors.len() - 1;
        let some: [&[E]; AT_ONCE] = std::array::from_fn(|i| rows.get(last.min(first + i)));
        let factors: [S::F; AT_ONCE] = std::array::from_fn(|i| s.splat(factors.get(i).copied().unwrap_or(0.0)));
        for (to, at) in to.chunks_exact_mut(S::LANES).zip((0..).step_by(S::LANES)) {
            let mut sum = load_part(s, to);
            for (factor, row) in factors.into_iter().zip(some) {
                sum = s.mul_add(load_part(s, &row[at..]), factor, sum);
            }
            store_part(s, to, sum);
        }
    }
}
