//! Kernels against float64, at every level that this CPU has.

#![allow(clippy::unwrap_used)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;
mod attention;
mod gradients;
mod linear;
mod quantize;
mod rest;

use std::cell::Cell;

use mlx_quantized::{Mode, Packed};
use mlx_rs::{Array, Dtype};

use crate::{Level, Scores};

const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16];

/// The levels that this CPU has.
fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| level.is_supported())
}

const fn uncapped(scale: f32) -> Scores {
    Scores { scale, softcap: None }
}

/// Numbers from a normal distribution: others at every call, but the same in every run.
fn random(shape: &[i32], dtype: Dtype) -> Array {
    thread_local! {
        static SEED: Cell<u64> = const { Cell::new(0) };
    }
    let seed = SEED.replace(SEED.get() + 1);
    let key = mlx_rs::random::key(seed).unwrap();
    mlx_rs::random::normal::<f32>(shape, None, None, Some(&key)).unwrap().as_dtype(dtype).unwrap()
}

fn to_f64(array: &Array) -> Vec<f64> {
    array
        .as_dtype(Dtype::Float32)
        .unwrap()
        .contiguous()
        .unwrap()
        .as_slice::<f32>()
        .iter()
        .map(|&x| f64::from(x))
        .collect()
}

/// Distance of `a` to `exact` in units of the length of `exact`.
fn distance(a: &[f64], exact: &[f64]) -> f64 {
    assert_eq!(a.len(), exact.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(exact).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied()).max(1e-30)
}

/// `array` is as near to `exact` as rounding to its type allows, twice that in 16 bits; a single rounding at its worst is
/// always allowed, for few numbers may happen to round to almost themselves.
fn assert_near(array: &Array, exact: &[f64], what: &dyn std::fmt::Debug) {
    let error = distance(&to_f64(array), exact);
    let (rounded, worst): (Vec<f64>, f64) = match array.dtype() {
        Dtype::Bfloat16 => (exact.iter().map(|&x| half::bf16::from_f64(x).to_f64()).collect(), 2_f64.powi(-9)),
        Dtype::Float16 => (exact.iter().map(|&x| half::f16::from_f64(x).to_f64()).collect(), 2_f64.powi(-12)),
        _ => (exact.to_vec(), 3e-6),
    };
    let allowed = (2.0 * distance(&rounded, exact)).max(worst);
    assert!(error <= allowed, "{what:?}: off by {error:.2e}, where {allowed:.2e} is allowed");
}

/// The matrix in float32; MLX computes in the type of the scales.
fn unpacked(packed: &Packed) -> Array {
    let mut packed = packed.clone();
    if packed.mode == Mode::Affine {
        packed.scales = packed.scales.as_dtype(Dtype::Float32).unwrap();
        packed.biases = packed.biases.map(|biases| biases.as_dtype(Dtype::Float32).unwrap());
    }
    packed.dequantize(Dtype::Float32).unwrap()
}
