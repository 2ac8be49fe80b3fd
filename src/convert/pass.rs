//! A checkpoint folder from another: one pass over the tensors, each cast, packed or unpacked and written before the next is
//! read. No model is built. Headers tell what will come out, so it is all known, and checked, before the first tensor.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mlx_mmap::item_size;
use mlx_quantized::{Mode, Packed};
use mlx_rs::{Array, Dtype};
use serde::Serialize;
use serde_json::{Value, json};

use crate::checkpoint::quantization::{Quantization, QuantizedAs, pack};
use crate::checkpoint::safetensors::{SHARD_BYTES, Shards, TensorSpec};
use crate::checkpoint::staging::{copy_file, write_file};
use crate::checkpoint::weights::{Entry, dtype_of_unpacked};
use crate::checkpoint::{ModelFiles, Weights};
use crate::convert::rule::{Matrix, Rule};
use crate::models::{Arch, Group};

/// What is to become of a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The packing of matrices; none leaves packed ones packed as they are, and others floats.
    pub rule: Option<Rule>,
    /// Make packed matrices floats.
    pub dequantize: bool,
    /// The type of floating-point tensors; none for the one that `config.json` names, or as stored.
    pub dtype: Option<Dtype>,
}

/// Packs the matrix `[output, input]` of the module at this path.
pub type Pack<'a> = dyn FnMut(&str, &Array, QuantizedAs) -> Result<Packed> + 'a;

/// What becomes of one entry of the source.
enum Action {
    /// Floats are cast, all else stays.
    Keep,
    Pack(QuantizedAs),
    Unpack,
}

struct Step {
    entry: Entry,
    action: Action,
    outputs: Vec<TensorSpec>,
    dtype: Option<Dtype>,
    bytes: u64,
}

/// A matrix that will be packed.
#[derive(Debug, Clone)]
pub struct ToPack {
    /// Its module.
    pub path: String,
    /// How many rows it has.
    pub output: i32,
    /// The length of its rows.
    pub input: i32,
    /// How it will be packed.
    pub packing: QuantizedAs,
    /// The type of its scales and biases.
    pub scales: Dtype,
}

impl ToPack {
    /// How many numbers it has.
    pub fn parameters(&self) -> f64 {
        f64::from(self.output) * f64::from(self.input)
    }

    /// Bits that it takes when packed like this, which is of the same kind.
    pub fn size(&self, packing: QuantizedAs) -> f64 {
        let parts = if packing.mode.has_biases() { 2 } else { 1 };
        let of_group = 8 * parts * item_size(self.scales);
        self.parameters() * (f64::from(packing.bits) + of_group as f64 / f64::from(packing.group_size))
    }
}

/// A conversion that is known to be possible.
pub struct Conversion<'a> {
    files: &'a ModelFiles,
    weights: &'a Weights,
    steps: Vec<Step>,
    /// How each packed matrix of the result is packed, by module path.
    pub packings: BTreeMap<String, QuantizedAs>,
    default: Option<QuantizedAs>,
    /// Matrices of the source that are packed and will be packed anew, which costs accuracy twice.
    repacked: usize,
    /// Matrices that the rule concerns but whose rows do not fall into whole groups: they stay floats.
    indivisible: Vec<String>,
    /// Sizes before and after.
    pub sizes: Sizes,
}

/// Sizes before and after.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sizes {
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of the result's tensors.
    pub bytes: u64,
    /// Bits of the result for each number, scales and biases included.
    pub bits_per_weight: f64,
}

impl<'a> Conversion<'a> {
    /// Checks that the conversion is possible, and finds what comes out. `weights` are those of `files`, not cast.
    pub fn new(files: &'a ModelFiles, weights: &'a Weights, settings: &Settings) -> Result<Self> {
        let entries = weights.entries()?;
        let quantized = entries.iter().any(|entry| entry.packed.is_some());
        ensure!(!settings.dequantize || settings.rule.is_none(), "either quantize or dequantize, not both");
        ensure!(
            !settings.dequantize || quantized,
            "{} is not quantized, so there is nothing to dequantize",
            files.folder.display()
        );
        let matrices = matrices(files, weights, &entries)?;
        let wanted = settings.rule.as_ref().map(|rule| rule.apply(&matrices)).transpose()?;
        let dtype = settings.dtype.or_else(|| torch_dtype(&files.config));

        let mut steps = Vec::new();
        let mut packings = BTreeMap::new();
        let mut parameters = 0;
        for entry in entries {
            let path = module(&entry).to_owned();
            let action = match (&wanted, entry.packed) {
                (Some(wanted), _) if is_matrix(&entry) && wanted.contains_key(&path) => Action::Pack(wanted[&path]),
                (None, Some(packing)) if !settings.dequantize && weights.is_changed(&path) => Action::Pack(packing),
                (None, Some(_)) if !settings.dequantize => Action::Keep,
                (_, Some(_)) => Action::Unpack,
                (_, None) => Action::Keep,
            };
            if let (Action::Pack(packing), _) | (Action::Keep, Some(packing)) = (&action, &entry.packed) {
                packings.insert(path, *packing);
            }
            let step = Step::new(weights, entry, action, dtype)?;
            parameters += step.parameters(weights)?;
            steps.push(step);
        }
        let bytes = steps.iter().flat_map(|step| &step.outputs).map(TensorSpec::bytes).sum();
        let packed = |step: &&Step| step.entry.packed.is_some() || weights.is_coarse(&step.entry.path);
        let changes = |step: &&Step| !weights.is_changed(module(&step.entry));
        let repacked =
            steps.iter().filter(|step| matches!(step.action, Action::Pack(_))).filter(packed).filter(changes).count();
        let default = match &settings.rule {
            Some(rule) => Some(rule.default),
            None => packings.first_key_value().map(|(_, &packing)| packing),
        };
        let indivisible = settings.rule.as_ref().map(|rule| {
            let left = matrices.iter().filter(|matrix| matrix.group.is_text() && !rule.default.divides(matrix.input));
            left.filter(|matrix| !packings.contains_key(&matrix.path)).map(|matrix| matrix.path.clone()).collect()
        });
        let sizes = Sizes {
            parameters,
            source_bytes: weights.total_bytes(),
            bytes,
            bits_per_weight: 8.0 * bytes as f64 / parameters as f64,
        };
        let indivisible = indivisible.unwrap_or_default();
        Ok(Self { files, weights, steps, packings, default, repacked, indivisible, sizes })
    }

    /// What the user should know beforehand.
    pub fn warnings(&self) -> Vec<String> {
        let repacked = (self.repacked > 0).then(|| {
            let count = self.repacked;
            format!(
                "{count} matrices are quantized already; quantizing them again adds to the error: take the original model \
                 if you can"
            )
        });
        let indivisible = self.indivisible.first().map(|first| {
            let count = self.indivisible.len();
            format!("{count} matrices stay floats, as groups do not divide their rows: {first} and so on")
        });
        repacked.into_iter().chain(indivisible).collect()
    }

    /// The matrices that will be packed, in order.
    pub fn to_pack(&self) -> Vec<ToPack> {
        let mut matrices = Vec::new();
        for step in &self.steps {
            if let Action::Pack(packing) = step.action {
                let &[output, words] = &step.outputs[0].shape[..] else { continue };
                let path = module(&step.entry).to_owned();
                let scales = step.outputs[1].dtype;
                matrices.push(ToPack { path, output, input: unpacked(words, packing), packing, scales });
            }
        }
        matrices
    }

    /// The tensors of the result, in order.
    pub fn outputs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.steps.iter().flat_map(|step| &step.outputs)
    }

    /// Writes the result into the folder, all but `config.json`: without it nobody takes the folder for a model.
    /// `progress` is told the bytes of every tensor of the source that is done, and may break off.
    ///
    /// # Errors
    /// Also when `progress` breaks off.
    pub fn write(&self, folder: &Path, pack: &mut Pack, progress: impl FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        match &self.files.gguf {
            Some(gguf) => {
                gguf.companions()?.iter().try_for_each(|(name, contents)| write_file(folder, name, contents))?;
            }
            None => companions(&self.files.folder)?.iter().try_for_each(|file| copy_file(file, folder))?,
        }
        let outputs: Vec<TensorSpec> = self.outputs().cloned().collect();
        let mut shards = Shards::create(folder, "mlx", &outputs, SHARD_BYTES)?;
        // Copying into the system's file cache takes as long as packing: both at once, with nothing waiting between.
        let (sender, receiver) = mpsc::sync_channel::<Vec<(String, Array)>>(0);
        let shards = std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                receiver.into_iter().flatten().try_for_each(|(name, array)| shards.write(&name, &array))?;
                Ok(shards)
            });
            let computed = self.compute(&sender, pack, progress);
            drop(sender);
            let written = writer.join().map_err(|_| anyhow!("the writing thread panicked"));
            computed.and(written?)
        })?;
        shards.finish(folder, self.sizes.parameters)
    }

    /// Sends the tensors of one step after the other, until the receiver is gone.
    fn compute(
        &self,
        sender: &SyncSender<Vec<(String, Array)>>,
        pack: &mut Pack,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut at_writer: Option<&Step> = None;
        for step in &self.steps {
            let arrays = step.compute(self.weights, pack).with_context(|| step.entry.path.clone())?;
            let names = step.outputs.iter().map(|spec| spec.name.clone());
            if sender.send(names.zip(arrays).collect()).is_err() {
                return Ok(());
            }
            // The writer has taken these, so it is done with those before. What was only copied is the mapped pages.
            if let Some(written) = at_writer.replace(step) {
                written.release(self.weights);
            }
            if !matches!(step.action, Action::Keep) {
                step.release(self.weights);
            }
            mlx_rs::memory::clear_cache()?;
            if progress(step.bytes).is_break() {
                bail!("interrupted; nothing was written");
            }
        }
        Ok(())
    }

    /// `config.json` of the result.
    pub fn config(&self) -> Result<Value> {
        let mut config = self.files.config.clone();
        let fields = config.as_object_mut().context("config.json is no object")?;
        // The types of the tensors are in their files; Phi-3-Vision-MLX's own keys are spelled in MLX's way below.
        for key in
            ["_name_or_path", "torch_dtype", "dtype", "quantization", "quantization_config", "quantized", "sanitized"]
        {
            fields.shift_remove(key);
        }
        if let Some(default) = self.default.filter(|_| !self.packings.is_empty()) {
            let overrides = self.packings.iter().filter(|(_, packing)| **packing != default);
            let overrides = overrides.map(|(path, packing)| (path.clone(), *packing)).collect();
            let quantization = Quantization { default, overrides }.to_value();
            fields.insert("quantization_config".into(), quantization.clone());
            fields.insert("quantization".into(), quantization);
        }
        if Arch::of(self.files)?.images.is_some() {
            // As mlx-vlm writes it.
            fields.entry("vision_config").or_insert(json!({}));
        }
        fields.sort_keys();
        Ok(config)
    }
}

impl Step {
    fn new(weights: &Weights, entry: Entry, action: Action, dtype: Option<Dtype>) -> Result<Self> {
        let specs = entry.parts.iter().map(|name| weights.spec(name)).collect::<Result<Vec<_>>>()?;
        let cast = |spec: &TensorSpec| dtype.filter(|_| spec.dtype.is_float()).unwrap_or(spec.dtype);
        let bytes = specs.iter().map(TensorSpec::bytes).sum();
        if let Action::Keep = action {
            let outputs = specs.iter().map(|spec| TensorSpec { dtype: cast(spec), ..spec.clone() }).collect();
            return Ok(Self { entry, action, outputs, dtype, bytes });
        }
        // What is packed or unpacked has the type of the matrix as floats.
        let matrix = matrix_spec(&entry, &specs, dtype)?;
        let dtype = Some(matrix.dtype);
        let outputs = match action {
            Action::Pack(packing) => packed_specs(module(&entry), &matrix, packing),
            Action::Keep | Action::Unpack => vec![matrix],
        };
        Ok(Self { entry, action, outputs, dtype, bytes })
    }

    fn parameters(&self, weights: &Weights) -> Result<u64> {
        let spec = weights.spec(&self.entry.parts[0])?;
        let stored: u64 = spec.shape.iter().map(|&dim| dim as u64).product();
        Ok(self.entry.packed.map_or(stored, |packing| stored * 32 / packing.bits as u64))
    }

    fn release(&self, weights: &Weights) {
        self.entry.parts.iter().for_each(|name| weights.release(name));
    }

    fn compute(&self, weights: &Weights, pack: &mut Pack) -> Result<Vec<Array>> {
        let cast = |array: Array| match self.dtype {
            Some(dtype) if array.dtype().is_float() => array.as_dtype(dtype),
            _ => Ok(array),
        };
        let arrays = match &self.action {
            Action::Keep => {
                let kept = self.outputs.iter().zip(&self.entry.parts);
                kept.map(|(to, name)| Ok(weights.read(name)?.as_dtype(to.dtype)?)).collect::<Result<Vec<_>>>()?
            }
            Action::Unpack => vec![cast(weights.matrix_for(module(&self.entry), self.dtype)?)?],
            Action::Pack(packing) => {
                let matrix = cast(weights.matrix(module(&self.entry))?)?;
                let packed = pack(module(&self.entry), &matrix, *packing)?;
                [Some(packed.weight), Some(packed.scales), packed.biases].into_iter().flatten().collect()
            }
        };
        // Rows one after the other, as files have them.
        let arrays = arrays.iter().map(Array::contiguous).collect::<Result<Vec<_>, _>>()?;
        mlx_rs::transforms::eval(&arrays)?;
        Ok(arrays)
    }
}

/// Whether the entry is a module's matrix, packed or not.
fn is_matrix(entry: &Entry) -> bool {
    entry.packed.is_some() || entry.path.ends_with(".weight")
}

/// The path of the module that the entry is the matrix of; of other tensors the name.
fn module(entry: &Entry) -> &str {
    match entry.packed {
        Some(_) => &entry.path,
        None => entry.path.strip_suffix(".weight").unwrap_or(&entry.path),
    }
}

/// All matrices of the checkpoint.
fn matrices(files: &ModelFiles, weights: &Weights, entries: &[Entry]) -> Result<Vec<Matrix>> {
    let group = Arch::of(files)?.group;
    let mut matrices = Vec::new();
    for entry in entries {
        let spec = weights.spec(&entry.parts[0])?;
        let &[_, columns] = &spec.shape[..] else { continue };
        if !is_matrix(entry) || (entry.packed.is_none() && !spec.dtype.is_float()) {
            continue;
        }
        let input = entry.packed.map_or(columns, |packing| unpacked(columns, packing));
        let path = module(entry);
        matrices.push(Matrix { path: path.to_owned(), group: Group::of(group, path)?, input });
    }
    Ok(matrices)
}

/// How many numbers are in so many words.
fn unpacked(words: i32, packing: QuantizedAs) -> i32 {
    (i64::from(words) * 32 / i64::from(packing.bits)) as i32
}

/// What the entry is as a matrix of floats of type `dtype`, or as stored.
fn matrix_spec(entry: &Entry, specs: &[TensorSpec], dtype: Option<Dtype>) -> Result<TensorSpec> {
    let name = format!("{}.weight", module(entry));
    let stored = &specs[0];
    let Some(packing) = entry.packed else {
        return Ok(TensorSpec { name, dtype: dtype.unwrap_or(stored.dtype), shape: stored.shape.clone() });
    };
    let parts = if packing.mode.has_biases() { 3 } else { 2 };
    ensure!(specs.len() == parts, "{}: {} of its {parts} tensors are there", entry.path, specs.len());
    let &[rows, columns] = &stored.shape[..] else {
        bail!("{}: packed, but of shape {:?}", stored.name, stored.shape);
    };
    let dtype = dtype.unwrap_or_else(|| dtype_of_unpacked(specs[1].dtype));
    Ok(TensorSpec { name, dtype, shape: vec![rows, unpacked(columns, packing)] })
}

/// The tensors of a packed matrix.
fn packed_specs(path: &str, matrix: &TensorSpec, packing: QuantizedAs) -> Vec<TensorSpec> {
    let QuantizedAs { group_size, bits, mode } = packing;
    let (rows, columns) = (matrix.shape[0], matrix.shape[1]);
    let words = (i64::from(columns) * i64::from(bits) / 32) as i32;
    let grouped = vec![rows, columns / group_size];
    let scales = if mode == Mode::Affine { matrix.dtype } else { Dtype::Uint8 };
    let spec = |part: &str, dtype, shape| TensorSpec { name: format!("{path}.{part}"), dtype, shape };
    let mut specs = vec![spec("weight", Dtype::Uint32, vec![rows, words]), spec("scales", scales, grouped.clone())];
    specs.extend(mode.has_biases().then(|| spec("biases", scales, grouped)));
    specs
}

/// The type that `config.json` says the checkpoint is meant to have; mlx-lm and mlx-vlm cast to it, too.
fn torch_dtype(config: &Value) -> Option<Dtype> {
    let named = config.get("torch_dtype").or_else(|| config.get("dtype"))?;
    match named.as_str()? {
        "float32" => Some(Dtype::Float32),
        "float16" => Some(Dtype::Float16),
        "bfloat16" => Some(Dtype::Bfloat16),
        _ => None,
    }
}

/// Packs by rounding every number to the nearest.
pub fn round_to_nearest(_path: &str, matrix: &Array, packing: QuantizedAs) -> Result<Packed> {
    Ok(pack(matrix, packing)?)
}

/// What belongs to a model beside weights and `config.json`: tokenizer, templates, processor, licence, code.
fn companions(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let extensions = [".json", ".jinja", ".txt", ".py", ".model", ".tiktoken"];
        let belongs = extensions.iter().any(|extension| name.ends_with(extension)) || name.starts_with("LICENSE");
        let made_anew = ["config.json", "quantization_report.json"].contains(&name) || name.ends_with(".index.json");
        if belongs && !made_anew && !name.starts_with(['.']) && !name.starts_with("adapter") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
