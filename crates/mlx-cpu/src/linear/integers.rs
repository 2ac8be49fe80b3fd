//! A packed matrix by 16-bit rows in integers, for CPUs without instructions for bfloat16: a multiply-add of int16 pairs
//! does twice the work of one of float32.
//!
//! As in `gemv.rs`, rows become 16-bit integers with a scale per group, and
//! `Σ (w_scale · w + w_bias) · x = Σ_groups w_scale · x_scale · Σ w q + w_bias · x_scale · Σ q`.

use mlx_rs::Dtype;

use super::format::Packed;
use super::gemm::{Finish, parts};
use super::gemv::quantize_row;
use super::tile::{Tiles, Transpose};
use crate::element::Element;
use crate::level::Level;
use crate::pool::{parallel, threads};
use crate::scratch::{Scratch, as_floats, as_words16};
use crate::simd::{Simd, Work};
use crate::view::{Rows, SharedMut};

/// `y = x · weightᵀ + bias` with `x` `[rows, len]` and `y` `[rows, outputs]`.
pub(crate) struct IntegerGemm<'a> {
    pub level: Level,
    pub weight: &'a Packed<'a>,
    pub rows: usize,
    pub len: usize,
    pub outputs: usize,
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
}

/// Whether a level is faster this way.
pub(crate) fn pays(level: Level) -> bool {
    matches!(level, Level::Avx2 | Level::Avx512)
}

/// Rows of a tile: the most whose sums fit into the registers.
fn tile_rows(level: Level) -> usize {
    if level == Level::Avx512 { 12 } else { 4 }
}

impl IntegerGemm<'_> {
    pub(crate) fn run<T: Element>(&self, x: &Rows<T>, y: &SharedMut<T>) {
        for rows in parts(self.rows, tile_rows(self.level)) {
            self.some_rows(x, rows.start, rows.len(), y);
        }
    }

    fn groups(&self) -> usize {
        self.len / self.weight.group_size
    }

    fn some_rows<T: Element>(&self, x: &Rows<T>, first: usize, rows: usize, y: &SharedMut<T>) {
        let (block_rows, width) = (tile_rows(self.level), Tiles::new(self.level, Dtype::Float32).width());
        let (words, groups) = (self.len / 2, self.groups());
        let blocks = rows.div_ceil(block_rows);
        // Pairs of integers `[words, rows]`, scales and sums `[groups, rows]`.
        let block_len = block_rows * (words + 2 * groups);
        let in_block = |block: usize| block_rows.min(rows - block * block_rows);
        let mut left = Scratch::new(blocks * block_len);
        let shared = SharedMut::new(&mut left);
        parallel(blocks, |block| {
            // SAFETY: each task has its own block.
            let to = unsafe { shared.slice(block * block_len, in_block(block) * (words + 2 * groups)) };
            let first = first + block * block_rows;
            self.level.dispatch(PackLeft { x, group_size: self.weight.group_size, first, rows: in_block(block), to });
        });
        let left = &*left;
        let panels = self.outputs.div_ceil(width);
        // With few panels, several tasks share one, and each unpacks it for itself.
        let shares = (2 * threads()).div_ceil(panels).clamp(1, blocks);
        parallel(panels * shares, |task| {
            let (panel, share) = (task / shares, task % shares);
            let columns = panel * width..self.outputs.min((panel + 1) * width);
            let mut panel = Scratch::new(width * (words + 2 * groups));
            let mut tile = Scratch::new(block_rows * width);
            let (first_column, count) = (columns.start, columns.len());
            self.level.dispatch(PackPanel {
                weight: self.weight,
                len: self.len,
                first_column,
                count,
                width,
                to: &mut panel,
            });
            for block in blocks * share / shares..blocks * (share + 1) / shares {
                let rows = in_block(block);
                let left = &left[block * block_len..][..rows * (words + 2 * groups)];
                let tile = as_floats(&mut tile);
                self.level.dispatch(Tile { left, rows, panel: &panel, words, groups, tile: &mut *tile });
                for row in 0..rows {
                    let start = (first + block * block_rows + row) * self.outputs + columns.start;
                    // SAFETY: each task writes other rows or other columns.
                    let to = unsafe { y.slice(start, count) };
                    let bias = self.bias.map(|bias| &bias[columns.clone()]);
                    self.level.dispatch(Finish { sums: &tile[row * width..][..count], bias, to });
                }
            }
        });
    }
}

struct PackLeft<'a, T: Element> {
    x: &'a Rows<'a, T>,
    group_size: usize,
    first: usize,
    rows: usize,
    to: &'a mut [u32],
}

impl<T: Element> Work for PackLeft<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, group_size, first, rows, to } = self;
        let len = x.get(first).len();
        let (words, groups) = (len / 2, len / group_size);
        let (pairs, rest) = to.split_at_mut(words * rows);
        let (scales, sums) = as_floats(rest).split_at_mut(groups * rows);
        let mut integers = Scratch::new(words * rows);
        let mut row_scales = Scratch::new(2 * groups);
        let (row_scales, row_sums) = as_floats(&mut row_scales).split_at_mut(groups);
        for (row, q) in as_words16(&mut integers).chunks_exact_mut(len).enumerate() {
            quantize_row(s, x.get(first + row), group_size, q, row_scales, row_sums);
            for group in 0..groups {
                scales[group * rows + row] = row_scales[group];
                sums[group * rows + row] = row_sums[group];
            }
        }
        Transpose { from: &integers, rows, to: pairs, width: rows }.run(s);
    }
}

struct PackPanel<'a> {
    weight: &'a Packed<'a>,
    len: usize,
    first_column: usize,
    count: usize,
    width: usize,
    /// Pairs of integers `[words, width]`, scales and biases `[groups, width]`.
    to: &'a mut [u32],
}

impl Work for PackPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weight, len, first_column, count, width, to } = self;
        let (words, groups) = (len / 2, len / weight.group_size);
        let (pairs, rest) = to.split_at_mut(words * width);
        let (scales, biases) = as_floats(rest).split_at_mut(groups * width);
        let mut codes = Scratch::new(len.div_ceil(4));
        let codes = super::gemv::bytes_of(&mut codes);
        let mut integers = Scratch::new(words * count);
        if count < width {
            pairs.fill(0);
            scales.fill(0.0);
            biases.fill(0.0);
        }
        for (column, q) in as_words16(&mut integers).chunks_exact_mut(len).enumerate() {
            let row = first_column + column;
            weight.codes(s, row, 0, &mut codes[..len]);
            q.iter_mut().zip(&codes[..len]).for_each(|(q, &code)| *q = code.into());
            for group in 0..groups {
                (scales[group * width + column], biases[group * width + column]) = weight.scale_and_bias(row, group);
            }
        }
        Transpose { from: &integers, rows: count, to: pairs, width }.run(s);
    }
}

struct Tile<'a> {
    left: &'a [u32],
    rows: usize,
    panel: &'a [u32],
    words: usize,
    groups: usize,
    /// `[rows, width]`
    tile: &'a mut [f32],
}

impl Work for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * S::LANES;
        let parts = self.words + 2 * self.groups;
        assert!(self.left.len() >= self.rows * parts && self.panel.len() >= width * parts);
        assert!(self.tile.len() >= self.rows * width && self.words.is_multiple_of(self.groups));
        macro_rules! by_rows {
            ($($rows:literal)*) => {
                match self.rows {
                    // SAFETY: the lengths were compared.
                    $($rows if $rows <= S::TILE_ROWS => unsafe { tile::<S, $rows>(s, self) },)*
                    rows => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

/// # Safety
/// The operands are as long as their numbers of words, groups, rows and columns say.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize>(s: S, work: Tile) {
    let Tile { left, panel, words, groups, tile, .. } = work;
    let width = 2 * S::LANES;
    let (mut x, mut w, tile) = (left.as_ptr(), panel.as_ptr(), tile.as_mut_ptr());
    // SAFETY: by this function's own conditions.
    unsafe {
        let (x_scales, w_scales) = (x.add(words * ROWS).cast::<f32>(), w.add(words * width).cast::<f32>());
        let (x_sums, w_biases) = (x_scales.add(groups * ROWS), w_scales.add(groups * width));
        for group in 0..groups {
            let mut dots = [[s.zero_words(); 2]; ROWS];
            for _ in 0..words / groups {
                let right = [s.load_words(w.cast()), s.load_words(w.add(S::LANES).cast())];
                for (row, dots) in dots.iter_mut().enumerate() {
                    let x = s.splat_pair(*x.add(row));
                    *dots = [s.dot_words(dots[0], x, right[0]), s.dot_words(dots[1], x, right[1])];
                }
                (x, w) = (x.add(ROWS), w.add(width));
            }
            for half in 0..2 {
                let at = half * S::LANES;
                let scale = s.load(w_scales.add(group * width + at));
                let bias = s.load(w_biases.add(group * width + at));
                for (row, dots) in dots.iter().enumerate() {
                    let to = tile.add(row * width + at);
                    let before = if group == 0 { s.splat(0.0) } else { s.load(to) };
                    let biased = s.mul_add(bias, s.splat(*x_sums.add(group * ROWS + row)), before);
                    let scale = s.mul(scale, s.splat(*x_scales.add(group * ROWS + row)));
                    s.store(to, s.mul_add(s.to_float(dots[half]), scale, biased));
                }
            }
        }
    }
}
