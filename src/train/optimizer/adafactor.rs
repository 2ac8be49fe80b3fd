//! Adafactor (Shazeer & Stern 2018, algorithms 4 and 5): of a matrix' second moments only the means of rows and columns are
//! kept. With a given learning rate, as transformers' `Adafactor(scale_parameter=False, relative_step=False)`.

use anyhow::{Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::maximum;
use serde::{Deserialize, Serialize};

use super::{At, Rule, check_positive, decayed, moving, scaled};

/// What is added to squares of gradients, ε₁.
const EPS: f32 = 1e-30;

/// Settings of Adafactor, by default the paper's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adafactor {
    /// Root of the mean square above which a change is scaled down, d.
    pub clip_threshold: f64,
    /// The second moments of step `t` decay by `1 − t^decay_rate`.
    pub decay_rate: f64,
    /// Apart from the gradient, as in AdamW.
    pub weight_decay: f64,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self { clip_threshold: 1.0, decay_rate: -0.8, weight_decay: 0.0 }
    }
}

impl Rule for Adafactor {
    fn check(&self) -> Result<()> {
        let Self { clip_threshold, decay_rate, weight_decay } = *self;
        ensure!(clip_threshold > 0.0, "clip_threshold is {clip_threshold}, and must be above 0");
        ensure!(decay_rate < 0.0, "decay_rate is {decay_rate}, and must be below 0");
        check_positive("weight_decay", weight_decay)
    }

    fn slots(&self, _path: &str, shape: &[i32]) -> Vec<(&'static str, Vec<i32>)> {
        match shape {
            [outer @ .., rows, columns] => {
                vec![("row", [outer, &[*rows]].concat()), ("column", [outer, &[*columns]].concat())]
            }
            _ => vec![("v", shape.to_vec())],
        }
    }

    fn update(&self, parameter: &Array, gradient: &Array, slots: &mut [Array], at: At) -> Result<Array, Exception> {
        let decay = 1.0 - f64::from(at.step).powf(self.decay_rate);
        let squares = gradient.square()?.add(Array::from_f32(EPS))?;
        let inverse_root = match slots {
            [row, column] => {
                *row = moving(row, &squares.mean_axis(-1, None)?, decay)?;
                *column = moving(column, &squares.mean_axis(-2, None)?, decay)?;
                factored_inverse_root(row, column)?
            }
            [v] => {
                *v = moving(v, &squares, decay)?;
                v.rsqrt()?
            }
            _ => unreachable!("a parameter has the slots that its rule names"),
        };
        let update = gradient.multiply(inverse_root)?;
        let excess = scaled(&update.square()?.mean(None)?.sqrt()?, 1.0 / self.clip_threshold)?;
        let update = update.divide(maximum(excess, Array::from_f32(1.0))?)?;
        decayed(parameter, self.weight_decay, at)?.subtract(scaled(&update, at.learning_rate)?)
    }
}

/// `1 / √v` for `v = row · column / mean(row)`, `[.., rows, columns]`.
fn factored_inverse_root(row: &Array, column: &Array) -> Result<Array, Exception> {
    let row = row.divide(row.mean_axis(-1, true)?)?.rsqrt()?;
    row.expand_dims(-1)?.multiply(column.rsqrt()?.expand_dims(-2)?)
}
