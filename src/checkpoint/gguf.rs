//! GGUF, llama.cpp's single-file format, as a checkpoint folder of Hugging Face's: the same names, shapes and JSON files.

mod blocks;
mod config;
mod container;
mod format;
mod metadata;
mod names;
mod pretokenizer;
mod quantize;
mod reader;
mod rope;
mod tokenizer;
mod vocab;
mod write;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use half::f16;
use half::slice::HalfBitsSliceExt;
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use container::Container;
use format::Format;
use names::Arch;

pub use write::{GgufType, Source, write};

/// A GGUF file as a checkpoint: what Hugging Face's folder of the same model would hold.
pub struct Gguf {
    companions: OnceCell<BTreeMap<String, Vec<u8>>>,
    file: Container,
    arch: Arch,
    tensors: Vec<TensorInfo>,
}

/// A tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face's name for it.
    pub name: String,
    /// Its shape, rows first.
    pub shape: Vec<i32>,
    /// The type it is read as: its own, or float16 for packed formats.
    pub dtype: Dtype,
    /// Whether the file has it in few bits.
    pub packed: bool,
    /// Bytes it takes in the file.
    pub bytes: usize,
    /// Its place among the file's tensors.
    index: usize,
}

/// Tensors that the configuration holds, not the checkpoint.
const FACTORS: &[&str] = &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

impl Gguf {
    /// Maps the file and reads its header; no tensor yet.
    ///
    /// # Errors
    /// When it is no GGUF file, damaged, of an architecture or with a tensor type that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Container::open(path)?;
        Self::of(file).with_context(|| format!("{}", path.display()))
    }

    fn of(file: Container) -> Result<Self> {
        ensure!(
            file.unsigned("split.count")?.unwrap_or(1) <= 1,
            "it is one part of several; join them with llama-gguf-split --merge"
        );
        let arch = Arch::named(file.text("general.architecture")?.context("it has no general.architecture")?)?;
        let mut tensors = Vec::new();
        for (index, tensor) in file.tensors().iter().enumerate() {
            if FACTORS.contains(&tensor.name.as_str()) {
                continue;
            }
            let name = arch.to_hf(&tensor.name);
            let name = name.with_context(|| format!("{} has no place in a {arch} model", tensor.name))?;
            let dtype = dtype(tensor.format);
            let packed = !matches!(tensor.format, Format::F32 | Format::F16 | Format::Bf16);
            tensors.push(TensorInfo {
                name,
                shape: tensor.shape.clone(),
                dtype,
                packed,
                bytes: tensor.bytes.len(),
                index,
            });
        }
        Ok(Self { companions: OnceCell::new(), file, arch, tensors })
    }

    /// `config.json`.
    ///
    /// # Errors
    /// When the metadata lacks a size, or asks for what no supported model does.
    pub fn config(&self) -> Result<Value> {
        config::config(&self.file, self.arch).with_context(|| format!("{}", self.file.path().display()))
    }

    /// The other files of the folder by name: `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`. Files
    /// without a vocabulary give only the last.
    ///
    /// # Errors
    /// When the tokenizer is of a kind that is not supported.
    pub fn companions(&self) -> Result<&BTreeMap<String, Vec<u8>>> {
        // A tokenizer's merges take a while to find.
        if let Some(made) = self.companions.get() {
            return Ok(made);
        }
        let made = tokenizer::companions(&self.file).with_context(|| format!("{}", self.file.path().display()))?;
        Ok(self.companions.get_or_init(|| made))
    }

    /// The tensors in the file's order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// A tensor by its place among [`Gguf::tensors`]. Packed formats are unpacked to float16, others come as stored.
    ///
    /// # Errors
    /// When there are fewer tensors.
    pub fn read_at(&self, place: usize) -> Result<Array> {
        let info = self.tensors.get(place).with_context(|| format!("there is no tensor {place}"))?;
        self.take(info).with_context(|| format!("{}: {}", self.file.path().display(), info.name))
    }

    /// A tensor by its Hugging Face name, likewise.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn read(&self, name: &str) -> Result<Array> {
        let place = self.tensors.iter().position(|info| info.name == name);
        self.read_at(place.with_context(|| format!("{} has no tensor {name}", self.file.path().display()))?)
    }

    /// Gives the memory of a tensor back that was read; who reads it again reads the file again.
    pub fn release(&self, place: usize) {
        if let Some(info) = self.tensors.get(place) {
            self.file.map().release(self.file.tensors()[info.index].bytes.clone());
        }
    }

    fn take(&self, info: &TensorInfo) -> Result<Array> {
        let stored = &self.file.tensors()[info.index];
        let array = match stored.format {
            Format::F32 | Format::F16 | Format::Bf16 => {
                self.file.map().array(stored.bytes.clone(), &stored.shape, info.dtype)?
            }
            packed => {
                let count = stored.shape.iter().map(|&dim| dim as usize).product();
                // As numbers that the system hands out as zeros, so that the cores touch them first, each its own.
                let mut values = vec![0u16; count];
                let bytes = &self.file.map().bytes()[stored.bytes.clone()];
                blocks::dequantize::<f16>(packed, bytes, values.reinterpret_cast_mut());
                Array::from_slice::<f16>(values.reinterpret_cast(), &stored.shape)
            }
        };
        if let Some(heads) = self.paired_heads(&info.name)? {
            return halves(&array, heads);
        }
        // llama.cpp's Gemma multiplies with what is stored, transformers' with one more.
        if self.arch == Arch::Gemma && info.name.ends_with("norm.weight") {
            return Ok(array.subtract(Array::from_f32(1.0).as_dtype(info.dtype)?)?);
        }
        Ok(array)
    }

    /// The heads of a tensor whose rows pair neighbours: Llama's queries and keys.
    fn paired_heads(&self, name: &str) -> Result<Option<i32>> {
        if self.arch != Arch::Llama {
            return Ok(None);
        }
        let heads = || self.file.count("llama.attention.head_count");
        Ok(if name.contains(".q_proj.") {
            Some(heads()?)
        } else if name.contains(".k_proj.") {
            let key = "llama.attention.head_count_kv";
            Some(if self.file.unsigned(key)?.is_some() { self.file.count(key)? } else { heads()? })
        } else {
            None
        })
    }
}

/// What a format is read as.
fn dtype(format: Format) -> Dtype {
    match format {
        Format::F32 => Dtype::Float32,
        Format::Bf16 => Dtype::Bfloat16,
        _ => Dtype::Float16,
    }
}

/// Rows of each head from pairs of neighbours, which llama.cpp turns, to two halves, which transformers does.
/// Reference: llama.cpp conversion/llama.py, permute.
fn halves(array: &Array, heads: i32) -> Result<Array> {
    swap_rows(array, heads, |half| [half, 2])
}

/// The other way.
fn pairs(array: &Array, heads: i32) -> Result<Array> {
    swap_rows(array, heads, |half| [2, half])
}

/// The rows of each head `[heads, a, b, ..]`, where `split` gives `[a, b]` for half a head's rows, as `[heads, b, a, ..]`.
fn swap_rows(array: &Array, heads: i32, split: fn(i32) -> [i32; 2]) -> Result<Array> {
    let rows = array.dim(0);
    let columns = i32::try_from(array.size() / rows.max(1) as usize)?;
    let half = rows.checked_div(2 * heads).filter(|half| half * 2 * heads == rows);
    let [a, b] = split(half.ok_or_else(|| anyhow!("{rows} rows are no {heads} heads"))?);
    let swapped = array.reshape(&[heads, a, b, columns])?.transpose_axes(&[0, 2, 1, 3])?;
    Ok(swapped.reshape(array.shape())?)
}
