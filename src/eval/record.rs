//! What became of a row: a line of the results' file, and all that figures are made of.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::one_line;
use crate::rows::{Lines, State};

/// A row and how it was answered. What a kind of evaluation does not have is empty, and not written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The row's line in the data, or a window's number, from 1.
    pub row: u64,
    /// What the row calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// What it belongs to: a subject, a category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What was asked, or the beginning of the text that was to be predicted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// The images' names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Between which answers there was to choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Of each option, the logarithm of its probability.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_likelihoods: Vec<f64>,
    /// The right answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// The model's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// By name.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
    /// Position by position, how far the model is from another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<ByPosition>,
    /// Why there is no answer. The row does not count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Record {
    /// A score that the record must have.
    pub(super) fn score(&self, name: &str) -> Result<f64> {
        let score = self.scores.get(name).copied();
        score.with_context(|| format!("row {} has no score \"{name}\": it is of another evaluation", self.row))
    }

    /// The record of a row that failed.
    #[must_use]
    pub fn failed(self, error: &anyhow::Error) -> Self {
        Self { error: Some(one_line(error)), ..self }
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.scores.values().chain(&self.log_likelihoods).all(|score| score.is_finite()),
            "row {}: the model computes numbers that are none (NaN); `dtype` float32 may help, or its weights are damaged",
            self.row
        );
        Ok(())
    }
}

/// Lists of the same length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ByPosition {
    /// Where the predicted tokens stand, from 0.
    pub positions: Vec<u32>,
    /// The divergence there, in nats.
    pub kl: Vec<f32>,
    /// Whether both models have the same best token there.
    pub same: Vec<bool>,
}

/// Told of each record as it is made.
pub type OnRecord<'a> = dyn FnMut(Record) -> Result<()> + 'a;

/// Records in the rows' order, kept in a file where one is wanted.
pub struct Results {
    /// Those of this run and of earlier ones.
    pub records: Vec<Record>,
    file: File,
}

/// Where records are kept.
enum File {
    None,
    /// It is made when there is something to write: until then a run may fail and leave no trace.
    New {
        path: PathBuf,
        state: State,
        replace: bool,
    },
    Begun(Lines),
}

impl Results {
    /// In memory alone.
    pub fn new() -> Self {
        Self { records: Vec::new(), file: File::None }
    }

    /// In a new file, which is made with the first record. One that is there is an error unless `replace`.
    pub fn create(path: &Path, state: State, replace: bool) -> Self {
        Self { records: Vec::new(), file: File::New { path: path.to_owned(), state, replace } }
    }

    /// In a file that an earlier run began with these rows.
    pub fn resume(path: &Path, state: &State, rows: &[u64]) -> Result<Self> {
        let mut records = Vec::new();
        let lines = Lines::resume(path, state, |number, line| {
            let record = parse(path, number, line)?;
            let name = path.display();
            match rows.get(records.len()) {
                Some(&row) if row == record.row => records.push(record),
                Some(row) => bail!(
                    "line {number} of {name} answers row {}, where row {row} is expected; `force` begins anew",
                    record.row
                ),
                None => bail!("{name} has more lines than there are rows; `force` begins anew"),
            }
            Ok(())
        })?;
        Ok(Self { records, file: File::Begun(lines) })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When it cannot be written, or the model computes nonsense.
    pub fn push(&mut self, record: Record) -> Result<()> {
        record.check()?;
        if let File::New { path, state, replace } = &self.file {
            self.file = File::Begun(Lines::create(path, state, *replace)?);
        }
        if let File::Begun(lines) = &mut self.file {
            lines.write(&record)?;
        }
        self.records.push(record);
        Ok(())
    }
}

impl Default for Results {
    fn default() -> Self {
        Self::new()
    }
}

/// The records of a file that is whole.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let records = lines.zip(1..).map(|(line, number)| parse(path, number, line)).collect::<Result<Vec<_>>>()?;
    ensure!(!records.is_empty(), "{} holds no results", path.display());
    Ok(records)
}

fn parse(path: &Path, number: u64, line: &[u8]) -> Result<Record> {
    serde_json::from_slice(line)
        .with_context(|| format!("line {number} of {} is none that phi3v eval wrote", path.display()))
}

/// The records of the rows that both have, in the same order, but for those that failed.
///
/// # Errors
/// When they have no row in common, or what was to be answered or predicted differs.
pub fn pair<'r>(
    ours: &'r [impl Borrow<Record>],
    theirs: &'r [impl Borrow<Record>],
) -> Result<(Vec<&'r Record>, Vec<&'r Record>)> {
    let by_row: BTreeMap<u64, &Record> = theirs.iter().map(|record| (record.borrow().row, record.borrow())).collect();
    let mut pairs = (Vec::new(), Vec::new());
    for record in ours.iter().map(Borrow::borrow) {
        let Some(&other) = by_row.get(&record.row) else { continue };
        ensure!(
            record.references == other.references,
            "row {} has other right answers in what is compared with: it is of other data",
            record.row
        );
        let bytes = |record: &Record| record.scores.get("bytes").copied();
        ensure!(
            bytes(record) == bytes(other),
            "row {}: what is compared with predicts another part of the text, with another tokenizer or other windows; rows \
             with a question and its answer can be compared",
            record.row
        );
        if record.error.is_some() || other.error.is_some() {
            continue;
        }
        pairs.0.push(record);
        pairs.1.push(other);
    }
    ensure!(!pairs.0.is_empty(), "what is compared with has no row in common with these");
    Ok(pairs)
}
