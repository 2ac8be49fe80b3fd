//! Normalisation over the last axis.

use mlx_rs::error::Result;
use mlx_rs::{Array, fast};

use crate::checkpoint::{Param, Scope};
use crate::device::on_cpu;

/// `x / sqrt(mean(x²) + eps) · weight` (Zhang and Sennrich 2019, equation 4).
pub struct RmsNorm {
    weight: Param,
    /// Whether the weight is stored less one.
    less_one: bool,
    eps: f32,
}

impl RmsNorm {
    /// For vectors of `size` elements.
    pub fn load(w: &Scope, size: i32, eps: f32) -> Self {
        Self { weight: w.param("weight", &[size]), less_one: false, eps }
    }

    /// The same, with the weight stored less one.
    pub fn load_less_one(w: &Scope, size: i32, eps: f32) -> Self {
        Self { less_one: true, ..Self::load(w, size, eps) }
    }

    /// `[.., size] -> [.., size]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let weight = self.weight.get();
        let weight = match self.less_one {
            true => &weight.add(Array::from_f32(1.0).as_dtype(weight.dtype())?)?,
            false => &*weight,
        };
        if on_cpu() { mlx_cpu::rms_norm(x, weight, self.eps) } else { fast::rms_norm(x, Some(weight), self.eps) }
    }
}

/// `(x - mean(x)) / sqrt(var(x) + eps) · weight + bias` (Ba, Kiros and Hinton 2016, equation 4).
pub struct LayerNorm {
    weight: Param,
    bias: Param,
    eps: f32,
}

impl LayerNorm {
    /// For vectors of `size` elements.
    pub fn load(w: &Scope, size: i32, eps: f32) -> Self {
        Self { weight: w.param("weight", &[size]), bias: w.param("bias", &[size]), eps }
    }

    /// `[.., size] -> [.., size]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let (weight, bias) = (&*self.weight.get(), &*self.bias.get());
        if on_cpu() {
            mlx_cpu::layer_norm(x, weight, bias, self.eps)
        } else {
            fast::layer_norm(x, weight, bias, self.eps)
        }
    }
}
