//! The GGUF container: metadata by key and tensors by name, as ranges of the mapped file. Every count, length and offset
//! is checked against the file before it is used, and nothing is allocated on a header's word.
//! Reference: ggml/docs/gguf.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mlx_mmap::MappedFile;

use super::reader::{FLOAT32, INT32, Reader, STRING, Tensor, Value};

/// An opened file.
pub(super) struct Container {
    path: PathBuf,
    map: MappedFile,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
}

impl Container {
    /// Maps the file and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let map = MappedFile::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (metadata, tensors) = header(map.bytes()).with_context(|| format!("{}", path.display()))?;
        Ok(Self { path: path.to_owned(), map, metadata, tensors })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn map(&self) -> &MappedFile {
        &self.map
    }

    /// In the file's order.
    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "a number without a sign", |value| match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A number that must be there and is of the size that counts have.
    pub(super) fn count(&self, key: &str) -> Result<i32> {
        let number = self.unsigned(key)?.with_context(|| format!("it has no {key}"))?;
        i32::try_from(number).with_context(|| format!("{key} is {number}, too large"))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", |value| match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        })
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", |value| match value {
            Value::Bool(bool) => Some(*bool),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a text", |value| match value {
            Value::Text(range) => std::str::from_utf8(&self.map.bytes()[range.clone()]).ok(),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.get(key, "a list of texts", |value| match value {
            Value::List { kind: STRING, bytes, .. } => {
                let mut reader = Reader { bytes: &self.map.bytes()[bytes.clone()], at: 0 };
                let mut texts = Vec::new();
                while reader.at < reader.bytes.len() {
                    let range = reader.text().ok()?;
                    texts.push(std::str::from_utf8(&reader.bytes[range]).ok()?);
                }
                Some(texts)
            }
            _ => None,
        })
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.words(key, FLOAT32, "a list of float32")?.map(|words| words.map(f32::from_le_bytes).collect()))
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>> {
        Ok(self.words(key, INT32, "a list of int32")?.map(|words| words.map(i32::from_le_bytes).collect()))
    }

    /// The elements of a list whose kind has four bytes.
    fn words(&self, key: &str, of: u32, what: &str) -> Result<Option<impl Iterator<Item = [u8; 4]>>> {
        self.get(key, what, |value| match value {
            Value::List { kind, len, bytes } if *kind == of && bytes.len() == 4 * len => {
                let bytes = &self.map.bytes()[bytes.clone()];
                Some(bytes.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]))
            }
            _ => None,
        })
    }

    fn get<'a, T>(&'a self, key: &str, what: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => bail!("{key} is not {what}"),
        }
    }
}

/// Metadata and tensors of a whole file.
fn header(bytes: &[u8]) -> Result<(BTreeMap<String, Value>, Vec<Tensor>)> {
    ensure!(bytes.starts_with(b"GGUF"), "it is no GGUF file");
    let mut reader = Reader { bytes, at: 4 };
    match reader.u32()? {
        2 | 3 => (),
        version if version.swap_bytes() < 1 << 16 => bail!("it is big endian, which is not supported"),
        version => bail!("it is of version {version} of the format; 2 and 3 are supported"),
    }
    let (tensor_count, key_count) = (reader.u64()?, reader.u64()?);
    let mut metadata = BTreeMap::new();
    for _ in 0..key_count {
        let key = reader.name()?;
        let kind = reader.u32()?;
        let value = reader.value(kind).with_context(|| key.clone())?;
        ensure!(metadata.insert(key.clone(), value).is_none(), "{key} is there twice");
    }
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        let tensor = reader.tensor()?;
        ensure!(names.insert(tensor.name.clone()), "{} is there twice", tensor.name);
        tensors.push(tensor);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Integer(n)) if (1..1 << 20).contains(n) => *n as usize,
        Some(_) => bail!("general.alignment is not the size of an alignment"),
    };
    // Until here offsets count from the end of the header.
    let data = reader.at.next_multiple_of(alignment);
    for Tensor { name, bytes: range, .. } in &mut tensors {
        let place = range.start.checked_add(data).zip(range.end.checked_add(data));
        let (start, end) = place
            .filter(|&(_, end)| end <= bytes.len())
            .ok_or_else(|| anyhow!("{name} lies outside the file: it is damaged or incomplete, fetch it again"))?;
        *range = start..end;
    }
    Ok((metadata, tensors))
}
