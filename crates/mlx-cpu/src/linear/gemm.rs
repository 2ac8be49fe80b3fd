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
    /// Panels that a task packs together.
    fn panels_at_once(&self) -> usize {
        1
    }
    /// [`pack_panel`](Self::pack_panel) for the panels that `columns` make up.
    fn pack_panels(&self, columns: Range<usize>, panels: &mut [u32]) {
        self.pack_panel(columns, panels);
    }
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
    let to = Product { rows, outputs, bias, turned: false, y };
    let narrow = outputs <= NARROW || operands.words() <= NARROW;
    if narrow && operands.words() * outputs.next_multiple_of(panel_width(operands.level())) <= MOST_NARROW_WORDS {
        return panels_first(operands, &to);
    }
    left_first(operands, &to);
}

/// Where a product goes.
struct Product<'a, T> {
    rows: usize,
    outputs: usize,
    bias: Option<&'a [f32]>,
    /// `y` is `[outputs, rows]`, without a bias.
    turned: bool,
    y: &'a SharedMut<'a, T>,
}

impl<T: Element> Product<'_, T> {
    /// Writes a part of the product, `[rows, width]`.
    ///
    /// # Safety
    /// No other thread writes any of it.
    unsafe fn write(&self, level: Level, tile: &[f32], rows: Range<usize>, columns: Range<usize>) {
        level.dispatch(WriteTile { to: self, tile, width: panel_width(level), rows, columns });
    }
}

/// Columns, or words of a column, up to which a weight is narrow: there is little work to a number of the other operands.
const NARROW: usize = 128;

/// Words of a narrow weight that a core's cache holds, or at least the one it shares with others.
const MOST_NARROW_WORDS: usize = 1 << 20;

/// For narrow weights: all of it is packed once, and rows are packed and multiplied by it a block at a time, so that they
/// are read and the results written once, in order.
fn panels_first<T: Element>(operands: &impl Operands, to: &Product<T>) {
    let (block_rows, words, width) = (operands.block_rows(), operands.words(), panel_width(operands.level()));
    let columns = |panel: usize| panel * width..to.outputs.min((panel + 1) * width);
    let (panels, panel_len) = (to.outputs.div_ceil(width), words * width);
    let mut packed = Scratch::new(panels * panel_len);
    let shared = SharedMut::new(&mut packed);
    parallel(panels, |panel| {
        // SAFETY: each task has its own panel.
        operands.pack_panel(columns(panel), unsafe { shared.slice(panel * panel_len, panel_len) });
    });
    let packed = &*packed;
    parallel(to.rows.div_ceil(block_rows), |block| {
        let rows = block * block_rows..to.rows.min((block + 1) * block_rows);
        let (mut left, mut tile) = (Scratch::new(rows.len() * words), Scratch::new(block_rows * width));
        let tile = as_floats(&mut tile);
        operands.pack_left(rows.clone(), &mut left);
        for panel in 0..panels {
            operands.multiply(&left, rows.len(), &packed[panel * panel_len..][..panel_len], tile);
            // SAFETY: each task writes other rows.
            unsafe { to.write(operands.level(), tile, rows.clone(), columns(panel)) };
        }
    });
}

fn left_first<T: Element>(operands: &impl Operands, to: &Product<T>) {
    for rows in parts(to.rows, operands.block_rows()) {
        some_rows(operands, rows, to);
    }
}

fn some_rows<T: Element>(operands: &impl Operands, rows: Range<usize>, to: &Product<T>) {
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
        let block_to = unsafe { shared.slice(block * block_len, in_block(block).len() * words) };
        operands.pack_left(in_block(block), block_to);
    });
    let left = &*left;
    let at_once = operands.panels_at_once() * width;
    let groups = to.outputs.div_ceil(at_once);
    // With few panels, several tasks share one, and each unpacks it for itself.
    let shares = (2 * threads()).div_ceil(groups).clamp(1, blocks);
    parallel(groups * shares, |task| {
        let (group, share) = (task / shares, task % shares);
        let columns = group * at_once..to.outputs.min((group + 1) * at_once);
        let (mut panels, mut tile) =
            (Scratch::new(words * columns.len().next_multiple_of(width)), Scratch::new(block_rows * width));
        let tile = as_floats(&mut tile);
        operands.pack_panels(columns.clone(), &mut panels);
        for (first, panel) in columns.clone().step_by(width).zip(panels.chunks_exact(words * width)) {
            let columns = first..columns.end.min(first + width);
            for block in blocks * share / shares..blocks * (share + 1) / shares {
                let rows = in_block(block);
                operands.multiply(&left[block * block_len..][..rows.len() * words], rows.len(), panel, tile);
                // SAFETY: each task writes other rows or other columns.
                unsafe { to.write(operands.level(), tile, rows, columns.clone()) };
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
            Direction::ColumnsAreOutputs => self.tiles.pack_columns(self.weight, 0..self.len, first, count, panel),
        }
    }

    fn multiply(&self, left: &[u32], rows: usize, panel: &[u32], tile: &mut [f32]) {
        self.tiles.multiply(left, rows, panel, tile, false);
    }
}

/// Words of the panels of [`Outer`] that are packed together, as much as half a core's cache holds.
const PANEL_WORDS: usize = 1 << 17;

/// Rows of which several panels are packed before the next ones: no more than there are places in the cache for rows that
/// lie a power of two apart.
const ROWS_TOGETHER: usize = 8;

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
        if rows / 4 < outputs {
            return multiply(self, rows, outputs, None, y);
        }
        // Panels are wider than blocks, so that more is read at once; and nothing of them is wasted on a few columns.
        let turned = Self { left: self.right, right: self.left, ..*self };
        left_first(&turned, &Product { rows: outputs, outputs: rows, bias: None, turned: true, y });
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
        self.tiles.pack_columns(self.right, 0..self.len, columns.start, columns.len(), panel);
    }

    fn panels_at_once(&self) -> usize {
        (PANEL_WORDS / (self.words() * self.tiles.width()).max(1)).clamp(1, 4)
    }

    /// Some rows at a time: what lies in one page is read together.
    fn pack_panels(&self, columns: Range<usize>, panels: &mut [u32]) {
        let (width, panel_len) = (self.tiles.width(), self.words() * self.tiles.width());
        // Whole words in this form of operands.
        let together = if self.tiles.words(ROWS_TOGETHER) > ROWS_TOGETHER { 32 } else { ROWS_TOGETHER };
        for row in (0..self.len).step_by(together) {
            let rows = row..self.len.min(row + together);
            let start = self.tiles.words(row) * width;
            for (first, panel) in columns.clone().step_by(width).zip(panels.chunks_exact_mut(panel_len)) {
                let count = width.min(columns.end - first);
                self.tiles.pack_columns(self.right, rows.clone(), first, count, &mut panel[start..]);
            }
        }
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

/// Adds the bias to a tile, and rounds it.
struct WriteTile<'a, T> {
    to: &'a Product<'a, T>,
    tile: &'a [f32],
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<T: Element> Work for WriteTile<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { to, tile, width, rows, columns } = self;
        let Product { outputs, y, .. } = *to;
        if to.turned {
            for (column, output) in columns.enumerate() {
                // SAFETY: by the promise of `Product::write`.
                let to = unsafe { y.slice(output * to.rows + rows.start, rows.len()) };
                to.iter_mut().enumerate().for_each(|(row, to)| *to = T::from_f32(tile[row * width + column]));
            }
            return;
        }
        for (row, sums) in rows.zip(tile.chunks_exact(width)) {
            // SAFETY: by the promise of `Product::write`.
            let row = unsafe { y.slice(row * outputs + columns.start, columns.len()) };
            let bias = to.bias.map(|bias| &bias[columns.clone()]);
            Finish { sums: &sums[..columns.len()], bias, to: row }.run(s);
        }
    }
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
