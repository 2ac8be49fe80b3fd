//! Lion (Chen et al. 2023, algorithm 2): every number changes by the learning rate, or not at all.

use anyhow::Result;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::sign;
use serde::{Deserialize, Serialize};

use super::{At, Rule, check_decay, check_positive, decayed, moving, scaled};

/// Settings of Lion, by default the paper's. Its learning rate is to be 3 to 10 times smaller than AdamW's, its weight decay
/// as many times larger (section 5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lion {
    /// Weight of the momentum in the change, β₁.
    pub beta1: f64,
    /// Decay of the momentum, β₂.
    pub beta2: f64,
    /// λ.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

impl Rule for Lion {
    fn check(&self) -> Result<()> {
        check_decay("beta1", self.beta1)?;
        check_decay("beta2", self.beta2)?;
        check_positive("weight_decay", self.weight_decay)
    }

    fn slots(&self, _path: &str, shape: &[i32]) -> Vec<(&'static str, Vec<i32>)> {
        vec![("m", shape.to_vec())]
    }

    fn update(&self, parameter: &Array, gradient: &Array, slots: &mut [Array], at: At) -> Result<Array, Exception> {
        let [m] = slots else { unreachable!("a parameter has the slots that its rule names") };
        let direction = sign(moving(m, gradient, self.beta1)?)?;
        *m = moving(m, gradient, self.beta2)?;
        decayed(parameter, self.weight_decay, at)?.subtract(scaled(&direction, at.learning_rate)?)
    }
}
