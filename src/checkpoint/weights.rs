//! The tensors of a checkpoint: each is named exactly once, taken exactly once, and has the shape the model expects.
//!
//! A model takes its tensors through a [`Scope`], whose path is the key in the checkpoint. What does not fit is noted,
//! and [`Weights::finish`] reports all of it at once, tensors that nobody took included.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Error, Result, anyhow, bail};
use mlx_mmap::{MappedFile, item_size};
use mlx_quantized::Packed;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;

use super::config::{Quantization, QuantizedAs, parse, read_json};
use super::gguf::Gguf;
use super::param::Param;
use super::quantize::unpack;
use super::save::TensorSpec;
use super::{INDEX, ModelFiles};
use crate::adapter::{Adapter, LowRank};
use crate::nn::Dropout;

/// How an architecture's published tensors become MLX's: decided by name and shape alone, so that a file's header is
/// enough to know the outcome.
#[derive(Clone, Copy)]
pub struct Remap {
    /// The name under which the model takes the tensor; none for tensors that carry nothing (position ids and the like).
    pub rename: fn(&str) -> Option<String>,
    /// The order of axes in which MLX wants the tensor of this (new) name, where it is another than the stored one.
    pub transpose: fn(&str, &[i32]) -> Option<&'static [i32]>,
}

/// Makes a tensor as it is described.
type Make = dyn Fn(&TensorSpec) -> Result<Array>;

/// What the tensors lie in.
enum Store {
    /// Safetensors files.
    Shards(Vec<MappedFile>),
    Gguf(Rc<Gguf>),
    /// Nothing: they are made when they are taken.
    Made(Vec<TensorSpec>, Box<Make>),
}

/// Where one tensor lies, and what is to become of it.
struct Stored {
    shard: usize,
    bytes: Range<usize>,
    dtype: Dtype,
    shape: Vec<i32>,
    transpose: Option<&'static [i32]>,
    /// Whether the file has it in few bits, and it is read as floats.
    coarse: bool,
}

impl Stored {
    /// The shape that the model sees.
    fn final_shape(&self) -> Vec<i32> {
        match self.transpose {
            Some(axes) => axes.iter().map(|&axis| self.shape[axis as usize]).collect(),
            None => self.shape.clone(),
        }
    }
}

/// Told the path of a linear map, and what it is given, `[.., input]`.
pub type Observer = Rc<dyn Fn(&str, &Array) -> Result<(), Exception>>;

/// A linear map's connection to who observes it.
pub struct Tap {
    observer: Observer,
    path: String,
}

impl Tap {
    /// The map is given `x` `[.., input]`.
    pub fn see(&self, x: &Array) -> Result<(), Exception> {
        (self.observer)(&self.path, x)
    }
}

/// A plain tensor or a packed matrix.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Of a packed matrix the module, of a plain tensor its name.
    pub path: String,
    /// The names of its tensors: of a packed matrix `weight`, `scales` and, where the mode has them, `biases`.
    pub parts: Vec<String>,
    /// How it is packed.
    pub packed: Option<QuantizedAs>,
}

/// The tensors of a checkpoint.
pub struct Weights {
    folder: PathBuf,
    store: Store,
    tensors: BTreeMap<String, Stored>,
    quantization: Option<Quantization>,
    dtype: Option<Dtype>,
    progress: Box<dyn Fn(u64)>,
    replaced: BTreeMap<String, Array>,
    attached: Vec<Attached>,
    observer: Option<Observer>,
    /// Nothing is read: all tensors are zeros.
    skeleton: bool,
    parts: RefCell<Parts>,
    unused: RefCell<BTreeSet<String>>,
    missing: RefCell<Vec<String>>,
    wrong: RefCell<Vec<String>>,
}

impl Weights {
    /// Maps the checkpoint's files and reads their headers; no tensor yet.
    ///
    /// `dtype` is what floating-point tensors are cast to when taken; none leaves them as stored.
    pub fn open(files: &ModelFiles, remap: Remap, dtype: Option<Dtype>) -> Result<Self> {
        let (store, found) = match &files.gguf {
            Some(gguf) => (Store::Gguf(gguf.clone()), in_gguf(gguf, remap)),
            None => in_folder(&files.folder, remap)?,
        };
        Self::of(files, store, found, dtype)
    }

    /// Tensors that lie nowhere: `make` makes each when it is taken. Else as [`open`](Self::open).
    pub fn made(
        files: &ModelFiles,
        remap: Remap,
        dtype: Option<Dtype>,
        tensors: Vec<TensorSpec>,
        make: impl Fn(&TensorSpec) -> Result<Array> + 'static,
    ) -> Result<Self> {
        let found = tensors.iter().enumerate().filter_map(|(place, spec)| {
            let name = (remap.rename)(&spec.name)?;
            let transpose = (remap.transpose)(&name, &spec.shape);
            let (dtype, shape, bytes) = (spec.dtype, spec.shape.clone(), 0..spec.bytes() as usize);
            Some((name, Stored { shard: place, bytes, dtype, shape, transpose, coarse: false }))
        });
        let found = found.collect();
        Self::of(files, Store::Made(tensors, Box::new(make)), found, dtype)
    }

    fn of(files: &ModelFiles, store: Store, found: Vec<(String, Stored)>, dtype: Option<Dtype>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        let mut twice = Vec::new();
        for (name, stored) in found {
            if tensors.insert(name.clone(), stored).is_some() {
                twice.push(name);
            }
        }
        if !twice.is_empty() {
            bail!("{}: {} present more than once: {}", files.folder.display(), count(&twice), list(&twice));
        }
        let unused = RefCell::new(tensors.keys().cloned().collect());
        Ok(Self {
            folder: files.folder.clone(),
            store,
            tensors,
            quantization: files.quantization()?,
            dtype,
            progress: Box::new(|_| ()),
            replaced: BTreeMap::new(),
            attached: Vec::new(),
            observer: None,
            skeleton: false,
            parts: RefCell::default(),
            unused,
            missing: RefCell::default(),
            wrong: RefCell::default(),
        })
    }

    /// What the checkpoint holds, in the order of the files: plain tensors, and packed matrices with all their parts.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut taken = BTreeSet::new();
        for (name, stored) in &self.tensors {
            let Some(path) = name.strip_suffix(".scales") else { continue };
            let packed = Some(self.packing(path)?);
            let parts = ["weight", "scales", "biases"].map(|part| format!("{path}.{part}"));
            let parts: Vec<String> = parts.into_iter().filter(|name| self.tensors.contains_key(name)).collect();
            taken.extend(parts.iter().cloned());
            let place = (stored.shard, stored.bytes.start);
            entries.push((place, Entry { path: path.to_owned(), parts, packed }));
        }
        for (name, stored) in self.tensors.iter().filter(|(name, _)| !taken.contains(*name)) {
            let place = (stored.shard, stored.bytes.start);
            entries.push((place, Entry { path: name.clone(), parts: vec![name.clone()], packed: None }));
        }
        entries.sort_by_key(|(place, _)| *place);
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// A tensor's type, shape and size as the model sees it.
    pub fn spec(&self, name: &str) -> Result<TensorSpec> {
        let stored = self.stored(name)?;
        Ok(TensorSpec { name: name.to_owned(), dtype: stored.dtype, shape: stored.final_shape() })
    }

    /// Whether a tensor that is read as floats is stored in few bits, as in GGUF files.
    pub fn is_coarse(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|stored| stored.coarse)
    }

    /// A tensor by its name, as stored but for the order of its axes; in float32 where attached adapters change it.
    pub fn read(&self, name: &str) -> Result<Array> {
        let stored = self.stored(name)?;
        if let Some(replaced) = self.replaced.get(name) {
            return Ok(replaced.reshape(&stored.final_shape())?.as_dtype(stored.dtype)?);
        }
        let array = self.array(stored).with_context(|| name.to_owned())?;
        match name.strip_suffix(".weight") {
            Some(path) if stored.dtype.is_float() => self.changed(path, array),
            _ => Ok(array),
        }
    }

    /// Whether attached adapters change the matrix of the module at `path`.
    pub fn is_changed(&self, path: &str) -> bool {
        self.attached.iter().any(|attached| attached.adapter.modules.contains_key(path))
    }

    /// The matrix of a module with what attached adapters change of it: then in float32, to be rounded once.
    fn changed(&self, path: &str, matrix: Array) -> Result<Array> {
        if !self.is_changed(path) {
            return Ok(matrix);
        }
        let before = matrix.as_dtype(Dtype::Float32)?;
        let mut after = before.clone();
        for Attached { adapter, share, .. } in &self.attached {
            if let Some(module) = adapter.modules.get(path) {
                let change = module.merged(&before).with_context(|| path.to_owned())?.subtract(&before)?;
                after = after.add(change.multiply(Array::from_f32(*share))?)?;
            }
        }
        Ok(after)
    }

    /// The matrix `[output, input]` of the module at `path` as floats, packed or not; see [`read`](Self::read).
    pub fn matrix(&self, path: &str) -> Result<Array> {
        self.matrix_for(path, None)
    }

    /// The same where it will be of this type: what is packed is not rounded to 16 bits on the way to 32.
    pub fn matrix_for(&self, path: &str, dtype: Option<Dtype>) -> Result<Array> {
        let part = |name: &str| self.read(&format!("{path}.{name}"));
        if !self.tensors.contains_key(&format!("{path}.scales")) {
            return part("weight");
        }
        let QuantizedAs { group_size, bits, mode } = self.packing(path)?;
        let exact = dtype == Some(Dtype::Float32) || self.is_changed(path);
        // What is unpacked is computed in the type of the scales.
        let float =
            |array: Array| if exact && array.dtype().is_float() { array.as_dtype(Dtype::Float32) } else { Ok(array) };
        let scales = float(part("scales")?)?;
        let biases = mode.has_biases().then(|| Ok::<_, Error>(float(part("biases")?)?)).transpose()?;
        let unpacked = if exact { Dtype::Float32 } else { dtype_of_unpacked(scales.dtype()) };
        let packed = Packed { weight: part("weight")?, scales, biases, group_size, bits, mode };
        self.changed(path, unpack(&packed, unpacked)?)
    }

    /// How the module at `path`, which has scales, is packed.
    fn packing(&self, path: &str) -> Result<QuantizedAs> {
        let rule = self.quantization.as_ref().with_context(|| {
            format!("{path}.scales: quantized, but {}/config.json has no quantization", self.folder.display())
        })?;
        Ok(rule.of(path))
    }

    /// The same for a module's matrix, packed or not.
    pub fn release_matrix(&self, path: &str) {
        ["weight", "scales", "biases"].iter().for_each(|part| self.release(&format!("{path}.{part}")));
    }

    /// Gives the memory of a tensor back that was read; who reads it again reads the file again.
    pub fn release(&self, name: &str) {
        if let Some(stored) = self.tensors.get(name) {
            match &self.store {
                Store::Shards(shards) => shards[stored.shard].release(stored.bytes.clone()),
                Store::Gguf(gguf) => gguf.release(stored.shard),
                Store::Made(..) => {}
            }
        }
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).with_context(|| format!("{} has no tensor {name}", self.folder.display()))
    }

    /// Bytes of all tensors as stored.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|stored| stored.bytes.len() as u64).sum()
    }

    /// Bytes of all tensors in the types in which they are taken.
    pub fn bytes_in_memory(&self) -> usize {
        self.bytes_of(|_| true)
    }

    /// The same of the tensors whose names are wanted.
    pub fn bytes_of(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let bytes = |stored: &Stored| {
            let dtype = self.dtype.filter(|_| stored.dtype.is_float()).unwrap_or(stored.dtype);
            stored.shape.iter().map(|&dim| dim as usize).product::<usize>() * item_size(dtype)
        };
        self.tensors.iter().filter(|(name, _)| wanted(name)).map(|(_, stored)| bytes(stored)).sum()
    }

    /// The type of floats that are computed with: what they are cast to, or else that of the first that is stored.
    pub fn float_dtype(&self) -> Dtype {
        let stored = self.tensors.values().map(|stored| stored.dtype).find(|dtype| dtype.is_float());
        self.dtype.or(stored).unwrap_or(Dtype::Bfloat16)
    }

    /// Calls `progress` with the bytes that were taken so far and in all.
    pub fn on_progress(mut self, progress: impl Fn(u64, u64) + 'static) -> Self {
        let total = self.total_bytes();
        let done = Cell::new(0);
        self.progress = Box::new(move |bytes| {
            done.set(done.get() + bytes);
            progress(done.get(), total);
        });
        self
    }

    /// Another tensor in the place of the stored one, of the same shape.
    pub fn replace(mut self, name: impl Into<String>, tensor: Array) -> Self {
        self.replaced.insert(name.into(), tensor);
        self
    }

    /// Zeros in the place of all tensors: a model that cannot be run, but whose parts are known without reading anything.
    pub fn skeleton(self) -> Self {
        Self { skeleton: true, ..self }
    }

    /// Lets linear maps have what an adapter says of them, in addition to adapters that are attached already. Its whole
    /// tensors take the place of the model's.
    pub fn attach(mut self, attached: Attached) -> Self {
        let tensors = attached.adapter.tensors.iter();
        self.replaced.extend(tensors.map(|(name, tensor)| (name.clone(), tensor.clone())));
        self.attached.push(attached);
        self
    }

    /// Tells `observer` what every linear map of the model is given.
    pub fn observe(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The scope with the empty path.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, path: String::new() }
    }

    /// To be called when the model is built: an error that lists every tensor that was missing, had another shape than
    /// expected, or was not wanted. Else what the model is made of.
    pub fn finish(self) -> Result<Parts> {
        let unused: Vec<String> = self.unused.into_inner().into_iter().collect();
        let complaints: Vec<String> = [
            ("missing", self.missing.into_inner()),
            ("of the wrong shape", self.wrong.into_inner()),
            ("unknown", unused),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{} {what} ({})", count(&names), list(&names)))
        .collect();
        if complaints.is_empty() {
            return Ok(self.parts.into_inner());
        }
        bail!("{} does not fit its config.json: {}", self.folder.display(), complaints.join("; "))
    }

    fn take(&self, name: &str, shape: &[i32]) -> Array {
        let expected = || Array::zeros::<f32>(shape).unwrap_or_else(|_| Array::from_f32(0.0));
        let Some(stored) = self.tensors.get(name) else {
            self.missing.borrow_mut().push(name.to_owned());
            return expected();
        };
        self.unused.borrow_mut().remove(name);
        if stored.final_shape() != shape {
            let note = format!("{name}: {:?} where {shape:?} is expected", stored.final_shape());
            self.wrong.borrow_mut().push(note);
            return expected();
        }
        let dtype = self.dtype.filter(|_| stored.dtype.is_float()).unwrap_or(stored.dtype);
        let taken = match self.replaced.get(name) {
            Some(array) => array.reshape(shape).and_then(|array| array.as_dtype(dtype)).map_err(Into::into),
            None if self.skeleton => expected().as_dtype(dtype).map_err(Into::into),
            None => self.cast(stored),
        };
        match taken {
            Ok(array) => array,
            Err(e) => {
                self.wrong.borrow_mut().push(format!("{name}: {e:#}"));
                expected()
            }
        }
    }

    fn array(&self, stored: &Stored) -> Result<Array> {
        let array = match &self.store {
            Store::Shards(shards) => shards[stored.shard].array(stored.bytes.clone(), &stored.shape, stored.dtype)?,
            Store::Gguf(gguf) => gguf.read_at(stored.shard)?,
            Store::Made(tensors, make) => make(&tensors[stored.shard])?,
        };
        let Some(axes) = stored.transpose else { return Ok(array) };
        Ok(array.transpose_axes(axes)?.contiguous()?)
    }

    fn cast(&self, stored: &Stored) -> Result<Array> {
        let mut array = self.array(stored)?;
        if let Some(dtype) = self.dtype
            && stored.dtype.is_float()
        {
            array = array.as_dtype(dtype)?;
        }
        // At once, so that the stored form is freed before the next tensor is read.
        array.eval()?;
        (self.progress)(stored.bytes.len() as u64);
        Ok(array)
    }
}

/// An adapter that a model is to have.
#[derive(Clone)]
pub struct Attached {
    /// What it changes.
    pub adapter: Rc<Adapter>,
    /// How much of its changes are added: 1 for all.
    pub share: f32,
    /// What becomes of the inputs of its maps while it is trained.
    pub dropout: Option<Rc<Dropout>>,
}

/// What a model is made of.
#[derive(Default)]
pub struct Parts {
    /// Tensors that can be changed, by name: floats of the checkpoint, and those of the first adapter as `PATH.lora_a`
    /// `[rank, input]`, `PATH.lora_b` `[output, rank]` and `PATH.m` `[output]`.
    pub params: BTreeMap<String, Param>,
    /// The linear maps by path, as `[output, input]`.
    pub linears: BTreeMap<String, [i32; 2]>,
}

/// A place in the checkpoint's tree of names, such as `model.layers.3.mlp`.
#[derive(Clone)]
pub struct Scope<'a> {
    weights: &'a Weights,
    path: String,
}

impl Scope<'_> {
    /// The place `name` below this one.
    #[must_use]
    pub fn pp(&self, name: impl Display) -> Self {
        Self { weights: self.weights, path: self.key(name) }
    }

    /// The tensor `name`, which must have this shape. Where there is none such, zeros, and [`Weights::finish`] tells.
    pub fn get(&self, name: &str, shape: &[i32]) -> Array {
        self.weights.take(&self.key(name), shape)
    }

    /// The same for a tensor that may be changed later.
    pub fn param(&self, name: &str, shape: &[i32]) -> Param {
        self.register(name, self.get(name, shape))
    }

    /// A tensor of that name that is not the checkpoint's.
    pub fn register(&self, name: &str, value: Array) -> Param {
        let param = Param::new(value);
        self.weights.parts.borrow_mut().params.insert(self.key(name), param.clone());
        param
    }

    /// What adapters do to the linear map at this place, which is told to be one.
    pub fn low_ranks(&self, output: i32, input: i32) -> Vec<(LowRank, Attached)> {
        self.weights.parts.borrow_mut().linears.insert(self.path.clone(), [output, input]);
        let mut found = Vec::new();
        for attached in &self.weights.attached {
            if let Some(low_rank) = attached.adapter.modules.get(&self.path) {
                found.push((low_rank.clone(), attached.clone()));
            }
        }
        found
    }

    /// The shape of the tensor `name`, if there is one.
    pub fn shape(&self, name: &str) -> Option<Vec<i32>> {
        self.weights.tensors.get(&self.key(name)).map(Stored::final_shape)
    }

    /// Who is told what the linear map at this place is given.
    pub fn tap(&self) -> Option<Tap> {
        Some(Tap { observer: self.weights.observer.clone()?, path: self.path.clone() })
    }

    /// The tensors below this place are known, and the model has no use for them.
    pub fn skip(&self) {
        let prefix = self.key("");
        self.weights.unused.borrow_mut().retain(|name| !name.starts_with(&prefix));
    }

    /// The type in which models compute where the tensors themselves do not show it.
    pub fn dtype(&self) -> Dtype {
        self.weights.dtype.unwrap_or(Dtype::Bfloat16)
    }

    /// How the module at this place is packed; nothing when its weights are plain.
    pub fn quantized(&self) -> Option<QuantizedAs> {
        self.shape("scales")?;
        let rule = self.weights.quantization.as_ref().map(|rule| rule.of(&self.path));
        if rule.is_none() {
            let note = format!("{}: quantized, but config.json has no quantization", self.key("scales"));
            self.weights.wrong.borrow_mut().push(note);
        }
        rule
    }

    /// Something is wrong with the tensors at this place; [`Weights::finish`] tells.
    pub fn complain(&self, error: &impl Display) {
        self.weights.wrong.borrow_mut().push(format!("{}: {error}", self.path));
    }

    /// The place itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn key(&self, name: impl Display) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}

/// The type of a packed matrix as floats: that of its scales, which some modes do not have as floats.
pub(super) fn dtype_of_unpacked(scales: Dtype) -> Dtype {
    if scales.is_float() { scales } else { Dtype::Bfloat16 }
}

/// The tensors of a GGUF file under their new names. Each counts as a shard, by its place in the file.
fn in_gguf(gguf: &Gguf, remap: Remap) -> Vec<(String, Stored)> {
    let tensors = gguf.tensors().enumerate().filter_map(|(place, info)| {
        let name = (remap.rename)(&info.name)?;
        let transpose = (remap.transpose)(&name, &info.shape);
        let (dtype, shape) = (info.dtype, info.shape.clone());
        Some((name, Stored { shard: place, bytes: 0..info.bytes, dtype, shape, transpose, coarse: info.packed }))
    });
    tensors.collect()
}

/// Maps the folder's safetensors files; their tensors under their new names.
fn in_folder(folder: &Path, remap: Remap) -> Result<(Store, Vec<(String, Stored)>)> {
    let mut shards = Vec::new();
    let mut tensors = Vec::new();
    for file in shard_files(folder)? {
        let path = folder.join(&file);
        let map = MappedFile::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        tensors.extend(header(&map, shards.len(), remap).with_context(|| damaged(&path))?);
        shards.push(map);
    }
    Ok((Store::Shards(shards), tensors))
}

/// The names of the safetensors files that make up the checkpoint.
fn shard_files(folder: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index_path = folder.join(INDEX);
    if let Some(index) = read_json(&index_path)? {
        let index: Index = parse(&index).with_context(|| format!("{}", index_path.display()))?;
        let files: BTreeSet<String> = index.weight_map.into_values().collect();
        if let Some(file) = files.iter().find(|file| Path::new(file).file_name() != Some(file.as_ref())) {
            bail!("{}: {file:?} is not the name of a file beside it", index_path.display());
        }
        let absent: Vec<String> = files.iter().filter(|file| !folder.join(file).is_file()).cloned().collect();
        if !absent.is_empty() {
            bail!("{} names files that are not there: {}", index_path.display(), list(&absent));
        }
        return Ok(files.into_iter().collect());
    }
    const SINGLE: &str = "model.safetensors";
    if folder.join(SINGLE).is_file() {
        return Ok(vec![SINGLE.into()]);
    }
    // Other names occur: Phi-3-Vision-MLX writes quantized_model.safetensors.
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.ends_with(".safetensors") && !name.starts_with("adapter") && !name.starts_with("consolidated")
        })
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("{} holds no *.safetensors: there are no weights to load", folder.display());
    }
    Ok(files)
}

/// The tensors of one file under their new names.
fn header(map: &MappedFile, shard: usize, remap: Remap) -> Result<Vec<(String, Stored)>> {
    let (header_len, metadata) = SafeTensors::read_metadata(map.bytes())?;
    let data = header_len + size_of::<u64>();
    let mut tensors = Vec::new();
    for (stored_name, info) in metadata.tensors() {
        let Some(name) = (remap.rename)(&stored_name) else { continue };
        let (dtype, shape, bytes) = place(&stored_name, info, data)?;
        let transpose = (remap.transpose)(&name, &shape);
        tensors.push((name, Stored { shard, bytes, dtype, shape, transpose, coarse: false }));
    }
    Ok(tensors)
}

/// Type, shape and place in the file of a tensor, where tensors begin at the byte `data`.
pub(crate) fn place(name: &str, info: &TensorInfo, data: usize) -> Result<(Dtype, Vec<i32>, Range<usize>)> {
    let dtype =
        mlx_dtype(info.dtype).ok_or_else(|| anyhow!("{name} is of type {:?}, which MLX does not have", info.dtype))?;
    let shape = info.shape.iter().map(|&dim| i32::try_from(dim)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| anyhow!("{name} has the shape {:?}, too large for MLX", info.shape))?;
    Ok((dtype, shape, data + info.data_offsets.0..data + info.data_offsets.1))
}

/// MLX's name of a type of numbers, if it has such.
pub fn mlx_dtype(dtype: safetensors::Dtype) -> Option<Dtype> {
    use safetensors::Dtype as S;
    Some(match dtype {
        S::BOOL => Dtype::Bool,
        S::U8 => Dtype::Uint8,
        S::I8 => Dtype::Int8,
        S::U16 => Dtype::Uint16,
        S::I16 => Dtype::Int16,
        S::F16 => Dtype::Float16,
        S::BF16 => Dtype::Bfloat16,
        S::U32 => Dtype::Uint32,
        S::I32 => Dtype::Int32,
        S::F32 => Dtype::Float32,
        S::U64 => Dtype::Uint64,
        S::I64 => Dtype::Int64,
        S::F64 => Dtype::Float64,
        _ => return None,
    })
}

/// What is said of a file that is not what its header says.
pub(crate) fn damaged(path: &Path) -> String {
    format!("{} is damaged or incomplete; fetch it again", path.display())
}

/// How many tensors.
pub(crate) fn count(names: &[String]) -> String {
    format!("{} tensor{}", names.len(), if names.len() == 1 { "" } else { "s" })
}

/// The first five, and how many more.
pub(crate) fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}
