//! Vectors of float32 as the instruction sets offer them: what the kernels are written in.
//!
//! A kernel is a [`Work`]: a generic function that is compiled once for each instruction set. The value of a [`Simd`] type
//! is the proof that the CPU has the instructions, so that arithmetic needs no `unsafe`.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use portable::Portable;

use crate::level::Level;

/// The instructions of one set. `F` is a vector of float32; `I` one of int32, or of twice as many int16.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    type F: Copy;
    type I: Copy;
    /// Elements of `F`.
    const LANES: usize;
    /// Rows of the tile that a matrix kernel keeps in registers; it is two vectors wide.
    const TILE_ROWS: usize;

    /// Asks for the cache line at `from`, which need not exist, into the second-level cache: more requests can be under
    /// way there.
    fn prefetch(self, from: *const u8);
    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `LANES` elements lie at `from`; so for all loads.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn load_bf16(self, from: *const u16) -> Self::F;
    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn load_f16(self, from: *const u16) -> Self::F;
    /// # Safety
    /// As [`load`](Self::load).
    unsafe fn load_u8(self, from: *const u8) -> Self::F;
    /// # Safety
    /// `LANES` elements have room at `to`; so for all stores. To 16 bits they round to nearest, ties to even.
    unsafe fn store(self, to: *mut f32, x: Self::F);
    /// # Safety
    /// As [`store`](Self::store).
    unsafe fn store_bf16(self, to: *mut u16, x: Self::F);
    /// # Safety
    /// As [`store`](Self::store).
    unsafe fn store_f16(self, to: *mut u16, x: Self::F);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once where the instruction set can.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `yes` where `a <= b`, else `no`.
    fn select_le(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// `2^x` for whole numbers from -126 to 127.
    fn exp2_of_whole(self, x: Self::F) -> Self::F;
    /// To the nearest whole number.
    fn round(self, x: Self::F) -> Self::F;
    fn sum(self, x: Self::F) -> f32;
    fn largest(self, x: Self::F) -> f32;

    fn zero_words(self) -> Self::I;
    /// # Safety
    /// `2 · LANES` words lie at `from`.
    unsafe fn load_words(self, from: *const u16) -> Self::I;
    /// Whole numbers in the range of int16.
    ///
    /// # Safety
    /// As [`store`](Self::store).
    unsafe fn store_words(self, to: *mut i16, x: Self::F);
    fn and_words(self, a: Self::I, mask: u16) -> Self::I;
    fn shift_words_right<const N: u32>(self, a: Self::I) -> Self::I;
    /// Adds to each 32-bit lane of `sum` the products of its two int16 in `a` and `b`.
    fn dot_words(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I;
    fn to_float(self, a: Self::I) -> Self::F;
    /// Both words of every lane.
    fn splat_pair(self, words: u32) -> Self::I;
    /// [`dot_words`](Self::dot_words) for bfloat16; only from `Level::Avx512Bf16` on.
    fn dot_bf16(self, sum: Self::F, a: Self::I, b: Self::I) -> Self::F;
    /// Transposes `rows` rows, at most 16, of 16 words, which are `from_stride` and `to_stride` words apart.
    ///
    /// # Safety
    /// All of them lie at `from` and have room at `to`.
    #[inline(always)]
    unsafe fn transpose_16(self, from: *const u32, from_stride: usize, rows: usize, to: *mut u32, to_stride: usize) {
        for row in 0..rows {
            for word in 0..16 {
                // SAFETY: by the caller's promise.
                unsafe { *to.add(word * to_stride + row) = *from.add(row * from_stride + word) };
            }
        }
    }
    /// Adds to each 32-bit lane of `sum` the products of its four bytes in `a`, unsigned, and `b`, signed; only from
    /// `Level::Avx512Bf16` on, as the two that follow.
    fn dot_bytes(self, _sum: Self::I, _a: Self::I, _b: Self::I) -> Self::I {
        unreachable!("this level has no such instruction")
    }
    /// `a + b` of 32-bit lanes.
    fn add_lanes(self, _a: Self::I, _b: Self::I) -> Self::I {
        unreachable!("no kernel for this level uses it")
    }
    /// `256 · a + b` of 32-bit lanes.
    fn join_bytes(self, _a: Self::I, _b: Self::I) -> Self::I {
        unreachable!("no kernel for this level uses it")
    }
    /// The first half of a transposition of 16 rows, which are `stride` bytes apart and of which the first `bytes` exist,
    /// zeros standing for the rest: block `b`, of 128 bits, of the rows 0, 4, 8 and 12 becomes vector `4 · b` at `to`.
    /// From row 1 on, and to the next vector on, it is the same for the rows 1, 5, 9 and 13; and so on.
    ///
    /// # Safety
    /// That many bytes, up to 64, lie in all those rows, and 13 vectors have room at `to`.
    unsafe fn turn_blocks(self, _from: *const u8, _stride: usize, _bytes: usize, _to: *mut u32) {
        unreachable!("no kernel for this level uses it")
    }
    /// The second half: of the four vectors of block `b`, all rows' words `4 · b`, and so on.
    ///
    /// # Safety
    /// Four vectors lie at `from` and have room at `to`.
    unsafe fn turn_words(self, _from: *const u32, _to: *mut u32) {
        unreachable!("no kernel for this level uses it")
    }
    /// The lower and the upper halves of words, which are bfloat16.
    fn halves_bf16(self, _words: Self::I) -> [Self::F; 2] {
        unreachable!("no kernel for this level uses it")
    }
    /// Lane `i` is element `i >> log2` of those at `from`.
    ///
    /// # Safety
    /// As [`load`](Self::load), even if only the first are used.
    unsafe fn repeat_each(self, from: *const f32, log2: u32) -> Self::F;
}

/// A computation that can run with any instruction set.
pub(crate) trait Work {
    type Output;
    /// Must be `#[inline(always)]`, as everything generic over `S` that it calls: only so is it compiled with the
    /// instructions of `S`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

impl Level {
    /// Runs `work` with this level's instructions.
    #[inline]
    pub(crate) fn dispatch<W: Work>(self, work: W) -> W::Output {
        assert!(self.is_supported());
        match self {
            Self::Portable => work.run(Portable),
            // SAFETY: the CPU supports the level, as asserted above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::with_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::with_avx512(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Amx => unsafe { x86::with_avx512_bf16(work) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("not supported here"),
        }
    }
}

/// `e^x`, to about one unit in the last place; infinite above 88.7, 0 below -104, NaN for NaN.
///
/// By `2^n · e^r`, with the polynomial of Cephes' `expf` for the rest `|r| <= ln(2) / 2`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // Cut so that 2^n can be made in two steps without overflow of an exponent.
    // NaN stays NaN: it is the second operand that `max` and `min` return for it.
    let clamped = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-0.693_359_4), clamped);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let e = s.add(s.mul_add(s.mul(r, r), p, r), s.splat(1.0));
    let half = s.round(s.mul(n, s.splat(0.5)));
    let scaled = s.mul(s.mul(e, s.exp2_of_whole(half)), s.exp2_of_whole(s.sub(n, half)));
    s.select_le(x, s.splat(-104.0), s.splat(0.0), scaled)
}

/// `tanh(x)`, to a few units in the last place; NaN for NaN.
///
/// By the rational approximation of Eigen's `ptanh_float`, whose argument is cut: beyond ±7.9 the result is within 3e-7 of ±1.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    const LARGEST: f32 = 7.905_311;
    // NaN stays NaN: it is the second operand that `max` and `min` return for it.
    let x = s.min(s.splat(LARGEST), s.max(s.splat(-LARGEST), x));
    let square = s.mul(x, x);
    let mut p = s.splat(-2.760_768_5e-16);
    for c in [2.000_188e-13, -8.604_672e-11, 5.122_297_1e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3] {
        p = s.mul_add(p, square, s.splat(c));
    }
    let mut q = s.splat(1.198_258_4e-6);
    for c in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3] {
        q = s.mul_add(q, square, s.splat(c));
    }
    s.div(s.mul(x, p), q)
}
