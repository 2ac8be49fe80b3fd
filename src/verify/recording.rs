//! The files of a recording: `golden.json`, the tensors, and the images beside them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;

/// `golden.json`: what to compute, and which results are recorded.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Recording {
    /// The conversation; without one the recorded ids are the prompt.
    pub(super) messages: Option<Value>,
    /// Image files, in the order of the prompt.
    #[serde(default)]
    pub(super) images: Vec<String>,
    /// The option of that name.
    pub(super) num_crops: Option<u32>,
    /// The conversation as the chat template renders it.
    pub(super) prompt: Option<String>,
    /// Prompts of ids alone, each with tensors of its own.
    #[serde(default)]
    pub(super) cases: Vec<IdsCase>,
    /// A text and its ids.
    pub(super) tokenizer: Option<TokenizerCase>,
    /// A conversation, its rendering, and its ids.
    pub(super) chat: Option<ChatCase>,
    /// How far positions lag behind the number of tokens, where images stand in rows and columns.
    pub(super) rope_delta: Option<i64>,
    /// Positions of each image, where they are not among the tensors.
    #[serde(default)]
    pub(super) num_img_tokens: Vec<i64>,
    /// Frames, rows and columns of each image, where they are not among the tensors.
    #[serde(default)]
    pub(super) image_grid_thw: Vec<[i64; 3]>,
    /// Names of what is recorded: each must be compared.
    pub(super) stages: Option<Vec<String>>,
    /// Rows of a batch to train on.
    rows: Option<Value>,
}

/// A prompt of ids.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct IdsCase {
    /// The stem of its file of tensors.
    pub(super) case: String,
    /// See [`Recording::stages`].
    pub(super) stages: Option<Vec<String>>,
}

/// A text and its ids.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TokenizerCase {
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
    pub(super) decoded: String,
    pub(super) decoded_with_special: Option<String>,
}

/// A conversation, its rendering, and its ids.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ChatCase {
    pub(super) messages: Value,
    pub(super) prompt: String,
    pub(super) ids: Vec<u32>,
}

impl Recording {
    /// Whether it is about the loss and the gradients of a batch, which the tests of training compare.
    pub(super) fn is_training(&self) -> bool {
        self.rows.is_some() && self.messages.is_none() && self.cases.is_empty()
    }

    /// The stems of its files of tensors, with the stages that are listed for each.
    pub(super) fn files(&self) -> Vec<(&str, Option<&[String]>)> {
        if self.cases.is_empty() {
            return vec![("golden", self.stages.as_deref())];
        }
        self.cases.iter().map(|case| (case.case.as_str(), case.stages.as_deref())).collect()
    }
}

/// Every `golden.json` below `folder`, or in `folder` itself, sorted.
pub(super) fn find(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            // Links are not followed, so that none can lead in a circle.
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "golden.json" {
                found.insert(entry.path());
            }
        }
    }
    Ok(found)
}

/// A tensor of numbers, whatever their type was.
pub(super) struct Numbers {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f64>,
}

/// The recorded tensors of one case. Those that are asked for are noted: what nobody asks for was not compared.
pub(super) struct Tensors {
    tensors: BTreeMap<String, Numbers>,
    asked: RefCell<BTreeSet<String>>,
}

impl Tensors {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{}", path.display()))?;
        let numbers = |(name, tensor): (String, safetensors::tensor::TensorView)| -> Result<(String, Numbers)> {
            let data = tensor.data();
            let values = match tensor.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
                other => bail!("{}: {name} is of type {other:?}", path.display()),
            };
            Ok((name, Numbers { shape: tensor.shape().to_vec(), values }))
        };
        let tensors = file.tensors().into_iter().map(numbers).collect::<Result<_>>()?;
        Ok(Self { tensors, asked: RefCell::default() })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Numbers> {
        self.asked.borrow_mut().insert(name.to_owned());
        self.tensors.get(name)
    }

    /// A tensor of integers; none if it is missing or empty.
    pub(super) fn ids(&self, name: &str) -> Option<Vec<i64>> {
        let numbers = self.get(name).filter(|numbers| !numbers.values.is_empty())?;
        Some(numbers.values.iter().map(|&id| id as i64).collect())
    }

    /// The tensors that nobody asked for.
    pub(super) fn left(&self) -> Vec<&str> {
        let asked = self.asked.borrow();
        self.tensors.keys().filter(|name| !asked.contains(*name)).map(String::as_str).collect()
    }
}
