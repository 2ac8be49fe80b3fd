//! Matrix by matrix: panels of the weight, unpacked once each, by blocks of rows.

use std::ops::Range;

use mlx_rs::Dtype;

use super::format::{Matrix, convert};
use super::tile::Tiles;
use crate::element::{Element, load_part, store_part};
use crate::level::Level;
use crate::pool::parallel;
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work};
use crate::view::SharedMut;

/// Which way the weight lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A row for each output.
    RowsAreOutputs,
    /// A column for each output: the gradient's direction.
    ColumnsAreOutputs,
}

/// Rows of the left matrix that are packed at once: enough to make up for unpacking the weight, few enough to stay in
/// the cache.
const ROWS_AT_ONCE: usize = 1024;

/// `y = x · weight + bias` with `x` `[rows, len]` and `y` `[rows, outputs]` of the same type, accumulated in float32.
pub(crate) struct Gemm<'a> {
    pub level: Level,
    pub dtype: Dtype,
    pub rows: usize,
    pub len: usize,
    pub outputs: usize,
    pub weight: &'a Matrix<'a>,
    pub direction: Weight,
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
}

impl Gemm<'_> {
    /// Computes; row `i` of the left matrix is `x`'s row `from[i]`, and its result goes to row `to[i]` of `y`.
    pub(crate) fn run<T: Element>(&self, x: &Matrix, y: &SharedMut<T>) {
        let tiles = Tiles::new(self.level, self.dtype);
        for rows in parts(self.rows, tiles.rows()) {
            self.some_rows(tiles, x, rows.start, rows.len(), y);
        }
    }

    fn some_rows<T: Element>(&self, tiles: Tiles, x: &Matrix, first: usize, rows: usize, y: &SharedMut<T>) {
        let (block_rows, width, words) = (tiles.rows(), tiles.width(), tiles.words(self.len));
        let blocks = rows.div_ceil(block_rows);
        let block_len = block_rows * words;
        let in_block = |block: usize| block_rows.min(rows - block * block_rows);
        let mut left = Scratch::new(blocks * block_len);
        let shared = SharedMut::new(&mut left);
        parallel(blocks, |block| {
            // SAFETY: each task has its own block.
            let to = unsafe { shared.slice(block * block_len, in_block(block) * words) };
            tiles.pack_left(x, first + block * block_rows, in_block(block), self.len, to);
        });
        let left = &*left;
        let panels = self.outputs.div_ceil(width);
        // With few panels, several tasks share one, and each unpacks it for itself.
        let parts = (2 * crate::pool::threads()).div_ceil(panels).clamp(1, blocks);
        parallel(panels * parts, |task| {
            let (panel, part) = (task / parts, task % parts);
            let columns = panel * width..self.outputs.min((panel + 1) * width);
            let (mut panel, mut tile) = (Scratch::new(words * width), Scratch::new(block_rows * width));
            let tile = as_floats(&mut tile);
            match self.direction {
                Weight::RowsAreOutputs => {
                    tiles.pack_rows(self.weight, columns.start, columns.len(), self.len, &mut panel);
                }
                Weight::ColumnsAreOutputs => {
                    tiles.pack_columns(self.weight, columns.start, columns.len(), self.len, &mut panel);
                }
            }
            for block in blocks * part / parts..blocks * (part + 1) / parts {
                let rows = in_block(block);
                tiles.multiply(&left[block * block_len..][..rows * words], rows, &panel, tile, false);
                for row in 0..rows {
                    let start = (first + block * block_rows + row) * self.outputs + columns.start;
                    // SAFETY: each task writes other rows or other columns.
                    let to = unsafe { y.slice(start, columns.len()) };
                    let bias = self.bias.map(|bias| &bias[columns.clone()]);
                    self.level.dispatch(Finish { sums: &tile[row * width..][..columns.len()], bias, to });
                }
            }
        });
    }
}

/// Rows to be packed at once: equal parts, as each unpacks the weight anew, of whole blocks.
pub(super) fn parts(rows: usize, block_rows: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(ROWS_AT_ONCE).max(1);
    let len = rows.div_ceil(count).next_multiple_of(block_rows).max(1);
    (0..rows).step_by(len).map(move |first| first..rows.min(first + len))
}

/// Adds the bias and rounds.
pub(super) struct Finish<'a, T> {
    pub sums: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub to: &'a mut [T],
}

impl<T: Element> Work for Finish<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Some(bias) = self.bias else { return convert(s, self.sums, self.to) };
        let lanes = S::LANES;
        for ((sums, bias), to) in self.sums.chunks(lanes).zip(bias.chunks(lanes)).zip(self.to.chunks_mut(lanes)) {
            store_part(s, to, s.add(load_part(s, sums), load_part(s, bias)));
        }
    }
}
