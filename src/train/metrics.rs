//! `metrics.jsonl`: how a run went, a JSON object a line, in the order of the steps.
//!
//! A run that was killed and resumed has the lines of one that was not, but for what was measured with a clock or of the
//! machine: [`MEASURED`]. A number that is infinite or NaN is `null`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};

use crate::checkpoint::staging::{lock, replace_file};

/// Keys whose values differ from run to run; all others depend on the data and the settings alone.
pub const MEASURED: [&str; 3] = ["tokens_per_second", "seconds", "peak_memory"];

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// After some steps of training.
    Training(Training),
    /// After a pass over rows that are not trained on.
    Validation(Validation),
}

impl Record {
    /// The step after which it was written.
    pub fn step(&self) -> u64 {
        match self {
            Self::Training(Training { step, .. }) | Self::Validation(Validation { step, .. }) => *step,
        }
    }
}

/// Of the steps since the last such line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Steps since the run began.
    pub step: u64,
    /// Passes over the rows, the one that was begun as a fraction.
    #[serde(deserialize_with = "number")]
    pub epoch: f64,
    /// Mean cross-entropy of a target token, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f32,
    /// Of the last step.
    #[serde(deserialize_with = "number")]
    pub learning_rate: f32,
    /// Norm of all gradients of the last step, before they were clipped.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f32,
    /// Positions since the run began.
    pub tokens: u64,
    /// Positions a second.
    #[serde(deserialize_with = "number")]
    pub tokens_per_second: f32,
    /// Since the run began, without what lies between its parts.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
    /// The most that arrays took, in bytes.
    pub peak_memory: u64,
}

/// Of rows that are not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Steps of training since the run began.
    pub step: u64,
    /// Mean cross-entropy of a target token, in nats.
    #[serde(deserialize_with = "number")]
    pub val_loss: f32,
    /// Share of target tokens that were the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f32>,
    /// Share of rows all of whose target tokens were the likeliest: what greedy decoding answers, word for word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_exact: Option<f32>,
    /// Target tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_tokens: Option<u64>,
}

/// JSON has neither NaN nor infinity.
fn number<'de, T: Deserialize<'de> + From<f32>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(|| f32::NAN.into()))
}

/// A file that lines are added to.
pub struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// A new file.
    ///
    /// # Errors
    /// When there is one.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        Self::new(file, path).with_context(|| format!("cannot make {}", path.display()))
    }

    /// The file of a run that goes on: lines that are not to be kept are dropped, as is what a killed process left of a line,
    /// and the others stay as they are, to the byte.
    ///
    /// # Errors
    /// When there is no file, or a line that is none of such a file.
    pub fn resume(path: &Path, keep: impl Fn(&Record) -> bool) -> Result<Self> {
        let bytes = read_bytes(path)?;
        let mut kept = Vec::with_capacity(bytes.len());
        for (line, record) in lines(&bytes, path) {
            if keep(&record?) {
                kept.extend_from_slice(line);
            }
        }
        if kept != bytes {
            replace_file(path, |file| {
                // Those who could read it still can.
                file.set_permissions(fs::metadata(path)?.permissions())?;
                Ok(file.write_all(&kept)?)
            })?;
        }
        let file = OpenOptions::new().append(true).open(path);
        Self::new(file, path).with_context(|| format!("cannot open {} to go on with it", path.display()))
    }

    fn new(file: std::io::Result<File>, path: &Path) -> Result<Self> {
        let file = file?;
        lock(&file, path)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Adds a line.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        // In one go: who is killed leaves at most one line unfinished.
        let written = self.file.write_all(&line).and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// All whole lines of a file, which may be one that is being written.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    lines(&read_bytes(path)?, path).map(|(_, record)| record).collect()
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Whole lines, with their ends, and what they say.
fn lines<'a>(bytes: &'a [u8], path: &Path) -> impl Iterator<Item = (&'a [u8], Result<Record>)> {
    let whole = bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.enumerate().map(move |(index, line)| {
        let record = serde_json::from_slice(line)
            .with_context(|| format!("line {} of {} is none that this program wrote", index + 1, path.display()));
        (line, record)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn training(step: u64, loss: f32) -> Record {
        Record::Training(Training {
            step,
            epoch: step as f64 / 8.0,
            loss,
            learning_rate: 1e-4,
            grad_norm: 0.7,
            tokens: 100 * step,
            tokens_per_second: 31.5,
            seconds: 2.5 * step as f64,
            peak_memory: 1 << 30,
        })
    }

    fn validation(step: u64) -> Record {
        Record::Validation(Validation {
            step,
            val_loss: 1.5,
            val_accuracy: Some(0.5),
            val_exact: None,
            val_tokens: None,
        })
    }

    fn written(path: &Path, records: &[Record]) {
        let mut file = MetricsFile::create(path).unwrap();
        records.iter().for_each(|record| file.write(record).unwrap());
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let records = [training(1, 2.25), training(2, 2.0), validation(2)];
        written(&path, &records);
        assert_eq!(read(&path).unwrap(), records);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            "{\"step\":1,\"epoch\":0.125,\"loss\":2.25,\"learning_rate\":0.0001,\"grad_norm\":0.7,\"tokens\":100,\
             \"tokens_per_second\":31.5,\"seconds\":2.5,\"peak_memory\":1073741824}"
        );
        assert_eq!(text.lines().last().unwrap(), r#"{"step":2,"val_loss":1.5,"val_accuracy":0.5}"#);
    }

    #[test]
    fn what_is_measured_is_known_by_its_key() {
        let line: Value = serde_json::to_value(training(1, 1.0)).unwrap();
        assert!(MEASURED.iter().all(|key| line.get(key).is_some()));
    }

    #[test]
    fn numbers_that_json_has_not_are_null() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        written(&path, &[training(1, f32::NAN), training(2, f32::INFINITY)]);
        for line in fs::read_to_string(&path).unwrap().lines() {
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["loss"], Value::Null);
        }
        for record in read(&path).unwrap() {
            let Record::Training(Training { loss, .. }) = record else { panic!("{record:?}") };
            assert!(loss.is_nan());
        }
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, "mine").unwrap();
        assert!(MetricsFile::create(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_resumed_file_has_the_lines_of_an_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
        let records = [training(1, 2.0), training(2, 1.5), validation(2), training(3, 1.25), training(4, 1.0)];
        written(&whole, &records);
        let bytes = fs::read(&whole).unwrap();
        // Killed anywhere after the line of step 2, whose state was saved.
        let saved = bytes.split_inclusive(|&byte| byte == b'\n').take(3).map(<[u8]>::len).sum::<usize>();
        for length in saved..=bytes.len() {
            fs::write(&killed, &bytes[..length]).unwrap();
            let mut file = MetricsFile::resume(&killed, |record| record.step() <= 2).unwrap();
            assert_eq!(fs::read(&killed).unwrap(), bytes[..saved]);
            records[3..].iter().for_each(|record| file.write(record).unwrap());
            assert_eq!(fs::read(&killed).unwrap(), bytes);
        }
    }

    #[test]
    fn lines_that_are_kept_keep_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let odd = "{ \"val_loss\": 1.50, \"note\": \"by hand\", \"step\": 1 }\n";
        fs::write(&path, format!("{odd}{{\"step\": 2, \"val_loss\": 1}}\n{{\"st")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
        MetricsFile::resume(&path, |record| record.step() <= 1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), odd);
    }

    #[test]
    fn a_broken_line_among_others_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let text = "{\"step\":1,\"val_loss\":1}\n{\"step\":\n{\"step\":2,\"val_loss\":1}\n";
        fs::write(&path, text).unwrap();
        let error = MetricsFile::resume(&path, |record| record.step() <= 1).err().unwrap().to_string();
        assert!(error.starts_with("line 2 of "), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert!(MetricsFile::resume(&folder.path().join("other"), |_| true).is_err());
    }
}
