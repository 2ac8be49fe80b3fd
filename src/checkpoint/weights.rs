//! The tensors of a checkpoint: each is named exactly once, taken exactly once, and has the shape the model expects.
//!
//! A model takes its tensors through a [`Scope`], whose path is the key in the checkpoint. What does not fit is noted,
//! and [`Weights::finish`] reports all of it at once, tensors that nobody took included.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Error, Result, bail};
use mlx_mmap::item_size;
use mlx_quantized::Packed;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::ModelFiles;
use super::param::Param;
use super::store::{Store, Stored, in_folder, in_gguf};
use crate::checkpoint::low_rank::{Attached, LowRank};
use crate::checkpoint::quantization::{Quantization, QuantizedAs, unpack};
use crate::checkpoint::safetensors::TensorSpec;
use crate::text::{count, list};

/// How an architecture's published tensors become MLX's: decided by name and shape alone, so that a file's header is
/// enough to know the outcome.
#[derive(Clone, Copy)]
pub struct Remap {
    /// The name under which the model takes the tensor; none for tensors that carry nothing (position ids and the like).
    pub rename: fn(&str) -> Option<String>,
    /// The order of axes in which MLX wants the tensor of this (new) name, where it is another than the stored one.
    pub transpose: fn(&str, &[i32]) -> Option<&'static [i32]>,
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
    /// Where there is no checkpoint, and it is noted which tensors a model takes.
    listed: Option<RefCell<Vec<TensorSpec>>>,
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

    /// No tensors: those that a model takes are noted, see [`Self::listed`].
    pub fn listing(files: &ModelFiles) -> Result<Self> {
        let nothing = |_: &TensorSpec| bail!("there are no tensors to read");
        let store = Store::Made(Vec::new(), Box::new(nothing));
        Ok(Self { listed: Some(RefCell::default()), ..Self::of(files, store, Vec::new(), None)? })
    }

    /// The tensors that a model took of [`Self::listing`], in bfloat16.
    pub fn listed(self) -> Vec<TensorSpec> {
        self.listed.map(RefCell::into_inner).unwrap_or_default()
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
            listed: None,
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
        if let Some(listed) = &self.listed {
            let spec = TensorSpec { name: name.to_owned(), dtype: Dtype::Bfloat16, shape: shape.to_vec() };
            listed.borrow_mut().push(spec);
            return expected();
        }
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

    /// Whether the checkpoint has the tensor `name`; `expected` where there is no checkpoint.
    pub fn has(&self, name: &str, expected: bool) -> bool {
        if self.weights.listed.is_some() { expected } else { self.shape(name).is_some() }
    }

    /// The tensors below this place, which `load` takes, are published, and the model has no use for them.
    pub fn unused<T>(&self, load: impl FnOnce(&Self) -> T) {
        if self.weights.listed.is_some() {
            load(self);
        }
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
pub(crate) fn dtype_of_unpacked(scales: Dtype) -> Dtype {
    if scales.is_float() { scales } else { Dtype::Bfloat16 }
}
