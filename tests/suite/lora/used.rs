//! What was learnt is said, by this program and through the files of others.

use mlx_rs::Array;
use phi3v::adapter::Format;
use serde_json::Value;

use super::bench::{Bench, question, strs, three_rows};
use crate::common::{copy_of, edit_json, fails, golden, path, phi3v, succeeds, text};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

/// A bench with an adapter that knows an answer by heart.
fn knowing() -> Bench {
    let bench = Bench::new(&[question(QUESTION, ANSWER)]);
    let metrics = bench.train("known", &["--learning-rate", "2e-2", "--iters", "40", "--rank", "16"]);
    println!("{metrics:?}");
    bench
}

#[test]
fn what_was_learnt_is_said_word_for_word() {
    let bench = knowing();
    let answer = |adapters: &[&str]| {
        let more: Vec<&str> = adapters.iter().flat_map(|adapter| ["--adapter", *adapter]).collect();
        bench.answer(QUESTION, &more)
    };
    let known = bench.arg("known");
    let (none, half) = (format!("{known}:0"), format!("{known}:0.5"));
    let without = answer(&[]);
    assert_eq!(answer(&[&known]), ANSWER);
    assert_ne!(without, ANSWER);
    assert_eq!(answer(&[&none]), without);
    assert_eq!(answer(&[&half, &half]), ANSWER);
    assert_eq!(answer(&[&known, &none]), ANSWER);

    // Losses tell more than words.
    let loss = |adapters: &[&str]| {
        let more: Vec<&str> = adapters.iter().flat_map(|adapter| ["--adapter", *adapter]).collect();
        let scores = bench.test("train.jsonl", &[&["--dtype", "float32"], &more[..]].concat());
        scores["loss"].as_f64().unwrap()
    };
    let (whole, nothing) = (loss(&[&known]), loss(&[]));
    assert!((loss(&[&half, &half]) / whole - 1.0).abs() < 1e-3, "{whole}");
    assert_eq!(loss(&[&none]), nothing);
    let between = loss(&[&half]);
    assert!(whole < between && between < nothing, "{whole} {between} {nothing}");
    assert!(whole < 0.2 && nothing > 5.0);
}

#[test]
fn exports_do_what_the_original_does() {
    let bench = knowing();
    bench.write("other.jsonl", &three_rows());
    let scores = |adapter: &str| {
        let adapter = bench.arg(adapter);
        ["train.jsonl", "other.jsonl"].map(|rows| bench.test(rows, &["--dtype", "float32", "--adapter", &adapter]))
    };
    let original = scores("known");
    for (from, to, format) in [
        ("known", "peft", "peft"),
        ("known", "mlx-vlm", "mlx-vlm"),
        ("peft", "back", "mlx-lm"),
        ("mlx-vlm", "back-again", "mlx-lm"),
        ("back", "there-again", "peft"),
    ] {
        let (from, folder) = (bench.arg(from), bench.arg(to));
        let args = ["lora", "export", "--adapter", &from, "--format", format, "-o", &folder];
        let (stdout, stderr) = succeeds(&args);
        assert!(stdout.is_empty() && stderr.contains(&folder), "{stderr}");
        fails(1, &args, "holds an adapter already; --force replaces it");
        succeeds(&[&args[..], &["--force"]].concat());
        assert_eq!(scores(to), original, "{to}");
    }
    assert_eq!(bench.answer(QUESTION, &["--adapter", &bench.arg("there-again")]), ANSWER);
    let original = std::fs::read(bench.path("known/adapters.safetensors")).unwrap();
    assert!(std::fs::read(bench.path("back/adapters.safetensors")).unwrap() == original);
}

#[test]
fn adapters_of_other_models_are_refused_in_one_line() {
    let bench = knowing();
    let known = bench.arg("known");
    let refused = |model: &str, adapter: &str, expected: &str| {
        fails(1, &["generate", "-m", model, "-p", "Hi", "-n", "1", "--adapter", adapter], expected);
        let rows = bench.arg("train.jsonl");
        fails(1, &["lora", "test", "-m", model, "--data", &rows, "--adapter", adapter], expected);
    };
    let (llama, tiny) = (golden("text/llama"), golden("phi3v-tiny"));
    refused(
        path(&llama),
        &known,
        "is not for this model: the adapter changes what the model does not have: model.layers",
    );
    let mut narrow = bench.adapter("known");
    for change in narrow.modules.values_mut() {
        change.a = Array::zeros::<f32>(&[change.rank(), 16]).unwrap();
    }
    narrow.write(&bench.path("narrow"), Format::MlxLm, &serde_json::Map::new()).unwrap();
    refused(path(&tiny), &bench.arg("narrow"), "as a map from 16 to 64 numbers; the model's is from 128 to 64");
    let empty = tempfile::tempdir().unwrap();
    refused(path(&tiny), path(empty.path()), "it is not an adapter's folder");
    let less = copy_of("phi3v-tiny");
    edit_json(&less.path().join("config.json"), |json| json["num_hidden_layers"] = 2.into());
    refused(path(less.path()), &known, "model.layers.2.");
    refused(path(&tiny), "/nonexistent", "/nonexistent");
}

#[test]
fn training_goes_on_from_an_adapter() {
    let bench = knowing();
    bench.write("more.jsonl", &[question(QUESTION, ANSWER), question("And of Italy?", "Rome.")]);
    let (known, more) = (bench.arg("known"), bench.arg("more.jsonl"));
    let before = bench.test("more.jsonl", &["--dtype", "float32", "--adapter", &known]);
    let settings = ["--data", &more, "--adapter", &known, "--learning-rate", "1e-2", "--iters", "20"];
    let losses = bench.losses("further", &settings);
    // It begins where the other one ended, not anew.
    assert!((losses[0] / before["loss"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{losses:?} {before}");
    assert!(losses[19] < 0.5 * losses[0], "{losses:?}");
    let after = bench.test("more.jsonl", &["--dtype", "float32", "--adapter", &bench.arg("further")]);
    assert_eq!((&before["rows_right"], &after["rows_right"]), (&1.into(), &2.into()));
    assert!(bench.adapter("further").modules.values().all(|change| change.rank() == 16 && change.scale == 2.0));

    // The run that is gone on with is of that adapter.
    let resumed = |adapter: &[&str], expected: &str| {
        let settings =
            ["--data", &more, "--learning-rate", "1e-2", "--iters", "20", "--steps-per-report", "1", "--resume"];
        let args = bench.args("further", &[&settings[..], adapter].concat());
        let output = phi3v(&strs(&args)).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.success(), expected.is_empty(), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    };
    resumed(&["--adapter", &known], "");
    resumed(&["--rank", "16"], "begun with another");
    let mut louder = bench.adapter("known");
    louder.modules.values_mut().for_each(|change| change.scale *= 2.0);
    louder.write(&bench.path("louder"), Format::MlxLm, &serde_json::Map::new()).unwrap();
    resumed(&["--adapter", &bench.arg("louder")], "begun with another");
    resumed(&[], "begun with another");

    let half = format!("{known}:0.5");
    bench.refuses(1, "no", &["--adapter", &half], "training goes on with one adapter, without a weight");
    bench.refuses(1, "no", &["--adapter", &known, "--adapter", &known], "training goes on with one adapter");
    assert!(!bench.path("no").exists());
}

#[test]
fn whole_tensors_and_magnitudes_are_used_too() {
    let bench = Bench::new(&[question(QUESTION, ANSWER)]);
    for (kind, rate) in [("dora", "2e-2"), ("full", "3e-3")] {
        bench.train(kind, &["--fine-tune-type", kind, "--learning-rate", rate, "--iters", "40"]);
        let folder = bench.arg(kind);
        assert_eq!(bench.answer(QUESTION, &["--adapter", &folder]), ANSWER, "{kind}");
        let scores: Value = bench.test("train.jsonl", &["--dtype", "float32", "--adapter", &folder]);
        assert_eq!(scores["rows_right"], 1);
    }
    let full = format!("{}:0.5", bench.arg("full"));
    fails(
        1,
        &["generate", "-m", path(&golden("phi3v-tiny")), "-p", "Hi", "--adapter", &full],
        "whole tensors cannot be weighted",
    );
    bench.refuses(1, "no", &["--adapter", &bench.arg("full")], "only low-rank adapters are trained further");
}
