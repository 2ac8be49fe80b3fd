//! The answer of a request as it grows: logits to tokens, tokens to text, and when to stop.

use std::ops::ControlFlow;

use anyhow::Result;

use super::constrain::Constraint;
use super::distribution::log_softmax;
use super::sampler::Sampler;
use super::text::{Detokenizer, StopMatcher};
use super::{Event, FinishReason, Generation, Request};
use crate::processor::{Segment, Tokenizer};

/// An answer in the making.
pub(super) struct Answer<'e> {
    stop_tokens: &'e [u32],
    max_tokens: usize,
    /// The prompt's ids without images, for penalties.
    prompt: Vec<u32>,
    sampler: Sampler,
    constraint: Option<Constraint>,
    early_stop: Option<EarlyStop>,
    detokenizer: Detokenizer<'e>,
    stops: StopMatcher,
    pub generation: Generation,
}

impl<'e> Answer<'e> {
    pub(super) fn new(
        tokenizer: &'e Tokenizer,
        stop_tokens: &'e [u32],
        request: &Request,
        constraint: Option<Constraint>,
    ) -> Self {
        Self {
            stop_tokens,
            max_tokens: request.max_tokens,
            prompt: request.prompt.segments.iter().flat_map(Segment::ids).copied().collect(),
            sampler: Sampler::new(request.sampling.clone()),
            constraint,
            early_stop: request.early_stop.filter(|&from| from < request.max_tokens).map(EarlyStop::new),
            detokenizer: Detokenizer::new(tokenizer),
            stops: StopMatcher::new(&request.stop),
            generation: Generation { prompt_tokens: request.prompt.len(), ..Generation::default() },
        }
    }

    /// Chooses a token by logits `[vocab_size]`, which are used up, and adds it. Breaks with the reason if the answer ends
    /// with it, or before it.
    pub(super) fn next(
        &mut self,
        logits: &mut [f32],
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<FinishReason, u32>> {
        if let Some(early_stop) = &mut self.early_stop
            && early_stop.is_time(logits, self.stop_tokens)
        {
            return Ok(ControlFlow::Break(FinishReason::EarlyStop));
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits)?;
        }
        let token = self.sampler.sample(logits, &self.prompt, &self.generation.tokens);
        Ok(match self.push(token, on_event)? {
            Some(reason) => ControlFlow::Break(reason),
            None => ControlFlow::Continue(token),
        })
    }

    fn push(&mut self, token: u32, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Option<FinishReason>> {
        self.generation.tokens.push(token);
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        if self.stop_tokens.contains(&token) {
            return Ok(Some(FinishReason::Stop));
        }
        let text = self.detokenizer.push(token)?;
        let (text, stopped) = self.stops.push(&text);
        let flow = self.emit(&text, on_event);
        Ok(if stopped {
            // What the detokenizer holds back came after the stop string.
            self.detokenizer.finish()?;
            Some(FinishReason::Stop)
        } else if flow.is_break() {
            Some(FinishReason::Interrupted)
        } else if self.constraint.as_ref().is_some_and(Constraint::is_finished) {
            Some(FinishReason::Stop)
        } else if self.generation.tokens.len() >= self.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        })
    }

    /// Every token is an occasion to break off, with text or without.
    fn emit(&mut self, text: &str, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        self.generation.text.push_str(text);
        on_event(Event::Text(text))
    }

    /// The prompt's ids without images.
    pub(super) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Tokens that can still be generated.
    pub(super) fn left(&self) -> usize {
        self.max_tokens - self.generation.tokens.len()
    }

    /// A sampler that draws the same random numbers as this answer's next tokens.
    pub(super) fn sampler(&self) -> Sampler {
        self.sampler.clone()
    }

    /// Tokens that the grammar leaves no choice about.
    pub(super) fn forced(&mut self) -> Vec<u32> {
        self.constraint.as_mut().map_or_else(Vec::new, Constraint::forced)
    }

    pub(super) fn end(
        mut self,
        finish_reason: FinishReason,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let rest = self.detokenizer.finish()?;
        let (mut text, stopped) = self.stops.push(&rest);
        text += &self.stops.finish();
        let _ = self.emit(&text, on_event);
        self.generation.finish_reason = if stopped { FinishReason::Stop } else { finish_reason };
        self.generation.complete = self.constraint.as_ref().map(Constraint::is_complete);
        Ok(self.generation)
    }
}

/// Phi-3-Vision-MLX's rule for ending an answer that the model could have ended before (`LogitStopper`): a place that suits
/// an end better than any before it, where what was said since the last such place is less likely than the end was there.
struct EarlyStop {
    /// Not before so many tokens.
    from: usize,
    step: usize,
    best_end: f64,
    /// Sum of the best tokens' log-probabilities.
    sum: f64,
    sum_at_best_end: f64,
}

impl EarlyStop {
    fn new(from: usize) -> Self {
        Self { from, step: 0, best_end: f64::NEG_INFINITY, sum: 0.0, sum_at_best_end: 0.0 }
    }

    fn is_time(&mut self, logits: &[f32], stop_tokens: &[u32]) -> bool {
        let log_probabilities = log_softmax(logits);
        let ends = stop_tokens.iter().filter_map(|&token| log_probabilities.get(token as usize));
        let end = ends.copied().fold(f64::NEG_INFINITY, f64::max);
        if end > self.best_end {
            if self.sum - self.sum_at_best_end < self.best_end && self.step > self.from {
                return true;
            }
            (self.best_end, self.sum_at_best_end) = (end, self.sum);
        }
        self.sum += log_probabilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.step += 1;
        false
    }
}
