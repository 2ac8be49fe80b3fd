//! Where the tensors of a checkpoint lie: in safetensors files, in a GGUF file, or nowhere, where they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use mlx_mmap::MappedFile;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::INDEX;
use super::gguf::Gguf;
use super::safetensors::TensorSpec;
use super::weights::Remap;
use crate::checkpoint::json::{parse, read_json};
use crate::checkpoint::safetensors::{damaged, place};
use crate::text::list;

/// Makes a tensor as it is described.
pub(super) type Make = dyn Fn(&TensorSpec) -> Result<Array>;

/// What the tensors lie in.
pub(super) enum Store {
    /// Safetensors files.
    Shards(Vec<MappedFile>),
    Gguf(Rc<Gguf>),
    /// Nothing: they are made when they are taken.
    Made(Vec<TensorSpec>, Box<Make>),
}

/// Where one tensor lies, and what is to become of it.
pub(super) struct Stored {
    pub(super) shard: usize,
    pub(super) bytes: Range<usize>,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<i32>,
    pub(super) transpose: Option<&'static [i32]>,
    /// Whether the file has it in few bits, and it is read as floats.
    pub(super) coarse: bool,
}

impl Stored {
    /// The shape that the model sees.
    pub(super) fn final_shape(&self) -> Vec<i32> {
        match self.transpose {
            Some(axes) => axes.iter().map(|&axis| self.shape[axis as usize]).collect(),
            None => self.shape.clone(),
        }
    }
}

/// The tensors of a GGUF file under their new names. Each counts as a shard, by its place in the file.
pub(super) fn in_gguf(gguf: &Gguf, remap: Remap) -> Vec<(String, Stored)> {
    let tensors = gguf.tensors().enumerate().filter_map(|(place, info)| {
        let name = (remap.rename)(&info.name)?;
        let transpose = (remap.transpose)(&name, &info.shape);
        let (dtype, shape) = (info.dtype, info.shape.clone());
        Some((name, Stored { shard: place, bytes: 0..info.bytes, dtype, shape, transpose, coarse: info.packed }))
    });
    tensors.collect()
}

/// Maps the folder's safetensors files; their tensors under their new names.
pub(super) fn in_folder(folder: &Path, remap: Remap) -> Result<(Store, Vec<(String, Stored)>)> {
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
