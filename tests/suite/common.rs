//! What several test modules use: golden folders, copies of checkpoints to break, and the binary.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use assert_cmd::cargo::cargo_bin;
use mlx_rs::{Array, Dtype};
use phi3v::checkpoint::ModelFiles;
use phi3v::engine::sequence::Sequence;
use phi3v::models;
use phi3v::models::Placement;
use phi3v::nn::RopeFactors;
use phi3v::processor::images::{ImageOptions, NumCrops};
use phi3v::processor::{Prompt, Segment, Tokenizer};
use serde_json::Value;
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

pub(crate) fn json_file(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) type Tensors = BTreeMap<String, Array>;

/// The tensors of a folder with one file of weights.
pub(crate) fn tensors(folder: &Path) -> Tensors {
    let tensors: Tensors = Array::load_safetensors(folder.join("model.safetensors")).unwrap().into_iter().collect();
    // At once: the file may be overwritten next.
    mlx_rs::transforms::eval(tensors.values()).unwrap();
    tensors
}

pub(crate) fn save(folder: &Path, file: &str, tensors: &Tensors) {
    Array::save_safetensors(tensors.iter().map(|(name, array)| (name.as_str(), array)), None, folder.join(file))
        .unwrap();
}

/// The bytes of an array's elements, rows first.
pub(crate) fn bytes(array: &Array) -> Vec<u8> {
    let array = array.contiguous().unwrap();
    let array = array.view::<u8>().unwrap();
    array.eval().unwrap();
    array.as_slice::<u8>().to_vec()
}

pub(crate) fn load(folder: &Path) -> Result<models::Model, String> {
    let load = || models::load(&ModelFiles::read(folder)?, Some(Dtype::Float32), |_, _| ());
    load().map_err(|e| format!("{e:#}"))
}

/// The logits after some ids, of a folder or a GGUF file.
pub(crate) fn logits(model: &Path) -> Vec<f32> {
    let model = load(model).unwrap();
    let segments = vec![Segment::Text(vec![1, 427, 399, 436, 377, 355])];
    let prompt = Prompt { text: String::new(), segments, images: Vec::new() };
    Sequence::new(&model, &prompt).unwrap().next_logits(4).unwrap()
}

pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The binary, without a network and a token.
pub(crate) fn phi3v(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("phi3v"));
    command.args(args).env_remove("HF_TOKEN").env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent");
    command.env_remove("PHI3V_MODEL").env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// What it does when this is piped into it.
pub(crate) fn told(args: &[&str], input: &[u8]) -> Output {
    let mut command = phi3v(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever ends early does not read on.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs and expects success; stdout and stderr.
pub(crate) fn succeeds(args: &[&str]) -> (String, String) {
    let output = phi3v(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

/// Runs and expects this exit code, nothing on stdout, and one line on stderr (clap adds a hint to usage errors).
pub(crate) fn fails(code: i32, args: &[&str], expected: &str) {
    let output = phi3v(args).stdin(Stdio::null()).output().unwrap();
    assert_failure(&output, code, args, expected);
}

pub(crate) fn assert_failure(output: &Output, code: i32, args: &[&str], expected: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{args:?}: {stderr}");
    assert!(code == 2 || stderr.trim_end().lines().count() == 1, "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{stderr}");
}

/// Images cut into at most so many tiles.
pub(crate) fn crops(n: u32) -> ImageOptions {
    ImageOptions { num_crops: Some(NumCrops::Fixed(n)), ..ImageOptions::default() }
}

/// Where the `n` tokens of a text stand.
pub(crate) fn placement(n: i32) -> Placement {
    Placement { positions: (0..n).map(|position| [position; 3]).collect(), factors: RopeFactors::Short }
}
