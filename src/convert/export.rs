//! A checkpoint as a GGUF file, for llama.cpp.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::checkpoint::ModelFiles;
use crate::checkpoint::gguf::{GgufType, Source, write};
use crate::convert::pass::{Conversion, Settings};
use crate::models;

/// Writes the file, which exists only when it is whole. `progress` is told how many tensors of how many are done, and may
/// break off, which is an error.
pub fn export_gguf(
    files: &ModelFiles,
    kind: GgufType,
    path: &Path,
    replace: bool,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<()> {
    ensure!(
        replace || !path.exists(),
        "{} exists already; name another file, or replace it with `force`",
        path.display()
    );
    ensure!(!path.is_dir(), "{} is a folder; name a file", path.display());
    if let (Ok(path), Ok(source)) = (fs::canonicalize(path), fs::canonicalize(&files.folder)) {
        ensure!(!path.starts_with(source), "{} belongs to the model that is read; name another file", path.display());
    }
    let weights = models::weights(files, None)?;
    let dequantize = weights.entries()?.iter().any(|entry| entry.packed.is_some());
    let conversion = Conversion::new(files, &weights, &Settings { dequantize, ..Settings::default() })?;
    let tensors: Vec<_> = conversion.outputs().map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let tokenizer =
        files.tokenizer_json()?.context("there is no tokenizer.json, and a GGUF file holds the tokenizer")?;
    let source = Source {
        config: &files.config,
        tokenizer: &serde_json::from_slice(&tokenizer).context("tokenizer.json")?,
        tokenizer_config: &files.tokenizer_config()?,
        tensors: &tensors,
    };
    let (mut done, total) = (0, tensors.len());
    let mut last: Option<String> = None;
    let read = |name: &str| {
        if progress(done, total).is_break() {
            bail!("interrupted; nothing was written");
        }
        done += 1;
        // One tensor at a time is in memory.
        let module = name.strip_suffix(".weight").unwrap_or(name);
        if let Some(last) = last.replace(module.to_owned()) {
            weights.release_matrix(&last);
        }
        if name == module { weights.read(name) } else { weights.matrix(module) }
    };
    write(&source, kind, read, path)
}
