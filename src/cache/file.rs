//! Arrays in a file, which appears whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mlx_mmap::MappedFile;
use mlx_rs::Array;
use mlx_rs::transforms::eval;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};

use crate::checkpoint::weights::mlx_dtype;

/// What a file holds.
pub(super) struct Contents {
    pub metadata: HashMap<String, String>,
    pub arrays: BTreeMap<String, Array>,
}

/// Writes arrays and text about them as safetensors.
pub(super) fn write(path: &Path, contents: &Contents) -> Result<()> {
    // Parts of blocks are strided; files are not.
    let arrays = contents.arrays.iter().map(|(name, array)| Ok((name, array.contiguous()?)));
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    eval(arrays.iter().map(|(_, array)| array))?;
    let mut end = 0;
    let mut infos = Vec::new();
    for (name, array) in &arrays {
        let begin = end;
        end += array.nbytes();
        let shape = array.shape().iter().map(|&dim| dim as usize).collect();
        let dtype = safetensors::Dtype::try_from(array.dtype())?;
        infos.push(((*name).clone(), TensorInfo { dtype, shape, data_offsets: (begin, end) }));
    }
    let mut header = serde_json::to_vec(&Metadata::new(Some(contents.metadata.clone()), infos)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let write = || -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, array) in &arrays {
            file.write_all(TensorView::try_from(array)?.data())?;
        }
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads what [`write()`] wrote; nothing if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Contents>> {
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
