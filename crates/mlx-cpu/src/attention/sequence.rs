//! A sequence's queries, and its keys and values in the blocks where they lie.

use std::borrow::Cow;
use std::ops::Range;

use half::bf16;

use crate::linear::tile::Tiles;
use crate::linear::{Format, Matrix};
use crate::scratch::{Scratch, as_floats, as_slice_of};
use crate::simd::{Simd, Work};
use crate::view::{Rows, View};

use super::Seen;

/// What the sequences of a call have in common.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    /// Query heads per key head.
    pub(super) fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// A sequence of a batch.
pub(super) struct Sequence<'a> {
    /// Its queries in each head.
    pub n: usize,
    /// Its keys in each head; those of all blocks.
    pub total: usize,
    /// The row of its first query among those of all queries.
    pub first_row: usize,
    /// Rows from one head to the next.
    pub head_rows: usize,
    /// The place of its first query in the result.
    pub first_position: usize,
    pub blocks: Vec<Stored<'a>>,
}

/// The first `len` keys and values of some arrays, `[kv_heads, capacity, ..]` each.
pub(super) struct Stored<'a> {
    pub len: usize,
    pub keys: (Format, &'a [View<'a>]),
    pub values: (Format, &'a [View<'a>]),
}

impl Sequence<'_> {
    /// The row of a query.
    pub(super) fn query(&self, head: usize, query: usize) -> usize {
        self.first_row + head * self.head_rows + query
    }

    /// Where the result of a query starts.
    pub(super) fn output(&self, heads: Heads, head: usize, query: usize) -> usize {
        ((self.first_position + query) * heads.heads + head) * heads.head_dim
    }

    /// The keys of head `kv_head`.
    pub(super) fn keys(&self, kv_head: usize) -> HeadRows<'_> {
        HeadRows::new(kv_head, self.blocks.iter().map(|block| (block.len, block.keys)))
    }

    /// The values of head `kv_head`.
    pub(super) fn values(&self, kv_head: usize) -> HeadRows<'_> {
        HeadRows::new(kv_head, self.blocks.iter().map(|block| (block.len, block.values)))
    }
}

/// The keys or the values of one head, `[total, head_dim]`: the first rows of some matrices one after another.
pub(super) struct HeadRows<'a>(Vec<(Range<usize>, Matrix<'a>)>);

/// Rows `at..at + len` of a head: those of `matrix` from `first`.
pub(super) struct Piece<'a> {
    pub at: usize,
    pub len: usize,
    pub matrix: &'a Matrix<'a>,
    pub first: usize,
}

impl<'a> HeadRows<'a> {
    /// The first `total` rows of one matrix.
    pub(super) fn whole(total: usize, matrix: Matrix<'a>) -> Self {
        Self(vec![(0..total, matrix)])
    }

    fn new(kv_head: usize, blocks: impl Iterator<Item = (usize, (Format, &'a [View<'a>]))>) -> Self {
        let mut end = 0;
        let blocks = blocks.filter(|(len, _)| *len > 0).map(|(len, (format, arrays))| {
            // No format has more than three arrays.
            let parts: [View; 3] = std::array::from_fn(|i| arrays[i.min(arrays.len() - 1)].part(kv_head));
            end += len;
            (end - len..end, Matrix::new(format, &parts[..arrays.len()]))
        });
        Self(blocks.collect())
    }

    /// The rows `range`, cut where a matrix ends and after every `most` rows.
    fn pieces(&self, range: Range<usize>, most: usize) -> impl Iterator<Item = Piece<'_>> {
        let start = self.0.partition_point(|(rows, _)| rows.end <= range.start);
        let blocks = self.0[start..].iter().take_while(move |(rows, _)| rows.start < range.end);
        blocks.flat_map(move |(rows, matrix)| {
            let (start, end) = (rows.start.max(range.start), rows.end.min(range.end));
            let piece = move |at| Piece { at, len: most.min(end - at), matrix, first: at - rows.start };
            (start..end).step_by(most).map(piece)
        })
    }

    /// Those of the rows that are seen, in pieces of at most `most`.
    pub(super) fn seen_pieces(&self, seen: &Seen, most: usize) -> impl Iterator<Item = Piece<'_>> {
        [0..seen.sinks, seen.recent.clone()].into_iter().flat_map(move |range| self.pieces(range, most))
    }

    /// Calls `work` with a matrix of floats and the row of it from which on it has the rows `range`.
    pub(super) fn as_floats(
        &self,
        tiles: Tiles,
        range: Range<usize>,
        head_dim: usize,
        work: impl FnOnce(&Matrix, usize),
    ) {
        let mut pieces = self.pieces(range.clone(), range.len());
        match (pieces.next(), pieces.next()) {
            (Some(Piece { matrix: Matrix::Packed(_), .. }), _) => {}
            (Some(piece), None) => return work(piece.matrix, piece.first),
            _ => {}
        }
        let mut room = Scratch::new(range.len() * head_dim);
        tiles.level.dispatch(Gather { rows: self, range, head_dim, pairs: tiles.pairs, to: &mut room });
        if tiles.pairs {
            let all = Cow::Borrowed(&*as_slice_of::<bf16>(&mut room));
            work(&Matrix::DenseBf16(Rows::Even { all, len: head_dim, stride: head_dim }), 0);
        } else {
            let all = Cow::Borrowed(&*as_floats(&mut room));
            work(&Matrix::DenseF32(Rows::Even { all, len: head_dim, stride: head_dim }), 0);
        }
    }
}

/// Copies rows to where they are one after another, as bfloat16 if they will be multiplied in pairs.
struct Gather<'a> {
    rows: &'a HeadRows<'a>,
    range: Range<usize>,
    head_dim: usize,
    pairs: bool,
    to: &'a mut [u32],
}

impl Work for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, range, head_dim, pairs, to } = self;
        for Piece { at, matrix, first, .. } in rows.pieces(range.clone(), 1) {
            let start = (at - range.start) * head_dim;
            if pairs {
                matrix.read(s, first, 0, &mut as_slice_of::<bf16>(to)[start..][..head_dim]);
            } else {
                matrix.read(s, first, 0, &mut as_floats(to)[start..][..head_dim]);
            }
        }
    }
}
