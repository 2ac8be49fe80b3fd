//! Whatever is trained, and however: it learns.

use phi3v::adapter::Adapter;
use serde_json::Value;

use super::bench::{Bench, losses, question, three_rows};
use crate::common::{bytes, golden, path, succeeds};

const STEPS: [&str; 6] = ["--iters", "6", "--warmup-steps", "0", "--lr-schedule", "constant"];

fn close(one: &[f64], other: &[f64], relative: f64) {
    assert_eq!(one.len(), other.len());
    for (a, b) in one.iter().zip(other) {
        assert!((a - b).abs() <= relative * b.abs(), "{one:?}, {other:?}");
    }
}

/// The largest difference of two adapters' tensors, as a share of the largest value.
fn distance(one: &Adapter, other: &Adapter) -> f32 {
    assert!(one.modules.keys().eq(other.modules.keys()));
    let most = |x: &mlx_rs::Array| x.abs().unwrap().max(None).unwrap().item_exact::<f32>();
    let pairs = one.modules.values().zip(other.modules.values());
    let pairs = pairs.flat_map(|(one, other)| [(&one.a, &other.a), (&one.b, &other.b)]);
    pairs.map(|(one, other)| most(&one.subtract(other).unwrap()) / most(other)).fold(0.0, f32::max)
}

#[test]
fn methods_learn() {
    let bench = Bench::new(&three_rows());
    let quantized = bench.arg("quantized");
    let tiny = golden("phi3v-tiny");
    succeeds(&["convert", "--model", path(&tiny), "--mlx-path", &quantized, "-q", "--q-group-size", "32", "--quiet"]);
    // What the loss falls to: a share of what it was.
    let methods: [(&[&str], f64); 12] = [
        (&["--learning-rate", "1e-2"], 0.7),
        (&["--fine-tune-type", "dora", "--learning-rate", "1e-2"], 0.7),
        (&["--fine-tune-type", "full", "--learning-rate", "3e-3"], 0.7),
        (&["--model", &quantized, "--learning-rate", "1e-2"], 0.7),
        (&["--model", &quantized, "--fine-tune-type", "dora", "--learning-rate", "1e-2"], 0.7),
        (&["--rslora", "--learning-rate", "1e-2"], 0.6),
        (&["--num-layers", "1", "--learning-rate", "1e-2"], 0.9),
        (&["--target", r"^model\.layers\..*attn", "--rank", "4", "--alpha", "16", "--learning-rate", "1e-2"], 0.9),
        (&["--optimizer", "sgd", "--learning-rate", "1"], 0.9),
        (&["--optimizer", "adafactor", "--learning-rate", "1e-2"], 0.7),
        (&["--optimizer", "lion", "--learning-rate", "1e-2"], 0.7),
        (&["--optimizer", "muon", "--learning-rate", "3e-2"], 0.9),
    ];
    for (at, (method, expected)) in methods.iter().enumerate() {
        let losses = bench.losses(&format!("run{at}"), &[&STEPS[..], method].concat());
        println!("{method:?} {losses:?}");
        assert_eq!(losses.len(), 6);
        assert!(losses[5] < expected * losses[0], "{method:?}: {losses:?}");
    }
    // More is learnt with a larger scale, less where less is trained.
    let last = |run: usize| super::bench::losses(&bench.metrics(&format!("run{run}")))[5];
    assert!(last(5) < last(0) && last(0) < last(6), "rslora {} lora {} one layer {}", last(5), last(0), last(6));
    let one_layer = bench.adapter("run6");
    assert!(one_layer.modules.keys().all(|path| path.starts_with("model.layers.2.")) && one_layer.modules.len() == 4);
    let attention = bench.adapter("run7");
    assert!(
        attention.modules.keys().all(|path| path.ends_with("_proj") && path.contains(".self_attn."))
            && attention.modules.len() == 6
    );
    assert!(attention.modules.values().all(|change| change.rank() == 4 && change.scale == 4.0));
}

#[test]
fn memory_is_spared_and_rows_are_packed_without_another_result() {
    let bench = Bench::new(&three_rows());
    let run = |adapter: &str, more: &[&str]| {
        bench.losses(adapter, &[&STEPS[..], &["--learning-rate", "1e-2", "--dropout", "0.1"], more].concat())
    };
    let plain = run("plain", &[]);
    close(&run("checkpoint", &["--grad-checkpoint"]), &plain, 1e-4);
    assert!(distance(&bench.adapter("checkpoint"), &bench.adapter("plain")) < 1e-3);
    // All three rows fit.
    let plain = bench.losses("undropped", &[&STEPS[..], &["--learning-rate", "1e-2"]].concat());
    let packed = bench.losses("packed", &[&STEPS[..], &["--learning-rate", "1e-2", "--pack", "100"]].concat());
    close(&packed, &plain, 1e-4);
    // Two batches each, in some order.
    let halves = ["--learning-rate", "1e-2", "--pack", "30", "--grad-accumulation-steps", "2"];
    let halves = bench.losses("halves", &[&STEPS[..], &halves].concat());
    close(&halves, &plain, 1e-4);
    assert!(bench.metrics("halves")[0]["epoch"] == 1.0, "{:?}", bench.metrics("halves")[0]);
}

#[test]
fn rows_one_after_the_other_are_rows_at_once() {
    let mut rows = three_rows();
    rows.push(question("And then?", "Nothing more"));
    let bench = Bench::new(&rows);
    let run = |adapter: &str, more: &[&str]| {
        bench.losses(adapter, &[&STEPS[..], &["--learning-rate", "1e-2"], more].concat())
    };
    let at_once = run("at_once", &["--batch-size", "4"]);
    let accumulated = run("accumulated", &["--batch-size", "1", "--grad-accumulation-steps", "4"]);
    close(&accumulated, &at_once, 1e-4);
    let distance = distance(&bench.adapter("accumulated"), &bench.adapter("at_once"));
    println!("{distance:e}");
    assert!(distance < 1e-3, "{distance}");
}

#[test]
fn questions_are_hidden_in_part() {
    let bench = Bench::new(&three_rows());
    let more = ["--mask-ratios", "0.3,0.5", "--epochs", "2", "--batch-size", "3", "--learning-rate", "1e-2"];
    let metrics = bench.train("masked", &[&more[..], &["--steps-per-report", "1"]].concat());
    // Each row is learnt three times an epoch; hidden ones hardly count, which makes the mean smaller.
    assert_eq!(losses(&metrics).len(), 6);
    assert_eq!(metrics[5]["epoch"], 2.0);
    bench.refuses(1, "other", &["--mask-ratios", "1.5"], "mask-ratios 1.5: a number from 0 to below 1 is expected");
    bench.refuses(1, "other", &["--mask-ratios", "0.5", "--mask-prompt", "false"], "mask-ratios hide parts of prompts");
}

#[test]
fn the_best_adapter_is_kept_and_waiting_ends() {
    let bench = Bench::new(&three_rows());
    bench.write("valid.jsonl", &[question("What else?", "Something that nobody said before")]);
    let data = bench.arg("");
    let more = ["--data", &data, "--learning-rate", "3e-2", "--iters", "60", "--warmup-steps", "0"];
    let shown = ["--steps-per-eval", "2", "--steps-per-report", "2", "--patience", "3"];
    let metrics = bench.train("stopped", &[&more[..], &shown].concat());
    let validations: Vec<(u64, f64)> = metrics
        .iter()
        .filter_map(|record| Some((record["step"].as_u64().unwrap(), record["val_loss"].as_f64()?)))
        .collect();
    println!("{validations:?}");
    let best = validations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    let last = validations.last().unwrap().0;
    assert!(last < 60 && last == best + 6, "{validations:?}");

    // It is what a run has that ends there.
    let steps = (last - 6).to_string();
    let scores = bench.test("valid.jsonl", &["--dtype", "float32", "--adapter", &bench.arg("stopped")]);
    let expected = validations.iter().find(|(step, _)| *step == best).unwrap().1;
    assert!((scores["loss"].as_f64().unwrap() / expected - 1.0).abs() < 1e-5, "{steps}: {scores}");

    // With the whole run in one JSON object.
    let args = bench.args("again", &[&more[..], &shown, &["--json", "--quiet"]].concat());
    let (json, stderr) = succeeds(&super::bench::strs(&args));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(stderr, "");
    assert_eq!((&json["end"], &json["best_step"], &json["steps"]), (&"stopped".into(), &best.into(), &last.into()));
    let same =
        |adapter: &Adapter| -> Vec<Vec<u8>> { adapter.modules.values().map(|change| bytes(&change.b)).collect() };
    assert!(same(&bench.adapter("again")) == same(&bench.adapter("stopped")));
}
