//! A folder in which the real binary trains the tiny model.

use std::fs;
use std::path::PathBuf;

use phi3v::adapter::Adapter;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{assert_failure, golden, path, phi3v, succeeds};

/// A folder with rows, images and adapters.
pub(super) struct Bench(TempDir);

impl Bench {
    /// With these rows in `train.jsonl`.
    pub(super) fn new(rows: &[Value]) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        bench.write("train.jsonl", rows);
        bench
    }

    pub(super) fn write(&self, name: &str, lines: &[impl ToString]) {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        fs::write(self.path(name), lines.join("\n")).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `path` as an argument.
    pub(super) fn arg(&self, name: &str) -> String {
        path(&self.path(name)).to_owned()
    }

    /// Arguments of a run in float32, on the rows of `train.jsonl` unless `more` names others, whose adapter goes to
    /// `adapter`.
    pub(super) fn args(&self, adapter: &str, more: &[&str]) -> Vec<String> {
        let (tiny, data, adapter) = (golden("phi3v-tiny"), self.arg("train.jsonl"), self.arg(adapter));
        let mut args = vec!["lora", "--adapter-path", &adapter, "--num-crops", "1"];
        for (flag, value) in [("--data", data.as_str()), ("--dtype", "float32"), ("--model", path(&tiny))] {
            if !more.contains(&flag) {
                args.extend([flag, value]);
            }
        }
        args.extend(more);
        args.into_iter().map(str::to_owned).collect()
    }

    /// Trains, and gives what was measured.
    pub(super) fn train(&self, adapter: &str, more: &[&str]) -> Vec<Value> {
        succeeds(&strs(&self.args(adapter, &[more, &["--quiet"]].concat())));
        self.metrics(adapter)
    }

    /// The losses of each step of a run.
    pub(super) fn losses(&self, adapter: &str, more: &[&str]) -> Vec<f64> {
        losses(&self.train(adapter, &[more, &["--steps-per-report", "1"]].concat()))
    }

    pub(super) fn metrics(&self, adapter: &str) -> Vec<Value> {
        let lines = fs::read_to_string(self.path(adapter).join("metrics.jsonl")).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Trains in vain: one line, and no adapter.
    pub(super) fn refuses(&self, code: i32, adapter: &str, more: &[&str], expected: &str) {
        let args = self.args(adapter, more);
        let output = phi3v(&strs(&args)).output().unwrap();
        assert_failure(&output, code, &strs(&args), expected);
    }

    pub(super) fn adapter(&self, name: &str) -> Adapter {
        Adapter::read(&self.path(name)).unwrap()
    }

    /// The result of `lora test` on a file of rows.
    pub(super) fn test(&self, rows: &str, more: &[&str]) -> Value {
        let (tiny, rows) = (golden("phi3v-tiny"), self.arg(rows));
        let args = ["lora", "test", "--model", path(&tiny), "--num-crops", "1", "--data", &rows, "--json", "--quiet"];
        serde_json::from_str(&succeeds(&[&args[..], more].concat()).0).unwrap()
    }

    /// The greedy answer to a question.
    pub(super) fn answer(&self, question: &str, more: &[&str]) -> String {
        let tiny = golden("phi3v-tiny");
        let mut args = vec!["generate", "--num-crops", "1", "-p", question, "-n", "12", "--quiet"];
        for (flag, value) in [("--model", path(&tiny)), ("--dtype", "float32")] {
            if !more.contains(&flag) {
                args.extend([flag, value]);
            }
        }
        succeeds(&[&args[..], more].concat()).0.trim().to_owned()
    }
}

pub(super) fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

pub(super) fn losses(metrics: &[Value]) -> Vec<f64> {
    metrics.iter().filter_map(|record| record["loss"].as_f64()).collect()
}

pub(super) fn question(question: &str, answer: &str) -> Value {
    json!({ "question": question, "answer": answer })
}

/// Rows of three lengths.
pub(super) fn three_rows() -> Vec<Value> {
    vec![
        question("What is the capital of France?", "Paris"),
        question("Who wrote it?", "It was the old gardener"),
        json!({"text": "The sea is green today, and calm."}),
    ]
}
