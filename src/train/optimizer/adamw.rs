//! AdamW (Loshchilov & Hutter 2019, algorithm 2), with Adam's correction of the moments' bias.

use anyhow::Result;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use serde::{Deserialize, Serialize};

use super::{At, Rule, check_decay, check_positive, decayed, moving, scaled};

/// Settings of AdamW, by default those of `torch.optim.AdamW`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamW {
    /// Decay of the mean of gradients, β₁.
    pub beta1: f64,
    /// Decay of the mean of their squares, β₂.
    pub beta2: f64,
    /// What is added to the denominator, ε.
    pub eps: f64,
    /// λ.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

impl Rule for AdamW {
    fn check(&self) -> Result<()> {
        check_decay("beta1", self.beta1)?;
        check_decay("beta2", self.beta2)?;
        check_positive("eps", self.eps)?;
        check_positive("weight_decay", self.weight_decay)
    }

    fn slots(&self, _path: &str, shape: &[i32]) -> Vec<(&'static str, Vec<i32>)> {
        vec![("m", shape.to_vec()), ("v", shape.to_vec())]
    }

    fn update(&self, parameter: &Array, gradient: &Array, slots: &mut [Array], at: At) -> Result<Array, Exception> {
        let [m, v] = slots else { unreachable!("a parameter has the slots that its rule names") };
        *m = moving(m, gradient, self.beta1)?;
        *v = moving(v, &gradient.square()?, self.beta2)?;
        let correction = |beta: f64| 1.0 - beta.powf(at.step.into());
        let denominator =
            scaled(&v.sqrt()?, 1.0 / correction(self.beta2).sqrt())?.add(Array::from_f32(self.eps as f32))?;
        let update = scaled(m, at.learning_rate / correction(self.beta1))?.divide(denominator)?;
        decayed(parameter, self.weight_decay, at)?.subtract(update)
    }
}
