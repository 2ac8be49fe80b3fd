//! What was measured, as files keep it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Point, Settings};
use crate::checkpoint::quantization::QuantizedAs;

/// Figures of one model on one machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Of this program.
    pub version: String,
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured.
    pub model: ModelFigures,
    /// How it was measured.
    pub settings: Settings,
    /// What was found.
    pub points: Vec<PointReport>,
}

/// A machine, and what it can do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Its processor.
    pub device: String,
    /// The instructions that kernels use, of a CPU.
    pub instructions: Option<String>,
    /// Threads that compute, of a CPU.
    pub threads: Option<usize>,
    /// Memory that all threads together read, the best of several runs.
    pub bytes_per_second: f64,
    /// Operations in a large product of matrices of the model's type, the best of several runs.
    pub flops_per_second: f64,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let instructions = self.instructions.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
        let threads = self.threads.map(|threads| format!(", {threads} threads")).unwrap_or_default();
        write!(f, "{}{instructions}{threads}", self.device)
    }
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFigures {
    /// As the user named it.
    pub name: String,
    /// Whether its numbers are random.
    pub random: bool,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub weight_bytes: usize,
    /// Bits for each number, scales and biases included.
    pub bits_per_weight: f64,
    /// The type of the numbers that are not packed, in which it computes.
    pub dtype: String,
    /// How most matrices are packed.
    pub quantization: Option<QuantizedAs>,
    /// What is attached to it: part of what is measured, but not of the figures above, nor of shares.
    pub adapters: Vec<AdapterFigures>,
}

/// An adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterFigures {
    /// As the user named it.
    pub name: String,
    /// Its numbers.
    pub parameters: u64,
}

impl ModelFigures {
    /// The types of its numbers.
    pub fn types(&self) -> String {
        let packed = self.quantization.map(|QuantizedAs { group_size, bits, mode }| {
            format!("{mode:?} with {bits} bits in groups of {group_size}, ").to_lowercase()
        });
        packed.unwrap_or_default() + &self.dtype
    }
}

/// What was found at one point of a sweep.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PointReport {
    /// The point.
    #[serde(flatten)]
    pub point: Point,
    /// Positions that its images take, all together.
    pub image_tokens: usize,
    /// The most memory that the process had.
    pub peak_memory_bytes: usize,
    /// What was measured there.
    pub phases: BTreeMap<PhaseName, Phase>,
}

/// What is measured apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// An image's file to tiles: 3 megapixels of JPEG.
    ImageDecode,
    /// Tiles to features: the vision tower.
    Encoder,
    /// Features to vectors of the prompt.
    Projector,
    /// Prompt to the first logits.
    Prefill,
    /// Token by token.
    Decode,
}

impl PhaseName {
    /// What is counted.
    pub fn unit(self) -> &'static str {
        if self >= Self::Prefill { "tokens/s" } else { "images/s" }
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::ImageDecode => "image decode",
            Self::Encoder => "encoder",
            Self::Projector => "projector",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        })
    }
}

/// A phase's figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// Images or tokens, of all rows.
    pub count: usize,
    /// What they take.
    pub seconds: Spread,
    /// Images or tokens of all rows in a second.
    pub per_second: Spread,
    /// Tokens of one row in a second: the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second_and_row: Option<f64>,
    /// The median's share of what the machine can do: of its compute in prefill, of its bandwidth in decode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The median speed over that of the baseline, less one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<f64>,
}

impl Phase {
    /// Of so many images or tokens, by the seconds of each repetition.
    pub(super) fn new(count: usize, seconds: &[f64]) -> Self {
        let rates: Vec<f64> = seconds.iter().map(|seconds| count as f64 / seconds).collect();
        let (seconds, per_second) = (Spread::of(seconds), Spread::of(&rates));
        Self { count, seconds, per_second, per_second_and_row: None, share: None, change: None }
    }
}

/// Where the values of repetitions lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of them are below; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Median of the distances from the median.
    pub median_deviation: f64,
}

impl Spread {
    /// Of values, at least one.
    pub fn of(values: &[f64]) -> Self {
        let middle = median(values);
        let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
        Self {
            median: middle,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            median_deviation: median(&distances),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        let spread = Spread::of(&[5.0, 1.0, 4.0]);
        assert_eq!((spread.median, spread.min, spread.max, spread.median_deviation), (4.0, 1.0, 5.0, 1.0));
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0, 10.0]).median, 2.5);
        assert_eq!(Spread::of(&[7.0]), Spread { median: 7.0, min: 7.0, max: 7.0, median_deviation: 0.0 });
        let phase = Phase::new(10, &[2.0, 1.0, 4.0]);
        assert_eq!((phase.seconds.median, phase.per_second.median), (2.0, 5.0));
        assert_eq!((phase.per_second.min, phase.per_second.max), (2.5, 10.0));
    }
}
