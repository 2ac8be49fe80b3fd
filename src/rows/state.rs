//! What a file of answers belongs to, in a file beside it: the answers' own file holds nothing but answers.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use mlx_rs::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Defaults;
use crate::checkpoint::ModelFiles;
use crate::checkpoint::identity::{check_run, hex, identity, new_run};
use crate::checkpoint::staging::replace_file;

/// All that answers depend on, by name. Images are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct State(serde_json::Map<String, serde_json::Value>);

impl State {
    /// Of what a model makes of the rows of a file, of which `input` is a hash.
    pub fn new(input: &str, files: &ModelFiles, dtype: Option<Dtype>) -> Result<Self> {
        // The last three decide what a model's tokens are, and when it ends.
        let model = Sha256::new()
            .chain_update(identity(files, dtype)?)
            .chain_update(files.tokenizer_json()?.unwrap_or_default())
            .chain_update(serde_json::to_vec(&files.tokenizer_config()?)?)
            .chain_update(serde_json::to_vec(&files.preprocessor)?)
            .chain_update(serde_json::to_vec(&files.eos_token_ids()?)?);
        let mut state = Self(new_run());
        state.add("input", input);
        state.add("model", hex(&model.finalize()));
        Ok(state)
    }

    /// Adds what holds for rows that say nothing else.
    pub fn add_defaults(&mut self, defaults: &Defaults) {
        let Defaults { system, chat_template, max_tokens, sampling, stop, image_options, limits, grammar, early_stop } =
            defaults;
        self.add("system", system.clone());
        self.add("chat_template", *chat_template);
        self.add("max_tokens", *max_tokens);
        self.add("stop", stop.clone());
        self.add("sampling", serde_json::json!(sampling));
        self.add("image_options", serde_json::json!(image_options));
        self.add("max_image_pixels", limits.max_pixels);
        self.add("grammar", serde_json::json!(grammar));
        self.add("early_stop", *early_stop);
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

    /// What was written beside `output`.
    pub fn read(output: &Path) -> Result<Self> {
        let path = Self::path(output);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}, which says what {} answers", path.display(), output.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Something that decides on answers; null if it is not known.
    pub fn get(&self, name: &str) -> &serde_json::Value {
        self.0.get(name).unwrap_or(&serde_json::Value::Null)
    }

    /// An error that names the first thing that is another than when `output` was begun.
    pub(super) fn check(&self, output: &Path) -> Result<()> {
        let Self(before) = Self::read(output).map_err(|error| anyhow!("{error}; `force` begins anew"))?;
        check_run(&output.display().to_string(), &before, &self.0)
    }
}
