//! Arrays in a file, which appears whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mlx_mmap::MappedFile;
use mlx_rs::Array;
use mlx_rs::transforms::eval;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::save::{TensorSpec, header};
use super::staging::replace_file;
use super::weights::mlx_dtype;

/// What a file holds.
pub struct Contents {
    /// Text about the arrays.
    pub metadata: HashMap<String, String>,
    /// By name.
    pub arrays: BTreeMap<String, Array>,
}

/// Writes arrays and text about them as safetensors.
pub fn write(path: &Path, contents: &Contents) -> Result<()> {
    // Parts of blocks are strided; files are not.
    let arrays = contents.arrays.iter().map(|(name, array)| Ok((name, array.contiguous()?)));
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    eval(arrays.iter().map(|(_, array)| array))?;
    let specs: Vec<TensorSpec> = arrays
        .iter()
        .map(|(name, array)| TensorSpec { name: (*name).clone(), dtype: array.dtype(), shape: array.shape().to_vec() })
        .collect();
    let header = header(&specs.iter().collect::<Vec<_>>(), contents.metadata.clone())?;
    replace_file(path, |file| {
        file.write_all(&header)?;
        for (_, array) in &arrays {
            file.write_all(TensorView::try_from(array)?.data())?;
        }
        Ok(())
    })
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
            let shape = info.shape.iter().map(|&dim| i32::try_from(dim)).collect::<Result<Vec<_>, _>>()?;
            let (begin, end) = info.data_offsets;
            let dtype = mlx_dtype(info.dtype).with_context(|| format!("{name} is of type {:?}", info.dtype))?;
            ensure!(data + end <= map.bytes().len(), "{name} goes beyond the end of the file");
            arrays.insert(name.clone(), map.array(data + begin..data + end, &shape, dtype)?);
        }
        Ok(Contents { metadata: metadata.metadata().clone().unwrap_or_default(), arrays })
    };
    contents().with_context(|| format!("{} is damaged or incomplete; delete it", path.display())).map(Some)
}
