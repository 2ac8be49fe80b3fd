//! A packed matrix by 16-bit rows in integers, for CPUs without instructions for bfloat16: a multiply-add of int16 pairs
//! does twice the work of one of float32.
//!
//! As in `gemv.rs`, rows become 16-bit integers with a scale per group, and
//! `Σ (w_scale · w + w_bias) · x = Σ_groups w_scale · x_scale · Σ w q + w_bias · x_scale · Σ q`.

use std::ops::Range;

use super::format::Packed;
use super::gemm::Operands;
use super::gemv::quantize_row;
use super::tile::{Transpose, panel_width};
use crate::element::Element;
use crate::level::Level;
use crate::scratch::{Scratch, as_floats, as_slice_of};
use crate::simd::{Simd, Work};
use crate::view::Rows;

/// `x` `[rows, len]` by the rows of the weight.
pub(crate) struct Integers<'a, T: Element> {
    pub level: Level,
    pub x: &'a Rows<'a, T>,
    pub weight: &'a Packed<'a>,
    pub len: usize,
}

/// Whether a level is faster this way.
pub(crate) fn pays(level: Level) -> bool {
    matches!(level, Level::Avx2 | Level::Avx512)
}

impl<T: Element> Integers<'_, T> {
    fn groups(&self) -> usize {
        self.len / self.weight.group_size
    }
}

impl<T: Element> Operands for Integers<'_, T> {
    fn level(&self) -> Level {
        self.level
    }

    /// The most whose sums fit into the registers.
    fn block_rows(&self) -> usize {
        if self.level == Level::Avx512 { 12 } else { 4 }
    }

    /// Pairs of integers, then a scale and a sum or bias for each group.
    fn words(&self) -> usize {
        self.len / 2 + 2 * self.groups()
    }

    fn pack_left(&self, rows: Range<usize>, block: &mut [u32]) {
        let (first, group_size) = (rows.start, self.weight.group_size);
        self.level.dispatch(PackLeft { x: self.x, group_size, first, rows: rows.len(), to: block });
    }

    fn pack_panel(&self, columns: Range<usize>, panel: &mut [u32]) {
        let (weight, len) = (self.weight, self.len);
        self.level.dispatch(PackPanel { weight, len, columns, width: panel_width(self.level), to: panel });
    }

    fn multiply(&self, left: &[u32], rows: usize, panel: &[u32], tile: &mut [f32]) {
        self.level.dispatch(Tile { left, rows, panel, words: self.len / 2, groups: self.groups(), tile });
    }
}

struct PackLeft<'a, T: Element> {
    x: &'a Rows<'a, T>,
    group_size: usize,
    first: usize,
    rows: usize,
    /// Pairs of integers `[words, rows]`, scales and sums `[groups, rows]`.
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
        for (row, q) in as_slice_of::<i16>(&mut integers).chunks_exact_mut(len).enumerate() {
            quantize_row(s, x.get(first + row), group_size, i16::MAX, q, row_scales, row_sums);
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
    columns: Range<usize>,
    width: usize,
    /// Pairs of integers `[words, width]`, scales and biases `[groups, width]`.
    to: &'a mut [u32],
}

impl Work for PackPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weight, len, columns, width, to } = self;
        let (words, groups) = (len / 2, len / weight.group_size);
        let (pairs, rest) = to.split_at_mut(words * width);
        let (scales, biases) = as_floats(rest).split_at_mut(groups * width);
        let mut codes = Scratch::new(len.div_ceil(4));
        let codes = as_slice_of::<u8>(&mut codes);
        let mut integers = Scratch::new(words * columns.len());
        if columns.len() < width {
            pairs.fill(0);
            scales.fill(0.0);
            biases.fill(0.0);
        }
        for ((column, row), q) in
            columns.clone().enumerate().zip(as_slice_of::<i16>(&mut integers).chunks_exact_mut(len))
        {
            weight.codes(s, row, 0, &mut codes[..len]);
            q.iter_mut().zip(&codes[..len]).for_each(|(q, &code)| *q = code.into());
            for group in 0..groups {
                (scales[group * width + column], biases[group * width + column]) = weight.scale_and_bias(row, group);
            }
        }
        Transpose { from: &integers, rows: columns.len(), to: pairs, width }.run(s);
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
