//! From logits to a token: penalties, temperature and filters, in the order in which transformers applies them, and a
//! random number generator per request.

use std::cmp::Ordering;
use std::collections::HashMap;

use anyhow::{Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

/// How tokens are chosen. The default is greedy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sampling {
    /// 0 takes the best token always.
    pub temperature: f32,
    /// Only the k best tokens; 0 for all.
    pub top_k: usize,
    /// Only the best tokens that together have this probability.
    pub top_p: f32,
    /// Only tokens at least this probable, relative to the best.
    pub min_p: f32,
    /// Logits of tokens seen are divided by it, or multiplied where negative (Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// How many of the last tokens, the prompt's included, count as seen; none for all.
    pub repetition_context_size: Option<usize>,
    /// Subtracted from the logits of tokens generated before.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens generated before, times their number.
    pub frequency_penalty: f32,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_context_size: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// An error that names the first value out of its range.
    pub fn check(&self) -> Result<()> {
        let Self { temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, .. } = *self;
        ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "temperature {temperature}: a number from 0 is expected"
        );
        ensure!(top_p > 0.0 && top_p <= 1.0, "top-p {top_p}: a number above 0 and up to 1 is expected");
        ensure!((0.0..=1.0).contains(&min_p), "min-p {min_p}: a number from 0 to 1 is expected");
        ensure!(
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
            "repetition-penalty {repetition_penalty}: a number above 0 is expected"
        );
        for (name, value) in [("presence-penalty", presence_penalty), ("frequency-penalty", frequency_penalty)] {
            ensure!(value.is_finite(), "{name} {value}: a finite number is expected");
        }
        Ok(())
    }
}

/// Chooses the tokens of one request.
#[derive(Clone)]
pub struct Sampler {
    settings: Sampling,
    random: ChaCha12Rng,
}

impl Sampler {
    /// A sampler at its seed.
    pub fn new(settings: Sampling) -> Self {
        let random = ChaCha12Rng::seed_from_u64(settings.seed);
        Self { settings, random }
    }

    /// The next token, given `logits` `[vocab_size]` (which are used up) and the tokens before.
    pub fn sample(&mut self, logits: &mut [f32], prompt: &[u32], generated: &[u32]) -> u32 {
        self.penalize(logits, prompt, generated);
        if self.settings.temperature == 0.0 {
            return argmax(logits);
        }
        let candidates = self.candidates(logits);
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut point = self.random.random::<f64>() * total;
        let chosen = candidates.iter().find(|(_, weight)| {
            point -= weight;
            point < 0.0
        });
        // None by rounding, or where all logits are NaN.
        chosen.map_or_else(|| argmax(logits), |(id, _)| *id)
    }

    fn penalize(&self, logits: &mut [f32], prompt: &[u32], generated: &[u32]) {
        let s = &self.settings;
        if s.repetition_penalty != 1.0 {
            let seen = generated.iter().rev().chain(prompt.iter().rev());
            let seen = seen.take(s.repetition_context_size.unwrap_or(usize::MAX));
            for id in seen.collect::<std::collections::HashSet<_>>() {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit = if *logit < 0.0 { *logit * s.repetition_penalty } else { *logit / s.repetition_penalty };
                }
            }
        }
        if s.presence_penalty != 0.0 || s.frequency_penalty != 0.0 {
            let mut counts: HashMap<u32, f32> = HashMap::new();
            generated.iter().for_each(|&id| *counts.entry(id).or_default() += 1.0);
            for (id, times) in counts {
                logits[id as usize] -= s.presence_penalty + s.frequency_penalty * times;
            }
        }
    }

    /// The tokens that stay, and their probabilities relative to the best, which has 1: temperature, then top-k, top-p,
    /// min-p. Ties go to the smaller id, and NaN counts as least. Sorted only as far as a filter needs it, as sorting a
    /// vocabulary takes longer than all else here.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        let best = f64::from(logits[argmax(logits) as usize]);
        let weight = |logit: f32| {
            let weight = ((f64::from(logit) - best) / f64::from(temperature)).exp();
            if weight.is_nan() { 0.0 } else { weight }
        };
        let mut candidates: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| weight(logit))).collect();
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k, falling);
            candidates.truncate(top_k);
        }
        if top_p < 1.0 {
            keep_share(&mut candidates, f64::from(top_p));
        }
        candidates.retain(|(_, weight)| *weight >= f64::from(min_p));
        candidates
    }
}

fn falling((a_id, a): &(u32, f64), (b_id, b): &(u32, f64)) -> Ordering {
    b.total_cmp(a).then(a_id.cmp(b_id))
}

/// Keeps the largest weights, of which those before the last do not reach this share of all.
fn keep_share(candidates: &mut Vec<(u32, f64)>, share: f64) {
    let bound = share * candidates.iter().map(|(_, weight)| weight).sum::<f64>();
    let (mut sorted, mut before) = (0, 0.0);
    while sorted < candidates.len() {
        let next = candidates.len().min((8 * sorted).max(256));
        if next < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(next - sorted, falling);
        }
        candidates[sorted..next].sort_unstable_by(falling);
        for at in sorted..next {
            // The first always stays.
            if at > 0 && before >= bound {
                return candidates.truncate(at);
            }
            before += candidates[at].1;
        }
        sorted = next;
    }
}

/// The index of the largest logit, the smallest such index; NaN is never the largest.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] || logits[best].is_nan() {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(settings: Sampling, logits: &[f32], generated: &[u32]) -> u32 {
        Sampler::new(settings).sample(&mut logits.to_vec(), &[], generated)
    }

    fn shares(settings: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(settings);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.sample(&mut logits.to_vec(), &[], &[]) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(sample(Sampling::default(), &[0.0, f32::NAN, 2.0, 2.0], &[]), 2);
    }

    #[test]
    fn shares_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let temperature = 0.7;
        let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        let found = shares(Sampling { temperature, ..Sampling::default() }, &logits);
        for (found, weight) in found.iter().zip(&weights) {
            assert!((found - weight / total).abs() < 0.015, "{found} {}", weight / total);
        }
    }

    #[test]
    fn a_model_gone_wrong_does_not_stop_the_sampler() {
        let settings = Sampling { temperature: 1.0, min_p: 0.5, top_p: 0.5, ..Sampling::default() };
        assert!(sample(settings.clone(), &[f32::NAN; 3], &[]) < 3);
        assert_eq!(sample(settings, &[f32::NEG_INFINITY, f32::NAN, 1.0], &[]), 2);
    }

    #[test]
    fn filters_keep_what_they_should() {
        let logits = [3.0, 2.0, 1.0, 0.0]; // probabilities 0.644 0.237 0.087 0.032
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let kept = |settings| shares(settings, &logits).iter().filter(|&&share| share > 0.0).count();
        assert_eq!(kept(base.clone()), 4);
        assert_eq!(kept(Sampling { top_k: 2, ..base.clone() }), 2);
        assert_eq!(kept(Sampling { top_p: 0.7, ..base.clone() }), 2);
        assert_eq!(kept(Sampling { top_p: 0.01, ..base.clone() }), 1);
        assert_eq!(kept(Sampling { min_p: 0.1, ..base }), 3);
    }

    #[test]
    fn penalties_push_repeated_tokens_down() {
        let logits = [2.0, 1.9, -1.0];
        let greedy = Sampling::default();
        assert_eq!(sample(Sampling { repetition_penalty: 1.2, ..greedy.clone() }, &logits, &[0]), 1);
        assert_eq!(sample(Sampling { presence_penalty: 0.2, ..greedy.clone() }, &logits, &[0]), 1);
        assert_eq!(sample(Sampling { frequency_penalty: 0.06, ..greedy.clone() }, &logits, &[0]), 0);
        assert_eq!(sample(Sampling { frequency_penalty: 0.06, ..greedy.clone() }, &logits, &[0, 0]), 1);
        let forgetful = Sampling { repetition_penalty: 1.2, repetition_context_size: Some(1), ..greedy };
        assert_eq!(sample(forgetful, &logits, &[0, 2]), 0);
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_token(logits in prop::collection::vec(-20f32..20.0, 1..50), seed: u64) {
            let settings = Sampling { temperature: 1.0, top_p: 0.9, seed, ..Sampling::default() };
            prop_assert_eq!(sample(settings.clone(), &logits, &[]), sample(settings, &logits, &[]));
        }

        #[test]
        fn top_1_is_greedy(logits in prop::collection::vec(-20f32..20.0, 1..50), seed: u64) {
            let settings = Sampling { temperature: 1.0, top_k: 1, seed, ..Sampling::default() };
            prop_assert_eq!(sample(settings, &logits, &[]), argmax(&logits));
        }
    }
}
