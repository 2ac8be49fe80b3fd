//! The loss over the steps, as an image and as text.

mod axis;
mod drawing;
mod text;

pub use drawing::write_curve;
pub use text::plot_text;

use super::metrics::{Record, Training, Validation};
use axis::Axis;

/// Losses are smoothed over this share of them.
const SMOOTHED_SHARE: f64 = 0.04;

/// What is drawn: points of steps and losses that are numbers.
struct Losses {
    train: Vec<(f64, f64)>,
    validation: Vec<(f64, f64)>,
    /// Steps whose loss, of either kind, was none.
    not_finite: Vec<f64>,
}

impl Losses {
    fn of(records: &[Record]) -> Self {
        let mut losses = Self { train: Vec::new(), validation: Vec::new(), not_finite: Vec::new() };
        for record in records {
            let (points, step, loss) = match *record {
                Record::Training(Training { step, loss, .. }) => (&mut losses.train, step, loss),
                Record::Validation(Validation { step, val_loss, .. }) => (&mut losses.validation, step, val_loss),
            };
            match loss.is_finite() {
                true => points.push((step as f64, loss.into())),
                false => losses.not_finite.push(step as f64),
            }
        }
        losses
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.train.iter().chain(&self.validation).copied()
    }

    /// Of the steps.
    fn x(&self) -> Axis {
        Axis::of_steps(self.points().map(|(step, _)| step).chain(self.not_finite.iter().copied()))
    }

    /// Of the losses.
    fn y(&self) -> Axis {
        Axis::of_losses(self.points().map(|(_, loss)| loss))
    }

    /// The training losses, each the mean of those around it.
    fn smoothed(&self) -> Vec<(f64, f64)> {
        let count = self.train.len();
        let around = (SMOOTHED_SHARE * count as f64 / 2.0) as usize;
        let mut sums = vec![0.0];
        sums.extend(self.train.iter().scan(0.0, |sum, (_, loss)| {
            *sum += loss;
            Some(*sum)
        }));
        let smooth = |(index, &(step, _)): (usize, &(f64, f64))| {
            let (begin, end) = (index.saturating_sub(around), (index + around + 1).min(count));
            (step, (sums[end] - sums[begin]) / (end - begin) as f64)
        };
        self.train.iter().enumerate().map(smooth).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    pub(super) fn training(step: u64, loss: f32) -> Record {
        Record::Training(Training {
            step,
            epoch: 0.0,
            loss,
            learning_rate: 1e-4,
            grad_norm: 1.0,
            tokens: 0,
            tokens_per_second: 0.0,
            seconds: 0.0,
            peak_memory: 0,
        })
    }

    pub(super) fn validation(step: u64, val_loss: f32) -> Record {
        Record::Validation(Validation { step, val_loss, val_accuracy: None, val_exact: None, val_tokens: None })
    }

    /// A run as they are: noise around a fall.
    pub(super) fn run(steps: u64, from: f32, to: f32) -> Vec<Record> {
        let mut records = Vec::new();
        let mut random = 1u32;
        for step in 1..=steps {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = 1.0 + 0.3 * ((random >> 8) as f32 / (1 << 24) as f32 - 0.5);
            let base = to + (from - to) * (-6.0 * step as f32 / steps as f32).exp();
            records.push(training(step, base * noise));
            if step % (steps / 10).max(1) == 0 {
                records.push(validation(step, 1.1 * base));
            }
        }
        records
    }

    #[test]
    fn smoothing_keeps_what_does_not_change_and_few_points() {
        let constant: Vec<_> = (1..=500).map(|step| training(step, 2.0)).collect();
        assert!(Losses::of(&constant).smoothed().iter().all(|&(_, loss)| (loss - 2.0).abs() < 1e-9));
        let few = Losses::of(&[training(1, 3.0), training(2, 1.0)]);
        assert_eq!(few.smoothed(), few.train);
    }

    #[test]
    fn smoothing_takes_noise_away() {
        let losses = Losses::of(&run(1000, 1.0, 1.0));
        let spread =
            |points: &[(f64, f64)]| points[200..].iter().map(|(_, loss)| (loss - 1.0).abs()).fold(0.0, f64::max);
        assert!(spread(&losses.smoothed()) < 0.4 * spread(&losses.train));
    }

    #[test]
    fn losses_that_are_no_numbers_are_apart() {
        let losses = Losses::of(&[training(1, f32::NAN), training(2, 1.0), validation(3, f32::INFINITY)]);
        assert_eq!(losses.train, [(2.0, 1.0)]);
        assert_eq!(losses.not_finite, [1.0, 3.0]);
    }
}
