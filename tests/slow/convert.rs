//! Conversion against the tools whose layout it has, at full size, and with a real model.

use std::time::Instant;

use mlx_rs::ops::indexing::argmax_axis;
use mlx_rs::ops::{exp, logsumexp_axis};
use mlx_rs::{Array, Dtype};
use phi3v::engine::sequence::Sequence;
use phi3v::processor::{Prompt, Segment};
use serde_json::Value;

use super::*;

fn phi3v(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("phi3v"));
    command.args(args);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Converts with both, compares to the bit, lets the tool load ours and loads its.
fn compare(tool: &str, python: &Path, source: &Path, bits: &str, group_size: &str, mode: &str, recipe: Option<&str>) {
    let folder = tempfile::tempdir_in(work()).unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    let flags = ["convert", "-q", "--quiet", "--q-group-size", group_size, "--q-mode", mode];
    let mut convert = phi3v(&flags);
    match recipe {
        Some(recipe) => convert.args(["--quant-predicate", recipe]),
        None => convert.args(["--q-bits", bits]),
    };
    run(convert.args(["--hf-path", text(source), "--mlx-path", text(&ours)]));
    let mut peer = Command::new(python);
    peer.arg(root().join("tests/slow/peer_conversion.py")).arg(tool).arg(source).arg(&ours).arg(&theirs);
    run(peer.args([bits, group_size, mode]).args(recipe).stderr(Stdio::null()));
    models::load(&ModelFiles::read(&theirs).unwrap(), None, |_, _| ()).unwrap();
}

const FORMS: [(&str, &str, &str); 8] = [
    ("2", "64", "affine"),
    ("3", "64", "affine"),
    ("4", "64", "affine"),
    ("6", "32", "affine"),
    ("8", "64", "affine"),
    ("4", "32", "mxfp4"),
    ("4", "16", "nvfp4"),
    ("8", "32", "mxfp8"),
];

#[test]
fn conversions_are_those_of_mlx_lm() {
    let python = python("mlx-lm", &["mlx-lm==0.32.0", "mlx[cpu]==0.32.2"]);
    for model in ["phi3", "llama"] {
        let source = root().join("tests/golden/text").join(model);
        for (bits, group_size, mode) in FORMS {
            compare("mlx_lm", &python, &source, bits, group_size, mode, None);
        }
        for (recipe, low) in [("mixed_2_6", "2"), ("mixed_3_4", "3"), ("mixed_3_6", "3"), ("mixed_4_6", "4")] {
            compare("mlx_lm", &python, &source, low, "64", "affine", Some(recipe));
        }
    }
}

#[test]
fn conversions_are_those_of_mlx_vlm() {
    let python = python("mlx-vlm", &["mlx-vlm==0.7.10", "mlx[cpu]"]);
    let tiny = root().join("tests/golden/phi3v-tiny");
    for (bits, group_size, mode) in FORMS {
        compare("mlx_vlm", &python, &tiny, bits, group_size, mode, None);
    }
    // One layer of the real width under the real tower, for which mlx-vlm needs no help.
    for (bits, group_size, mode) in [("4", "64", "affine"), ("3", "64", "affine"), ("4", "32", "mxfp4")] {
        compare("mlx_vlm", &python, &phi3_5_vision(1), bits, group_size, mode, None);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_size_checkpoint_converts_in_little_memory() {
    let folder = tempfile::tempdir_in(work()).unwrap();
    let target = folder.path().join("converted");
    let started = Instant::now();
    let source = phi3_5_vision(32);
    let peak = peak_rss(&mut phi3v(&["convert", "-q", "--hf-path", text(&source), "--mlx-path", text(&target)]));
    println!("{:.1} s, peak RSS {:.0} MB", started.elapsed().as_secs_f64(), peak as f64 / 1e6);
    let largest = 32064 * 3072 * 2; // the embeddings
    assert!(peak < 2 * largest + 500_000_000, "{peak}");
}

/// A report's divergence from the source, and that of the plainest quantization.
fn report(args: &[&str]) -> (f64, f64) {
    let folder = tempfile::tempdir_in(work()).unwrap();
    let target = folder.path().join("converted");
    let mut convert = phi3v(&["convert", "-q", "--report", "--json", "--hf-path", text(&smollm2())]);
    let output = convert.arg("--mlx-path").arg(target).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = &serde_json::from_slice::<Value>(&output.stdout).unwrap()["report"];
    let kl = |report: &Value| report["divergence"]["all"]["kl"].as_f64().unwrap();
    (kl(report), kl(&report["baseline"]))
}

#[test]
fn calibrated_quantization_beats_rounding_to_the_nearest() {
    let hamlet = root().join("demo/hamlet.txt");
    let calibration = ["--calibration", text(&hamlet)];
    for bits in ["4", "3"] {
        let (gptq, nearest) = report(&[&calibration[..], &["--q-bits", bits, "--quant-method", "gptq"]].concat());
        println!("{bits} bits: KL {gptq:.4} by gptq, {nearest:.4} by rounding to the nearest");
        assert!(gptq < 0.6 * nearest);
    }
    let (chosen, nearest) = report(&[&calibration[..], &["--target-bpw", "4.5"]].concat());
    println!("4.5 bits per weight: KL {chosen:.4} chosen by measuring, {nearest:.4} all alike");
    assert!(chosen < nearest);
}

fn read<T: bytemuck::Pod>(path: &Path) -> Vec<T> {
    bytemuck::pod_collect_to_vec(&fs::read(path).unwrap())
}

#[test]
fn an_imported_model_predicts_what_llama_cpp_predicts() {
    let python = python("llama-cpp", &["llama-cpp-python==0.3.36"]);
    let folder = tempfile::tempdir().unwrap();
    let (target, out) = (folder.path().join("model"), folder.path().join("out"));
    run(&mut phi3v(&["convert", "--quiet", "--gguf", text(&smollm2_gguf()), "--mlx-path", text(&target)]));
    let answer = phi3v(&["generate", "--quiet", "-m", text(&target), "-p", "What is the capital of France?"]).output();
    assert!(String::from_utf8(answer.unwrap().stdout).unwrap().contains("Paris"));

    let mut record = Command::new(python);
    let texts = root().join("src/calibration/texts.txt");
    run(record.arg(root().join("tests/slow/llama_cpp_logits.py")).arg(smollm2_gguf()).arg(texts).arg(&out));
    let (ids, theirs) = (read::<u32>(&out.with_extension("ids")), read::<f32>(&out.with_extension("logits")));
    let positions = ids.len() as i32;
    let theirs = Array::from_slice(&theirs, &[positions, theirs.len() as i32 / positions]);

    let model = models::load(&ModelFiles::read(&target).unwrap(), Some(Dtype::Float32), |_, _| ()).unwrap();
    let prompt = Prompt { text: String::new(), segments: vec![Segment::Text(ids)], images: Vec::new() };
    let mut sequence = Sequence::new(&model, &prompt).unwrap();
    let hidden = sequence.prefill(prompt.len(), 512, &mut |_, _| ControlFlow::Continue(())).unwrap().unwrap();
    let ours = model.text.logits(&hidden).unwrap().reshape(theirs.shape()).unwrap();

    let log = |logits: &Array| logits.subtract(logsumexp_axis(logits, -1, true).unwrap()).unwrap();
    let (log_ours, log_theirs) = (log(&ours), log(&theirs));
    let kl = exp(&log_theirs).unwrap().multiply(log_theirs.subtract(&log_ours).unwrap()).unwrap();
    let kl = kl.sum(None).unwrap().item_exact::<f32>() / positions as f32;
    let best = |logits: &Array| argmax_axis(logits, -1, None).unwrap();
    let same = best(&ours).eq(best(&theirs)).unwrap().as_type::<f32>().unwrap().sum(None).unwrap();
    let same = same.item_exact::<f32>() / positions as f32;
    println!("{positions} positions: KL {kl:.6}, the same best token at {:.1} %", 100.0 * same);
    assert!(kl < 0.01 && same > 0.9);
}
