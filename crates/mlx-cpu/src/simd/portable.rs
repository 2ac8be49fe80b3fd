//! Plain Rust, for CPUs without kernels of their own; compilers make vectors of it.

// Every function is one step of arithmetic; those that take pointers hand on their caller's promise.
#![allow(unsafe_op_in_unsafe_fn)]

use std::array::from_fn;

use half::{bf16, f16};

use super::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 8;

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        from.cast::<Self::F>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::F {
        from.cast::<[u16; LANES]>().read_unaligned().map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> Self::F {
        from.cast::<[u16; LANES]>().read_unaligned().map(|x| f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::F {
        from.cast::<[u8; LANES]>().read_unaligned().map(f32::from)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::F) {
        to.cast::<Self::F>().write_unaligned(x);
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, x: Self::F) {
        to.cast::<[u16; LANES]>().write_unaligned(x.map(|x| bf16::from_f32(x).to_bits()));
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, x: Self::F) {
        to.cast::<[u16; LANES]>().write_unaligned(x.map(|x| f16::from_f32(x).to_bits()));
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // Arm always has the fused instruction; where it is missing, `f32::mul_add` is a slow function.
        if cfg!(target_arch = "aarch64") {
            from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn select_le(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        from_fn(|i| if a[i] <= b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn exp2_of_whole(self, x: Self::F) -> Self::F {
        x.map(|x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        // Adding 1.5 · 2^23 leaves no bits for a fraction; exact for what `exp` rounds.
        x.map(|x| (x + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }
    #[inline(always)]
    fn largest(self, x: Self::F) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn zero_words(self) -> Self::I {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u16) -> Self::I {
        from.cast::<Self::I>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store_words(self, to: *mut i16, x: Self::F) {
        to.cast::<[i16; LANES]>().write_unaligned(x.map(|x| x as i16));
    }
    #[inline(always)]
    fn and_words(self, a: Self::I, mask: u16) -> Self::I {
        a.map(|x| x & (i32::from(mask) << 16 | i32::from(mask)))
    }
    #[inline(always)]
    fn shift_words_right<const N: u32>(self, a: Self::I) -> Self::I {
        let kept = i32::from(0xffff_u16 >> N);
        a.map(|x| (x as u32 >> N) as i32 & (kept << 16 | kept))
    }
    #[inline(always)]
    fn dot_words(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I {
        let low = |x: i32| i32::from(x as i16);
        let high = |x: i32| x >> 16;
        from_fn(|i| sum[i] + low(a[i]) * low(b[i]) + high(a[i]) * high(b[i]))
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn splat_pair(self, words: u32) -> Self::I {
        [words as i32; LANES]
    }
    #[inline(always)]
    fn dot_bf16(self, _: Self::F, _: Self::I, _: Self::I) -> Self::F {
        unreachable!("this level has no such instruction")
    }
    #[inline(always)]
    unsafe fn repeat_each(self, from: *const f32, log2: u32) -> Self::F {
        from_fn(|i| *from.add(i >> log2))
    }
}
