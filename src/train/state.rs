//! Where a run is: all that its next step depends on, in one file that appears whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mlx_rs::Array;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checkpoint::arrays::{self, Contents};
use crate::checkpoint::identity::check_run;

/// The file's name in the folder of the adapter.
pub const FILE: &str = "training.safetensors";

/// How far a run is. Everything else follows from the settings: batches, random numbers and the learning rate are
/// functions of the step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps that were taken.
    pub step: usize,
    /// Tokens that were read, images included.
    pub tokens: u64,
    /// Time that the run took, as far as it was reported.
    pub seconds: f64,
    /// Losses since the last report, weighted, and what they are to be divided by.
    pub unreported: (f64, f64),
    /// The step at which held-out rows and samples were last looked at.
    pub looked_at: Option<usize>,
    /// The step with the least validation loss so far, and that loss.
    pub best: Option<(usize, f64)>,
    /// Validations since then.
    pub waited: usize,
}

/// A run's file.
#[derive(Debug)]
pub struct Saved {
    /// How far it was.
    pub progress: Progress,
    /// The trained tensors, float32.
    pub values: BTreeMap<String, Array>,
    /// The optimizer's.
    pub optimizer: BTreeMap<String, Array>,
}

const VALUE: &str = "value:";
const OPTIMIZER: &str = "optimizer:";

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Whether there is a run that can be gone on with.
pub fn exists(folder: &Path) -> bool {
    path(folder).is_file()
}

impl Saved {
    /// Writes it, with the settings that it belongs to.
    pub fn write(&self, folder: &Path, settings: &Map<String, Value>) -> Result<()> {
        let named = |prefix: &'static str, arrays: &BTreeMap<String, Array>| {
            arrays.iter().map(move |(name, array)| (format!("{prefix}{name}"), array.clone())).collect::<Vec<_>>()
        };
        let arrays = named(VALUE, &self.values).into_iter().chain(named(OPTIMIZER, &self.optimizer)).collect();
        let metadata = HashMap::from([
            ("progress".to_owned(), serde_json::to_string(&self.progress)?),
            ("settings".to_owned(), serde_json::to_string(settings)?),
        ]);
        arrays::write(&path(folder), &Contents { metadata, arrays })
    }

    /// Reads the file of a run with these settings.
    pub fn read(folder: &Path, settings: &Map<String, Value>) -> Result<Self> {
        let path = path(folder);
        let Some(contents) = arrays::read(&path)? else {
            bail!("{} has no {FILE}: there is no run to go on with; leave `resume` out", folder.display());
        };
        let text =
            |key: &str| contents.metadata.get(key).with_context(|| format!("{} is no training file", path.display()));
        let before: Map<String, Value> = serde_json::from_str(text("settings")?)?;
        check_run(&folder.display().to_string(), &before, settings)?;
        let mut saved = Self {
            progress: serde_json::from_str(text("progress")?)?,
            values: BTreeMap::new(),
            optimizer: BTreeMap::new(),
        };
        for (name, array) in contents.arrays {
            if let Some(name) = name.strip_prefix(VALUE) {
                saved.values.insert(name.to_owned(), array);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                saved.optimizer.insert(name.to_owned(), array);
            } else {
                bail!("{} holds {name}, which no run writes", path.display());
            }
        }
        Ok(saved)
    }
}
