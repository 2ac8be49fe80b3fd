//! Stochastic gradient descent with momentum (Sutskever et al. 2013) as `torch.optim.SGD` has it: the learning rate scales
//! the momentum as a whole, and weight decay is part of the gradient.

use anyhow::{Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use serde::{Deserialize, Serialize};

use super::{At, Rule, check_decay, check_positive, scaled};

/// Settings of SGD, by default without any extra.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sgd {
    /// Share of the last change that is kept; 0 for none, which takes no memory.
    pub momentum: f64,
    /// Whether the gradient is added once more, as Nesterov has it.
    pub nesterov: bool,
    /// Share of the parameter that is added to its gradient.
    pub weight_decay: f64,
}

impl Rule for Sgd {
    fn check(&self) -> Result<()> {
        check_decay("momentum", self.momentum)?;
        ensure!(!self.nesterov || self.momentum > 0.0, "nesterov needs a momentum, as 0.9");
        check_positive("weight_decay", self.weight_decay)
    }

    fn slots(&self, _path: &str, shape: &[i32]) -> Vec<(&'static str, Vec<i32>)> {
        if self.momentum > 0.0 { vec![("momentum", shape.to_vec())] } else { Vec::new() }
    }

    fn update(&self, parameter: &Array, gradient: &Array, slots: &mut [Array], at: At) -> Result<Array, Exception> {
        let mut change = gradient.clone();
        if self.weight_decay > 0.0 {
            change = change.add(scaled(parameter, self.weight_decay)?)?;
        }
        if let [momentum] = slots {
            *momentum = scaled(momentum, self.momentum)?.add(&change)?;
            change = if self.nesterov { change.add(scaled(momentum, self.momentum)?)? } else { momentum.clone() };
        }
        parameter.subtract(scaled(&change, at.learning_rate)?)
    }
}
