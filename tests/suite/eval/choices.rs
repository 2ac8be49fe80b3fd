//! Questions with options.

use mlx_rs::Array;
use serde_json::{Value, json};

use super::folder::{Folder, value};
use crate::common::{copy_of, golden, path, save, succeeds, tensors};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn likelihoods_are_those_of_the_options_as_completions() {
    let folder = Folder::with(&[
        json!({"question": "Which is a fruit?", "choices": ["stone", "apple pie", "fork"], "answer": 1}),
        json!({"question": "Which is red?", "choices": {"text": ["sky", "blood"], "label": ["A", "B"]}, "answerKey": "B"}),
        json!({"ctx_a": "He opens the door", "ctx_b": "and then he", "activity_label": "Walking", "endings": ["leaves.", "swims in soup."], "label": "0"}),
    ]);
    let plain = ["--ignore-chat-template"];
    let summary = folder.eval("choice", &[&plain[..], &["-o", "@out.jsonl"]].concat());
    assert_eq!(summary["rows"], 3);
    let records = folder.records("out.jsonl");
    let prompts = [
        "Question: Which is a fruit?\nAnswer:",
        "Question: Which is red?\nAnswer:",
        "Walking: He opens the door And then he",
    ];
    let mut right = 0.0;
    for (record, prompt) in records.iter().zip(prompts) {
        assert_eq!(record["prompt"], prompt);
        let options: Vec<&str> =
            record["options"].as_array().unwrap().iter().map(|option| option.as_str().unwrap()).collect();
        let logs: Vec<f64> = record["log_likelihoods"].as_array().unwrap().iter().map(number).collect();
        // generate --choose scores the same tokens.
        let model = golden("phi3v-tiny");
        let mut args = vec!["generate", "--model", path(&model), "--dtype", "float32", "--quiet", "--json"];
        args.extend(["--ignore-chat-template", "--prompt", prompt]);
        args.extend(options.iter().flat_map(|option| ["--choose", option]));
        let chosen: Value = serde_json::from_str(&succeeds(&args).0).unwrap();
        for (option, log) in chosen["choice"]["options"].as_array().unwrap().iter().zip(&logs) {
            assert!((number(&option["log_probability"]) - log).abs() < 1e-4, "{option} {log}");
        }
        let best = (0..logs.len()).max_by(|&a, &b| {
            let per_character = |at: usize| logs[at] / options[at].chars().count() as f64;
            per_character(a).total_cmp(&per_character(b))
        });
        assert_eq!(record["answer"], options[best.unwrap()]);
        right += number(&record["scores"]["accuracy_norm"]);
    }
    assert!((value(&summary, "accuracy_norm") - right / 3.0).abs() < 1e-12);
    // In another company, one by one: the same.
    let limited = folder.eval("choice", &[&plain[..], &["--limit", "1", "-o", "@one.jsonl"]].concat());
    assert_eq!(limited["rows"], 1);
    assert_eq!(folder.records("one.jsonl")[0], records[0]);
}

#[test]
fn choices_are_those_of_generate() {
    let folder = Folder::new();
    folder.image("red.png", [200, 0, 0]);
    folder.write("rows.jsonl", &[json!({"question": "What is it?", "options": ["red", "a blue", "green thing"], "answer": "red", "image": "red.png"})]);
    folder.eval("choice", &["-o", "@out.jsonl"]);
    let record = &folder.records("out.jsonl")[0];
    let (model, image) = (golden("phi3v-tiny"), folder.arg("red.png"));
    let args = [
        "generate",
        "--model",
        path(&model),
        "--dtype",
        "float32",
        "--num-crops",
        "1",
        "--quiet",
        "--json",
        "--prompt",
        "What is it?",
        "--image",
        &image,
    ];
    let args = [&args[..], &["--choose", "red", "--choose", "a blue", "--choose", "green thing"]].concat();
    let chosen: Value = serde_json::from_str(&succeeds(&args).0).unwrap();
    let options = chosen["choice"]["options"].as_array().unwrap();
    for (option, log) in options.iter().zip(record["log_likelihoods"].as_array().unwrap()) {
        assert!((number(&option["log_probability"]) - number(log)).abs() < 1e-4, "{option} {log}");
    }
}

#[test]
fn letters_are_asked_for_and_found() {
    let folder =
        Folder::with(&[json!({"question": "Which is a fruit?", "choices": ["stone", "apple"], "answer": "B"})]);
    let summary = folder.eval("choice", &["--by", "letter", "-n", "4", "-o", "@out.jsonl"]);
    let record = &folder.records("out.jsonl")[0];
    let asked =
        "Which is a fruit?\nA. stone\nB. apple\nAnswer with the option's letter from the given choices directly.";
    assert_eq!(record["prompt"], asked);
    assert!(record["answer"].is_string());
    assert_eq!(summary["figures"].as_array().unwrap().len(), 2);
    folder.eval("choice", &["--by", "letter", "--ignore-chat-template", "-n", "2", "-o", "@plain.jsonl"]);
    assert_eq!(folder.records("plain.jsonl")[0]["prompt"], format!("{asked}\nAnswer:"));
    folder.eval("choice", &["--by", "letter-likelihood", "--ignore-chat-template", "-o", "@likely.jsonl"]);
    let record = &folder.records("likely.jsonl")[0];
    assert_eq!(record["prompt"], "Which is a fruit?\nA. stone\nB. apple\nAnswer:");
    assert_eq!(record["log_likelihoods"].as_array().unwrap().len(), 2);
}

#[test]
fn a_model_that_computes_nonsense_is_told() {
    let folder = Folder::with(&[json!({"question": "Which?", "choices": ["stone", "apple"], "answer": 1})]);
    let model = copy_of("text/phi3");
    let mut weights = tensors(model.path());
    let nan = weights["model.norm.weight"].multiply(Array::from_f32(f32::NAN)).unwrap();
    weights.insert("model.norm.weight".into(), nan);
    save(model.path(), "model.safetensors", &weights);
    let error = folder.error("choice", &["--model", path(model.path()), "--ignore-chat-template"]);
    assert!(error.contains("row 1: the model computes numbers that are none (NaN)"), "{error}");
}
