//! The learning rate of a step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate goes after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays.
    Constant,
    /// To the minimum in a line.
    Linear,
    /// To the minimum in half a period of the cosine (Loshchilov & Hutter 2017, equation 5).
    #[default]
    Cosine,
}

/// The learning rate as a function of the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The largest one.
    pub learning_rate: f32,
    /// How it goes after the warm-up.
    pub kind: Decay,
    /// Steps in which it rises from 0 in a line: step `warmup` is the first one with the full rate.
    pub warmup: usize,
    /// Steps of the whole run.
    pub total: usize,
    /// The rate of step `total` and of those after it, of a rate that falls.
    pub minimum: f32,
}

impl Schedule {
    /// The learning rate of a step, the first of which is 1. Never 0 for it, unless the schedule is nothing but 0.
    pub fn at(&self, step: usize) -> f32 {
        let (rate, minimum) = (f64::from(self.learning_rate), f64::from(self.minimum));
        if step < self.warmup {
            return (rate * step.max(1) as f64 / self.warmup as f64) as f32;
        }
        // The first step that has the full rate: 1 if none is for warming up.
        let start = self.warmup.max(1);
        let left = match self.total.saturating_sub(start) {
            // A run of one step after the warm-up: its rate is the full one.
            0 => 1.0,
            steps => 1.0 - ((step.max(start) - start) as f64 / steps as f64).min(1.0),
        };
        let share = match self.kind {
            Decay::Constant => return self.learning_rate,
            Decay::Linear => left,
            Decay::Cosine => 0.5 * (1.0 - (PI * left).cos()),
        };
        (minimum + (rate - minimum) * share) as f32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn schedule(kind: Decay, warmup: usize, total: usize) -> Schedule {
        Schedule { learning_rate: 1.0, kind, warmup, total, minimum: 0.1 }
    }

    fn rates(schedule: Schedule) -> Vec<f32> {
        (1..=schedule.total).map(|step| schedule.at(step)).collect()
    }

    #[test]
    fn it_rises_in_a_line_and_ends_at_the_minimum() {
        assert_eq!(rates(schedule(Decay::Linear, 2, 5)), [0.5, 1.0, 0.7, 0.4, 0.1]);
        assert_eq!(rates(schedule(Decay::Constant, 4, 6)), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        let cosine = rates(schedule(Decay::Cosine, 2, 6));
        assert_eq!(cosine[..2], [0.5, 1.0]);
        assert_eq!(cosine[3], 0.55);
        assert_eq!(cosine[5], 0.1);
        assert!(cosine[1..].is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_full_rate() {
        for kind in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            assert_eq!(schedule(kind, 0, 10).at(1), 1.0);
            assert_eq!(schedule(kind, 1, 10).at(1), 1.0);
        }
        assert_eq!(rates(schedule(Decay::Linear, 0, 4)), [1.0, 0.7, 0.4, 0.1]);
    }

    #[test]
    fn a_warm_up_may_be_as_long_as_the_run_or_longer() {
        for kind in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            assert_eq!(rates(schedule(kind, 4, 4)), [0.25, 0.5, 0.75, 1.0]);
            assert_eq!(rates(schedule(kind, 8, 2)), [0.125, 0.25]);
        }
    }

    #[test]
    fn a_run_of_one_step_has_the_full_rate() {
        for kind in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            assert_eq!(rates(schedule(kind, 0, 1)), [1.0]);
            assert_eq!(rates(schedule(kind, 1, 1)), [1.0]);
        }
    }

    #[test]
    fn steps_outside_the_run_have_a_rate_too() {
        for kind in [Decay::Linear, Decay::Cosine] {
            assert_eq!(schedule(kind, 2, 5).at(9), 0.1);
            assert_eq!(schedule(kind, 0, 0).at(1), 1.0);
        }
        assert_eq!(schedule(Decay::Linear, 2, 5).at(0), 0.5);
    }
}
