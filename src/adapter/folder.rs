//! An adapter's folder: one safetensors file, in which every tensor must be understood, and one of JSON.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mlx_mmap::MappedFile;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use super::CONFIG;
use crate::checkpoint::arrays::{self, Contents};
use crate::checkpoint::low_rank::LowRank;
use crate::checkpoint::safetensors::{damaged, place};
use crate::checkpoint::staging::{Staging, replace_file};
use crate::text::{count, list};

/// The weight files of all formats.
pub(super) const MLX_WEIGHTS: &str = "adapters.safetensors";
pub(super) const PEFT_WEIGHTS: &str = "adapter_model.safetensors";

/// What a tensor is to a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    A,
    B,
    Magnitude,
}

/// What a tensor is to the model.
pub(super) enum Role {
    /// A part of the change of the linear map with this path.
    Part(String, Part),
    /// The tensor of this name.
    Whole(String),
}

/// How A and B lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A `[rank, input]`, B `[output, rank]`.
    Torch,
    /// A `[input, rank]`, B `[rank, output]`.
    Mlx,
}

/// The tensors of a weight file by what they are.
pub(super) struct Sorted {
    modules: BTreeMap<String, [Option<Array>; 3]>,
    pub(super) tensors: BTreeMap<String, Array>,
}

/// Reads a weight file.
///
/// # Errors
/// When it is damaged, or a tensor has no role, the same as another, or no floats.
pub(super) fn read(path: &Path, layout: Layout, role: impl Fn(&str) -> Option<Role>) -> Result<Sorted> {
    let map = MappedFile::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (header_len, metadata) = SafeTensors::read_metadata(map.bytes()).with_context(|| damaged(path))?;
    let mut sorted = Sorted { modules: BTreeMap::new(), tensors: BTreeMap::new() };
    let mut unknown = Vec::new();
    for (name, info) in metadata.tensors() {
        let Some(role) = role(&name) else {
            unknown.push(name);
            continue;
        };
        let stored = place(&name, info, header_len + size_of::<u64>())?;
        let earlier = match role {
            Role::Part(path, part) => {
                let array = low_rank_part(&map, stored, part, layout).with_context(|| name.clone())?;
                sorted.modules.entry(path).or_default()[part as usize].replace(array)
            }
            Role::Whole(to) => {
                let array = array(&map, stored).with_context(|| name.clone())?;
                sorted.tensors.insert(to, array)
            }
        };
        ensure!(earlier.is_none(), "{} has {name} under two names", path.display());
    }
    unknown.sort();
    ensure!(unknown.is_empty(), "{}: {} not understood: {}", path.display(), count(&unknown), list(&unknown));
    Ok(sorted)
}

fn array(map: &MappedFile, (dtype, shape, bytes): (Dtype, Vec<i32>, Range<usize>)) -> Result<Array> {
    ensure!(dtype.is_float(), "of type {dtype:?}, where floats are expected");
    Ok(map.array(bytes, &shape, dtype)?)
}

fn low_rank_part(
    map: &MappedFile,
    stored: (Dtype, Vec<i32>, Range<usize>),
    part: Part,
    layout: Layout,
) -> Result<Array> {
    let axes = if part == Part::Magnitude { 1 } else { 2 };
    ensure!(stored.1.len() == axes, "of the shape {:?}, where {axes} axes are expected", stored.1);
    let mut array = array(map, stored)?.as_dtype(Dtype::Float32)?;
    if layout == Layout::Mlx {
        array = array.t().contiguous()?;
    }
    array.eval()?;
    Ok(array)
}

impl Sorted {
    /// The changes, given what the configuration says of the rank and scale of each path.
    pub(super) fn modules(self, settings: impl Fn(&str) -> Result<(u32, f32)>) -> Result<BTreeMap<String, LowRank>> {
        let missing = |part: usize| {
            let lacking = self.modules.iter().filter(move |(_, parts)| parts[part].is_none());
            lacking.map(|(path, _)| path.clone()).collect::<Vec<String>>()
        };
        for (part, name) in [(Part::A, "A"), (Part::B, "B")] {
            let missing = missing(part as usize);
            ensure!(missing.is_empty(), "incomplete, {name} is missing of {}", list(&missing));
        }
        let mut modules = BTreeMap::new();
        for (path, [a, b, magnitude]) in self.modules {
            let (Some(a), Some(b)) = (a, b) else { continue };
            let (rank, scale) = settings(&path)?;
            ensure!(a.shape()[0] as u32 == rank, "{path} is of rank {}, but {CONFIG} has {rank}", a.shape()[0]);
            modules.insert(path, LowRank { a, b, scale, magnitude });
        }
        Ok(modules)
    }
}

/// A number of the configuration as a scale.
pub(super) fn scale(value: f64) -> Result<f32> {
    let scale = value as f32;
    ensure!(scale.is_finite(), "a scale of {value} is out of range");
    Ok(scale)
}

/// A number as people write it: 0.1, not 0.10000000149011612, and 8, not 8.0.
pub fn number(value: f32) -> Value {
    let short = value.to_string();
    short.parse::<i64>().map(Value::from).or_else(|_| short.parse::<f64>().map(Value::from)).unwrap_or_default()
}

/// What is to be written.
pub(super) struct Files {
    pub(super) weights: &'static str,
    /// Of the weight file.
    pub(super) contents: Contents,
    pub(super) config: Map<String, Value>,
}

/// The tensors of a weight file that says whose axes it has.
pub(super) fn contents(tensors: BTreeMap<String, Array>, format: &str) -> Contents {
    Contents { metadata: HashMap::from([("format".to_owned(), format.to_owned())]), arrays: tensors }
}

/// Writes an adapter's folder, or replaces the files of one.
pub(super) fn write(folder: &Path, files: Files, extra: &Map<String, Value>) -> Result<()> {
    let mut config: BTreeMap<&String, &Value> = extra.iter().collect();
    config.extend(&files.config);
    let config = serde_json::to_string_pretty(&config)? + "\n";
    if !folder.exists() {
        let staging = Staging::begin(folder, false)?;
        write_into(staging.folder(), &files, &config)?;
        return staging.publish();
    }
    ensure!(folder.is_dir(), "{} is not a folder", folder.display());
    // Files of several formats, of which the configuration describes one.
    let other = [MLX_WEIGHTS, PEFT_WEIGHTS].into_iter().find(|&name| name != files.weights);
    if let Some(name) = other.filter(|name| folder.join(name).exists()) {
        bail!("{} holds another program's {name}; name another folder", folder.display());
    }
    write_into(folder, &files, &config)
}

fn write_into(folder: &Path, files: &Files, config: &str) -> Result<()> {
    let config_path = folder.join(CONFIG);
    replace_file(&config_path, |file| {
        file.write_all(config.as_bytes())?;
        replace_file(&folder.join(files.weights), |file| {
            arrays::write_to(file, &files.contents)?;
            // Killed before both are in place, the folder has no configuration rather than that of other weights.
            remove_unless(&config_path, config)
        })
    })
}

fn remove_unless(path: &PathBuf, contents: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot replace {}", path.display()))
        }
        _ => Ok(()),
    }
}
