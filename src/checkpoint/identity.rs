//! What tells one model from another, for caches that outlive a process.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
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
    // As it was written from the start: caches of earlier versions stay valid.
    hash.update(match dtype {
        None => "None",
        Some(Dtype::Float16) => "Some(Float16)",
        Some(Dtype::Bfloat16) => "Some(Bfloat16)",
        Some(_) => "Some(Float32)",
    });
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

/// The version of what is written down of a run that can be resumed: its settings by name. It rises when a name or the form
/// of a value changes.
const RUN_VERSION: u64 = 1;
const VERSION: &str = "version";

/// The settings of a run, to which all else is added.
pub fn new_run() -> Map<String, Value> {
    Map::from_iter([(VERSION.to_owned(), RUN_VERSION.into())])
}

/// An error unless a run that was begun with these settings can be resumed with those of now. `run` is what it is called.
pub fn check_run(run: &str, before: &Map<String, Value>, now: &Map<String, Value>) -> Result<()> {
    // The first versions of phi3v wrote none.
    let version = before.get(VERSION).and_then(Value::as_u64).unwrap_or(0);
    ensure!(
        version == RUN_VERSION,
        "{run} was begun with another version of phi3v, whose settings cannot be compared (version {version}, where \
         {RUN_VERSION} is read); finish it with that version, or begin anew with `force`"
    );
    let other = now.iter().find_map(|(name, now)| {
        let before = before.get(name).unwrap_or(&Value::Null);
        (before != now).then(|| format!("another {name} ({before}, now {now})"))
    });
    match other {
        None => Ok(()),
        Some(other) => bail!("{run} was begun with {other}; go on with that one, or begin anew with `force`"),
    }
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
