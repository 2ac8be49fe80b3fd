//! Which of several answers a model would give: all are scored in one forward pass after the prompt.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::Engine;
use super::distribution::log_softmax;
use super::sequence::{Part, Sequence, forward, logits};
use crate::processor::Prompt;

/// How likely one of several answers is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    /// The answer.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// The logarithm of the probability that the model's answer begins with it, and with no longer option.
    pub log_probability: f64,
    /// Its share among the options.
    pub probability: f64,
}

/// The options as a model judges them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// The place of the likeliest option, counted from 0; the first of equal ones.
    pub best: usize,
    /// How much larger its share is than the next one's.
    pub margin: f64,
    /// All options in their order.
    pub options: Vec<Scored>,
}

impl Engine {
    /// Judges options as answers to a prompt.
    ///
    /// # Errors
    /// When there are fewer than two options, or some that are alike or empty.
    pub fn choose(&self, prompt: &Prompt, options: &[String]) -> Result<Choice> {
        ensure!(options.len() > 1, "at least two options are needed to choose between");
        let ids = self.processor.encode_answers(&prompt.text, options)?;
        for (at, option) in ids.iter().enumerate() {
            ensure!(!option.is_empty(), "an option is empty: there is nothing to score");
            ensure!(!ids[..at].contains(option), "the option {:?} is given twice", options[at]);
        }
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        prompt.check_fits(self.model.text.max_position_embeddings().saturating_sub(longest))?;
        let log_probabilities = self.score(prompt, &ids)?;
        // What begins with a longer option, too, is that one's.
        let own = |at: usize| {
            let longer = |other: &usize| ids[*other].len() > ids[at].len() && ids[*other].starts_with(&ids[at]);
            // Of those, the shortest: longer ones are parts of them.
            let parts = (0..ids.len()).filter(longer).filter(|&other| {
                !(0..ids.len()).filter(longer).any(|between| {
                    between != other && ids[between].len() < ids[other].len() && ids[other].starts_with(&ids[between])
                })
            });
            let lost: f64 = parts.map(|other| (log_probabilities[other] - log_probabilities[at]).exp()).sum();
            log_probabilities[at] + (1.0 - lost).max(0.0).ln()
        };
        Ok(Choice::of(options, &ids, &(0..ids.len()).map(own).collect::<Vec<_>>()))
    }

    /// Log-probabilities of these continuations of a prompt, none of which is empty, in one pass after it.
    pub fn score(&self, prompt: &Prompt, continuations: &[Vec<u32>]) -> Result<Vec<f64>> {
        let mut sequence = self.sequence(prompt)?;
        let model = self.model();
        let first = log_softmax(&sequence.next_logits(self.options.prefill_step_size)?);
        let mut sums: Vec<f64> = continuations.iter().map(|ids| first[ids[0] as usize]).collect();
        // The last token is only predicted.
        let mut rows: Vec<_> = continuations
            .iter()
            .filter(|ids| ids.len() > 1)
            .map(|ids| Ok((self.branch(&sequence, ids.len() - 1)?, &ids[..ids.len() - 1])))
            .collect::<Result<_>>()?;
        self.remember(sequence);
        if rows.is_empty() {
            return Ok(sums);
        }
        let mut parts: Vec<Part> =
            rows.iter_mut().map(|(sequence, ids)| Part { sequence, n: 0, proposed: ids }).collect();
        let hidden = forward(&mut parts)?;
        let logits = logits(model, &hidden, &(0..hidden.dim(1) as usize).collect::<Vec<_>>())?;
        logits.eval()?;
        let mut predicted = logits.try_as_slice::<f32>()?.chunks(self.vocab_size).map(log_softmax);
        for (sum, ids) in sums.iter_mut().zip(continuations) {
            for (&id, row) in ids[1..].iter().zip(&mut predicted) {
                *sum += row[id as usize];
            }
        }
        Ok(sums)
    }
}

impl Engine {
    /// The same sequence with a cache of its own, for as many positions more. Where that takes it over longrope's boundary,
    /// it is computed anew.
    pub(super) fn branch<'e>(&'e self, sequence: &Sequence<'e>, more: usize) -> Result<Sequence<'e>> {
        let mut branch = sequence.clone();
        let factors = self.model.text.rope_factors(sequence.len() + more);
        if factors == sequence.cache.factors {
            branch.cache = sequence.cache.fork(sequence.cache.len());
        } else {
            branch.cache = self.model.text.new_cache(sequence.len() + more, sequence.cache.settings());
            branch.prefill_to(sequence.cache.len(), self.options.prefill_step_size)?;
        }
        Ok(branch)
    }
}

impl Choice {
    fn of(options: &[String], ids: &[Vec<u32>], log_probabilities: &[f64]) -> Self {
        let largest = log_probabilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = log_probabilities.iter().map(|log| (log - largest).exp()).sum();
        let scored = options.iter().zip(ids).zip(log_probabilities).map(|((text, ids), &log_probability)| Scored {
            text: text.clone(),
            tokens: ids.len(),
            log_probability,
            probability: (log_probability - largest).exp() / total,
        });
        let options: Vec<Scored> = scored.collect();
        let mut order: Vec<usize> = (0..options.len()).collect();
        order.sort_by(|&a, &b| options[b].probability.total_cmp(&options[a].probability));
        let margin = options[order[0]].probability - options[order[1]].probability;
        Self { best: order[0], margin, options }
    }
}
