//! Muon (Jordan et al. 2024): the momentum of a matrix, with all of its singular values brought near 1. As
//! `torch.optim.Muon`, but in float32 throughout. Other parameters go to AdamW, and so do the maps that come first and last, as
//! its authors have it: tables of tokens and positions, pixels to vectors, vectors to logits.

use anyhow::{Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::maximum;
use serde::{Deserialize, Serialize};

use super::{AdamW, At, Rule, check_decay, check_positive, decayed, moving, scaled};

/// Of the polynomial `a x + b x³ + c x⁵`, which takes singular values from (0, 1] to about 0.7 to 1.2 when repeated.
const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
/// Matrices that come first or last, ends of their names.
const OUTER: [&str; 4] =
    ["embed_tokens.weight", "position_embedding.weight", "patch_embedding.weight", "lm_head.weight"];
/// The smallest norm that a matrix is divided by.
const EPS: f32 = 1e-7;

/// Settings of Muon, by default those of `torch.optim.Muon`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Muon {
    /// Decay of the mean of gradients.
    pub momentum: f64,
    /// Whether the gradient is added once more, as Nesterov has it.
    pub nesterov: bool,
    /// Steps of the Newton–Schulz iteration.
    pub iterations: usize,
    /// Of matrices, apart from the gradient.
    pub weight_decay: f64,
    /// Make steps as large as AdamW's with the same learning rate, `0.2 · sqrt(max(rows, columns))` times (Liu et al. 2025,
    /// section 2.2; torch's `match_rms_adamw`). Without it they are `sqrt(max(1, rows / columns))` times the orthogonal
    /// matrix (torch's `original`), which wants a learning rate of its own.
    pub match_rms_adamw: bool,
    /// For all that is no matrix.
    pub adamw: AdamW,
}

impl Default for Muon {
    fn default() -> Self {
        Self {
            momentum: 0.95,
            nesterov: true,
            iterations: 5,
            weight_decay: 0.1,
            match_rms_adamw: false,
            adamw: AdamW::default(),
        }
    }
}

impl Rule for Muon {
    fn check(&self) -> Result<()> {
        check_decay("momentum", self.momentum)?;
        ensure!(self.iterations > 0, "iterations is 0, and must be 1 or more");
        check_positive("weight_decay", self.weight_decay)?;
        self.adamw.check()
    }

    fn slots(&self, path: &str, shape: &[i32]) -> Vec<(&'static str, Vec<i32>)> {
        let is_outer = OUTER.iter().any(|outer| path.ends_with(outer));
        if shape.len() == 2 && !is_outer { vec![("momentum", shape.to_vec())] } else { self.adamw.slots(path, shape) }
    }

    fn update(&self, parameter: &Array, gradient: &Array, slots: &mut [Array], at: At) -> Result<Array, Exception> {
        let [momentum] = slots else { return self.adamw.update(parameter, gradient, slots, at) };
        *momentum = moving(momentum, gradient, self.momentum)?;
        // torch: gradient.lerp(momentum, self.momentum)
        let direction = if self.nesterov { moving(momentum, gradient, self.momentum)? } else { momentum.clone() };
        let (rows, columns) = (f64::from(parameter.dim(0)), f64::from(parameter.dim(1)));
        let adjusted = match self.match_rms_adamw {
            true => 0.2 * rows.max(columns).sqrt(),
            false => (rows / columns).max(1.0).sqrt(),
        };
        let rate = at.learning_rate * adjusted;
        let update = scaled(&orthogonalized(&direction, self.iterations)?, rate)?;
        decayed(parameter, self.weight_decay, at)?.subtract(update)
    }
}

/// `U S' Vᵀ` for the matrix `U S Vᵀ`, with the numbers of `S'` near 1: Newton–Schulz on the side that is the shorter.
fn orthogonalized(matrix: &Array, iterations: usize) -> Result<Array, Exception> {
    let (a, b, c) = COEFFICIENTS;
    let tall = matrix.dim(0) > matrix.dim(1);
    let norm = matrix.square()?.sum(None)?.sqrt()?;
    let mut x = if tall { matrix.t() } else { matrix.clone() }.divide(maximum(norm, Array::from_f32(EPS))?)?;
    for _ in 0..iterations {
        let gram = x.matmul(x.t())?;
        let polynomial = scaled(&gram, b)?.add(scaled(&gram.matmul(&gram)?, c)?)?;
        x = scaled(&x, a)?.add(polynomial.matmul(&x)?)?;
    }
    Ok(if tall { x.t() } else { x })
}
