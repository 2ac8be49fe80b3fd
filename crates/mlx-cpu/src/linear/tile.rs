//! Products of small tiles that fit into registers, and the forms in which they want their operands.
//!
//! An operand is cut into words of 32 bits along the axis that is summed over: one float32, or two bfloat16 for
//! instructions that multiply pairs. Left operands come in blocks `[words, rows]` (for AMX `[words / 16, rows, 16]`), right ones in
//! panels `[words, width]`.

use std::ops::Range;

use half::bf16;
use mlx_rs::Dtype;

use super::format::Matrix;
use crate::level::Level;
use crate::scratch::{Scratch, as_slice_of};
use crate::simd::{Simd, Work};

/// How tiles are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub level: Level,
    /// Words are pairs of bfloat16.
    pub pairs: bool,
}

impl Tiles {
    /// For operands of type `dtype`.
    pub(crate) fn new(level: Level, dtype: Dtype) -> Self {
        Self { level, pairs: dtype == Dtype::Bfloat16 && level >= Level::Avx512Bf16 }
    }

    /// The largest number of rows of a left block.
    pub(crate) fn rows(self) -> usize {
        if self.uses_amx() {
            return crate::amx::ROWS;
        }
        struct Rows;
        impl Work for Rows {
            type Output = usize;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> usize {
                S::TILE_ROWS
            }
        }
        self.level.dispatch(Rows)
    }

    /// [`panel_width`] at this level.
    pub(crate) fn width(self) -> usize {
        panel_width(self.level)
    }

    fn uses_amx(self) -> bool {
        self.pairs && self.level == Level::Amx
    }

    /// Words of a row of `len` elements.
    pub(crate) fn words(self, len: usize) -> usize {
        match (self.pairs, self.uses_amx()) {
            (false, _) => len,
            (true, false) => len.div_ceil(2),
            (true, true) => len.div_ceil(2).next_multiple_of(crate::amx::WORDS),
        }
    }

    /// The rows `first..first + rows` of `matrix`, those of them that exist, as a left block.
    pub(crate) fn pack_left(self, matrix: &Matrix, first: usize, rows: usize, len: usize, block: &mut [u32]) {
        let mut read = Scratch::new(rows * self.words(len));
        self.read_rows(matrix, first, rows, len, &mut read);
        if self.uses_amx() {
            return cut_into_tiles(&read, rows, block);
        }
        self.level.dispatch(Transpose { from: &read, rows, to: block, width: rows });
    }

    /// The rows `first..first + rows` of `matrix` as the columns of a panel; zeros in the rest of it.
    pub(crate) fn pack_rows(self, matrix: &Matrix, first: usize, rows: usize, len: usize, panel: &mut [u32]) {
        let width = self.width();
        let mut read = Scratch::new(rows * self.words(len));
        self.read_rows(matrix, first, rows, len, &mut read);
        if rows < width {
            panel.fill(0);
        }
        self.level.dispatch(Transpose { from: &read, rows, to: panel, width });
    }

    /// The columns `first..first + columns` of the rows `rows` of `matrix` as those of a panel; zeros in the rest of it.
    pub(crate) fn pack_columns(
        self,
        matrix: &Matrix,
        rows: Range<usize>,
        first: usize,
        columns: usize,
        panel: &mut [u32],
    ) {
        let width = self.width();
        self.level.dispatch(PackColumns { tiles: self, width, matrix, rows, first, columns, panel });
    }

    /// The columns `first..first + columns` of the rows `rows` of `matrix` as the rows of a left block.
    pub(crate) fn pack_left_columns(
        self,
        matrix: &Matrix,
        rows: Range<usize>,
        first: usize,
        columns: usize,
        block: &mut [u32],
    ) {
        if !self.uses_amx() {
            let pack = PackColumns { tiles: self, width: columns, matrix, rows, first, columns, panel: block };
            return self.level.dispatch(pack);
        }
        let words = self.words(rows.len());
        let mut panel = Scratch::new(words * columns);
        self.level.dispatch(PackColumns {
            tiles: self,
            width: columns,
            matrix,
            rows,
            first,
            columns,
            panel: &mut panel,
        });
        let mut turned = Scratch::new(words * columns);
        self.level.dispatch(Transpose { from: &panel, rows: words, to: &mut turned, width: words });
        cut_into_tiles(&turned, columns, block);
    }

    /// Rows of words, one after another, with zeros up to the last word's end.
    fn read_rows(self, matrix: &Matrix, first: usize, rows: usize, len: usize, to: &mut [u32]) {
        self.level.dispatch(ReadRows { tiles: self, matrix, first, rows, len, to });
    }

    /// `tile = left · panel`, or `tile += left · panel` if `add`; `tile` is `[rows, width]`.
    pub(crate) fn multiply(self, left: &[u32], rows: usize, panel: &[u32], tile: &mut [f32], add: bool) {
        let words = left.len() / rows;
        assert!(panel.len() >= words * self.width() && tile.len() >= rows * self.width());
        if self.uses_amx() {
            return crate::amx::multiply(left, rows, panel, tile, add);
        }
        self.level.dispatch(Multiply { pairs: self.pairs, words, left, rows, panel, tile, add });
    }
}

/// Columns of a panel: two vectors of words.
pub(crate) fn panel_width(level: Level) -> usize {
    struct Width;
    impl Work for Width {
        type Output = usize;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> usize {
            2 * S::LANES
        }
    }
    level.dispatch(Width)
}

/// `[rows, words] -> [words / 16, rows, 16]`, as AMX wants it: tiles whose lines do not compete for places in the cache.
fn cut_into_tiles(from: &[u32], rows: usize, to: &mut [u32]) {
    for (row, from) in from.chunks_exact(from.len() / rows).enumerate() {
        for (tile, from) in from.chunks_exact(crate::amx::WORDS).enumerate() {
            to[(tile * rows + row) * crate::amx::WORDS..][..crate::amx::WORDS].copy_from_slice(from);
        }
    }
}

struct ReadRows<'a> {
    tiles: Tiles,
    matrix: &'a Matrix<'a>,
    first: usize,
    rows: usize,
    len: usize,
    to: &'a mut [u32],
}

impl Work for ReadRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let words = self.tiles.words(self.len);
        for (row, to) in (self.first..self.first + self.rows).zip(self.to.chunks_exact_mut(words)) {
            if self.tiles.pairs {
                let (row_to, rest) = as_slice_of::<bf16>(to).split_at_mut(self.len);
                rest.fill(bf16::ZERO);
                self.matrix.read(s, row, 0, row_to);
            } else {
                self.matrix.read(s, row, 0, as_slice_of::<f32>(to));
            }
        }
    }
}

/// `[rows, words] -> [words, width]`
pub(crate) struct Transpose<'a> {
    pub from: &'a [u32],
    pub rows: usize,
    pub to: &'a mut [u32],
    pub width: usize,
}

impl Work for Transpose<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { from, rows, to, width } = self;
        let words = from.len() / rows;
        assert!(to.len() >= words * width && rows <= width);
        const SIDE: usize = 16;
        for row in (0..rows).step_by(SIDE) {
            for word in (0..words).step_by(SIDE) {
                if words - word >= SIDE {
                    let some = SIDE.min(rows - row);
                    // SAFETY: these rows, and 16 words from here, are inside both.
                    unsafe {
                        let from = from.as_ptr().add(row * words + word);
                        s.transpose_16(from, words, some, to.as_mut_ptr().add(word * width + row), width);
                    }
                    continue;
                }
                for row in row..rows.min(row + SIDE) {
                    for word in word..words.min(word + SIDE) {
                        to[word * width + row] = from[row * words + word];
                    }
                }
            }
        }
    }
}

struct PackColumns<'a> {
    tiles: Tiles,
    width: usize,
    matrix: &'a Matrix<'a>,
    rows: Range<usize>,
    first: usize,
    columns: usize,
    panel: &'a mut [u32],
}

impl Work for PackColumns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tiles, width, matrix, rows, first, columns, panel } = self;
        // Panels are at most two vectors wide.
        let mut lines = [[bf16::ZERO; 32]; 2];
        for (word, to) in panel.chunks_exact_mut(width).take(tiles.words(rows.len())).enumerate() {
            if !tiles.pairs {
                let to = as_slice_of::<f32>(to);
                to[columns..].fill(0.0);
                matrix.read(s, rows.start + word, first, &mut to[..columns]);
                continue;
            }
            for (row, line) in (rows.start + 2 * word..).zip(&mut lines) {
                line.fill(bf16::ZERO);
                if row < rows.end {
                    matrix.read(s, row, first, &mut line[..columns]);
                }
            }
            for (to, (low, high)) in to.iter_mut().zip(lines[0].iter().zip(&lines[1])) {
                *to = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
            }
        }
    }
}

struct Multiply<'a> {
    pairs: bool,
    words: usize,
    left: &'a [u32],
    rows: usize,
    panel: &'a [u32],
    tile: &'a mut [f32],
    add: bool,
}

impl Work for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        macro_rules! by_rows {
            ($($rows:literal)*) => {
                match self.rows {
                    // SAFETY: `Tiles::multiply` compared the lengths.
                    $($rows if $rows <= S::TILE_ROWS => unsafe { multiply::<S, $rows>(s, self) },)*
                    rows => unreachable!("a block of {rows} rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

/// Every sum runs through its products in order, in one accumulator, so that a row's result depends neither on the
/// number of rows nor on their order.
///
/// # Safety
/// The operands are as long as their numbers of words, rows and columns say.
#[inline(always)]
unsafe fn multiply<S: Simd, const ROWS: usize>(s: S, work: Multiply) {
    let Multiply { pairs, words, left, panel, tile, add, .. } = work;
    let width = 2 * S::LANES;
    let mut sums = [[s.splat(0.0); 2]; ROWS];
    let (mut left, mut panel, tile) = (left.as_ptr(), panel.as_ptr(), tile.as_mut_ptr());
    // SAFETY: by this function's own conditions.
    unsafe {
        if add {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [s.load(tile.add(row * width)), s.load(tile.add(row * width + S::LANES))];
            }
        }
        if pairs {
            for _ in 0..words {
                let right = [s.load_words(panel.cast()), s.load_words(panel.add(S::LANES).cast())];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = s.splat_pair(*left.add(row));
                    *sums = [s.dot_bf16(sums[0], x, right[0]), s.dot_bf16(sums[1], x, right[1])];
                }
                (left, panel) = (left.add(ROWS), panel.add(width));
            }
        } else {
            for _ in 0..words {
                let right = [s.load(panel.cast()), s.load(panel.add(S::LANES).cast())];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = s.splat(f32::from_bits(*left.add(row)));
                    *sums = [s.mul_add(x, right[0], sums[0]), s.mul_add(x, right[1], sums[1])];
                }
                (left, panel) = (left.add(ROWS), panel.add(width));
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            s.store(tile.add(row * width), sums[0]);
            s.store(tile.add(row * width + S::LANES), sums[1]);
        }
    }
}
