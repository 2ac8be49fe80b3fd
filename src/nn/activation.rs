//! Activations and sums, element by element. On a GPU of MLX's plain operations: the fused ones of mlx-rs need a C++
//! compiler at run time.

use mlx_cpu::Activation;
use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{erf, sigmoid};

use crate::device::on_cpu;

/// `a + b`, of the same shape and type.
pub fn add(a: &Array, b: &Array) -> Result<Array> {
    if on_cpu() { mlx_cpu::add(a, b) } else { a.add(b) }
}

/// `silu(gate) · up` with `silu(x) = x · sigmoid(x)` (Shazeer 2020).
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    if on_cpu() { mlx_cpu::gated(Activation::Silu, gate, up) } else { gate.multiply(sigmoid(gate)?)?.multiply(up) }
}

/// `gelu(gate) · up` with the approximation of `gelu` by a hyperbolic tangent (Hendrycks and Gimpel 2016, section 2).
pub fn geglu(gate: &Array, up: &Array) -> Result<Array> {
    if on_cpu() {
        return mlx_cpu::gated(Activation::GeluTanh, gate, up);
    }
    // tanh(a) = 2 · sigmoid(2 a) - 1
    let cubic = gate.multiply(gate)?.multiply(scalar(0.044_715, gate)?)?.add(scalar(1.0, gate)?)?;
    let argument = gate.multiply(cubic)?.multiply(scalar(2.0 * (2.0 / std::f32::consts::PI).sqrt(), gate)?)?;
    gate.multiply(sigmoid(argument)?)?.multiply(up)
}

/// `x · Φ(x)` with the exact distribution function (Hendrycks and Gimpel 2016, equation 1).
pub fn gelu(x: &Array) -> Result<Array> {
    if on_cpu() {
        return mlx_cpu::activation(Activation::Gelu, x);
    }
    let half = x.multiply(scalar(0.5, x)?)?;
    let scaled = x.multiply(scalar(std::f32::consts::FRAC_1_SQRT_2, x)?)?;
    half.multiply(erf(scaled)?.add(scalar(1.0, x)?)?)
}

/// `x · sigmoid(1.702 · x)` (Hendrycks and Gimpel 2016, section 2).
pub fn quick_gelu(x: &Array) -> Result<Array> {
    if on_cpu() {
        return mlx_cpu::activation(Activation::QuickGelu, x);
    }
    x.multiply(sigmoid(x.multiply(scalar(1.702, x)?)?)?)
}

/// A number of the type of `like`, so that nothing is promoted.
fn scalar(value: f32, like: &Array) -> Result<Array> {
    Array::from_f32(value).as_dtype(like.dtype())
}
