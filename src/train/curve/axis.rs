//! From numbers to places: ranges, round numbers in them, and labels.

/// Losses that differ by more than this factor are drawn by their logarithms.
const LOGARITHMIC_FROM: f64 = 30.0;
/// Share of the range that is left free at its ends.
const MARGIN: f64 = 0.04;

/// A range of numbers, none of which is infinite, and where in it they lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    /// Of whole numbers.
    Steps,
    Linear,
    Logarithmic,
}

impl Axis {
    pub(super) fn of_steps(steps: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(steps).unwrap_or((0.0, 1.0));
        // A run of one step.
        let (low, high) = if low < high { (low, high) } else { ((low - 1.0).max(0.0), high + 1.0) };
        Self { low, high, scale: Scale::Steps }
    }

    pub(super) fn of_losses(losses: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(losses).unwrap_or((0.0, 1.0));
        if low > 0.0 && high / low > LOGARITHMIC_FROM {
            let margin = (high / low).powf(MARGIN);
            return Self { low: low / margin, high: high * margin, scale: Scale::Logarithmic };
        }
        let margin = if low < high { MARGIN * (high - low) } else { (0.1 * low.abs()).max(0.1) };
        // What is never below 0 is not drawn as if it could be.
        let bottom = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
        Self { low: bottom, high: high + margin, scale: Scale::Linear }
    }

    /// 0 for the lowest number, 1 for the highest.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Logarithmic => (value / self.low).ln() / (self.high / self.low).ln(),
            Scale::Steps | Scale::Linear => (value - self.low) / (self.high - self.low),
        }
    }

    /// Round numbers in the range, at most so many.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        if self.scale == Scale::Logarithmic {
            let choices: [&[f64]; 3] = [&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
            let fitting = choices.iter().map(|choice| self.decades(choice)).find(|ticks| ticks.len() <= most);
            return fitting.unwrap_or_else(|| {
                let ticks = self.decades(&[1.0]);
                let apart = ticks.len().div_ceil(most.max(1));
                ticks.into_iter().step_by(apart).collect()
            });
        }
        let step = self.tick_step(most);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }

    /// These multiples of powers of ten.
    fn decades(&self, multiples: &[f64]) -> Vec<f64> {
        let exponents = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let ticks = exponents.flat_map(|exponent| multiples.iter().map(move |&m| round(m * 10f64.powi(exponent))));
        ticks.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }

    /// 1, 2 or 5 times a power of ten, so that at most so many lie in the range.
    fn tick_step(&self, most: usize) -> f64 {
        let least = (self.high - self.low) / most.max(1) as f64;
        let power = 10f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= least);
        let step = step.unwrap_or(10.0 * power);
        if self.scale == Scale::Steps { step.max(1.0) } else { step }
    }

    /// A number of the axis, with as many digits as tell it from others there.
    pub(super) fn label(&self, value: f64) -> String {
        let large = value.abs() >= 1e6;
        match self.scale {
            Scale::Steps => format!("{value:.0}"),
            _ if value != 0.0 && (large || value.abs() < 1e-4) => format!("{:e}", round(value)),
            Scale::Logarithmic => format!("{}", round(value)),
            Scale::Linear => {
                // One digit more than the range's first: ticks are at least a fiftieth of it apart.
                let decimals = -(self.high - self.low).log10().floor() + 1.0;
                let text = format!("{value:.*}", decimals.clamp(0.0, 12.0) as usize);
                if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
            }
        }
    }
}

/// The least and the largest number, if there is any.
pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

/// To three digits.
fn round(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn losses(losses: &[f64]) -> Axis {
        Axis::of_losses(losses.iter().copied())
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let labels = |axis: Axis, most| axis.ticks(most).into_iter().map(|tick| axis.label(tick)).collect::<Vec<_>>();
        assert_eq!(labels(losses(&[0.31, 2.4]), 6), ["0.5", "1", "1.5", "2"]);
        assert_eq!(labels(losses(&[1.001, 1.004]), 6), ["1.001", "1.002", "1.003", "1.004"]);
        assert_eq!(labels(losses(&[0.003, 12.0]), 6), ["0.01", "0.1", "1", "10"]);
        assert_eq!(labels(losses(&[1e-9, 1e12]), 4).len(), 4);
        assert_eq!(labels(Axis::of_steps([1.0, 3.0].into_iter()), 10), ["1", "2", "3"]);
        assert_eq!(labels(Axis::of_steps([1.0, 5000.0].into_iter()), 5), ["1000", "2000", "3000", "4000", "5000"]);
    }

    #[test]
    fn there_is_a_range_for_any_numbers() {
        for values in [&[][..], &[0.0], &[2.5], &[-1.0, 1.0], &[0.0, 1e30], &[1e-30, 1e30], &[3.0, 3.0], &[1e-40]] {
            let axis = losses(values);
            assert!(axis.low < axis.high, "{values:?}: {axis:?}");
            assert!(values.iter().all(|&value| (0.0..=1.0).contains(&axis.place(value))), "{values:?}: {axis:?}");
            assert!(axis.ticks(8).len() <= 9, "{values:?}: {axis:?}");
        }
        let axis = Axis::of_steps([7.0].into_iter());
        assert_eq!((axis.low, axis.high, axis.place(7.0)), (6.0, 8.0, 0.5));
    }

    #[test]
    fn a_wide_range_is_logarithmic() {
        let axis = losses(&[0.01, 1.0, 100.0]);
        assert!((axis.place(1.0) - 0.5).abs() < 1e-12);
    }
}
