//! Arrays in a file, which appears whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mlx_mmap::{MappedFile, item_size};
use mlx_rs::Array;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::staging::replace_file;
use crate::checkpoint::safetensors::{TensorSpec, header, place};

/// What a file holds.
pub struct Contents {
    /// Text about the arrays.
    pub metadata: HashMap<String, String>,
    /// By name.
    pub arrays: BTreeMap<String, Array>,
}

/// Writes arrays and text about them as safetensors.
pub fn write(path: &Path, contents: &Contents) -> Result<()> {
    replace_file(path, |file| write_to(file, contents))
}

/// The same into a file that is being made, an array at a time.
pub fn write_to(file: &mut File, contents: &Contents) -> Result<()> {
    let spec = |(name, array): (&String, &Array)| TensorSpec {
        name: name.clone(),
        dtype: array.dtype(),
        shape: array.shape().to_vec(),
    };
    let mut specs: Vec<TensorSpec> = contents.arrays.iter().map(spec).collect();
    // Large elements first, so that all are aligned.
    specs.sort_by_key(|spec| std::cmp::Reverse(item_size(spec.dtype)));
    file.write_all(&header(&specs.iter().collect::<Vec<_>>(), contents.metadata.clone())?)?;
    for spec in specs.iter().filter(|spec| spec.bytes() > 0) {
        // Parts of blocks are strided; files are not.
        let rows = contents.arrays[&spec.name].contiguous()?;
        rows.eval()?;
        file.write_all(TensorView::try_from(&rows)?.data())?;
    }
    Ok(())
}

/// Reads what [`write()`] wrote; nothing if there is no such file.
pub fn read(path: &Path) -> Result<Option<Contents>> {
    let map = match MappedFile::open(path) {
        Ok(map) => map,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let contents = || -> Result<Contents> {
        let (header_len, metadata) = SafeTensors::read_metadata(map.bytes())?;
        let data = header_len + size_of::<u64>();
        let mut arrays = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let (dtype, shape, bytes) = place(&name, info, data)?;
            ensure!(bytes.end <= map.bytes().len(), "{name} goes beyond the end of the file");
            arrays.insert(name.clone(), map.array(bytes, &shape, dtype)?);
        }
        Ok(Contents { metadata: metadata.metadata().clone().unwrap_or_default(), arrays })
    };
    contents().with_context(|| format!("{} is damaged or incomplete; delete it", path.display())).map(Some)
}
