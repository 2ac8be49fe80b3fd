//! The answers' file: a line a row, in the rows' order.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Lines, RowFile, State};
use crate::engine::{FinishReason, Generation};

/// What became of a row.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It was answered.
    Answer {
        /// The answer.
        text: String,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Positions of the prompt.
        prompt_tokens: usize,
        /// Tokens of the answer, the one that ended it included.
        generation_tokens: usize,
    },
    /// It was not.
    Failure {
        /// Why, in a line.
        error: String,
    },
}

impl Outcome {
    pub(super) fn answer(generation: Generation) -> Self {
        let Generation { text, tokens, finish_reason, prompt_tokens, .. } = generation;
        Self::Answer { text, finish_reason, prompt_tokens, generation_tokens: tokens.len() }
    }

    pub(super) fn error(error: &anyhow::Error) -> Self {
        Self::Failure { error: crate::one_line(error) }
    }
}

/// Where outcomes go.
pub struct Output {
    lines: Lines,
    /// Rows that are written, by earlier runs too.
    pub rows: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The first of these.
    pub first_failed: Option<u64>,
    /// Tokens of the answers that this run wrote.
    pub tokens: u64,
}

impl Output {
    fn new(lines: Lines) -> Self {
        Self { lines, rows: 0, failed: 0, first_failed: None, tokens: 0 }
    }

    /// To a stream, which cannot be resumed.
    pub fn stream(to: Box<dyn Write>) -> Self {
        Self::new(Lines::stream(to))
    }

    /// A new file. One that is there is an error unless `replace`.
    pub fn create(path: &Path, state: &State, replace: bool) -> Result<Self> {
        Ok(Self::new(Lines::create(path, state, replace)?))
    }

    /// A file that an earlier run began: `rows` is read up to the first row that has no line there.
    pub fn resume(path: &Path, state: &State, rows: &mut RowFile) -> Result<Self> {
        #[derive(Deserialize)]
        struct Line {
            row: u64,
            error: Option<serde::de::IgnoredAny>,
        }
        let name = path.display();
        let mut output = Self::stream(Box::new(std::io::sink()));
        output.lines = Lines::resume(path, state, |at, line| {
            let expected = rows.next_row()?.map(|(number, _)| number);
            let found: Line = serde_json::from_slice(line)
                .with_context(|| format!("line {at} of {name} is none that this program wrote; `force` begins anew"))?;
            match expected {
                Some(expected) if found.row == expected => output.count(found.row, found.error.is_some()),
                Some(expected) => bail!(
                    "line {at} of {name} answers row {}, where row {expected} is expected; `force` begins anew",
                    found.row
                ),
                None => bail!("{name} has more lines than there are rows; `force` begins anew"),
            }
            Ok(())
        })?;
        Ok(output)
    }

    fn count(&mut self, row: u64, failed: bool) {
        self.rows += 1;
        if failed {
            self.failed += 1;
            self.first_failed.get_or_insert(row);
        }
    }

    /// Writes the line of a row.
    pub fn write(&mut self, row: u64, id: Option<&RawValue>, outcome: &Outcome) -> Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            row: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a RawValue>,
            #[serde(flatten)]
            outcome: &'a Outcome,
        }
        self.lines.write(&Line { row, id, outcome })?;
        self.count(row, matches!(outcome, Outcome::Failure { .. }));
        if let Outcome::Answer { generation_tokens, .. } = outcome {
            self.tokens += *generation_tokens as u64;
        }
        Ok(())
    }
}
