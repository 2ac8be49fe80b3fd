//! `--model demo`: a model that sees, so that its answers are right or wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::common::{assert_failure, fails, path, phi3v, succeeds, text, told};

/// What it has learnt, and how often it has to be right at the least: all its figures are on its card.
const SKILLS: [(&str, f64); 10] = [
    ("naming", 0.8),
    ("color", 0.9),
    ("counting", 0.9),
    ("position", 0.8),
    ("presence", 0.9),
    ("reading", 0.9),
    ("comparison", 0.8),
    ("multi-turn", 0.7),
    ("easy-vqa", 0.8),
    ("all", 0.88),
];

/// Some of the rows that its card has figures of, and what its tests learn.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo").join(name)
}

/// By skill, the share of right answers.
fn right(args: &[&str], data: &Path) -> BTreeMap<String, f64> {
    let args = [&["eval", "vqa", "--metric", "exact", "--json", "-q", "--data", path(data)], args].concat();
    let summary: Value = serde_json::from_str(&succeeds(&args).0).unwrap();
    let share = |figure: &Value| figure["value"].as_f64().unwrap();
    // There are none of rows that are all of one skill.
    let groups = summary["groups"].as_array().into_iter().flatten();
    let all = ("all".to_owned(), share(&summary["figures"][0]));
    groups.map(|group| (group["name"].as_str().unwrap().to_owned(), share(&group["figure"]))).chain([all]).collect()
}

#[test]
fn it_sees_and_packing_costs_little() {
    let held_out = data("test.jsonl");
    let plain = right(&["--model", "demo"], &held_out);
    for (skill, least) in SKILLS {
        assert!(plain[skill] >= least, "{skill}: {plain:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    for (bits, loss) in [("8", 0.02), ("4", 0.1)] {
        let packed = folder.path().join(bits);
        succeeds(&["convert", "--hf-path", "demo", "-q", "--q-bits", bits, "--mlx-path", path(&packed), "--quiet"]);
        let packed = right(&["--model", path(&packed)], &held_out);
        assert!(packed["all"] >= plain["all"] - loss, "{bits} bits: {packed:?}, plain {plain:?}");
    }
}

/// The held-out rows, whose images are found from anywhere.
fn rows() -> Vec<Value> {
    let rows = fs::read_to_string(data("test.jsonl")).unwrap();
    let row = |line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        for image in row["images"].as_array_mut().unwrap() {
            *image = json!(data(image.as_str().unwrap()));
        }
        row
    };
    rows.lines().map(row).collect()
}

fn write(rows: impl Iterator<Item = Value>) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), rows.map(|row| row.to_string()).collect::<Vec<_>>().join("\n")).unwrap();
    file
}

#[test]
fn with_another_image_it_is_right_by_luck_only() {
    let names: Vec<Value> = rows().into_iter().filter(|row| row["category"] == "naming").collect();
    let others = names.iter().cycle().skip(names.len() / 2);
    let file = write(names.iter().zip(others).map(|(row, other)| {
        let mut row = row.clone();
        row["images"] = other["images"].clone();
        row
    }));
    let right = right(&["--model", "demo"], file.path());
    assert!(right["all"] <= 0.1, "{right:?}");
}

#[test]
fn rows_answered_together_are_answered_as_alone() {
    let rows = write(rows().into_iter().map(|row| json!({"images": row["images"], "messages": row["messages"]})));
    let folder = tempfile::tempdir().unwrap();
    let answers = |at_once: &str| {
        let out = folder.path().join(at_once);
        let args = ["generate", "--model", "demo", "--input", path(rows.path()), "--output", path(&out), "--quiet"];
        succeeds(&[&args[..], &["--max-tokens", "8", "--max-batch-size", at_once]].concat());
        fs::read_to_string(&out).unwrap()
    };
    let alone = answers("1");
    assert!(alone.lines().count() > 100);
    assert_eq!(alone, answers("8"));
}

/// What it says to lines that are piped into `chat`.
fn chat(args: &[&str], lines: &str) -> Vec<String> {
    let output = told(&[&["chat", "--model", "demo", "--quiet"], args].concat(), lines.as_bytes());
    assert!(output.status.success());
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_second_question_is_understood_from_the_first() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.png");
    let args = ["--image", path(&image)];
    assert_eq!(chat(&args, "What is on the left?\nAnd on the right?\n"), ["apple", "balloon"]);
}

#[test]
fn a_new_thing_is_learnt_from_a_few_images_and_little_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    let new = data("new/train.jsonl");
    let args = ["lora", "--model", "demo", "--data", path(&new), "-o", path(&adapter), "--quiet"];
    // What looks like nothing before needs vectors of its own.
    let how =
        ["--train-projector", "--train-vision", "--epochs", "24", "--learning-rate", "2.5e-3", "--batch-size", "4"];
    succeeds(&[&args[..], &how].concat());
    let (test, held_out) = (data("new/test.jsonl"), data("test.jsonl"));
    let demo = ["--model", "demo"];
    let adapted = ["--model", "demo", "--adapter", path(&adapter)];
    let (before, after) = (right(&demo, &test), right(&adapted, &test));
    assert_eq!(before["ghost"], 0.0, "{before:?}");
    assert!(after["ghost"] >= 0.75, "{after:?}");
    let (before, after) = (right(&demo, &held_out), right(&adapted, &held_out));
    assert!(after["all"] >= before["all"] - 0.1, "before {before:?}, after {after:?}");
}

#[test]
fn it_is_unpacked_once_and_mended() {
    let caches = tempfile::tempdir().unwrap();
    let answer = || {
        let args = ["generate", "--model", "demo", "-p", "Hi", "-n", "1", "--quiet"];
        let output = phi3v(&args).env("XDG_CACHE_HOME", caches.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    answer();
    let folders: Vec<_> =
        fs::read_dir(caches.path().join("phi3v")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [folder] = &folders[..] else { panic!("{folders:?}") };
    let weights = folder.join("model.safetensors");
    let (whole, written) = (fs::read(&weights).unwrap(), fs::metadata(&weights).unwrap().modified().unwrap());
    answer();
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written);
    fs::write(&weights, &whole[..1000]).unwrap();
    fs::remove_file(folder.join("config.json")).unwrap();
    answer();
    assert!(fs::read(&weights).unwrap() == whole);
}

#[test]
fn where_it_cannot_be_unpacked_is_said() {
    let file = NamedTempFile::new().unwrap();
    let args = ["generate", "--model", "demo", "-p", "Hi"];
    let output = phi3v(&args).env("XDG_CACHE_HOME", file.path()).output().unwrap();
    assert_failure(&output, 1, &args, "XDG_CACHE_HOME");
    let revised = ["generate", "-m", "demo", "--revision", "main", "-p", "Hi"];
    fails(1, &revised, "no meaning for the local folder demo");
}
