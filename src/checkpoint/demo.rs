//! The demo model: a small Phi-3.5-vision that comes with the program. How it was made is in `demo/vision`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::identity::hex;
use super::staging::replace_file;

/// What stands for it in place of a folder or a hub id.
pub const NAME: &str = "demo";

macro_rules! files {
    ($($name:literal),*) => { [$(($name, include_bytes!(concat!("../../demo/model/", $name)).as_slice())),*] };
}

/// Everything that its folder has.
const FILES: [(&str, &[u8]); 7] = files![
    "README.md",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors"
];

/// Puts it into a folder below `cache`, unless it is there whole, and returns the folder, which another demo model never had.
pub(super) fn unpack(cache: &Path) -> Result<PathBuf> {
    let hash = FILES.iter().fold(Sha256::new(), |hash, (_, contents)| hash.chain_update(contents)).finalize();
    let folder = cache.join(format!("{NAME}-{}", &hex(&hash)[..16]));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, contents) in FILES {
        let path = folder.join(name);
        if !fs::read(&path).is_ok_and(|found| found == contents) {
            replace_file(&path, |file| Ok(file.write_all(contents)?))?;
        }
    }
    Ok(folder)
}
