//! Matrix by matrix: panels of the weight, unpacked once each, by blocks of rows.

use std::ops::Range;

use mlx_rs::Dtype;

use super::format::{Matrix, convert};
use super::tile::{Tiles, panel_width};
use crate::element::{Element, load_part, store_part};
use crate::level::Level;
use crate::pool::{parallel, threads};
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work};
use crate::view::SharedMut;

/// Which way the weight lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A row for each output.
    RowsAreOutputs,
    /// A column for each output: the gradient's direction.
    ColumnsAreOutputs,
}

/// Rows of the left matrix that are packed at once: enough to make up for unpacking the weight, few enough to stay in
/// the cache.
const ROWS_AT_ONCE: usize = 1024;

/// The two matrices of a product, cut into what a tile multiplies.
pub(super) trait Operands: Sync {
    fn level(&self) -> Level;
    /// The most rows of a left block.
    fn block_rows(&self) -> usize;
    /// Words of 32 bits that a row takes in a left block, and a column in a panel.
    fn words(&self) -> usize;
    /// Rows of the left matrix as a left block.
    fn pack_left(&self, rows: Range<usize>, block: &mut [u32]);
    /// Columns of the right matrix as a panel, [`panel_width`] wide.
    fn pack_panel(&self, columns: Range<usize>, panel: &mut [u32]);
    /// `tile = left · panel`, `[rows, width]`.
    fn multiply(&self, left: &[u32], rows: usize, panel: &[u32], tile: &mut [f32]);
}

/// `y = product + bias` with `y` `[rows, outputs]` and `bias` `[outputs]`, accumulated in float32.
pub(super) fn multiply<T: Element>(
    operands: &impl Operands,
    rows: usize,
    outputs: usize,
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    for rows in parts(rows, operands.block_rows()) {
        some_rows(operands, rows, outputs, bias, y);
    }
}

fn some_rows<T: Element>(
    operands: &impl Operands,
    rows: Range<usize>,
    outputs: usize,
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    let (block_rows, words, width) = (operands.block_rows(), operands.words(), panel_width(operands.level()));
    let blocks = rows.len().div_ceil(block_rows);
    let block_len = block_rows * words;
    let in_block = |block: usize| {
        let first = rows.start + block * block_rows;
        first..rows.end.min(first + block_rows)
    };
    let mut left = Scratch::new(blocks * block_len);
    let shared = SharedMut::new(&mut left);
    parallel(blocks, |block| {
        // SAFETY: each task has its own block.
        let to = unsafe { shared.slice(block * block_len, in_block(block).len() * words) };
        operands.pack_left(in_block(block), to);
    });
    let left = &*left;
    let panels = outputs.div_ceil(width);
    // With few panels, several tasks share one, and each unpacks it for itself.
    let shares = (2 * threads()).div_ceil(panels).clamp(1, blocks);
    parallel(panels * shares, |task| {
        let (panel, share) = (task / shares, task % shares);
        let columns = panel * width..outputs.min((panel + 1) * width);
        let (mut panel, mut tile) = (Scratch::new(words * width), Scratch::new(block_rows * width));
        let tile = as_floats(&mut tile);
        operands.pack_panel(columns.clone(), &mut panel);
        for block in blocks * share / shares..blocks * (share + 1) / shares {
            let rows = in_block(block);
            operands.multiply(&left[block * block_len..][..rows.len() * words], rows.len(), &panel, tile);
            for (row, sums) in rows.zip(tile.chunks_exact(width)) {
                // SAFETY: each task writes other rows or other columns.
                let to = unsafe { y.slice(row * outputs + columns.start, columns.len()) };
                let bias = bias.map(|bias| &bias[columns.clone()]);
                operands.level().dispatch(Finish { sums: &sums[..columns.len()], bias, to });
            }
        }
    });
}

/// Floats by floats: a packed weight is unpacked to what `x` is.
pub(crate) struct Floats<'a> {
    tiles: Tiles,
    x: &'a Matrix<'a>,
    weight: &'a Matrix<'a>,
    direction: Direction,
    /// Length of the axis that is summed over.
    len: usize,
}

impl<'a> Floats<'a> {
    /// Of `x`, whose type is `dtype`, with the weight.
    pub(crate) fn new(
        level: Level,
        dtype: Dtype,
        x: &'a Matrix,
        weight: &'a Matrix,
        direction: Direction,
        len: usize,
    ) -> Self {
        Self { tiles: Tiles::new(level, dtype), x, weight, direction, len }
    }

    /// `y = x · weight + bias` with `y` `[rows, outputs]` of the type of `x`.
    pub(crate) fn multiply<T: Element>(&self, rows: usize, outputs: usize, bias: Option<&[f32]>, y: &SharedMut<T>) {
        multiply(self, rows, outputs, bias, y);
    }
}

impl Operands for Floats<'_> {
    fn level(&self) -> Level {
        self.tiles.level
    }

    fn block_rows(&self) -> usize {
        self.tiles.rows()
    }

    fn words(&self) -> usize {
        self.tiles.words(self.len)
    }

    fn pack_left(&self, rows: Range<usize>, block: &mut [u32]) {
        self.tiles.pack_left(self.x, rows.start, rows.len(), self.len, block);
    }

    fn pack_panel(&self, columns: Range<usize>, panel: &mut [u32]) {
        let (first, count) = (columns.start, columns.len());
        match self.direction {
            Direction::RowsAreOutputs => self.tiles.pack_rows(self.weight, first, count, self.len, panel),
            Direction::ColumnsAreOutputs => self.tiles.pack_columns(self.weight, first, count, self.len, panel),
        }
    }

    fn multiply(&self, left: &[u32], rows: usize, panel: &[u32], tile: &mut [f32]) {
        self.tiles.multiply(left, rows, panel, tile, false);
    }
}

/// `leftᵀ · right`, the sum of the outer products of their rows.
pub(crate) struct Outer<'a> {
    tiles: Tiles,
    left: &'a Matrix<'a>,
    right: &'a Matrix<'a>,
    /// Rows of each.
    len: usize,
}

impl<'a> Outer<'a> {
    /// Of matrices that are read as `dtype`, with `len` rows each.
    pub(crate) fn new(level: Level, dtype: Dtype, left: &'a Matrix, right: &'a Matrix, len: usize) -> Self {
        Self { tiles: Tiles::new(level, dtype), left, right, len }
    }

    /// `y = leftᵀ · right`, `[rows, outputs]`.
    pub(crate) fn multiply<T: Element>(&self, rows: usize, outputs: usize, y: &SharedMut<T>) {
        multiply(self, rows, outputs, None, y);
    }
}

impl Operands for Outer<'_> {
    fn level(&self) -> Level {
        self.tiles.level
    }

    fn block_rows(&self) -> usize {
        self.tiles.rows()
    }

    fn words(&self) -> usize {
        self.tiles.words(self.len)
    }

    fn pack_left(&self, rows: Range<usize>, block: &mut [u32]) {
        self.tiles.pack_left_columns(self.left, 0..self.len, rows.start, rows.len(), block);
    }

    fn pack_panel(&self, columns: Range<usize>, panel: &mut [u32]) {
        self.tiles.pack_columns(self.right, columns.start, columns.len(), self.len, panel);
    }

    fn multiply(&self, left: &[u32], rows: usize, panel: &[u32], tile: &mut [f32]) {
        self.tiles.multiply(left, rows, panel, tile, false);
    }
}

/// Rows to be packed at once: equal parts, as each unpacks the weight anew, of whole blocks.
fn parts(rows: usize, block_rows: usize) -> impl Iterator<Item = Range<usize>> {
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
