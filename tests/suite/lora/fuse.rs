//! An adapter that has become part of its model.

use serde_json::Value;

use super::bench::{Bench, three_rows};
use crate::common::{fails, golden, path, succeeds};

/// What the model with these adapters, or the fused one, makes of the rows, in float32.
fn scores(bench: &Bench, model: &str, adapters: &[&str]) -> Value {
    let rows = bench.arg("train.jsonl");
    let mut args = vec!["lora", "test", "--data", &rows, "--dtype", "float32", "--json", "--quiet", "--model", model];
    args.extend(adapters.iter().flat_map(|adapter| ["--adapter", *adapter]));
    serde_json::from_str(&succeeds(&args).0).unwrap()
}

fn assert_alike(a: &Value, b: &Value) {
    let loss = |scores: &Value| scores["loss"].as_f64().unwrap();
    assert!((loss(a) / loss(b) - 1.0).abs() < 1e-4, "{a} {b}");
    assert_eq!(a["tokens_right"], b["tokens_right"]);
}

/// Makes a model of it, and says what comparing them gave.
fn fuse(bench: &Bench, model: &str, adapters: &[&str], more: &[&str]) -> Value {
    let fused = bench.arg("fused");
    let mut args = vec!["lora", "fuse", "--model", model, "-o", &fused, "--force", "--verify", "--json", "--quiet"];
    args.extend(adapters.iter().flat_map(|adapter| ["--adapter", *adapter]).chain(more.iter().copied()));
    let output: Value = serde_json::from_str(&succeeds(&args).0).unwrap();
    output["divergence"]["all"].clone()
}

#[test]
fn a_fused_model_predicts_as_the_model_with_its_adapters() {
    let bench = Bench::new(&three_rows());
    let tiny = golden("phi3v-tiny");
    let tiny = path(&tiny);
    for kind in ["lora", "dora", "full"] {
        let more =
            ["--fine-tune-type", kind, "--learning-rate", "1e-2", "--iters", "6", "--train-projector", "--force"];
        bench.train("adapter", &more);
        let adapter = bench.arg("adapter");
        let divergence = fuse(&bench, tiny, &[&adapter], &["--dtype", "float32"]);
        assert!(divergence["kl"].as_f64().unwrap() < 1e-6, "{kind}: {divergence}");
        assert_alike(&scores(&bench, tiny, &[&adapter]), &scores(&bench, &bench.arg("fused"), &[]));
    }
    // Two, one of them by a half.
    bench.train("a", &["--learning-rate", "1e-2", "--iters", "6"]);
    bench.train("b", &["--learning-rate", "1e-2", "--iters", "6", "--fine-tune-type", "dora", "--seed", "1"]);
    let adapters = [bench.arg("a"), bench.arg("b") + ":0.5"];
    let adapters = [adapters[0].as_str(), adapters[1].as_str()];
    fuse(&bench, tiny, &adapters, &["--dtype", "float32"]);
    assert_alike(&scores(&bench, tiny, &adapters), &scores(&bench, &bench.arg("fused"), &[]));
}

#[test]
fn a_quantized_model_stays_so_unless_told() {
    let bench = Bench::new(&three_rows());
    let (tiny, small) = (golden("phi3v-tiny"), bench.arg("small"));
    succeeds(&["quantize", "--model", path(&tiny), "--mlx-path", &small, "--quiet", "--q-group-size", "32"]);
    bench.train("adapter", &["--model", &small, "--learning-rate", "1e-2", "--iters", "6"]);
    let adapter = bench.arg("adapter");
    let with_adapter = scores(&bench, &small, &[&adapter]);

    fuse(&bench, &small, &[&adapter], &["--dequantize", "--dtype", "float32"]);
    assert_alike(&with_adapter, &scores(&bench, &bench.arg("fused"), &[]));
    fuse(&bench, &small, &[&adapter], &[]);
    let config = std::fs::read_to_string(bench.path("fused/config.json")).unwrap();
    assert!(config.contains("\"quantization\""));
    // Rounded again, but nearer to the adapted model than to the one before.
    let loss = |scores: &Value| scores["loss"].as_f64().unwrap();
    let fused = loss(&scores(&bench, &bench.arg("fused"), &[]));
    let (target, before) = (loss(&with_adapter), loss(&scores(&bench, &small, &[])));
    assert!((fused - target).abs() < (fused - before).abs(), "{before} {fused} {target}");
}

#[test]
fn what_cannot_be_fused_is_refused() {
    let bench = Bench::new(&three_rows());
    let tiny = golden("phi3v-tiny");
    bench.train("adapter", &["--iters", "1"]);
    let (adapter, fused) = (bench.arg("adapter"), bench.arg("fused"));
    let args = ["lora", "fuse", "--model", path(&tiny), "-o", &fused];
    fails(1, &args, "say which adapter becomes part of the model");
    let args = [&args[..], &["--adapter", &adapter]].concat();
    fails(1, &[&args[..], &["--dequantize"]].concat(), "is not quantized, so there is nothing to dequantize");
    assert!(!bench.path("fused").exists());
    succeeds(&args);
    fails(1, &args, "exists already");
}
