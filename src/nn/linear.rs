//! Linear maps and embedding tables, over plain or quantized weights.

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};

use super::add;
use super::lora::Lora;
use super::weight::Weight;
use crate::checkpoint::weights::Tap;
use crate::checkpoint::{Param, Scope};

/// `y = x · weightᵀ + bias`.
pub struct Linear {
    weight: Weight,
    bias: Option<Param>,
    tap: Option<Tap>,
    loras: Vec<Lora>,
}

impl Linear {
    /// A map without bias.
    pub fn load(w: &Scope, input: i32, output: i32) -> Self {
        let weight = Weight::load(w, input, output);
        let loras = Lora::load(w, &weight, input, output).unwrap_or_else(|e| {
            w.complain(&e);
            Vec::new()
        });
        Self { weight, bias: None, tap: w.tap(), loras }
    }

    /// A map with bias.
    pub fn load_with_bias(w: &Scope, input: i32, output: i32) -> Self {
        Self { bias: Some(w.param("bias", &[output])), ..Self::load(w, input, output) }
    }

    /// With a bias where the checkpoint has one, which is `expected` of checkpoints as published.
    pub fn load_with_optional_bias(w: &Scope, input: i32, output: i32, expected: bool) -> Self {
        if w.has("bias", expected) { Self::load_with_bias(w, input, output) } else { Self::load(w, input, output) }
    }

    /// A map whose matrix `[output, ..]` is a tensor of more axes, which are flattened: a convolution whose patches do
    /// not overlap.
    pub fn load_patches(w: &Scope, shape: &[i32]) -> Result<Self> {
        let weight = w.get("weight", shape).reshape(&[shape[0], -1])?;
        Ok(Self { weight: Weight::Plain(w.register("weight", weight)), bias: None, tap: None, loras: Vec::new() })
    }

    /// `[.., input] -> [.., output]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if let Some(tap) = &self.tap {
            tap.see(x)?;
        }
        let bias = self.bias.as_ref().map(Param::get);
        if self.loras.is_empty() {
            return self.weight.apply(x, bias.as_deref());
        }
        let base = self.weight.apply(x, None)?;
        let mut y = base.clone();
        for lora in &self.loras {
            y = add(&y, &lora.change(x, &base, &self.weight)?)?;
        }
        match bias {
            Some(bias) => y.add(&*bias),
            None => Ok(y),
        }
    }

    /// The type it computes in.
    pub fn dtype(&self) -> Dtype {
        self.weight.dtype()
    }
}
