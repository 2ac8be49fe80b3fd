//! Writing tensors: safetensors files whose headers come first, so that one tensor at a time is in memory, and the index
//! that says which file holds which.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use mlx_mmap::item_size;
use mlx_rs::{Array, Dtype};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use serde_json::json;

use crate::checkpoint::INDEX;

/// The most bytes of tensors in one file, unless a single one is larger: that of mlx-lm and mlx-vlm.
pub const SHARD_BYTES: u64 = 5 << 30;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its key in the checkpoint.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its axes.
    pub shape: Vec<i32>,
}

impl TensorSpec {
    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product::<u64>() * item_size(self.dtype) as u64
    }
}

/// Where a tensor goes.
struct Place {
    file: usize,
    at: u64,
    spec: TensorSpec,
}

/// The files of a checkpoint in the making.
pub struct Shards {
    files: Vec<(String, File)>,
    places: HashMap<String, Place>,
    weight_map: BTreeMap<String, String>,
    total_size: u64,
}

impl Shards {
    /// Makes the files in `folder`, with their headers, which say whose `format` it is: `mlx` or, as published, `pt`.
    pub fn create(folder: &Path, format: &str, tensors: &[TensorSpec], shard_bytes: u64) -> Result<Self> {
        let shards = split(tensors, shard_bytes);
        let mut made = Self {
            files: Vec::new(),
            places: HashMap::new(),
            weight_map: BTreeMap::new(),
            total_size: tensors.iter().map(TensorSpec::bytes).sum(),
        };
        for (index, shard) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
            };
            made.add(folder, name.clone(), format, shard).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(made)
    }

    fn add(&mut self, folder: &Path, name: String, format: &str, tensors: &[&TensorSpec]) -> Result<()> {
        // Large elements first, so that all are aligned.
        let mut tensors = tensors.to_vec();
        tensors.sort_by_key(|spec| std::cmp::Reverse(item_size(spec.dtype)));
        let header = header(&tensors, HashMap::from([("format".to_owned(), format.to_owned())]))?;
        let mut file = File::create(folder.join(&name))?;
        file.write_all(&header)?;
        let mut at = header.len() as u64;
        for spec in tensors {
            self.weight_map.insert(spec.name.clone(), name.clone());
            self.places.insert(spec.name.clone(), Place { file: self.files.len(), at, spec: spec.clone() });
            at += spec.bytes();
        }
        self.files.push((name, file));
        Ok(())
    }

    /// Writes a tensor, whose rows lie one after the other, into its place.
    pub fn write(&mut self, name: &str, array: &Array) -> Result<()> {
        let Place { file, at, spec } =
            self.places.remove(name).with_context(|| format!("{name} is not to be written"))?;
        ensure!(
            array.shape() == spec.shape && array.dtype() == spec.dtype,
            "{name} is {:?} {:?}, announced as {:?} {:?}",
            array.dtype(),
            array.shape(),
            spec.dtype,
            spec.shape
        );
        let (file_name, file) = &mut self.files[file];
        if array.size() == 0 {
            return Ok(());
        }
        let view = TensorView::try_from(array)?;
        let mut write = || {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(view.data())
        };
        write().with_context(|| format!("cannot write {file_name}"))
    }

    /// Makes the files last and writes their index.
    pub fn finish(self, folder: &Path, total_parameters: u64) -> Result<()> {
        ensure!(self.places.is_empty(), "{} tensors were not written", self.places.len());
        for (name, file) in &self.files {
            file.sync_all().with_context(|| format!("cannot write {name}"))?;
        }
        let index = json!({
            "metadata": { "total_size": self.total_size, "total_parameters": total_parameters },
            "weight_map": self.weight_map,
        });
        let write = || {
            let mut file = File::create(folder.join(INDEX))?;
            file.write_all(format!("{index:#}\n").as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {INDEX}"))
    }
}

/// How a safetensors file begins whose tensors then follow one another: the header with its length.
pub fn header(tensors: &[&TensorSpec], metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let mut end = 0;
    let mut infos = Vec::new();
    for spec in tensors {
        let begin = end;
        end += spec.bytes() as usize;
        let shape = spec.shape.iter().map(|&dim| dim as usize).collect();
        let dtype = safetensors::Dtype::try_from(spec.dtype)?;
        infos.push((spec.name.clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
    }
    let mut json = serde_json::to_vec(&Metadata::new(Some(metadata), infos)?)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

/// Consecutive tensors that fit into one file each.
fn split(tensors: &[TensorSpec], shard_bytes: u64) -> Vec<Vec<&TensorSpec>> {
    let mut shards: Vec<Vec<&TensorSpec>> = Vec::new();
    let mut size = 0;
    for spec in tensors {
        if shards.is_empty() || size + spec.bytes() > shard_bytes {
            shards.push(Vec::new());
            size = 0;
        }
        size += spec.bytes();
        shards.last_mut().expect("one was just added, if there was none").push(spec);
    }
    shards
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
