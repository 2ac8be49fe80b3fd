//! Rows to answers.

use std::ops::ControlFlow;

use anyhow::Result;
use serde_json::value::RawValue;

use super::{Defaults, Fields, Outcome, Output, Row, RowFile};
use crate::engine::queue::{self, Progress};
use crate::engine::{Engine, Request};

/// Answers the rows that are left in a file, as many at once as the engine takes. Images are read when their row's turn
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
    let folder = rows.folder();
    let mut next = || {
        let Some((number, line)) = rows.next_row()? else { return Ok(None) };
        let (id, request) = read(line, |fields| {
            let row = Row::read(fields, defaults, engine.processor(), &folder)?;
            row.refuse_other()?;
            row.request(engine.processor(), defaults)
        });
        Ok(Some(((number, id), request)))
    };
    let mut done = |(number, id): (u64, Option<Box<RawValue>>), result| {
        let outcome = match result {
            Ok(generation) => Outcome::answer(generation),
            Err(error) => Outcome::error(&error),
        };
        output.write(number, id.as_deref(), &outcome)
    };
    queue::serve(engine, &mut next, &mut done, on_progress)
}

/// A row's id, which bad rows have too, and what it asks.
fn read(line: &[u8], request: impl FnOnce(Fields) -> Result<Request>) -> (Option<Box<RawValue>>, Result<Request>) {
    match Fields::parse(line) {
        Ok(mut fields) => (fields.take_raw("id"), request(fields)),
        Err(error) => (None, Err(error)),
    }
}
