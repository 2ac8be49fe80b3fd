//! Many requests: a batch that is kept full, and answers that leave it in the order in which their requests came.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use anyhow::Result;

use super::batch::Batch;
use super::{Engine, Event, FinishReason, Generation, Request};

/// How many answers may wait for an earlier one. Requests that fail take no time: without a bound a long answer could have
/// all others wait.
const MOST_WAITING: usize = 1024;

/// How far serving is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Requests that are done.
    pub rows: u64,
    /// Tokens that were generated, those of unfinished answers included.
    pub tokens: u64,
}

/// A request that came, or what kept it from coming, under a key.
pub type Incoming<T> = (T, Result<Request>);

/// Serves what `next` gives, as many at once as the engine takes, and tells `done` of each in order. `on_progress` may
/// break off at any time; false if it did.
///
/// # Errors
/// Those of `next` and `done`, and when the engine fails as a whole.
pub fn serve<T>(
    engine: &Engine,
    next: &mut dyn FnMut() -> Result<Option<Incoming<T>>>,
    done: &mut dyn FnMut(T, Result<Generation>) -> Result<()>,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<bool> {
    let mut batch = Batch::new(engine);
    let mut begun = Begun { slots: VecDeque::new(), first: 0 };
    let mut progress = Progress::default();
    let mut all_read = false;
    loop {
        while !all_read && batch.len() < engine.options().max_batch_size && begun.slots.len() < MOST_WAITING {
            if on_progress(progress).is_break() {
                return Ok(false);
            }
            let Some((name, request)) = next()? else {
                all_read = true;
                break;
            };
            let key = begun.push(name);
            if let Err(error) = request.and_then(|request| batch.submit(key, request)) {
                begun.end(key, Err(error));
                progress.rows += begun.leave(done)?;
            }
        }
        // Then all that was begun has ended, and left.
        if batch.is_empty() {
            return Ok(true);
        }
        let mut broken_off = false;
        let ended = batch.step(&mut |_, event| {
            progress.tokens += u64::from(matches!(event, Event::Text(_)));
            let flow = on_progress(progress);
            broken_off |= flow.is_break();
            flow
        })?;
        for (key, result) in ended {
            match result {
                // A part of an answer is none; its turn comes again.
                Ok(generation) if generation.finish_reason == FinishReason::Interrupted => broken_off = true,
                result => begun.end(key, result),
            }
        }
        progress.rows += begun.leave(done)?;
        if broken_off {
            return Ok(false);
        }
    }
}

/// Requests that were begun and have not left, in their order.
struct Begun<T> {
    slots: VecDeque<(T, Option<Result<Generation>>)>,
    /// Key of the first.
    first: usize,
}

impl<T> Begun<T> {
    fn push(&mut self, name: T) -> usize {
        self.slots.push_back((name, None));
        self.first + self.slots.len() - 1
    }

    fn end(&mut self, key: usize, result: Result<Generation>) {
        self.slots[key - self.first].1 = Some(result);
    }

    /// Lets those go that come before the first that has not ended; how many they are.
    fn leave(&mut self, done: &mut dyn FnMut(T, Result<Generation>) -> Result<()>) -> Result<u64> {
        let mut left = 0;
        while self.slots.front().is_some_and(|(_, result)| result.is_some())
            && let Some((name, Some(result))) = self.slots.pop_front()
        {
            self.first += 1;
            left += 1;
            done(name, result)?;
        }
        Ok(left)
    }
}
