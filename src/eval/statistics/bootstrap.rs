//! Rows drawn again and again from those that there are (Efron 1979).

use std::num::NonZero;
use std::thread;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// How many samples are drawn, unless there are so many rows that this would take minutes.
const RESAMPLES: usize = 10_000;
const DRAWS: usize = 300_000_000;

/// A figure of many samples, in ascending order; none of no rows. How many threads draw them changes nothing: each sample
/// has random numbers of its own.
pub(super) fn resample(parts: &[Vec<f64>], value: impl Fn(&[f64]) -> f64 + Sync, seed: u64) -> Vec<f64> {
    let Some(width) = parts.first().map(Vec::len) else { return Vec::new() };
    // Beside one another: most of the time goes into fetching them.
    let flat = parts.concat();
    let sample = |stream: usize| {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        random.set_stream(stream as u64);
        let mut sums = vec![0.0; width];
        for _ in parts {
            let row = random.random_range(0..parts.len() as u32) as usize;
            sums.iter_mut().zip(&flat[row * width..]).for_each(|(sum, part)| *sum += part);
        }
        value(&sums)
    };
    let resamples = (DRAWS / parts.len()).clamp(1000, RESAMPLES);
    let mut values = vec![0.0; resamples];
    let share = resamples.div_ceil(thread::available_parallelism().map_or(1, NonZero::get));
    thread::scope(|scope| {
        for (thread, values) in values.chunks_mut(share).enumerate() {
            let sample = &sample;
            scope.spawn(move || {
                values.iter_mut().enumerate().for_each(|(at, value)| *value = sample(thread * share + at));
            });
        }
    });
    values.sort_by(f64::total_cmp);
    values
}

/// The middle 95 %, if all are finite.
pub(super) fn interval(sorted: &[f64]) -> Option<[f64; 2]> {
    finite(sorted).then(|| [quantile(sorted, 0.025), quantile(sorted, 0.975)])
}

/// How far 0 lies outside: twice the share of values on its rarer side, 0 itself among both. The figure of the rows
/// themselves counts as one more on that side, so that nothing is impossible.
pub(super) fn p_value(sorted: &[f64]) -> Option<f64> {
    let (below, not_above) =
        (sorted.partition_point(|&value| value < 0.0), sorted.partition_point(|&value| value <= 0.0));
    let rarer = not_above.min(sorted.len() - below);
    finite(sorted).then(|| (2.0 * (rarer + 1) as f64 / (sorted.len() + 1) as f64).min(1.0))
}

fn finite(values: &[f64]) -> bool {
    !values.is_empty() && values.iter().all(|value| value.is_finite())
}

/// Between the two values next to it, as NumPy does.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}
