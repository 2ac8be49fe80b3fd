//! The answers' file: a line a row, in the rows' order, of which never more than the last is
//! broken.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{RowFile, State};
use crate::checkpoint::staging::lock;
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
    to: Box<dyn Write>,
    name: String,
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
    /// To a stream, which cannot be resumed.
    pub fn stream(to: Box<dyn Write>) -> Self {
        Self { to, name: "the rows".into(), rows: 0, failed: 0, first_failed: None, tokens: 0 }
    }

    /// A new file. One that is there is an error unless `replace`.
    pub fn create(path: &Path, state: &State, replace: bool) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true);
        let file = match replace {
            true => options.create(true).truncate(false).open(path),
            false => options.create_new(true).open(path),
        };
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        lock(&file, path)?;
        // Old rows go before the state changes: they are never taken for rows of the new one.
        file.set_len(0).with_context(|| format!("cannot empty {}", path.display()))?;
        state.write(path)?;
        Ok(Self { name: path.display().to_string(), ..Self::stream(Box::new(file)) })
    }

    /// A file that an earlier run began: `rows` is read up to the first row that has no line there. What a killed run left
    /// of a line is cut off.
    pub fn resume(path: &Path, state: &State, rows: &mut RowFile) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {} to go on with it", path.display()))?;
        lock(&file, path)?;
        let end = end_of_last_line(&mut file).with_context(|| format!("cannot read {}", path.display()))?;
        if end == 0 {
            drop(file);
            return Self::create(path, state, true);
        }
        state.check(path)?;
        let mut output = Self::stream(Box::new(std::io::sink()));
        output.name = path.display().to_string();
        file.rewind()?;
        output.pass(BufReader::new((&file).take(end)), rows)?;
        file.set_len(end).with_context(|| format!("cannot shorten {}", path.display()))?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { to: Box::new(file), ..output })
    }

    /// Reads lines that are there along with their rows.
    fn pass(&mut self, mut lines: impl BufRead, rows: &mut RowFile) -> Result<()> {
        #[derive(Deserialize)]
        struct Line {
            row: u64,
            error: Option<serde::de::IgnoredAny>,
        }
        let name = self.name.clone();
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).with_context(|| format!("cannot read {name}"))? > 0 {
            let at = self.rows + 1;
            let expected = rows.next_row()?.map(|(number, _)| number);
            let found: Line = serde_json::from_slice(&line)
                .with_context(|| format!("line {at} of {name} is none that this program wrote; --force begins anew"))?;
            match expected {
                Some(expected) if found.row == expected => self.count(found.row, found.error.is_some()),
                Some(expected) => bail!(
                    "line {at} of {name} answers row {}, where row {expected} is expected; --force begins anew",
                    found.row
                ),
                None => bail!("{name} has more lines than there are rows; --force begins anew"),
            }
            line.clear();
        }
        Ok(())
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
        let mut line = serde_json::to_vec(&Line { row, id, outcome })?;
        line.push(b'\n');
        // In one go: who is killed leaves at most one line unfinished.
        let written = self.to.write_all(&line).and_then(|()| self.to.flush());
        written.with_context(|| format!("cannot write {}", self.name))?;
        self.count(row, matches!(outcome, Outcome::Failure { .. }));
        if let Outcome::Answer { generation_tokens, .. } = outcome {
            self.tokens += *generation_tokens as u64;
        }
        Ok(())
    }
}

/// Bytes up to the end of the last whole line.
fn end_of_last_line(file: &mut File) -> std::io::Result<u64> {
    const STEP: u64 = 1 << 16;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut bytes = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        bytes.clear();
        if (&mut *file).take(end - start).read_to_end(&mut bytes)? as u64 != end - start {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(at) = bytes.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
