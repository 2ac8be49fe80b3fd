//! Phi-3-Vision-MLX's `constrain`: an answer that comes to a given phrase within some tokens, at the place where it fits
//! best. The model goes on greedily; at each place the phrase is tried, and the place counts at which what was said and the
//! phrase together are likeliest, by the mean of their tokens' log-probabilities.

use std::ops::ControlFlow;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::Engine;
use super::distribution::log_softmax;
use super::sequence::{Part, Sequence, forward, logits};
use crate::processor::{Prompt, Segment};

/// Best next tokens that are tried, where beams are asked for.
const BEAMS: usize = 3;

/// What an answer has to come to.
#[derive(Debug, Clone)]
pub struct Phrases {
    /// The phrases, one after the other.
    pub texts: Vec<String>,
    /// The most tokens before each.
    pub within: usize,
    /// Whether at each place the three best tokens are tried before the phrase, not just the best.
    pub beams: bool,
}

/// An answer with its phrases.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phrased {
    /// The answer up to the end of the last phrase.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// For each phrase, the mean log-probability of the tokens since the last one.
    pub scores: Vec<f64>,
}

/// What was said before a phrase, and how well that goes together.
struct Place {
    before: Vec<u32>,
    score: f64,
}

impl Engine {
    /// Answers a prompt so that the phrases are in the answer; nothing if `on_token`, told after each token, breaks off.
    ///
    /// # Errors
    /// When a phrase is empty, or the context has no room for all.
    pub fn constrain(
        &self,
        prompt: &Prompt,
        phrases: &Phrases,
        on_token: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Phrased>> {
        let ids = phrases.texts.iter().map(|text| self.phrase_ids(text)).collect::<Result<Vec<_>>>()?;
        let room: usize = ids.iter().map(|ids| ids.len() + phrases.within + 1).sum();
        prompt.check_fits(self.model.text.max_position_embeddings().saturating_sub(room))?;
        let mut phrased = Phrased { text: String::new(), tokens: Vec::new(), scores: Vec::new() };
        for phrase in &ids {
            let so_far = prompt.followed_by(&phrased.tokens);
            let Some(place) = self.place(&so_far, phrase, phrases, on_token)? else { return Ok(None) };
            phrased.tokens.extend(place.before);
            phrased.tokens.extend(phrase);
            phrased.scores.push(place.score);
        }
        phrased.text = self.processor.tokenizer.decode(&phrased.tokens, false)?;
        Ok(Some(phrased))
    }

    /// A phrase as it stands in the middle of a text: tokenizers that put a blank before a text write one that begins with
    /// a blank as two.
    fn phrase_ids(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = &self.processor.tokenizer;
        let mut ids = tokenizer.encode(text, false)?;
        if text.starts_with(' ') && ids.len() > 1 && tokenizer.decode(&ids[..1], false)?.trim().is_empty() {
            ids.remove(0);
        }
        ensure!(!ids.is_empty(), "the phrase {text:?} has no tokens");
        Ok(ids)
    }

    /// The best place for a phrase; nothing if `on_token` breaks off.
    fn place(
        &self,
        prompt: &Prompt,
        phrase: &[u32],
        phrases: &Phrases,
        on_token: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Place>> {
        let mut sequence = self.sequence(prompt)?;
        let mut said = Vec::new();
        let mut sum = 0.0;
        let mut best: Option<Place> = None;
        let mut offer = |before: Vec<u32>, sum: f64| {
            let score = sum / (before.len() + phrase.len()) as f64;
            if best.as_ref().is_none_or(|best| score > best.score) {
                best = Some(Place { before, score });
            }
        };
        loop {
            let after = self.try_phrase(&mut sequence, phrase)?;
            offer(said.clone(), sum + after.phrase);
            if said.len() == phrases.within {
                break;
            }
            let ranked = ranked(&after.next);
            if phrases.beams {
                for &token in &ranked[1..BEAMS.min(ranked.len())] {
                    let mut beam = self.branch(&sequence, 1)?;
                    beam.push(token);
                    let tried = self.try_phrase(&mut beam, phrase)?;
                    let before = said.iter().copied().chain([token]).collect();
                    offer(before, sum + after.next[token as usize] + tried.phrase);
                }
            }
            let token = ranked[0];
            if self.stop_tokens.contains(&token) || said.ends_with(phrase) {
                break;
            }
            if on_token().is_break() {
                return Ok(None);
            }
            sum += after.next[token as usize];
            said.push(token);
            sequence.push(token);
        }
        self.remember(sequence);
        Ok(best)
    }

    /// Computes what is pending, and the phrase after it, which is taken back.
    fn try_phrase(&self, sequence: &mut Sequence, phrase: &[u32]) -> Result<Tried> {
        let (len, step_size) = (sequence.len(), self.options.prefill_step_size);
        sequence.prefill_to(len - 1, step_size)?;
        if self.model.text.rope_factors(len + phrase.len() - 1) == sequence.cache.factors {
            return self.compute(sequence, phrase);
        }
        // The phrase takes the sequence over longrope's boundary, the next token by itself does not.
        let next = log_softmax(&sequence.next_logits(step_size)?);
        let mut branch = self.branch(sequence, phrase.len() - 1)?;
        branch.cache.truncate(len - 1);
        let beyond = self.compute(&mut branch, phrase)?;
        let first = phrase[0] as usize;
        Ok(Tried { phrase: beyond.phrase - beyond.next[first] + next[first], next })
    }

    fn compute(&self, sequence: &mut Sequence, phrase: &[u32]) -> Result<Tried> {
        let len = sequence.len();
        let proposed = &phrase[..phrase.len() - 1];
        let hidden = forward(&mut [Part { sequence, n: 1, proposed }])?;
        let logits = logits(self.model(), &hidden, &(0..phrase.len()).collect::<Vec<_>>())?;
        logits.eval()?;
        sequence.cache.truncate(len);
        let mut rows = logits.try_as_slice::<f32>()?.chunks(self.vocab_size).map(log_softmax);
        let next = rows.next().unwrap_or_default();
        let later: f64 = rows.zip(&phrase[1..]).map(|(row, &id)| row[id as usize]).sum();
        Ok(Tried { phrase: next[phrase[0] as usize] + later, next })
    }
}

/// What a place is like.
struct Tried {
    /// Log-probability of the phrase there.
    phrase: f64,
    /// Those of all tokens there.
    next: Vec<f64>,
}

/// The best tokens, falling.
fn ranked(log_probabilities: &[f64]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..log_probabilities.len() as u32).collect();
    let falling =
        |a: &u32, b: &u32| log_probabilities[*b as usize].total_cmp(&log_probabilities[*a as usize]).then(a.cmp(b));
    let most = BEAMS.min(ids.len());
    ids.select_nth_unstable_by(most - 1, falling);
    ids.truncate(most);
    ids.sort_unstable_by(falling);
    ids
}

impl Prompt {
    /// The prompt with tokens after it.
    pub fn followed_by(&self, tokens: &[u32]) -> Self {
        let mut prompt = self.clone();
        match prompt.segments.last_mut() {
            Some(Segment::Text(ids)) => ids.extend(tokens),
            _ => prompt.segments.push(Segment::Text(tokens.to_vec())),
        }
        prompt
    }
}
