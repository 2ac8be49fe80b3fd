//! What a file of answers belongs to, in a file beside it: the answers' own file holds nothing but answers.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mlx_rs::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Defaults, Scan};
use crate::checkpoint::ModelFiles;
use crate::checkpoint::identity::{first_other, hex, identity};
use crate::checkpoint::staging::replace_file;

/// All that answers depend on, by name. Pictures are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct State(serde_json::Map<String, serde_json::Value>);

impl State {
    /// Of answers to the rows of a file by a model.
    pub fn new(scan: &Scan, files: &ModelFiles, dtype: Option<Dtype>, defaults: &Defaults) -> Result<Self> {
        // The last three decide what a model's tokens are, and when it ends.
        let model = Sha256::new()
            .chain_update(identity(files, dtype)?)
            .chain_update(files.tokenizer_json()?.unwrap_or_default())
            .chain_update(format!("{:?} {:?} {:?}", files.tokenizer, files.preprocessor, files.generation));
        let Defaults { system, chat_template, max_tokens, sampling, stop, num_crops, limits, grammar, early_stop } =
            defaults;
        let mut state = Self(serde_json::Map::new());
        state.add("input", scan.sha256.clone());
        state.add("model", hex(&model.finalize()));
        state.add("system", system.clone());
        state.add("chat_template", *chat_template);
        state.add("max_tokens", *max_tokens);
        state.add("stop", stop.clone());
        // As text, which is what it was: a number that is read back may be another one.
        state.add("sampling", format!("{sampling:?}"));
        state.add("num_crops", format!("{num_crops:?}"));
        state.add("max_image_pixels", limits.max_pixels);
        state.add("grammar", format!("{grammar:?}"));
        state.add("early_stop", *early_stop);
        Ok(state)
    }

    /// Adds something else that decides on answers.
    pub fn add(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// The file with what the answers in `output` belong to.
    pub fn path(output: &Path) -> PathBuf {
        let mut path = output.as_os_str().to_owned();
        path.push(".state");
        path.into()
    }

    /// Writes it beside `output`, whole or not at all.
    pub(super) fn write(&self, output: &Path) -> Result<()> {
        replace_file(&Self::path(output), |file| Ok(writeln!(file, "{}", serde_json::to_string_pretty(self)?)?))
    }

    /// An error that names the first thing that is another than when `output` was begun.
    pub(super) fn check(&self, output: &Path) -> Result<()> {
        let path = Self::path(output);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}, which says what {} answers; --force begins anew", path.display(), output.display())
        })?;
        let Self(before) = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; --force begins anew", path.display()))?;
        match first_other(&before, &self.0) {
            None => Ok(()),
            Some(other) => {
                bail!("{} was begun with {other}; go on with that one, or begin anew with --force", output.display())
            }
        }
    }
}
