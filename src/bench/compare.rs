//! A report held against an earlier one.

use anyhow::{Result, ensure};

use super::report::{ModelFigures, Phase, PhaseName, PointReport, Report, Spread};
use super::{Point, Settings};

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
    /// An error unless all speeds are such.
    pub fn check(&self) -> Result<()> {
        for PointReport { point, phases, .. } in &self.points {
            for (name, Phase { per_second: Spread { median, min, max, .. }, .. }) in phases {
                for speed in [median, min, max] {
                    ensure!(
                        speed.is_finite() && *speed > 0.0,
                        "the speed of {name} cannot be {speed} {} ({point}): the file is damaged",
                        name.unit()
                    );
                }
            }
        }
        Ok(())
    }

    /// An error unless figures of the baseline can be held against those of this machine and model.
    pub fn check_baseline(&self, baseline: &Self) -> Result<()> {
        let model = |m: &ModelFigures| {
            let adapters = m.adapters.iter().map(|adapter| format!(", an adapter of {}", adapter.parameters));
            let adapters: String = adapters.collect();
            format!("{} parameters in {} bytes ({}){adapters}", m.parameters, m.weight_bytes, m.types())
        };
        let settings = |s: &Settings| {
            let bits = s.kv_bits.map_or("plain".into(), |bits| format!("{bits}-bit"));
            format!("steps of {} positions and {bits} keys and values", s.prefill_step_size)
        };
        for (before, now) in [
            (baseline.machine.to_string(), self.machine.to_string()),
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
    use mlx_quantized::Mode;

    use super::*;
    use crate::bench::report::{AdapterFigures, Machine};
    use crate::checkpoint::quantization::QuantizedAs;

    fn report(points: &[(usize, [f64; 3])]) -> Report {
        let machine = Machine {
            device: "CPU".into(),
            instructions: Some("avx2".into()),
            threads: Some(2),
            bytes_per_second: 1.0,
            flops_per_second: 1.0,
        };
        let model = ModelFigures {
            name: "m".into(),
            random: true,
            parameters: 8,
            weight_bytes: 8,
            bits_per_weight: 8.0,
            dtype: "bfloat16".into(),
            quantization: None,
            adapters: vec![AdapterFigures { name: "a".into(), parameters: 5 }],
        };
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
    fn what_cannot_be_a_speed_is_refused() {
        let mut damaged = report(&[(1, [1.0, 1.1, 1.2])]);
        damaged.check().unwrap();
        for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            damaged.points[0].phases.get_mut(&PhaseName::Decode).unwrap().per_second.min = speed;
            let error = damaged.check().unwrap_err().to_string();
            assert!(error.contains(&format!("the speed of decode cannot be {speed} tokens/s (prompt 1")), "{error}");
        }
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
        refused(&|report| report.model.dtype = "float16".into(), "in 8 bytes (float16)");
        let nvfp4 = QuantizedAs::new(Mode::Nvfp4, None, None).unwrap();
        refused(
            &|report| report.model.quantization = Some(nvfp4),
            "in 8 bytes (nvfp4 with 4 bits in groups of 16, bfloat16)",
        );
        refused(&|report| report.model.adapters.clear(), "this is 8 parameters in 8 bytes (bfloat16), an adapter of 5");
        refused(&|report| report.settings.kv_bits = Some(4), "4-bit keys and values");
        // A better moment is no other machine, and a name no other model or adapter.
        let mut before = before.clone();
        (before.machine.bytes_per_second, before.model.name) = (2.0, "n".into());
        before.model.adapters[0].name = "b".into();
        now.check_baseline(&before).unwrap();
    }
}
