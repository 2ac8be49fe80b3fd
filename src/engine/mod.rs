//! Requests in, text out: the one generation loop, for every command. It knows no arguments and no terminal.

pub mod sampler;
pub mod sequence;
pub mod text;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::checkpoint::ModelFiles;
use crate::models::{Arch, Model};
use crate::processor::{Prompt, Segment, Tokenizer};
use sampler::{Sampler, Sampling};
use sequence::Sequence;
use text::{Detokenizer, StopMatcher};

/// A model with what turns its tokens into text.
pub struct Engine {
    model: Box<dyn Model>,
    tokenizer: Tokenizer,
    stop_tokens: Vec<u32>,
}

/// What is asked of the engine.
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// The most tokens to generate, at least one.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Positions per step of the prefill: a matter of memory, not of results.
    pub prefill_step_size: usize,
}

/// What happens while a request is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The prompt's pictures are encoded.
    Encoded,
    /// So many positions of so many are in the cache.
    Prefill(usize, usize),
    /// The sequence is longer than this many positions: it is computed, or computed anew, with longrope's long factors.
    LongFactors(usize),
    /// The answer goes on; whole characters.
    Text(&'a str),
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string was met.
    Stop,
    /// `max_tokens` were generated, or the model's context is full.
    Length,
    /// The caller broke off.
    Interrupted,
}

/// An answer and what it took.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The answer.
    pub text: String,
    /// All tokens that were generated, the one that ended the answer included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Positions of the prompt.
    pub prompt_tokens: usize,
    /// Time for the pictures, from pixels to vectors.
    pub encoder_time: Duration,
    /// Time for the prompt, to the first logits.
    pub prefill_time: Duration,
    /// Time for all tokens after the first.
    pub decode_time: Duration,
}

impl Engine {
    /// An engine for a loaded checkpoint. Answers end with the tokens that its files name, and those of its
    /// architecture's chat format.
    pub fn new(model: Box<dyn Model>, tokenizer: Tokenizer, files: &ModelFiles) -> Result<Self> {
        let mut stop_tokens = files.eos_token_ids()?;
        stop_tokens.extend(Arch::of(files)?.stop_tokens.iter().filter_map(|token| tokenizer.id(token)));
        Ok(Self { model, tokenizer, stop_tokens })
    }

    /// Serves a request. `on_event` may break off between any two steps; what there is by then is returned.
    pub fn generate(
        &self,
        request: &Request,
        mut on_event: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generation> {
        ensure!(request.max_tokens > 0, "max-tokens is 0: nothing would be generated");
        request.sampling.check()?;
        let start = Instant::now();
        let mut sequence = Sequence::new(self.model.as_ref(), &request.prompt, request.prefill_step_size)?;
        let mut answer = Answer::new(self, request, start.elapsed());
        if on_event(Event::Encoded).is_break() {
            return answer.end(FinishReason::Interrupted, &mut on_event);
        }

        if let Some(boundary) = self.model.rope_boundary()
            && sequence.len() > boundary
            && on_event(Event::LongFactors(boundary)).is_break()
        {
            return answer.end(FinishReason::Interrupted, &mut on_event);
        }

        let prefill = Instant::now();
        let hidden = sequence.prefill(1, &mut |done, total| on_event(Event::Prefill(done, total)))?;
        let mut logits = hidden.map(|hidden| sequence.logits(&hidden)).transpose()?;
        answer.generation.prefill_time = prefill.elapsed();

        let decode = Instant::now();
        let finish_reason = loop {
            let Some(logits_now) = &mut logits else { break FinishReason::Interrupted };
            let token = answer.choose(logits_now);
            answer.generation.decode_time = decode.elapsed();
            match answer.push(token, &mut on_event)? {
                ControlFlow::Break(reason) => break reason,
                ControlFlow::Continue(()) if sequence.len() + 1 >= self.model.max_position_embeddings() => {
                    break FinishReason::Length;
                }
                ControlFlow::Continue(()) => {}
            }
            if sequence.crosses_boundary()
                && let Some(boundary) = self.model.rope_boundary()
                && on_event(Event::LongFactors(boundary)).is_break()
            {
                break FinishReason::Interrupted;
            }
            logits = sequence.advance(token, &mut |done, total| on_event(Event::Prefill(done, total)))?;
        };
        answer.end(finish_reason, &mut on_event)
    }
}

/// The answer of a request as it grows.
struct Answer<'a> {
    engine: &'a Engine,
    request: &'a Request,
    /// The prompt's ids without pictures, for penalties.
    prompt: Vec<u32>,
    sampler: Sampler,
    detokenizer: Detokenizer<'a>,
    stops: StopMatcher,
    generation: Generation,
}

impl<'a> Answer<'a> {
    fn new(engine: &'a Engine, request: &'a Request, encoder_time: Duration) -> Self {
        let ids = |segment: &Segment| match segment {
            Segment::Text(ids) => ids.clone(),
            Segment::Image(_) => Vec::new(),
        };
        Self {
            engine,
            request,
            prompt: request.prompt.segments.iter().flat_map(ids).collect(),
            sampler: Sampler::new(request.sampling.clone()),
            detokenizer: Detokenizer::new(&engine.tokenizer),
            stops: StopMatcher::new(&request.stop),
            generation: Generation {
                text: String::new(),
                tokens: Vec::new(),
                finish_reason: FinishReason::Interrupted,
                prompt_tokens: request.prompt.len(),
                encoder_time,
                prefill_time: Duration::ZERO,
                decode_time: Duration::ZERO,
            },
        }
    }

    fn choose(&mut self, logits: &mut [f32]) -> u32 {
        self.sampler.sample(logits, &self.prompt, &self.generation.tokens)
    }

    /// Adds a token; breaks with the reason if the answer ends with it.
    fn push(
        &mut self,
        token: u32,
        on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<FinishReason>> {
        self.generation.tokens.push(token);
        if self.engine.stop_tokens.contains(&token) {
            return Ok(ControlFlow::Break(FinishReason::Stop));
        }
        let text = self.detokenizer.push(token)?;
        let (text, stopped) = self.stops.push(&text);
        let flow = self.emit(&text, on_event);
        Ok(if stopped {
            // What the detokenizer holds back came after the stop string.
            self.detokenizer.finish()?;
            ControlFlow::Break(FinishReason::Stop)
        } else if flow.is_break() {
            ControlFlow::Break(FinishReason::Interrupted)
        } else if self.generation.tokens.len() >= self.request.max_tokens {
            ControlFlow::Break(FinishReason::Length)
        } else {
            ControlFlow::Continue(())
        })
    }

    /// Every token is an occasion to break off, with text or without.
    fn emit(&mut self, text: &str, on_event: &mut impl FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        self.generation.text.push_str(text);
        on_event(Event::Text(text))
    }

    fn end(
        mut self,
        finish_reason: FinishReason,
        on_event: &mut impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let rest = self.detokenizer.finish()?;
        let (mut text, stopped) = self.stops.push(&rest);
        text += &self.stops.finish();
        let _ = self.emit(&text, on_event);
        self.generation.finish_reason = if stopped { FinishReason::Stop } else { finish_reason };
        Ok(self.generation)
    }
}
