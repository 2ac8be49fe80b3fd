//! AVX2 with FMA, and AVX-512.

// Every function is one step of arithmetic; those that take pointers hand on their caller's promise.
#![allow(unsafe_op_in_unsafe_fn)]

use std::arch::x86_64::*;

use super::{Simd, Work};

/// Instructions that the token `self` proves to be there.
macro_rules! has {
    ($e:expr) => {{
        // SAFETY: a value of Avx2 or Avx512 is only made where the CPU has the instructions, and `$e` uses no pointer.
        #[allow(unused_unsafe)]
        unsafe {
            $e
        }
    }};
}

/// # Safety
/// The CPU supports `Level::Avx2`.
#[target_feature(enable = "avx,avx2,fma,f16c")]
pub(super) unsafe fn with_avx2<W: Work>(work: W) -> W::Output {
    work.run(Avx2(()))
}

/// # Safety
/// The CPU supports `Level::Avx512`.
#[target_feature(enable = "avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn with_avx512<W: Work>(work: W) -> W::Output {
    work.run(Avx512::<false>(()))
}

/// # Safety
/// The CPU supports `Level::Avx512Bf16`.
#[target_feature(enable = "avx,avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn with_avx512_bf16<W: Work>(work: W) -> W::Output {
    work.run(Avx512::<true>(()))
}

#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Simd for Avx2 {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        has!(_mm_prefetch::<_MM_HINT_T1>(from.cast()));
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        has!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        _mm256_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::F {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        _mm256_storeu_ps(to, x);
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, x: Self::F) {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        // Rounding could carry a NaN into infinity.
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        let high = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
        let packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high));
        _mm_storeu_si128(to.cast(), packed);
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Self::F) {
        _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        has!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn select_le(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        has!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LE_OQ>(a, b)))
    }
    #[inline(always)]
    fn exp2_of_whole(self, x: Self::F) -> Self::F {
        has!({
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        has!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        has!({
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn largest(self, x: Self::F) -> f32 {
        has!({
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn zero_words(self) -> Self::I {
        has!(_mm256_setzero_si256())
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u16) -> Self::I {
        _mm256_loadu_si256(from.cast())
    }
    #[inline(always)]
    unsafe fn store_words(self, to: *mut i16, x: Self::F) {
        let wide = _mm256_cvtps_epi32(x);
        let packed = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
        _mm_storeu_si128(to.cast(), packed);
    }
    #[inline(always)]
    fn and_words(self, a: Self::I, mask: u16) -> Self::I {
        has!(_mm256_and_si256(a, _mm256_set1_epi16(mask as i16)))
    }
    #[inline(always)]
    fn shift_words_right<const N: u32>(self, a: Self::I) -> Self::I {
        has!(_mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn dot_words(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        has!(_mm256_add_epi32(sum, _mm256_madd_epi16(a, b)))
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        has!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn splat_pair(self, words: u32) -> Self::I {
        has!(_mm256_set1_epi32(words as i32))
    }
    #[inline(always)]
    fn dot_bf16(self, _: Self::F, _: Self::I, _: Self::I) -> Self::F {
        unreachable!("this level has no such instruction")
    }
    #[inline(always)]
    unsafe fn repeat_each(self, from: *const f32, log2: u32) -> Self::F {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let index = _mm256_srl_epi32(lanes, _mm_cvtsi32_si128(log2 as i32));
        _mm256_permutevar8x32_ps(_mm256_loadu_ps(from), index)
    }
}

/// With `VNNI_AND_BF16`, of the extensions those two, too.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI_AND_BF16: bool>(());

impl<const VNNI_AND_BF16: bool> Simd for Avx512<VNNI_AND_BF16> {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn prefetch(self, from: *const u8) {
        has!(_mm_prefetch::<_MM_HINT_T1>(from.cast()));
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        has!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::F {
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        _mm512_storeu_ps(to, x);
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, x: Self::F) {
        // Not vcvtneps2bf16, which makes zeros of subnormal numbers.
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        // Rounding could carry a NaN into infinity.
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
        _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(quiet)));
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Self::F) {
        _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        has!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_le(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        has!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn exp2_of_whole(self, x: Self::F) -> Self::F {
        has!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        has!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        has!(_mm512_reduce_add_ps(x))
    }
    #[inline(always)]
    fn largest(self, x: Self::F) -> f32 {
        has!(_mm512_reduce_max_ps(x))
    }

    #[inline(always)]
    fn zero_words(self) -> Self::I {
        has!(_mm512_setzero_si512())
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u16) -> Self::I {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn store_words(self, to: *mut i16, x: Self::F) {
        _mm256_storeu_si256(to.cast(), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
    }
    #[inline(always)]
    fn and_words(self, a: Self::I, mask: u16) -> Self::I {
        has!(_mm512_and_si512(a, _mm512_set1_epi16(mask as i16)))
    }
    #[inline(always)]
    fn shift_words_right<const N: u32>(self, a: Self::I) -> Self::I {
        has!(_mm512_srl_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn dot_words(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        if VNNI_AND_BF16 {
            has!(_mm512_dpwssd_epi32(sum, a, b))
        } else {
            has!(_mm512_add_epi32(sum, _mm512_madd_epi16(a, b)))
        }
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        has!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn splat_pair(self, words: u32) -> Self::I {
        has!(_mm512_set1_epi32(words as i32))
    }
    #[inline(always)]
    fn dot_bf16(self, sum: Self::F, a: Self::I, b: Self::I) -> Self::F {
        if !VNNI_AND_BF16 {
            unreachable!("this level has no such instruction")
        }
        // SAFETY: the same 512 bits under another type.
        let pairs = |x| unsafe { std::mem::transmute::<__m512i, __m512bh>(x) };
        has!(_mm512_dpbf16_ps(sum, pairs(a), pairs(b)))
    }
    #[inline(always)]
    fn dot_bytes(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        if !VNNI_AND_BF16 {
            unreachable!("this level has no such instruction")
        }
        has!(_mm512_dpbusd_epi32(sum, a, b))
    }
    #[inline(always)]
    fn join_bytes(self, a: Self::I, b: Self::I) -> Self::I {
        has!(_mm512_add_epi32(_mm512_slli_epi32::<8>(a), b))
    }
    #[inline(always)]
    fn add_lanes(self, a: Self::I, b: Self::I) -> Self::I {
        has!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn turn_blocks(self, from: *const u8, stride: usize, bytes: usize, to: *mut u32) {
        let mut rows = [_mm512_setzero_si512(); 4];
        for (i, row) in rows.iter_mut().enumerate() {
            let from = from.add(4 * i * stride);
            *row = if bytes == 64 {
                _mm512_loadu_si512(from.cast())
            } else {
                _mm512_maskz_loadu_epi8((1 << bytes) - 1, from.cast())
            };
        }
        let [a, b, c, d] = rows;
        let (ab, ab_upper) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (cd, cd_upper) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        let blocks = [
            _mm512_shuffle_i32x4::<0x88>(ab, cd),
            _mm512_shuffle_i32x4::<0xdd>(ab, cd),
            _mm512_shuffle_i32x4::<0x88>(ab_upper, cd_upper),
            _mm512_shuffle_i32x4::<0xdd>(ab_upper, cd_upper),
        ];
        for (i, block) in blocks.into_iter().enumerate() {
            _mm512_storeu_si512(to.add(64 * i).cast(), block);
        }
    }
    #[inline(always)]
    unsafe fn turn_words(self, from: *const u32, to: *mut u32) {
        let vector = |i: usize| from.add(16 * i).cast();
        let (a, b) = (_mm512_loadu_si512(vector(0)), _mm512_loadu_si512(vector(1)));
        let (c, d) = (_mm512_loadu_si512(vector(2)), _mm512_loadu_si512(vector(3)));
        let (ab, ab_upper) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd, cd_upper) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let words = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_upper, cd_upper),
            _mm512_unpackhi_epi64(ab_upper, cd_upper),
        ];
        for (i, words) in words.into_iter().enumerate() {
            _mm512_storeu_si512(to.add(16 * i).cast(), words);
        }
    }
    #[inline(always)]
    fn halves_bf16(self, words: Self::I) -> [Self::F; 2] {
        has!({
            let upper = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(upper)]
        })
    }
    #[inline(always)]
    unsafe fn transpose_16(self, from: *const u32, from_stride: usize, rows: usize, to: *mut u32, to_stride: usize) {
        let last = rows - 1;
        let used = 0xffff_u16 >> (16 - rows);
        let mut rows = [_mm512_setzero_si512(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            // Where there is no row, any other does.
            *row = _mm512_loadu_si512(from.add(i.min(last) * from_stride).cast());
        }
        // Pairs of rows, then fours, within 128 bits; then the blocks of 128 bits.
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in 0..4 {
            for j in 0..2 {
                fours[4 * i + 2 * j] = _mm512_unpacklo_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
                fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
            }
        }
        for column in 0..4 {
            let [a, b, c, d] = [fours[column], fours[4 + column], fours[8 + column], fours[12 + column]];
            let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
            let (ab_odd, cd_odd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
            let columns = [
                _mm512_shuffle_i32x4::<0x88>(ab, cd),
                _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd),
                _mm512_shuffle_i32x4::<0xdd>(ab, cd),
                _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd),
            ];
            for (block, column_of_block) in columns.into_iter().enumerate() {
                _mm512_mask_storeu_epi32(to.add((4 * block + column) * to_stride).cast(), used, column_of_block);
            }
        }
    }
    #[inline(always)]
    unsafe fn repeat_each(self, from: *const f32, log2: u32) -> Self::F {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let index = _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(log2 as i32));
        _mm512_permutexvar_ps(index, _mm512_loadu_ps(from))
    }
}
