//! What several test modules use: golden folders, and copies of checkpoints to break.

use std::fs;
use std::path::{Path, PathBuf};

use phi3v::processor::Tokenizer;
use tempfile::TempDir;

/// A folder below `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy of a checkpoint folder's own files, to be changed.
pub(crate) fn copy_of(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

/// Changes a JSON file.
pub(crate) fn edit_json(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// The tokenizer of a folder that may hold nothing else.
pub(crate) fn tokenizer_of(folder: &Path) -> Tokenizer {
    Tokenizer::from_json(&fs::read(folder.join("tokenizer.json")).unwrap()).unwrap()
}
