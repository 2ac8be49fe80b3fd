//! Activations, of MLX's plain operations: the fused ones of mlx-rs need a C++ compiler at run time on a CPU.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{erf, sigmoid};

/// `x · sigmoid(x)` (Elfwing, Uchibe and Doya 2017).
pub fn silu(x: &Array) -> Result<Array> {
    x.multiply(sigmoid(x)?)
}

/// `x · Φ(x)` with the exact distribution function (Hendrycks and Gimpel 2016, equation 1).
pub fn gelu(x: &Array) -> Result<Array> {
    let half = x.multiply(scalar(0.5, x)?)?;
    let scaled = x.multiply(scalar(std::f32::consts::FRAC_1_SQRT_2, x)?)?;
    half.multiply(erf(scaled)?.add(scalar(1.0, x)?)?)
}

/// `x · sigmoid(1.702 · x)` (Hendrycks and Gimpel 2016, section 2).
pub fn quick_gelu(x: &Array) -> Result<Array> {
    x.multiply(sigmoid(x.multiply(scalar(1.702, x)?)?)?)
}

/// A number of the type of `like`, so that nothing is promoted.
fn scalar(value: f32, like: &Array) -> Result<Array> {
    Array::from_f32(value).as_dtype(like.dtype())
}
