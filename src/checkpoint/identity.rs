//! What tells one model from another, for caches that outlive a process.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use mlx_rs::Dtype;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::ModelFiles;

/// Of each weight file so many pieces are looked at, spread evenly: 4 MiB in all, where a file may have gigabytes. Of two
/// trainings hardly a piece is the same.
const PIECES: u64 = 1024;
const PIECE: u64 = 4096;

/// A name for what the model computes: that of its configuration, its weights, and the numbers it computes in.
pub fn identity(files: &ModelFiles, dtype: Option<Dtype>) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&files.config)?);
    hash.update(format!("{dtype:?}"));
    let mut paths = vec![files.folder.clone()];
    if files.gguf.is_none() {
        let entries = fs::read_dir(&files.folder)?.collect::<Result<Vec<_>, _>>()?;
        paths = entries.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        paths.sort();
    }
    for path in &paths {
        sample(path, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(hex(&hash.finalize()))
}

/// The first thing by name that is another now than when something was begun, with both values.
pub fn first_other(before: &Map<String, Value>, now: &Map<String, Value>) -> Option<String> {
    now.iter().find_map(|(name, now)| {
        let before = before.get(name).unwrap_or(&Value::Null);
        (before != now).then(|| format!("another {name} ({before}, now {now})"))
    })
}

/// A hash as it is written.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sample(path: &Path, hash: &mut Sha256) -> Result<()> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    hash.update(len.to_le_bytes());
    let step = (len / PIECES).max(PIECE);
    let mut piece = Vec::new();
    for at in (0..len).step_by(step as usize) {
        piece.clear();
        file.seek(SeekFrom::Start(at))?;
        (&file).take(PIECE).read_to_end(&mut piece)?;
        hash.update(&piece);
    }
    Ok(())
}
