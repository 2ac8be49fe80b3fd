//! Normalisation over the last axis.

use mlx_rs::error::Result;
use mlx_rs::{Array, fast};

use crate::checkpoint::Scope;
use crate::device::on_cpu;

/// `x / sqrt(mean(x²) + eps) · weight` (Zhang and Sennrich 2019, equation 4).
pub struct RmsNorm {
    weight: Array,
    eps: f32,
}

impl RmsNorm {
    /// For vectors of `size` elements.
    pub fn load(w: &Scope, size: i32, eps: f32) -> Self {
        Self { weight: w.get("weight", &[size]), eps }
    }

    /// For weights that are stored less one.
    pub fn add_one(&mut self) -> Result<()> {
        self.weight = self.weight.add(Array::from_f32(1.0).as_dtype(self.weight.dtype())?)?;
        Ok(())
    }

    /// `[.., size] -> [.., size]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if on_cpu() {
            return mlx_cpu::rms_norm(x, &self.weight, self.eps);
        }
        fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}

/// `(x - mean(x)) / sqrt(var(x) + eps) · weight + bias` (Ba, Kiros and Hinton 2016, equation 4).
pub struct LayerNorm {
    weight: Array,
    bias: Array,
    eps: f32,
}

impl LayerNorm {
    /// For vectors of `size` elements.
    pub fn load(w: &Scope, size: i32, eps: f32) -> Self {
        Self { weight: w.get("weight", &[size]), bias: w.get("bias", &[size]), eps }
    }

    /// `[.., size] -> [.., size]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if on_cpu() {
            return mlx_cpu::layer_norm(x, &self.weight, &self.bias, self.eps);
        }
        fast::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}
