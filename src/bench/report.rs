//! What was measured, as files keep it, and what became of it since.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Point, Settings};

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
    /// Operations in a large product of bfloat16 matrices, the best of several runs.
    pub flops_per_second: f64,
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
}

/// What was found at one point of a sweep.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PointReport {
    /// The point.
    #[serde(flatten)]
    pub point: Point,
    /// Positions that its pictures take, all together.
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
    /// A picture's file to tiles: 3 megapixels of JPEG.
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
        if self >= Self::Prefill { "tokens/s" } else { "pictures/s" }
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
    /// Pictures or tokens, of all rows.
    pub count: usize,
    /// What they take.
    pub seconds: Spread,
    /// Pictures or tokens of all rows in a second.
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
    /// Of so many pictures or tokens, by the seconds of each repetition.
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

/// The phase that lost the most.
#[derive(Debug, Clone, PartialEq)]
pub struct Regression {
    /// Where.
    pub point: Point,
    /// Of what.
    pub phase: PhaseName,
    /// Per second, before.
    pub before: f64,
    /// Per second, now.
    pub now: f64,
}

impl Report {
    /// An error unless figures of the baseline can be held against those of this machine and model.
    pub fn check_baseline(&self, baseline: &Self) -> Result<()> {
        let machine = |m: &Machine| {
            let threads = m.threads.map(|threads| format!(", {threads} threads")).unwrap_or_default();
            let instructions = m.instructions.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
            format!("{}{instructions}{threads}", m.device)
        };
        let model = |m: &ModelFigures| format!("{} parameters in {} bytes", m.parameters, m.weight_bytes);
        let settings = |s: &Settings| {
            let bits = s.kv_bits.map_or("plain".into(), |bits| format!("{bits}-bit"));
            format!("steps of {} positions and {bits} keys and values", s.prefill_step_size)
        };
        for (before, now) in [
            (machine(&baseline.machine), machine(&self.machine)),
            (model(&baseline.model), model(&self.model)),
            (settings(&baseline.settings), settings(&self.settings)),
        ] {
            ensure!(
                before == now,
                "the baseline was measured with {before}, and this is {now}: they cannot be compared"
            );
        }
        Ok(())
    }

    /// Notes how speeds changed since the baseline. The phase that lost the most, of those that lost more than the share
    /// `most` and whose values all lie below all of the baseline's.
    pub fn compare(&mut self, baseline: &Self, most: f64) -> Option<Regression> {
        let mut worst: Option<(f64, Regression)> = None;
        for PointReport { point, phases, .. } in &mut self.points {
            let Some(before) = baseline.points.iter().find(|before| before.point == *point) else { continue };
            for (&name, phase) in phases {
                let Some(before) = before.phases.get(&name).map(|phase| phase.per_second) else { continue };
                let now = phase.per_second;
                let change = now.median / before.median - 1.0;
                phase.change = Some(change);
                let lost = change < -most && now.max < before.min;
                if lost && worst.as_ref().is_none_or(|(worst, _)| change < *worst) {
                    let (before, now) = (before.median, now.median);
                    worst = Some((change, Regression { point: *point, phase: name, before, now }));
                }
            }
        }
        worst.map(|(_, regression)| regression)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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

    fn report(points: &[(usize, [f64; 3])]) -> Report {
        let machine = Machine {
            device: "CPU".into(),
            instructions: Some("avx2".into()),
            threads: Some(2),
            bytes_per_second: 1.0,
            flops_per_second: 1.0,
        };
        let model =
            ModelFigures { name: "m".into(), random: true, parameters: 8, weight_bytes: 8, bits_per_weight: 8.0 };
        let settings = Settings { repetitions: 3, warmup: 0, prefill_step_size: 512, kv_bits: None };
        let point = |&(prompt_tokens, seconds): &(usize, [f64; 3])| PointReport {
            point: Point { prompt_tokens, gen_tokens: 8, batch: 1, images: 0, num_crops: None, depth: 0 },
            image_tokens: 0,
            peak_memory_bytes: 0,
            phases: [(PhaseName::Prefill, Phase::new(10, &seconds)), (PhaseName::Decode, Phase::new(10, &[1.0]))]
                .into(),
        };
        let points = points.iter().map(point).collect();
        Report { version: "1".into(), machine, model, settings, points }
    }

    #[test]
    fn the_worst_loss_is_found_where_spreads_are_apart() {
        let before = report(&[(1, [1.0, 1.1, 1.2]), (2, [1.0, 1.1, 1.2]), (3, [1.0, 1.0, 1.0])]);
        let regression = |seconds: [[f64; 3]; 2], most| {
            let mut now = report(&[(1, seconds[0]), (2, seconds[1]), (4, [99.0; 3])]);
            let found = now.compare(&before, most).map(|found| (found.point.prompt_tokens, found.phase));
            assert!(now.points[0].phases[&PhaseName::Prefill].change.is_some());
            assert!(now.points[2].phases[&PhaseName::Prefill].change.is_none());
            found
        };
        let same = [1.0, 1.1, 1.2];
        assert_eq!(regression([same, same], 0.1), None);
        assert_eq!(regression([[1.3, 1.3, 1.3], [1.4, 1.5, 1.6]], 0.1), Some((2, PhaseName::Prefill)));
        // Not more than allowed, and with one repetition as quick as before.
        assert_eq!(regression([[1.3, 1.3, 1.3], same], 0.2), None);
        assert_eq!(regression([[1.15, 1.5, 1.6], same], 0.1), None);
    }

    #[test]
    fn other_machines_models_and_settings_are_no_baseline() {
        let (now, before) = (report(&[]), report(&[]));
        now.check_baseline(&before).unwrap();
        let refused = |change: &dyn Fn(&mut Report), part: &str| {
            let mut before = before.clone();
            change(&mut before);
            let error = now.check_baseline(&before).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(&|report| report.machine.threads = Some(3), "CPU, avx2, 3 threads, and this is CPU, avx2, 2 threads");
        refused(&|report| report.model.weight_bytes = 9, "8 parameters in 9 bytes");
        refused(&|report| report.settings.kv_bits = Some(4), "4-bit keys and values");
        // A better moment is no other machine, and a name no other model.
        let mut before = before.clone();
        (before.machine.bytes_per_second, before.model.name) = (2.0, "n".into());
        now.check_baseline(&before).unwrap();
    }
}
