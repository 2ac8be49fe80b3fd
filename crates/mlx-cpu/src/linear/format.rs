//! How matrices are stored, and how their numbers are read.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};
use mlx_quantized::Mode;

use super::batch::{Lines, SixteenRows};
use crate::element::{Element, load_part, store_part};
use crate::scratch::{as_floats, as_slice_of};
use crate::simd::Simd;
use crate::view::{Rows, View};

/// The numbers of a matrix, all but the pointers to them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Format {
    /// One float after another.
    Dense,
    /// MLX's packed forms (`mlx::core::quantize`).
    Packed { mode: Mode, bits: usize, group_size: usize },
}

impl Format {
    /// Arrays that hold the matrix.
    pub(crate) fn num_arrays(self) -> usize {
        match self {
            Self::Dense => 1,
            Self::Packed { mode, .. } => 2 + usize::from(mode.has_biases()),
        }
    }
}

/// A matrix `[rows, columns]`.
pub(crate) enum Matrix<'a> {
    DenseF32(Rows<'a, f32>),
    DenseBf16(Rows<'a, bf16>),
    DenseF16(Rows<'a, f16>),
    Packed(Packed<'a>),
}

/// A matrix in one of MLX's packed forms.
pub(crate) struct Packed<'a> {
    pub mode: Mode,
    pub bits: usize,
    pub group_size: usize,
    codes: Cow<'a, [u32]>,
    /// Words of a row.
    words: usize,
    scales: Scales<'a>,
    biases: Option<Scales<'a>>,
    /// Groups of a row.
    groups: usize,
}

/// One number per group.
enum Scales<'a> {
    F32(Cow<'a, [f32]>),
    Bf16(Cow<'a, [bf16]>),
    F16(Cow<'a, [f16]>),
    /// Of the floating modes, 8 bits.
    Byte(Cow<'a, [u8]>),
}

impl<'a> Matrix<'a> {
    /// The matrix in `arrays`, of which there are [`Format::num_arrays`].
    pub(crate) fn new(format: Format, arrays: &[View<'a>]) -> Self {
        match format {
            Format::Dense => Self::dense(&arrays[0]),
            Format::Packed { mode, bits, group_size } => Self::Packed(Packed {
                mode,
                bits,
                group_size,
                codes: arrays[0].to_slice(),
                words: arrays[0].last(),
                scales: Scales::new(&arrays[1]),
                biases: mode.has_biases().then(|| Scales::new(&arrays[2])),
                groups: arrays[1].last(),
            }),
        }
    }

    /// The matrix of the last axis by all others.
    pub(crate) fn dense(array: &View<'a>) -> Self {
        use mlx_rs::Dtype::*;
        match array.dtype {
            Float32 => Self::DenseF32(array.rows()),
            Bfloat16 => Self::DenseBf16(array.rows()),
            Float16 => Self::DenseF16(array.rows()),
            other => unreachable!("kernels take floats, not {other:?}"),
        }
    }

    /// Reads the columns from `start` of row `row`, as many as `to` is long. In packed matrices `start` and the length
    /// are multiples of 8.
    #[inline(always)]
    pub(crate) fn read<S: Simd, T: Element>(&self, s: S, row: usize, start: usize, to: &mut [T]) {
        let end = start + to.len();
        match self {
            Self::DenseF32(rows) => convert(s, &rows.get(row)[start..end], to),
            Self::DenseBf16(rows) => convert(s, &rows.get(row)[start..end], to),
            Self::DenseF16(rows) => convert(s, &rows.get(row)[start..end], to),
            Self::Packed(packed) => packed.read(s, row, start, to),
        }
    }
}

/// Columns that are unpacked at once.
const CHUNK: usize = 512;

impl Packed<'_> {
    #[inline(always)]
    fn read<S: Simd, T: Element>(&self, s: S, row: usize, start: usize, to: &mut [T]) {
        let mut codes = [0; CHUNK];
        for (index, to) in to.chunks_mut(CHUNK).enumerate() {
            let start = start + index * CHUNK;
            let codes = &mut codes[..to.len()];
            self.codes(s, row, start, codes);
            // Chunks may begin and end inside a group.
            let mut done = 0;
            while done < to.len() {
                let group = (start + done) / self.group_size;
                let end = to.len().min((group + 1) * self.group_size - start);
                self.scaled(s, row, group, &codes[done..end], &mut to[done..end]);
                done = end;
            }
        }
    }

    /// The integers of the columns from `start` of row `row`.
    #[inline(always)]
    pub(crate) fn codes<S: Simd>(&self, _: S, row: usize, start: usize, to: &mut [u8]) {
        let bytes = bytes_of(self.words(row));
        unpack(self.bits, &bytes[start * self.bits / 8..(start + to.len()) * self.bits / 8], to);
    }

    /// The words of row `row` as they are stored.
    #[inline(always)]
    pub(crate) fn words(&self, row: usize) -> &[u32] {
        &self.codes[row * self.words..(row + 1) * self.words]
    }

    /// Asks for the scales and biases of row `row`, if there is one.
    #[inline(always)]
    pub(crate) fn prefetch_scales<S: Simd>(&self, s: S, row: usize) {
        for scales in std::iter::once(&self.scales).chain(&self.biases) {
            let (start, size) = scales.bytes();
            for at in (0..self.groups * size).step_by(64) {
                s.prefetch(start.wrapping_add(row * self.groups * size + at));
            }
        }
    }

    /// The scales of row `row` times `factors`, one per group, into `to`.
    #[inline(always)]
    pub(crate) fn scales_times<S: Simd>(&self, s: S, row: usize, factors: &[f32], to: &mut [f32]) {
        self.scales.for_lanes(s, row * self.groups, factors, |at, scales, factors| {
            let end = to.len().min(at + S::LANES);
            store_part(s, &mut to[at..end], s.mul(scales, factors));
        });
    }

    /// The scales and biases of 16 rows from `row`, each `[groups, 16]`.
    #[inline(always)]
    pub(crate) fn scales_across<S: Simd>(
        &self,
        s: S,
        row: usize,
        lines: &mut [Lines; 2],
        scales: &mut [f32],
        biases: &mut [f32],
    ) {
        self.scales.across(s, row, self.groups, lines, scales);
        if let Some(all) = &self.biases {
            all.across(s, row, self.groups, lines, biases);
        }
    }

    /// `Σ bias · factor` over the groups of row `row`, spread over the lanes.
    #[inline(always)]
    pub(crate) fn biases_dot<S: Simd>(&self, s: S, row: usize, factors: &[f32]) -> S::F {
        let mut sum = s.splat(0.0);
        if let Some(biases) = &self.biases {
            biases.for_lanes(s, row * self.groups, factors, |_, biases, factors| {
                sum = s.mul_add(biases, factors, sum);
            });
        }
        sum
    }

    /// Of one group of row `row`.
    #[inline(always)]
    pub(crate) fn scale_and_bias(&self, row: usize, group: usize) -> (f32, f32) {
        let index = row * self.groups + group;
        let bias = self.biases.as_ref().map_or(0.0, |biases| biases.get(index, self.mode));
        (self.scales.get(index, self.mode), bias)
    }

    /// What `codes`, a part of one group, stand for.
    #[inline(always)]
    fn scaled<S: Simd, T: Element>(&self, s: S, row: usize, group: usize, codes: &[u8], to: &mut [T]) {
        let (scale, bias) = self.scale_and_bias(row, group);
        let table = match self.mode {
            Mode::Affine => {
                let (scale, bias) = (s.splat(scale), s.splat(bias));
                for (codes, to) in codes.chunks(S::LANES).zip(to.chunks_mut(S::LANES)) {
                    let mut lanes = [0; 16];
                    let all = if codes.len() >= S::LANES {
                        codes.as_ptr()
                    } else {
                        lanes[..codes.len()].copy_from_slice(codes);
                        lanes.as_ptr()
                    };
                    // SAFETY: as many codes, or 16, and no set has more lanes.
                    let code = unsafe { s.load_u8(all) };
                    store_part(s, to, s.mul_add(code, scale, bias));
                }
                return;
            }
            Mode::Mxfp4 | Mode::Nvfp4 => &E2M1[..],
            Mode::Mxfp8 => &E4M3[..],
        };
        for (&code, to) in codes.iter().zip(to) {
            *to = T::from_f32(table[usize::from(code)] * scale);
        }
    }
}

/// Rows of integers with a scale and a bias for each group, one after another.
#[derive(Clone, Copy)]
pub(crate) struct AffineRows<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    biases: &'a [f32],
    log2_group: u32,
    /// Groups of a row.
    groups: usize,
}

impl<'a> AffineRows<'a> {
    /// The rows `rows` of `matrix`, which is affine. `room` is for what must be unpacked: a word for each of their numbers
    /// is enough.
    #[inline(always)]
    pub(crate) fn new<S: Simd>(s: S, matrix: &'a Packed, rows: Range<usize>, room: &'a mut [u32]) -> Self {
        let Packed { group_size, groups, bits, .. } = *matrix;
        let scales_len = rows.len() * groups;
        let (scales, room) = room.split_at_mut(scales_len);
        let (biases, room) = room.split_at_mut(scales_len);
        let (scales, biases) = (as_floats(scales), as_floats(biases));
        let biases_of = matrix.biases.as_ref().expect("affine matrices have biases");
        matrix.scales.widen(s, rows.start * groups, scales);
        biases_of.widen(s, rows.start * groups, biases);
        let stored = bytes_of(&matrix.codes[rows.start * matrix.words..rows.end * matrix.words]);
        let codes = if bits == 8 {
            stored
        } else {
            let room = &mut as_slice_of::<u8>(room)[..scales_len * group_size];
            unpack(bits, stored, room);
            room
        };
        Self { codes, scales, biases, log2_group: group_size.ilog2(), groups }
    }

    /// Row `index`, of which the first `width` numbers will be read.
    #[inline(always)]
    pub(crate) fn row(self, index: usize, width: usize) -> AffineRow {
        let (len, group) = (self.groups << self.log2_group, index * self.groups);
        assert!(width <= len);
        let (scales, biases) = (&self.scales[group..][..self.groups], &self.biases[group..][..self.groups]);
        AffineRow { codes: self.codes[index * len..][..len].as_ptr(), scales: scales.as_ptr(), biases: biases.as_ptr() }
    }

    /// What the integers of `row` from `at` stand for.
    ///
    /// # Safety
    /// `at` is whole vectors, and so many numbers follow of those that [`row`](Self::row) was told of.
    #[inline(always)]
    pub(crate) unsafe fn lanes<S: Simd>(self, s: S, row: AffineRow, at: usize) -> S::F {
        let group = at >> self.log2_group;
        // SAFETY: by the caller's promise; the groups are those of the numbers, as no vector is in two.
        unsafe {
            let (scale, bias) = (s.splat(*row.scales.add(group)), s.splat(*row.biases.add(group)));
            s.mul_add(s.load_u8(row.codes.add(at)), scale, bias)
        }
    }
}

/// Where a row of [`AffineRows`] lies.
#[derive(Clone, Copy)]
pub(crate) struct AffineRow {
    codes: *const u8,
    scales: *const f32,
    biases: *const f32,
}

impl<'a> Scales<'a> {
    fn new(view: &View<'a>) -> Self {
        use mlx_rs::Dtype::*;
        match view.dtype {
            Float32 => Self::F32(view.to_slice()),
            Bfloat16 => Self::Bf16(view.to_slice()),
            Float16 => Self::F16(view.to_slice()),
            Uint8 => Self::Byte(view.to_slice()),
            other => unreachable!("scales are floats or bytes, not {other:?}"),
        }
    }

    /// Where they start, and how large one is.
    #[inline(always)]
    fn bytes(&self) -> (*const u8, usize) {
        match self {
            Self::F32(all) => (all.as_ptr().cast(), 4),
            Self::Bf16(all) => (all.as_ptr().cast(), 2),
            Self::F16(all) => (all.as_ptr().cast(), 2),
            Self::Byte(all) => (all.as_ptr(), 1),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(all) => all.len(),
            Self::Bf16(all) => all.len(),
            Self::F16(all) => all.len(),
            Self::Byte(all) => all.len(),
        }
    }

    /// Calls `each` with every vector's worth of the numbers from `start` and of `factors`, and its place in those.
    #[inline(always)]
    fn for_lanes<S: Simd>(&self, s: S, start: usize, factors: &[f32], each: impl FnMut(usize, S::F, S::F)) {
        #[inline(always)]
        fn all<S: Simd, T: Element>(s: S, scales: &[T], factors: &[f32], mut each: impl FnMut(usize, S::F, S::F)) {
            let lanes = scales.chunks(S::LANES).zip(factors.chunks(S::LANES));
            for (i, (scales, factors)) in lanes.enumerate() {
                each(i * S::LANES, load_part(s, scales), load_part(s, factors));
            }
        }
        let range = start..start + factors.len();
        match self {
            Self::F32(scales) => all(s, &scales[range], factors, each),
            Self::Bf16(scales) => all(s, &scales[range], factors, each),
            Self::F16(scales) => all(s, &scales[range], factors, each),
            Self::Byte(_) => unreachable!("affine scales are floats"),
        }
    }

    /// As many from `start` as `to` is long; they are floats.
    #[inline(always)]
    fn widen<S: Simd>(&self, s: S, start: usize, to: &mut [f32]) {
        let range = start..start + to.len();
        match self {
            Self::F32(all) => to.copy_from_slice(&all[range]),
            Self::Bf16(all) => convert(s, &all[range], to),
            Self::F16(all) => convert(s, &all[range], to),
            Self::Byte(_) => unreachable!("affine scales are floats"),
        }
    }

    /// Those of 16 rows from `row`, `[groups, 16]`.
    #[inline(always)]
    fn across<S: Simd>(&self, s: S, row: usize, groups: usize, [blocks, words]: &mut [Lines; 2], to: &mut [f32]) {
        let (start, size) = self.bytes();
        assert!((row + 16) * groups <= self.len());
        let (row_bytes, per_line) = (groups * size, 64 / size);
        for (first, to) in (0..groups).step_by(per_line).zip(to.chunks_mut(16 * per_line)) {
            let from = start.wrapping_add(row * row_bytes + first * size);
            let rows = SixteenRows { from, stride: row_bytes, bytes: (groups - first).min(per_line) * size };
            // SAFETY: so many bytes lie there in each of the 16 rows.
            unsafe { rows.turn(s, blocks, words) };
            for (words, to) in words.each_vector().zip(to.chunks_mut(64 / size)) {
                self.widen_words(s, words, to);
            }
        }
    }

    /// The numbers in 16 words: first the lower halves, then the upper ones, as far as `to` goes.
    #[inline(always)]
    fn widen_words<S: Simd>(&self, s: S, words: &[u32; 16], to: &mut [f32]) {
        match self {
            Self::Bf16(_) => {
                // SAFETY: there are 16.
                let halves = s.halves_bf16(unsafe { s.load_words(words.as_ptr().cast()) });
                for (half, to) in halves.into_iter().zip(to.chunks_exact_mut(16)) {
                    store_part(s, to, half);
                }
            }
            Self::F16(_) => {
                for (half, to) in to.chunks_exact_mut(16).enumerate() {
                    let mut bits = [0; 16];
                    for (bits, word) in bits.iter_mut().zip(words) {
                        *bits = (word >> (16 * half)) as u16;
                    }
                    // SAFETY: there are 16.
                    store_part(s, to, unsafe { s.load_f16(bits.as_ptr()) });
                }
            }
            _ => to.iter_mut().zip(words).for_each(|(to, &word)| *to = f32::from_bits(word)),
        }
    }

    #[inline(always)]
    fn get(&self, index: usize, mode: Mode) -> f32 {
        match self {
            Self::F32(all) => all[index],
            Self::Bf16(all) => all[index].to_f32(),
            Self::F16(all) => all[index].to_f32(),
            // OCP Microscaling Formats 1.0: an E8M0 exponent; NVFP4 has an E4M3 number instead.
            Self::Byte(all) if mode == Mode::Nvfp4 => E4M3[usize::from(all[index])],
            Self::Byte(all) => f32::from_bits(match all[index] {
                0 => 1 << 22, // 2^-127, subnormal
                exponent => u32::from(exponent) << 23,
            }),
        }
    }
}

/// Copies with a change of type.
#[inline(always)]
pub(crate) fn convert<S: Simd, A: Element, B: Element>(s: S, from: &[A], to: &mut [B]) {
    for (from, to) in from.chunks(S::LANES).zip(to.chunks_mut(S::LANES)) {
        store_part(s, to, load_part(s, from));
    }
}

/// Unsigned integers of `bits` bits, the first in the lowest bits, one per byte of `to`.
#[inline(always)]
fn unpack(bits: usize, packed: &[u8], to: &mut [u8]) {
    match bits {
        8 => to.copy_from_slice(packed),
        4 => {
            for (to, &byte) in to.chunks_exact_mut(2).zip(packed) {
                to.copy_from_slice(&[byte & 15, byte >> 4]);
            }
        }
        2 => {
            for (to, &byte) in to.chunks_exact_mut(4).zip(packed) {
                to.copy_from_slice(&[byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6]);
            }
        }
        3 => spread::<3>(packed, to),
        5 => spread::<5>(packed, to),
        6 => spread::<6>(packed, to),
        _ => unreachable!("no numbers of {bits} bits"),
    }
}

/// Eight numbers are as many bytes as a number has bits.
#[inline(always)]
fn spread<const BITS: usize>(packed: &[u8], to: &mut [u8]) {
    let (packed, _) = packed.as_chunks::<BITS>();
    let (to, _) = to.as_chunks_mut::<8>();
    for (to, bytes) in to.iter_mut().zip(packed) {
        let mut word = [0; 8];
        word[..BITS].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        *to = std::array::from_fn(|i| (word >> (i * BITS)) as u8 & ((1 << BITS) - 1));
    }
}

/// The inverse of [`unpack`], for numbers that are in range.
#[inline(always)]
pub(crate) fn pack(bits: usize, numbers: &[i16], to: &mut [u8]) {
    match bits {
        8 => {
            for (to, &number) in to.iter_mut().zip(numbers) {
                *to = number as u8;
            }
        }
        4 => {
            for (to, numbers) in to.iter_mut().zip(numbers.as_chunks::<2>().0) {
                *to = (numbers[0] | numbers[1] << 4) as u8;
            }
        }
        2 => squeeze::<2>(numbers, to),
        3 => squeeze::<3>(numbers, to),
        5 => squeeze::<5>(numbers, to),
        6 => squeeze::<6>(numbers, to),
        _ => unreachable!("no numbers of {bits} bits"),
    }
}

/// The inverse of [`spread`].
#[inline(always)]
fn squeeze<const BITS: usize>(numbers: &[i16], to: &mut [u8]) {
    let (numbers, _) = numbers.as_chunks::<8>();
    let (to, _) = to.as_chunks_mut::<BITS>();
    for (to, numbers) in to.iter_mut().zip(numbers) {
        let mut word = 0;
        for (i, &number) in numbers.iter().enumerate() {
            word |= (number as u64) << (i * BITS);
        }
        to.copy_from_slice(&word.to_le_bytes()[..BITS]);
    }
}

fn bytes_of(words: &[u32]) -> &[u8] {
    // SAFETY: the same memory; bytes have no alignment and no invalid values. MLX's packed words are little-endian, as
    // is every CPU that it runs on.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// The 4-bit floats of OCP Microscaling Formats 1.0, section 5.3.3.
pub(crate) static E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The 8-bit floats E4M3 of OFP8: no infinities, and NaN only with all bits set.
pub(crate) static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = (code >> 3 & 15, (code & 7) as u32);
        let magnitude = if exponent == 15 && mantissa == 7 {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 * (1.0 / 512.0)
        } else {
            f32::from_bits((exponent as u32 + 120) << 23 | mantissa << 20)
        };
        table[code] = if code >= 128 { -magnitude } else { magnitude };
        code += 1;
    }
    table
};
