//! A folder in which the real binary evaluates tiny models in float32.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{golden, path, phi3v, succeeds, text};

pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With these rows in `rows.jsonl`.
    pub(super) fn with(rows: &[Value]) -> Self {
        let folder = Self::new();
        folder.write("rows.jsonl", rows);
        folder
    }

    pub(super) fn write(&self, name: &str, lines: &[impl ToString]) {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        fs::write(self.path(name), lines.join("\n")).unwrap();
    }

    /// An image of one colour.
    pub(super) fn image(&self, name: &str, color: [u8; 3]) {
        image::RgbImage::from_pixel(30, 20, image::Rgb(color)).save(self.path(name)).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `path` as an argument.
    pub(super) fn arg(&self, name: &str) -> String {
        path(&self.path(name)).to_owned()
    }

    /// Arguments of an evaluation of the rows by the tiny vision model, unless `more` names others. What begins with `@` is
    /// a file in the folder.
    pub(super) fn args(&self, kind: &str, more: &[&str]) -> Vec<String> {
        let (model, data) = (golden("phi3v-tiny"), self.arg("rows.jsonl"));
        let mut args = vec!["eval".to_owned(), kind.to_owned()];
        let defaults = [("--model", path(&model)), ("--data", &data), ("--dtype", "float32"), ("--num-crops", "1")];
        for (flag, value) in defaults {
            if !more.contains(&flag) {
                args.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        args.extend(
            more.iter().map(|arg| arg.strip_prefix('@').map_or_else(|| (*arg).to_owned(), |name| self.arg(name))),
        );
        args
    }

    /// What an evaluation prints with `--json`.
    pub(super) fn eval(&self, kind: &str, more: &[&str]) -> Value {
        let args = self.args(kind, &[more, &["--json", "--quiet"]].concat());
        serde_json::from_str(&succeeds(&strs(&args)).0).unwrap()
    }

    /// The one line that an evaluation fails with, which wrote nothing and read no weights.
    pub(super) fn error(&self, kind: &str, more: &[&str]) -> String {
        let args = self.args(kind, more);
        let output = phi3v(&strs(&args)).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()), "{}", text(&output.stderr));
        let stderr = text(&output.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
        stderr.lines().find_map(|line| line.strip_prefix("error: ")).unwrap().to_owned()
    }

    pub(super) fn records(&self, name: &str) -> Vec<Value> {
        fs::read_to_string(self.path(name)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(super) fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// A figure of what `--json` printed.
pub(super) fn figure<'v>(summary: &'v Value, name: &str) -> &'v Value {
    summary["figures"].as_array().unwrap().iter().find(|figure| figure["name"] == name).unwrap()
}

pub(super) fn value(summary: &Value, name: &str) -> f64 {
    figure(summary, name)["value"].as_f64().unwrap()
}
