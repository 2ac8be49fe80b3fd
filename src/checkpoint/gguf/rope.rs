//! Llama 3's scaling of the rotation. Configurations give its parameters, GGUF files the factor of each pair's wavelength.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// `rope_scaling` of Llama 3.
#[derive(Debug, Clone, Copy)]
pub(super) struct Llama3 {
    pub factor: f64,
    pub low: f64,
    pub high: f64,
    /// `original_max_position_embeddings`
    pub context: f64,
}

impl Llama3 {
    /// The factors of the wavelengths `theta^(2 i / dims)`, `[dims / 2]`.
    /// Reference: llama.cpp conversion/llama.py, generate_extra_tensors.
    pub(super) fn factors(self, theta: f64, dims: usize) -> Vec<f32> {
        let pairs = (0..dims / 2).map(|pair| theta.powf((2 * pair) as f64 / dims as f64));
        let factors = pairs.map(|wavelength| {
            let turns = self.context / (2.0 * std::f64::consts::PI * wavelength);
            if turns > self.high {
                1.0
            } else if turns < self.low {
                self.factor
            } else {
                let smooth = (turns - self.low) / (self.high - self.low);
                1.0 / ((1.0 - smooth) / self.factor + smooth)
            }
        });
        factors.map(|factor| factor as f32).collect()
    }

    /// The scaling with these factors; none where all are 1.
    ///
    /// Only the factors matter to a model. So any parameters that give them are right: Llama's own 1 and 4 with the power
    /// of two that fits, which is that of the original for published models.
    pub(super) fn of(factors: &[f32], theta: f64) -> Result<Option<Self>> {
        if factors.iter().all(|&factor| factor == 1.0) {
            return Ok(None);
        }
        let factor = factors.iter().copied().fold(1.0, f32::max).into();
        let fits = |scaling: &Self| {
            let pairs = scaling.factors(theta, 2 * factors.len()).into_iter().zip(factors);
            // The original was computed in float32.
            pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-4 * b)
        };
        let contexts = (2..31).map(|log2| Self { factor, low: 1.0, high: 4.0, context: f64::from(1 << log2) });
        match contexts.into_iter().find(fits) {
            Some(scaling) => Ok(Some(scaling)),
            None => bail!("rope_freqs.weight does not hold the factors of Llama 3's scaling, the only one supported"),
        }
    }

    pub(super) fn json(self) -> Value {
        json!({
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low,
            "high_freq_factor": self.high,
            "original_max_position_embeddings": self.context as u64,
        })
    }
}
