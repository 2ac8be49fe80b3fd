//! Some rows by a packed matrix, with instructions that multiply bytes: what several sequences or drafted tokens need.
//!
//! As in `gemv.rs`, rows become 16-bit integers with a scale per group, here cut into a high and a low byte:
//! `Σ w q = 256 · Σ w high + Σ w low`. The lanes of a vector are 16 rows of the matrix, so that nothing is summed across
//! lanes: the words of 16 rows are transposed once for all rows of `x`.
//!
//! Every sum runs through the groups in order, so that a row's result depends neither on the number of rows nor on their
//! order.

use std::ops::Range;

use super::format::Packed;
use super::gemm::Finish;
use super::gemv::{quantize_row, stored_bits};
use crate::element::{Element, load_part};
use crate::level::Level;
use crate::pool::{self, parallel};
use crate::scratch::{Scratch, as_floats, as_slice_of};
use crate::simd::{Simd, Work};
use crate::view::{Rows, SharedMut};

/// Rows of the matrix in a vector.
const WIDTH: usize = 16;

/// Rows of `x` whose sums fit into the registers.
const BATCH: usize = 8;

/// The most numbers that have a scale in common; larger groups are cut.
const SEGMENT: usize = 64;

/// The largest integer whose high byte is at most 127 where its low byte is at least -128.
const MOST: i16 = 127 * 256 + 127;

/// The fewest blocks of the matrix that one task takes.
const BLOCKS_PER_TASK: usize = 4;

/// Whether so many rows are best multiplied this way: one row waits for memory alone, which `gemv.rs` reads in order, and
/// a great many are as fast in bfloat16, with AMX soon.
pub(crate) fn pays(level: Level, rows: usize, outputs: usize) -> bool {
    let most = match level {
        Level::Avx512Bf16 => 256,
        Level::Amx => 16,
        _ => 0,
    };
    (2..=most).contains(&rows) && outputs >= WIDTH
}

/// `y = x · weightᵀ + bias` with `x` `[rows, len]` and `y` `[rows, outputs]`.
pub(crate) fn multiply<T: Element>(
    level: Level,
    weight: &Packed,
    x: &Rows<T>,
    (rows, len, outputs): (usize, usize, usize),
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    let left = Left::new(level, weight, x, rows, len);
    match stored_bits(weight.bits) {
        2 => some_columns::<T, 2>(level, weight, &left, outputs, bias, y),
        4 => some_columns::<T, 4>(level, weight, &left, outputs, bias, y),
        _ => some_columns::<T, 8>(level, weight, &left, outputs, bias, y),
    }
}

fn some_columns<T: Element, const BITS: usize>(
    level: Level,
    weight: &Packed,
    left: &Left,
    outputs: usize,
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    // Large tasks, as at the end of each memory is asked for what another may read.
    let per_task = (outputs.div_ceil(WIDTH) / (8 * pool::threads())).max(BLOCKS_PER_TASK) * WIDTH;
    parallel(outputs.div_ceil(per_task), |task| {
        let columns = task * per_task..outputs.min((task + 1) * per_task);
        let mut sums = Scratch::new(left.rows * columns.len());
        let sums = as_floats(&mut sums);
        level.dispatch(Columns::<BITS> { weight, left, columns: columns.clone(), outputs, sums: &mut *sums });
        let bias = bias.map(|bias| &bias[columns.clone()]);
        for (row, sums) in sums.chunks_exact(columns.len()).enumerate() {
            // SAFETY: each task writes other columns.
            let to = unsafe { y.slice(row * outputs + columns.start, columns.len()) };
            level.dispatch(Finish { sums, bias, to });
        }
    });
}

/// The rows of `x` as integers, in batches of which each is multiplied at once.
struct Left {
    /// Of each batch and segment: for every word of the matrix's in which its numbers lie, and every place in that, four
    /// high bytes, then four low ones; then scales, then sums `scale · Σ q`. Each for every row of the batch.
    words: Scratch,
    rows: usize,
    len: usize,
    segment: usize,
    /// Rows of every batch but the last, which may be shorter.
    batch: usize,
}

impl Left {
    fn new<T: Element>(level: Level, weight: &Packed, x: &Rows<T>, rows: usize, len: usize) -> Self {
        let segment = weight.group_size.min(SEGMENT);
        let batch = rows.div_ceil(rows.div_ceil(BATCH).max(1)).max(1);
        let mut left = Self { words: Scratch::new(0), rows, len, segment, batch };
        let mut words = Scratch::new(rows * left.row_words());
        let shared = SharedMut::new(&mut words);
        let (batches, segments) = (rows.div_ceil(batch), len / segment);
        // A batch is shared by all threads, but for a single row, which would not be worth their while.
        let parts = if rows > 1 { pool::threads().min(segments) } else { 1 };
        parallel(batches * parts, |task| {
            let (index, part) = (task / parts, task % parts);
            let rows = left.batch_rows(index);
            let segments = segments * part / parts..segments * (part + 1) / parts;
            let words = rows.len() * left.segment_words();
            // SAFETY: each task has its own segments of its own batch.
            let to =
                unsafe { shared.slice(rows.start * left.row_words() + segments.start * words, segments.len() * words) };
            level.dispatch(Cut { x, bits: stored_bits(weight.bits), segment, rows, segments, to });
        });
        left.words = words;
        left
    }

    fn batch_rows(&self, index: usize) -> Range<usize> {
        index * self.batch..self.rows.min((index + 1) * self.batch)
    }

    /// Words that a row takes in a segment.
    fn segment_words(&self) -> usize {
        self.segment / 2 + 2
    }

    fn row_words(&self) -> usize {
        self.len / self.segment * self.segment_words()
    }
}

/// Some segments of a batch as bytes.
struct Cut<'a, T: Element> {
    x: &'a Rows<'a, T>,
    bits: usize,
    segment: usize,
    rows: Range<usize>,
    segments: Range<usize>,
    to: &'a mut [u32],
}

impl<T: Element> Work for Cut<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, bits, segment, rows, segments, to } = self;
        let mut integers = Scratch::new(segments.len() * segment / 2);
        let q = as_slice_of::<i16>(&mut integers);
        let mut factors = Scratch::new(2 * segments.len());
        let (scales, sums) = as_floats(&mut factors).split_at_mut(segments.len());
        let count = rows.len();
        for (row, of) in rows.enumerate() {
            let x = &x.get(of)[segments.start * segment..segments.end * segment];
            quantize_row(s, x, segment, MOST, q, scales, sums);
            for (index, to) in to.chunks_exact_mut((segment / 2 + 2) * count).enumerate() {
                let (bytes, factors) = to.split_at_mut(segment / 2 * count);
                let q = &q[index * segment..][..segment];
                match bits {
                    2 => cut::<4>(q, row, count, bytes),
                    4 => cut::<2>(q, row, count, bytes),
                    _ => cut::<1>(q, row, count, bytes),
                }
                factors[row] = scales[index].to_bits();
                factors[count + row] = sums[index].to_bits();
            }
        }
    }
}

/// The integers of a segment as the bytes of one of `rows` rows.
#[inline(always)]
fn cut<const PLACES: usize>(q: &[i16], row: usize, rows: usize, to: &mut [u32]) {
    let words = q.len() / (4 * PLACES);
    for place in 0..PLACES {
        let (mut high, mut low) = ([0; SEGMENT], [0; SEGMENT]);
        for ((high, low), q) in high.iter_mut().zip(&mut low).zip(q.as_chunks::<PLACES>().0) {
            *low = q[place] as u8;
            *high = ((q[place] + 128) >> 8) as u8;
        }
        for word in 0..words {
            let at = (word * PLACES + place) * 2 * rows + row;
            to[at] = u32::from_le_bytes(high.as_chunks().0[word]);
            to[at + rows] = u32::from_le_bytes(low.as_chunks().0[word]);
        }
    }
}

/// Some columns of the result: rows of the matrix in numbers that have `BITS` bits once those that do not divide a byte
/// are spread to bytes.
struct Columns<'a, const BITS: usize> {
    weight: &'a Packed<'a>,
    left: &'a Left,
    columns: Range<usize>,
    outputs: usize,
    /// `[rows, columns]`
    sums: &'a mut [f32],
}

impl<const BITS: usize> Work for Columns<'_, BITS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(S::LANES, WIDTH);
        let Self { weight, left, columns, outputs, sums } = self;
        let groups = left.len / weight.group_size;
        let spread = BITS != weight.bits;
        let mut codes = Scratch::new(if spread { WIDTH * left.len / 4 } else { 0 });
        let mut scales = Scratch::new(2 * WIDTH * groups);
        let (scales, biases) = as_floats(&mut scales).split_at_mut(WIDTH * groups);
        let mut lines = [Lines::new(), Lines::new()];
        let mut block_sums = Scratch::new(WIDTH * left.rows);
        let block_sums = as_floats(&mut block_sums);
        for first in columns.clone().step_by(WIDTH) {
            // The last block begins earlier rather than being smaller.
            let start = first.min(outputs - WIDTH);
            for row in start + WIDTH..start + 2 * WIDTH {
                weight.prefetch_scales(s, row);
            }
            weight.scales_across(s, start, &mut lines, scales, biases);
            let numbers: *const u8 = if spread {
                for (row, to) in as_slice_of::<u8>(&mut codes).chunks_exact_mut(left.len).enumerate() {
                    weight.codes(s, start + row, 0, to);
                }
                codes.as_ptr().cast()
            } else {
                weight.words(start).as_ptr().cast()
            };
            block_sums.fill(0.0);
            let block = Block::<BITS> { weight, left, numbers, scales, biases, sums: &mut *block_sums };
            // SAFETY: 16 rows lie there, the last of them too.
            unsafe { block.multiply(s) };
            let count = columns.end.min(start + WIDTH) - first;
            for (sums, block) in sums.chunks_exact_mut(columns.len()).zip(block_sums.chunks_exact(WIDTH)) {
                sums[first - columns.start..][..count].copy_from_slice(&block[first - start..][..count]);
            }
        }
    }
}

/// 16 rows of the matrix.
struct Block<'a, const BITS: usize> {
    weight: &'a Packed<'a>,
    left: &'a Left,
    numbers: *const u8,
    /// `[groups, 16]`, as the biases.
    scales: &'a [f32],
    biases: &'a [f32],
    /// `[rows, 16]`
    sums: &'a mut [f32],
}

impl<const BITS: usize> Block<'_, BITS> {
    /// A cache line of every row after the other.
    ///
    /// # Safety
    /// 16 rows of `len` numbers of `BITS` bits lie at `numbers`.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(mut self, s: S) {
        let row_bytes = self.left.len * BITS / 8;
        let segment_words = self.left.segment * BITS / 32;
        let (mut words, mut next, mut blocks) = (&mut Lines::new(), &mut Lines::new(), Lines::new());
        let numbers = self.numbers;
        let line = |at: usize| {
            let bytes = row_bytes.saturating_sub(at).min(64);
            SixteenRows { from: numbers.wrapping_add(at), stride: row_bytes, bytes }
        };
        // SAFETY: by this function's own condition.
        unsafe { line(0).turn(s, &mut blocks, words) };
        let mut segment = 0;
        for at in (0..row_bytes).step_by(64) {
            for line in 0..WIDTH {
                s.prefetch(self.numbers.wrapping_add((row_bytes + at) * WIDTH + 64 * line));
            }
            let rows = line(at + 64);
            let piece = if rows.bytes > 0 { 0 } else { 8 };
            let mut ahead = Ahead { rows, piece, blocks: &mut blocks, to: &mut *next };
            let there = WIDTH / 4 * line(at).bytes;
            for words in words.0[..there].chunks_exact(WIDTH * segment_words) {
                // SAFETY: by this function's own condition, the next line of every row lies there if there is one.
                unsafe { self.segment(s, segment, words, &mut ahead) };
                segment += 1;
            }
            std::mem::swap(&mut words, &mut next);
        }
    }

    /// Multiplies all rows by the next numbers of a group.
    ///
    /// # Safety
    /// What `ahead` transposes lies there.
    #[inline(always)]
    unsafe fn segment<S: Simd>(&mut self, s: S, segment: usize, words: &[u32], ahead: &mut Ahead) {
        let left = self.left;
        let group = segment * left.segment / self.weight.group_size;
        let scale = load_part(s, &self.scales[WIDTH * group..]);
        let bias = load_part(s, &self.biases[WIDTH * group..]);
        for (batch, sums) in self.sums.chunks_mut(WIDTH * left.batch).enumerate() {
            let rows = sums.len() / WIDTH;
            let at = batch * left.batch * left.row_words() + segment * rows * left.segment_words();
            let x = left.words[at..].as_ptr();
            macro_rules! by_rows {
                ($($rows:literal)*) => {
                    match rows {
                        // SAFETY: a segment of the batch lies there; else by this function's own condition.
                        $($rows => unsafe { batch_by_segment::<S, $rows, BITS>(s, words, x, scale, bias, sums, ahead) },)*
                        rows => unreachable!("a batch of {rows} rows"),
                    }
                };
            }
            by_rows!(1 2 3 4 5 6 7 8);
        }
    }
}

/// Sixteen cache lines of words.
#[repr(align(64))]
pub(crate) struct Lines([u32; 256]);

impl Lines {
    pub(super) fn new() -> Self {
        Self([0; 256])
    }

    #[inline(always)]
    pub(super) fn each_vector(&self) -> impl Iterator<Item = &[u32; WIDTH]> {
        self.0.as_chunks().0.iter()
    }
}

/// The next `bytes` bytes, at most 64, of 16 rows that are `stride` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct SixteenRows {
    pub from: *const u8,
    pub stride: usize,
    pub bytes: usize,
}

impl SixteenRows {
    /// Transposes their words.
    ///
    /// # Safety
    /// They lie there.
    #[inline(always)]
    pub(super) unsafe fn turn<S: Simd>(self, s: S, blocks: &mut Lines, to: &mut Lines) {
        for piece in 0..4 + self.bytes.div_ceil(16) {
            // SAFETY: by this function's own condition.
            unsafe { self.turn_piece(s, piece, blocks, to) };
        }
    }

    /// One of eight pieces of that, of which the first half writes `blocks`, and the second reads them.
    ///
    /// # Safety
    /// As [`turn`](Self::turn).
    #[inline(always)]
    unsafe fn turn_piece<S: Simd>(self, s: S, piece: usize, blocks: &mut Lines, to: &mut Lines) {
        let block = piece % 4;
        let blocks = blocks.0.as_mut_ptr();
        // SAFETY: by this function's own condition; there are four blocks.
        unsafe {
            if piece < 4 {
                s.turn_blocks(self.from.add(block * self.stride), self.stride, self.bytes, blocks.add(16 * block));
            } else {
                s.turn_words(blocks.add(64 * block), to.0.as_mut_ptr().add(64 * block));
            }
        }
    }
}

/// What is transposed while what was before is multiplied.
struct Ahead<'a> {
    rows: SixteenRows,
    piece: usize,
    blocks: &'a mut Lines,
    to: &'a mut Lines,
}

impl Ahead<'_> {
    /// # Safety
    /// As [`SixteenRows::turn`].
    #[inline(always)]
    unsafe fn piece<S: Simd>(&mut self, s: S) {
        if self.piece < 8 {
            // SAFETY: by this function's own condition.
            unsafe { self.rows.turn_piece(s, self.piece, self.blocks, self.to) };
            self.piece += 1;
        }
    }
}

/// Adds a segment's products.
///
/// # Safety
/// A segment of a batch of `ROWS` rows lies at `x`, and what `ahead` transposes is there.
#[inline(always)]
unsafe fn batch_by_segment<S: Simd, const ROWS: usize, const BITS: usize>(
    s: S,
    words: &[u32],
    mut x: *const u32,
    scale: S::F,
    bias: S::F,
    sums: &mut [f32],
    ahead: &mut Ahead,
) {
    assert!(sums.len() >= WIDTH * ROWS);
    let mut dots = [[s.zero_words(); ROWS]; 2];
    // Each addition waits for the one before, so that few rows take two sums each.
    let two = ROWS < 4;
    let mut others = dots;
    for words in words.chunks_exact(2 * WIDTH) {
        let (first, second) = words.split_at(WIDTH);
        // SAFETY: by this function's own condition.
        unsafe {
            ahead.piece(s);
            dot_word::<S, ROWS, BITS>(s, first, x, &mut dots);
            dot_word::<S, ROWS, BITS>(s, second, x.add(16 / BITS * ROWS), if two { &mut others } else { &mut dots });
            x = x.add(32 / BITS * ROWS);
        }
    }
    for row in 0..ROWS {
        let mut dot = s.join_bytes(dots[0][row], dots[1][row]);
        if two {
            dot = s.add_lanes(dot, s.join_bytes(others[0][row], others[1][row]));
        }
        // SAFETY: behind the integers lie the scales and the sums.
        unsafe {
            let to = sums.as_mut_ptr().add(WIDTH * row);
            let biased = s.mul_add(bias, s.splat(f32::from_bits(*x.add(ROWS + row))), s.load(to));
            let scale = s.mul(scale, s.splat(f32::from_bits(*x.add(row))));
            s.store(to, s.mul_add(s.to_float(dot), scale, biased));
        }
    }
}

/// Adds the products of 16 words of as many rows of the matrix to the high and the low bytes' sums.
///
/// # Safety
/// Their numbers' bytes lie at `x`.
#[inline(always)]
unsafe fn dot_word<S: Simd, const ROWS: usize, const BITS: usize>(
    s: S,
    words: &[u32],
    x: *const u32,
    dots: &mut [[S::I; ROWS]; 2],
) {
    let mask = 0x0101 * ((1_u32 << BITS) - 1) as u16;
    // SAFETY: there are 16.
    let packed = unsafe { s.load_words(words[..WIDTH].as_ptr().cast()) };
    macro_rules! places {
        ($($place:literal)*) => {$(
            if $place * BITS < 8 {
                let shifted = match $place * BITS {
                    0 => packed,
                    2 => s.shift_words_right::<2>(packed),
                    4 => s.shift_words_right::<4>(packed),
                    _ => s.shift_words_right::<6>(packed),
                };
                let numbers = if BITS == 8 { shifted } else { s.and_words(shifted, mask) };
                for (plane, dots) in dots.iter_mut().enumerate() {
                    for (row, dot) in dots.iter_mut().enumerate() {
                        // SAFETY: by this function's own condition.
                        let x = unsafe { *x.add((2 * $place + plane) * ROWS + row) };
                        *dot = s.dot_bytes(*dot, numbers, s.splat_pair(x));
                    }
                }
            }
        )*};
    }
    places!(0 1 2 3);
}
