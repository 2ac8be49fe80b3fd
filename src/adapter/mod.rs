//! What fine-tuning changed of a model: low-rank changes of linear maps, or whole tensors, read from and written to the
//! folders of mlx-lm, mlx-vlm, Phi-3-Vision-MLX and PEFT.
//!
//! A linear map with the weight W `[output, input]` becomes with LoRA y = Wx + scale · B(Ax), and with DoRA
//! y = m ∘ (Wx + scale · B(Ax)) / ‖W + scale · BA‖, the norm taken of every row.

mod fit;
mod folder;
mod mlx;
mod peft;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::checkpoint::json::read_json;
use crate::text::list;

pub use crate::checkpoint::low_rank::{About, Adapter, LowRank};
pub use folder::number;

/// The configuration file, which all formats have.
const CONFIG: &str = "adapter_config.json";

/// How a model was fine-tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FineTuneType {
    /// Low-rank changes.
    Lora,
    /// Low-rank changes of the direction, and the magnitude.
    Dora,
    /// Whole tensors.
    Full,
}

/// The layout of an adapter's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `adapters.safetensors` with `PATH.lora_a` `[input, rank]` and `PATH.lora_b` `[rank, output]`.
    ///
    /// There is one rank and one scale for all: of lower ranks A and B are filled up with zeros, and where scales
    /// differ they become part of B.
    MlxLm,
    /// The same with what mlx-vlm wants in the configuration; since its version 0.6. Of whole tensors it wants all that
    /// the model has.
    MlxVlm,
    /// `adapter_model.safetensors` of Hugging Face's PEFT.
    ///
    /// Whole tensors beside low-rank changes are its `modules_to_save`; it cannot hold them alone.
    Peft,
}

impl Adapter {
    /// Reads an adapter's folder, whose configuration tells the format.
    ///
    /// Legacy files of mlx-vlm count α / rank as the scale, as mlx-vlm does since 0.5. Those of versions before had
    /// α itself, and nothing in them tells: their `alpha` must be multiplied by the rank.
    ///
    /// # Errors
    /// When the folder lacks a file, a tensor is not understood or has no counterpart, shapes contradict one another or
    /// the configuration, or the configuration asks for what is not done here.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let config = read_json(&path)?
            .with_context(|| format!("{} has no {CONFIG}: it is not an adapter's folder", folder.display()))?;
        let adapter = match config.get("peft_type") {
            Some(_) => peft::read(folder, &config),
            None => mlx::read(folder, &config),
        };
        let adapter = adapter.with_context(|| folder.display().to_string())?;
        adapter.check().with_context(|| folder.display().to_string())?;
        Ok(adapter)
    }

    /// Writes the adapter's folder: a new one appears whole or not at all, and in one that is there, the two files are
    /// replaced. Low-rank changes become float32. `extra` goes into the configuration, where it does not have the key.
    ///
    /// # Errors
    /// When the format cannot hold the adapter, the folder holds something else, or writing fails.
    pub fn write(&self, folder: &Path, format: Format, extra: &Map<String, Value>) -> Result<()> {
        self.check()?;
        let files = match format {
            Format::MlxLm | Format::MlxVlm => mlx::files(self, format),
            Format::Peft => peft::files(self),
        };
        folder::write(folder, files?, extra)
    }

    /// Numbers of it.
    pub fn parameters(&self) -> u64 {
        let changes =
            self.modules.values().flat_map(|change| [&change.a, &change.b].into_iter().chain(&change.magnitude));
        changes.chain(self.tensors.values()).map(|array| array.size() as u64).sum()
    }

    /// The change of the linear map at `path`.
    pub fn get(&self, path: &str) -> Option<&LowRank> {
        self.modules.get(path)
    }

    /// How the model was fine-tuned.
    pub fn fine_tune_type(&self) -> FineTuneType {
        match self.modules.values().next() {
            None => FineTuneType::Full,
            Some(LowRank { magnitude: None, .. }) => FineTuneType::Lora,
            Some(LowRank { magnitude: Some(_), .. }) => FineTuneType::Dora,
        }
    }

    /// Gives modules and tensors the names that the model has for them, where other programs put it below
    /// `language_model` or the like. `known` is asked for paths of linear maps and names of tensors.
    ///
    /// # Errors
    /// When the model has none such, or two become the same. The adapter is then as it was.
    pub fn rename(&mut self, known: impl Fn(&str) -> bool) -> Result<()> {
        let (modules, tensors) = (renamed(&self.modules, &known)?, renamed(&self.tensors, &known)?);
        let unknown = [modules.1, tensors.1].concat();
        ensure!(unknown.is_empty(), "the adapter changes what the model does not have: {}", list(&unknown));
        (self.modules, self.tensors) = (modules.0, tensors.0);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.modules.is_empty() || !self.tensors.is_empty(), "the adapter changes nothing");
        for (path, change) in &self.modules {
            change.check().with_context(|| path.clone())?;
        }
        let with = |has: bool| self.modules.iter().find(move |(_, change)| change.magnitude.is_some() == has);
        if let (Some((dora, _)), Some((lora, _))) = (with(true), with(false)) {
            bail!("{dora} has DoRA's magnitude, {lora} has not; all must be of one kind");
        }
        Ok(())
    }
}

/// The model's name for what another program calls `name`.
fn resolve(name: &str, known: impl Fn(&str) -> bool) -> Option<String> {
    let below = |prefix: &str| name.strip_prefix(prefix);
    let candidates = [
        Some(name.to_owned()),
        below("language_model.").map(str::to_owned),
        below("model.language_model.").map(|rest| format!("model.{rest}")),
        below("model.language_model.").map(str::to_owned),
        below("language_model.").map(|rest| format!("model.{rest}")),
        below("model.").map(str::to_owned),
        below("model.").map(|rest| format!("language_model.model.{rest}")),
        below("model.language_model.").map(|rest| format!("language_model.model.{rest}")),
        below("lm_head").map(|rest| format!("language_model.lm_head{rest}")),
    ];
    candidates.into_iter().flatten().find(|candidate| known(candidate))
}

/// The values under their new names, and the names for which there is none.
fn renamed<T: Clone>(
    map: &BTreeMap<String, T>,
    known: impl Fn(&str) -> bool,
) -> Result<(BTreeMap<String, T>, Vec<String>)> {
    let (mut renamed, mut unknown) = (BTreeMap::new(), Vec::new());
    for (old, value) in map {
        match resolve(old, &known) {
            Some(name) if renamed.contains_key(&name) => bail!("the adapter changes {name} twice, once as {old}"),
            Some(name) => _ = renamed.insert(name, value.clone()),
            None => unknown.push(old.clone()),
        }
    }
    Ok((renamed, unknown))
}
