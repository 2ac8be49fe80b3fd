//! The files of a training, and what is held out of them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use rand::seq::index;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::dataset::example::Example;
use crate::dataset::read::{Dataset, Reader};
use crate::rows::{BadRow, Checked};

/// Where rows are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFiles {
    /// Rows to learn.
    pub train: PathBuf,
    /// Rows to measure progress with.
    pub valid: Option<PathBuf>,
    /// Rows to measure the result with.
    pub test: Option<PathBuf>,
}

impl DataFiles {
    /// The files that `data` stands for: itself, or `train.jsonl`, `valid.jsonl` and `test.jsonl` in it, of which only the
    /// first must be there.
    pub fn find(data: &Path) -> Result<Self> {
        if data.is_file() {
            return Ok(Self { train: data.to_owned(), valid: None, test: None });
        }
        let shown = data.display();
        ensure!(data.is_dir(), "there is no {shown}; a file of JSON lines, or a folder with train.jsonl is expected");
        let file = |name: &str| Some(data.join(name)).filter(|path| path.exists());
        let Some(train) = file("train.jsonl") else {
            bail!("{shown} has no train.jsonl; looked for train.jsonl, and for valid.jsonl and test.jsonl beside it");
        };
        Ok(Self { train, valid: file("valid.jsonl"), test: file("test.jsonl") })
    }

    /// An error unless so large a share of the rows can be held out for validation.
    pub fn check_val_split(&self, share: f64) -> Result<()> {
        ensure!(share > 0.0 && share < 1.0, "val-split {share}: a share between 0 and 1 is expected");
        if let Some(valid) = &self.valid {
            bail!("val-split {share}: {} is there for validation already; leave one of them out", valid.display());
        }
        Ok(())
    }
}

/// The rows of all files.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    /// Rows to learn.
    pub train: Dataset,
    /// Rows to measure progress with.
    pub valid: Option<Dataset>,
    /// Rows to measure the result with.
    pub test: Option<Dataset>,
}

impl Splits {
    /// Checks all rows of all files; none if `progress` breaks off.
    pub fn read(
        files: &DataFiles,
        reader: &mut Reader,
        progress: &mut dyn FnMut(Checked) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        let mut datasets = Vec::new();
        for path in [Some(&files.train), files.valid.as_ref(), files.test.as_ref()] {
            let dataset = match path {
                Some(path) => match reader.read(path, progress)? {
                    Some(dataset) => Some(dataset),
                    None => return Ok(None),
                },
                None => None,
            };
            datasets.push(dataset);
        }
        let mut datasets = datasets.into_iter();
        let mut next = || datasets.next().flatten();
        Ok(next().map(|train| Self { train, valid: next(), test: next() }))
    }

    /// The rows that cannot be learned from.
    pub fn bad(&self) -> impl Iterator<Item = &BadRow> {
        [Some(&self.train), self.valid.as_ref(), self.test.as_ref()].into_iter().flatten().flat_map(|data| &data.bad)
    }

    /// Holds a random share of the rows to learn out for validation: at least one, never all.
    pub fn hold_out(&mut self, share: f64, seed: u64) -> Result<()> {
        let rows = self.train.good.len();
        ensure!(
            rows > 1,
            "val-split {share}: of {rows} good row{} none can be held out",
            if rows == 1 { "" } else { "s" }
        );
        let count = ((rows as f64 * share).round() as usize).clamp(1, rows - 1);
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let mut held = vec![false; rows];
        index::sample(&mut random, rows, count).iter().for_each(|at| held[at] = true);
        let mut held = held.into_iter();
        let (out, kept): (Vec<Example>, Vec<Example>) =
            std::mem::take(&mut self.train.good).into_iter().partition(|_| held.next().unwrap_or(false));
        self.train.good = kept;
        self.valid = Some(Dataset { good: out, bad: Vec::new(), sha256: self.train.sha256.clone() });
        Ok(())
    }
}
