//! A checkpoint as a GGUF file: the header first, then tensor after tensor, so that one is in memory at a time.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::format::Format;
use super::metadata::{Config, Metadata, put_text};
use super::names::Arch;
use super::quantize::quantize;
use super::{pairs, vocab};

/// How the matrices of a file are stored. Vectors are float32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// float16
    F16,
    /// 8.5 bits a weight
    Q8_0,
    /// 4.5 bits a weight; the matrix that makes logits Q8_0
    Q4_0,
}

/// A checkpoint folder of Hugging Face's, as far as it is needed.
pub struct Source<'a> {
    /// `config.json`
    pub config: &'a Value,
    /// `tokenizer.json`
    pub tokenizer: &'a Value,
    /// `tokenizer_config.json` with the chat template in it, wherever the folder keeps that; null where there is none
    pub tokenizer_config: &'a Value,
    /// Names and shapes of the tensors, unpacked and under Hugging Face's names. The file has their order.
    pub tensors: &'a [(String, Vec<i32>)],
}

/// Where the data of each tensor begins.
const ALIGNMENT: usize = 32;

/// One tensor of the file.
struct Planned {
    name: String,
    shape: Vec<i32>,
    format: Format,
    content: Content,
}

enum Content {
    /// The source's tensor of this name.
    Read(String),
    Given(Vec<f32>),
}

/// Writes the checkpoint to `path`, which exists only when it is whole. `read` gives each tensor once, as it comes to it.
///
/// What llama.cpp itself makes of the file may differ in two points: it has no sliding windows for these models, and takes
/// longrope's long factors whenever its context is longer than the original one.
///
/// # Errors
/// When the model, its rotation or its tokenizer is one that GGUF or llama.cpp has no place for, when `read` fails or
/// gives another shape, or the file cannot be written.
pub fn write(source: &Source, kind: GgufType, mut read: impl FnMut(&str) -> Result<Array>, path: &Path) -> Result<()> {
    let config = Config::read(source.config)?;
    let (header, planned) = plan(source, &config, kind)?;
    let temporary = Temporary::beside(path)?;
    let cannot = || format!("cannot write {}", temporary.path.display());
    let file = File::create_new(&temporary.path).with_context(cannot)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&header).with_context(cannot)?;
    for tensor in &planned {
        let bytes = match &tensor.content {
            Content::Given(values) => quantize(tensor.format, values),
            Content::Read(name) => {
                let array = read(name)?;
                packed(&array, tensor, config.paired_heads(name)).with_context(|| name.clone())?
            }
        };
        out.write_all(&bytes).with_context(cannot)?;
        out.write_all(&padding(bytes.len())).with_context(cannot)?;
    }
    let file = out.into_inner().map_err(|e| e.into_error()).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    fs::rename(&temporary.path, path).with_context(|| format!("cannot write {}", path.display()))
}

/// The file's header, and the tensors that follow it.
fn plan(source: &Source, config: &Config, kind: GgufType) -> Result<(Vec<u8>, Vec<Planned>)> {
    let arch = config.arch()?;
    let mut metadata = Metadata::default();
    metadata.text("general.architecture", arch.name());
    metadata.text("general.type", "model");
    metadata.u32("general.quantization_version", 2);
    let file_type = match kind {
        GgufType::F16 => 1,
        GgufType::Q4_0 => 2,
        GgufType::Q8_0 => 7,
    };
    metadata.u32("general.file_type", file_type);
    let factors = config.write(&mut metadata)?;
    let rstrip = vocab::write(source.tokenizer, source.tokenizer_config, config, &mut metadata)?;
    // By "phi-3" in the name llama.cpp knows that control tokens swallow the white space after them.
    let name = match arch {
        Arch::Phi3 if rstrip => "Phi-3",
        Arch::Phi3 => "Phi 3",
        _ => "Llama",
    };
    metadata.text("general.name", name);
    let mut planned = Vec::new();
    for (name, values) in factors {
        let shape = vec![i32::try_from(values.len())?];
        planned.push(Planned { name: name.into(), shape, format: Format::F32, content: Content::Given(values) });
    }
    for (name, shape) in source.tensors {
        let carries_nothing = name.ends_with(".rotary_emb.inv_freq");
        let is_copy = config.tie_word_embeddings && name == "lm_head.weight";
        if carries_nothing || is_copy {
            continue;
        }
        let gguf = arch.to_gguf(name).with_context(|| format!("{name} has no place in a {arch} file"))?;
        let format = format(&gguf, shape, kind, config.tie_word_embeddings);
        planned.push(Planned { name: gguf, shape: shape.clone(), format, content: Content::Read(name.clone()) });
    }
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((planned.len() as u64).to_le_bytes());
    header.extend(metadata.count.to_le_bytes());
    header.extend(metadata.bytes);
    let mut offset = 0;
    for tensor in &planned {
        describe(&mut header, tensor, offset)?;
        offset += tensor.bytes()?.next_multiple_of(ALIGNMENT);
    }
    header.extend(padding(header.len()));
    Ok((header, planned))
}

/// As llama.cpp chooses, but that Q4_0's logits come from Q8_0 where it has Q6_K.
fn format(name: &str, shape: &[i32], kind: GgufType, tied: bool) -> Format {
    let makes_logits = name == if tied { "token_embd.weight" } else { "output.weight" };
    let whole_blocks = shape.last().is_some_and(|row| row % 32 == 0);
    match kind {
        _ if shape.len() < 2 => Format::F32,
        GgufType::F16 => Format::F16,
        _ if !whole_blocks => Format::F16,
        GgufType::Q4_0 if !makes_logits => Format::Q4_0,
        GgufType::Q4_0 | GgufType::Q8_0 => Format::Q8_0,
    }
}

impl Planned {
    fn bytes(&self) -> Result<usize> {
        let (values, bytes) = self.format.block();
        let count = self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(usize::try_from(dim).ok()?));
        let size = count.and_then(|count| (count / values).checked_mul(bytes));
        size.with_context(|| format!("{} has the shape {:?}", self.name, self.shape))
    }
}

/// A tensor's entry in the header.
fn describe(header: &mut Vec<u8>, tensor: &Planned, offset: usize) -> Result<()> {
    put_text(header, &tensor.name);
    header.extend(u32::try_from(tensor.shape.len())?.to_le_bytes());
    for &dim in tensor.shape.iter().rev() {
        header.extend(u64::try_from(dim)?.to_le_bytes());
    }
    header.extend(tensor.format.number().to_le_bytes());
    header.extend((offset as u64).to_le_bytes());
    Ok(())
}

fn padding(len: usize) -> Vec<u8> {
    vec![0; len.next_multiple_of(ALIGNMENT) - len]
}

/// The tensor's bytes in the file.
fn packed(array: &Array, tensor: &Planned, heads: Option<i32>) -> Result<Vec<u8>> {
    ensure!(array.shape() == tensor.shape, "{:?} where {:?} was announced", array.shape(), tensor.shape);
    let array = match heads {
        Some(heads) => pairs(array, heads)?,
        None => array.clone(),
    };
    let array = array.as_dtype(Dtype::Float32)?.contiguous()?;
    array.eval()?;
    Ok(quantize(tensor.format, array.as_slice()))
}

/// A file that is gone unless it was renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| anyhow!("{} is no path of a file", path.display()))?;
        let name = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        Ok(Self { path: path.with_file_name(name) })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
