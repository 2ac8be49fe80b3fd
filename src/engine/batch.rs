//! Continuous batching: requests join a running batch and leave it, and each step computes what all of them need next, a
//! part of a prompt here and a token there. A row's answer is what it would be alone.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;

use super::answer::Answer;
use super::sequence::{Part, Sequence, step};
use super::speculate::Proposer;
use super::{Engine, Event, FinishReason, Generation, Request};

/// Requests that are served together. `K` tells the caller which is which.
pub struct Batch<'e, K> {
    engine: &'e Engine,
    waiting: VecDeque<(K, Request)>,
    running: Vec<Row<'e, K>>,
}

/// Told what happens to which request; breaking off ends that request.
pub type OnEvent<'a, K> = dyn FnMut(K, Event) -> ControlFlow<()> + 'a;

struct Row<'e, K> {
    key: K,
    sequence: Sequence<'e>,
    answer: Answer<'e>,
    proposer: Proposer<'e>,
    /// Bytes that its cache may come to.
    bytes: usize,
    /// When its images were encoded.
    started: Instant,
}

/// What a row does in a step.
struct Plan {
    /// Pending positions.
    n: usize,
    proposed: Vec<u32>,
    /// Where its positions begin among those of all rows.
    start: usize,
    /// Whether the positions are the last pending ones, so that tokens follow.
    ends: bool,
}

impl<'e, K: Copy> Batch<'e, K> {
    /// An empty batch.
    pub fn new(engine: &'e Engine) -> Self {
        Self { engine, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Adds a request. It waits until there is room for it.
    ///
    /// # Errors
    /// When the request makes no sense or would never fit.
    pub fn submit(&mut self, key: K, request: Request) -> Result<()> {
        self.engine.check(&request)?;
        self.waiting.push_back((key, request));
        Ok(())
    }

    /// Requests that are not finished.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Whether all requests are finished.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Computes one step of all running requests and returns those that ended with it.
    ///
    /// # Errors
    /// When the batch as a whole cannot go on; what is wrong with one request is its own result.
    pub fn step(&mut self, on_event: &mut OnEvent<K>) -> Result<Vec<(K, Result<Generation>)>> {
        let mut ended = Vec::new();
        self.admit(on_event, &mut ended);
        self.announce(on_event, &mut ended);
        if self.running.is_empty() {
            return Ok(ended);
        }
        let plans = self.plan()?;
        let computing = Instant::now();
        let mut parts = Vec::new();
        let mut positions = Vec::new();
        for (row, plan) in self.running.iter_mut().zip(&plans) {
            if plan.n > 0 {
                parts.push(Part { sequence: &mut row.sequence, n: plan.n, proposed: &plan.proposed });
            }
            if plan.ends {
                positions.extend((plan.start + plan.n - 1..).take(1 + plan.proposed.len()));
            }
        }
        let logits = step(&mut parts, &positions)?;
        let logits = logits.as_ref().map(|logits| logits.try_as_slice::<f32>()).transpose()?.unwrap_or_default();
        let mut logits = logits.chunks(self.engine.vocab_size);
        let computed = computing.elapsed();
        let mut finished = Vec::new();
        for (at, (row, plan)) in self.running.iter_mut().zip(plans).enumerate() {
            row.count_time(computed);
            if plan.ends
                && let Some(reason) = row.choose(self.engine, &plan.proposed, &mut logits, on_event).transpose()
            {
                finished.push((at, reason));
            }
        }
        for (at, reason) in finished.into_iter().rev() {
            let row = self.running.remove(at);
            ended.push(row.end(self.engine, reason, on_event));
        }
        Ok(ended)
    }

    /// Lets requests in, in their order, as far as there is room.
    fn admit(&mut self, on_event: &mut OnEvent<K>, ended: &mut Vec<(K, Result<Generation>)>) {
        while let Some((_, request)) = self.waiting.front()
            && self.running.len() < self.engine.options.max_batch_size
            && self.makes_room(self.engine.cache_bytes(request))
            && let Some((key, request)) = self.waiting.pop_front()
        {
            match Row::new(self.engine, key, request) {
                Err(error) => ended.push((key, Err(error))),
                Ok(row) if on_event(key, Event::Encoded).is_break() => {
                    ended.push(row.end(self.engine, Ok(FinishReason::Interrupted), on_event));
                }
                Ok(row) => {
                    let boundary = self.engine.model.text.rope_boundary().filter(|&b| row.sequence.len() > b);
                    self.running.push(row);
                    if let Some(boundary) = boundary
                        && on_event(key, Event::LongFactors(boundary)).is_break()
                        && let Some(row) = self.running.pop()
                    {
                        ended.push(row.end(self.engine, Ok(FinishReason::Interrupted), on_event));
                    }
                }
            }
        }
    }

    /// Whether `bytes` more fit, be it by forgetting earlier requests.
    fn makes_room(&self, bytes: usize) -> bool {
        let Some(most) = self.engine.options.cache_bytes else { return true };
        let running: usize = self.running.iter().map(|row| row.bytes).sum();
        let Some(left) = most.checked_sub(running + bytes) else {
            // A request that fits alone is let in alone.
            return self.running.is_empty();
        };
        let mut prefixes = self.engine.prefixes.borrow_mut();
        while prefixes.bytes() > left && prefixes.drop_oldest() {}
        true
    }

    /// Tells how far prompts are; who breaks off ends.
    fn announce(&mut self, on_event: &mut OnEvent<K>, ended: &mut Vec<(K, Result<Generation>)>) {
        let mut at = 0;
        while let Some(Row { key, sequence, .. }) = self.running.get(at) {
            let reading = sequence.pending() > 1;
            if reading && on_event(*key, Event::Prefill(sequence.cache.len(), sequence.len())).is_break() {
                let row = self.running.remove(at);
                ended.push(row.end(self.engine, Ok(FinishReason::Interrupted), on_event));
            } else {
                at += 1;
            }
        }
    }

    /// Who has tokens to follow gets them computed; what is left of the step goes to prompts, first come, first served.
    fn plan(&mut self) -> Result<Vec<Plan>> {
        let mut left = self.engine.options.prefill_step_size.max(1);
        let mut start = 0;
        let plan = |row: &mut Row<'e, K>| -> Result<Plan> {
            let pending = row.sequence.pending();
            let n = if pending == 1 { 1 } else { pending.min(left) };
            left -= if pending == 1 { 0 } else { n };
            let ends = n == pending;
            let proposed = if ends && pending == 1 { row.propose(self.engine)? } else { Vec::new() };
            let plan = Plan { n, start, ends, proposed };
            start += plan.n + plan.proposed.len();
            Ok(plan)
        };
        self.running.iter_mut().map(plan).collect()
    }
}

impl<'e, K: Copy> Row<'e, K> {
    fn new(engine: &'e Engine, key: K, request: Request) -> Result<Self> {
        let bytes = engine.cache_bytes(&request);
        let constraint = request.grammar.as_ref().map(|grammar| engine.constraint(grammar)).transpose()?;
        let encoding = Instant::now();
        let hits = engine.features.borrow().hits;
        let sequence = engine.sequence(&request.prompt)?;
        let mut answer = Answer::new(&engine.processor.tokenizer, &engine.stop_tokens, &request, constraint);
        answer.generation.encoder_time = encoding.elapsed();
        answer.generation.cached_images = engine.features.borrow().hits - hits;
        answer.generation.cached_tokens = sequence.cache.len();
        let proposer = engine.speculation.proposer(&request.prompt)?;
        Ok(Self { key, sequence, answer, proposer, bytes, started: Instant::now() })
    }

    /// Tokens that may follow, which are checked with the next one.
    fn propose(&mut self, engine: &Engine) -> Result<Vec<u32>> {
        let model = engine.model();
        let len = self.sequence.len();
        // Keys of one cache share their factors, and the context is not exceeded.
        let boundary = model.text.rope_boundary().filter(|&boundary| len <= boundary);
        let end = boundary.unwrap_or(usize::MAX).min(model.text.max_position_embeddings());
        let most = end.saturating_sub(len).min(self.answer.left().saturating_sub(1));
        let mut proposed = self.answer.forced();
        proposed.truncate(most.min(super::speculate::MOST));
        if proposed.is_empty() {
            proposed = self.proposer.propose(&self.answer, most)?;
        }
        Ok(proposed)
    }

    fn count_time(&mut self, computed: std::time::Duration) {
        let generation = &mut self.answer.generation;
        if generation.tokens.is_empty() {
            generation.prefill_time = self.started.elapsed();
        } else {
            generation.decode_time += computed;
        }
    }

    /// Chooses the next token, and further ones as long as they are those proposed. The reason if the answer ends.
    fn choose<'l>(
        &mut self,
        engine: &Engine,
        proposed: &[u32],
        logits: &mut impl Iterator<Item = &'l [f32]>,
        on_event: &mut OnEvent<K>,
    ) -> Result<Option<FinishReason>> {
        let key = self.key;
        let mut on_event = |event: Event| on_event(key, event);
        if self.answer.generation.tokens.is_empty() {
            let total = self.sequence.len();
            // There is nothing left to break off.
            let _ = on_event(Event::Prefill(total, total));
        }
        let rows: Vec<&[f32]> = logits.take(1 + proposed.len()).collect();
        let mut valid = self.sequence.len();
        let mut accepted = 0;
        let mut reason = None;
        for (i, row) in rows.into_iter().enumerate() {
            let token = match self.answer.next(&mut row.to_vec(), &mut on_event)? {
                ControlFlow::Break(why) => {
                    reason = Some(why);
                    break;
                }
                ControlFlow::Continue(token) => token,
            };
            if self.sequence.len() + 1 >= engine.model.text.max_position_embeddings() {
                reason = Some(FinishReason::Length);
                break;
            }
            let as_proposed = proposed.get(i) == Some(&token);
            if !as_proposed {
                self.sequence.cache.truncate(valid);
            }
            let crosses = self.sequence.push(token);
            if crosses
                && let Some(boundary) = engine.model.text.rope_boundary()
                && on_event(Event::LongFactors(boundary)).is_break()
            {
                reason = Some(FinishReason::Interrupted);
                break;
            }
            if !as_proposed {
                break;
            }
            accepted += 1;
            valid += 1;
        }
        if self.sequence.cache.len() > valid {
            self.sequence.cache.truncate(valid);
        }
        self.answer.generation.proposed += proposed.len();
        self.answer.generation.accepted += accepted;
        self.proposer.learn(proposed.len(), accepted);
        Ok(reason)
    }

    fn end(
        mut self,
        engine: &Engine,
        reason: Result<FinishReason>,
        on_event: &mut OnEvent<K>,
    ) -> (K, Result<Generation>) {
        let key = self.key;
        self.answer.generation.long_factors = engine.uses_long_factors(self.sequence.len());
        let generation = reason.and_then(|reason| self.answer.end(reason, &mut |event| on_event(key, event)));
        engine.remember(self.sequence);
        (key, generation)
    }
}
