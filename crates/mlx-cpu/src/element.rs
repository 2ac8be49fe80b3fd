//! The floating-point types of arrays; kernels compute in float32.

use crate::simd::Simd;
use crate::view::Plain;
use half::{bf16, f16};

/// A floating-point type of array elements.
pub(crate) trait Element: Plain {
    const ZERO: Self;
    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
    /// # Safety
    /// `S::LANES` elements lie at `from`.
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F;
    /// # Safety
    /// `S::LANES` elements have room at `to`.
    unsafe fn store<S: Simd>(s: S, to: *mut Self, x: S::F);
}

macro_rules! element {
    ($type:ty, $zero:expr, $to:expr, $from:expr, $load:ident, $store:ident) => {
        impl Element for $type {
            const ZERO: Self = $zero;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                $from(x)
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F {
                // SAFETY: by the caller's promise; the half crate's types are their 16 bits.
                unsafe { s.$load(from.cast()) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(s: S, to: *mut Self, x: S::F) {
                // SAFETY: as above.
                unsafe { s.$store(to.cast(), x) }
            }
        }
    };
}

const fn same(x: f32) -> f32 {
    x
}

element!(f32, 0.0, same, same, load, store);
element!(bf16, bf16::ZERO, bf16::to_f32, bf16::from_f32, load_bf16, store_bf16);
element!(f16, f16::ZERO, f16::to_f32, f16::from_f32, load_f16, store_f16);

/// Calls `$body` with the type alias `$T` for the element type of `$dtype`, which was checked before.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            mlx_rs::Dtype::Float32 => {
                type $T = f32;
                $body
            }
            mlx_rs::Dtype::Bfloat16 => {
                type $T = half::bf16;
                $body
            }
            mlx_rs::Dtype::Float16 => {
                type $T = half::f16;
                $body
            }
            other => unreachable!("kernels take floats, not {other:?}"),
        }
    };
}
pub(crate) use with_element;

/// `x`, as far as it goes, in `S::LANES` lanes; zeros after it.
#[inline(always)]
pub(crate) fn load_part<S: Simd, T: Element>(s: S, x: &[T]) -> S::F {
    if x.len() >= S::LANES {
        // SAFETY: as long as checked.
        return unsafe { T::load(s, x.as_ptr()) };
    }
    let mut all = [T::ZERO; 16];
    all[..x.len()].copy_from_slice(x);
    // SAFETY: no set has more than 16 lanes.
    unsafe { T::load(s, all.as_ptr()) }
}

/// The lanes of `x` that fit into `to`.
#[inline(always)]
pub(crate) fn store_part<S: Simd, T: Element>(s: S, to: &mut [T], x: S::F) {
    if to.len() >= S::LANES {
        // SAFETY: as long as checked.
        return unsafe { T::store(s, to.as_mut_ptr(), x) };
    }
    let mut all = [T::ZERO; 16];
    // SAFETY: no set has more than 16 lanes.
    unsafe { T::store(s, all.as_mut_ptr(), x) };
    to.copy_from_slice(&all[..to.len()]);
}
