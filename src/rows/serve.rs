//! Rows to answers: a batch that is kept full, and answers that leave it in the rows' order.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use anyhow::Result;
use serde_json::value::RawValue;

use super::{Defaults, Fields, Outcome, Output, Row, RowFile};
use crate::engine::batch::Batch;
use crate::engine::{Engine, Event, FinishReason, Request};

/// How many answers may wait for an earlier one. Rows that fail take no time: without a bound a long answer could have a
/// whole file of them wait.
const MOST_WAITING: usize = 1024;

/// How far this run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are written.
    pub rows: u64,
    /// Tokens that were generated, those of unfinished rows included.
    pub tokens: u64,
}

/// Answers the rows that are left in a file, as many at once as the engine takes. Pictures are read when their row's turn
/// comes. What is wrong with a row becomes its outcome. `on_progress` may break off at any time; false if it did.
///
/// # Errors
/// When rows cannot be read or outcomes not be written, or the engine fails as a whole.
pub fn serve(
    engine: &Engine,
    rows: &mut RowFile,
    defaults: &Defaults,
    output: &mut Output,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<bool> {
    let mut batch = Batch::new(engine);
    let mut begun = Begun::default();
    let mut progress = Progress::default();
    let mut all_read = false;
    loop {
        while !all_read && batch.len() < engine.options().max_batch_size && begun.slots.len() < MOST_WAITING {
            if on_progress(progress).is_break() {
                return Ok(false);
            }
            let folder = rows.folder();
            let Some((number, line)) = rows.next_row()? else {
                all_read = true;
                break;
            };
            let (id, request) = read(line, |fields| {
                let row = Row::read(fields, defaults, &folder)?;
                row.refuse_other()?;
                row.request(engine.processor(), defaults)
            });
            let key = begun.push(number, id);
            if let Err(error) = request.and_then(|request| batch.submit(key, request)) {
                begun.end(key, Outcome::error(&error));
                progress.rows += begun.write(output)?;
            }
        }
        // Then all that was begun has ended, and is written.
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
                // A part of an answer is none; the row's turn comes again.
                Ok(generation) if generation.finish_reason == FinishReason::Interrupted => broken_off = true,
                Ok(generation) => begun.end(key, Outcome::answer(generation)),
                Err(error) => begun.end(key, Outcome::error(&error)),
            }
        }
        progress.rows += begun.write(output)?;
        if broken_off {
            return Ok(false);
        }
    }
}

/// A row's id, which bad rows have too, and what it asks.
fn read(line: &[u8], request: impl FnOnce(Fields) -> Result<Request>) -> (Option<Box<RawValue>>, Result<Request>) {
    match Fields::parse(line) {
        Ok(mut fields) => (fields.take_raw("id"), request(fields)),
        Err(error) => (None, Err(error)),
    }
}

/// Rows that were begun and are not written, in their order.
#[derive(Default)]
struct Begun {
    slots: VecDeque<Slot>,
    /// Key of the first.
    first: usize,
}

struct Slot {
    row: u64,
    id: Option<Box<RawValue>>,
    outcome: Option<Outcome>,
}

impl Begun {
    fn push(&mut self, row: u64, id: Option<Box<RawValue>>) -> usize {
        self.slots.push_back(Slot { row, id, outcome: None });
        self.first + self.slots.len() - 1
    }

    fn end(&mut self, key: usize, outcome: Outcome) {
        self.slots[key - self.first].outcome = Some(outcome);
    }

    /// Writes the rows before the first that has not ended; how many they are.
    fn write(&mut self, output: &mut Output) -> Result<u64> {
        let mut written = 0;
        while self.slots.front().is_some_and(|slot| slot.outcome.is_some())
            && let Some(Slot { row, id, outcome: Some(outcome) }) = self.slots.pop_front()
        {
            self.first += 1;
            written += 1;
            output.write(row, id.as_deref(), &outcome)?;
        }
        Ok(written)
    }
}
