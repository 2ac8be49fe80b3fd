//! The forms of answers, caches and memory on the command line.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{fails, golden, path, succeeds, text, told};

fn generate(args: &[&str]) -> Vec<String> {
    let model = golden("phi3v-tiny");
    let common = ["generate", "--model", path(&model), "--dtype", "float32", "--prompt", "What is this?"];
    common.iter().chain(args).map(|&arg| arg.to_owned()).collect()
}

fn answer(args: &[&str]) -> (String, String) {
    let args = generate(args);
    succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn json_answer(args: &[&str]) -> Value {
    serde_json::from_str(&answer(&[args, &["--json"]].concat()).0).unwrap()
}

fn refused(code: i32, args: &[&str], expected: &str) {
    let args = generate(args);
    fails(code, &args.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn an_answer_has_the_form_that_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let schema = folder.path().join("schema.json");
    let of = json!({
        "type": "object",
        "properties": { "colour": { "enum": ["red", "green"] }, "count": { "type": "integer", "minimum": 0, "maximum": 99 } },
        "required": ["colour", "count"],
        "additionalProperties": false
    });
    fs::write(&schema, of.to_string()).unwrap();
    for seed in ["1", "2", "3"] {
        let sampled = ["--temperature", "1", "--seed", seed, "--max-tokens", "60"];
        let output = json_answer(&[&["--json-schema", path(&schema)], &sampled[..]].concat());
        assert_eq!((&output["complete"], &output["finish_reason"]), (&json!(true), &json!("stop")));
        let value: Value = serde_json::from_str(output["text"].as_str().unwrap()).unwrap();
        assert!(value["count"].as_u64().is_some_and(|count| count < 100), "{value}");
        assert!(value["colour"] == "red" || value["colour"] == "green", "{value}");
    }
    // From stdin, and cut off.
    let args = generate(&["--json-schema", "-", "--max-tokens", "2"]);
    let output = told(&args.iter().map(String::as_str).collect::<Vec<_>>(), of.to_string().as_bytes());
    assert!(output.status.success() && text(&output.stdout).starts_with('{'));
    assert!(text(&output.stderr).contains("not complete by its grammar; allow more tokens with --max-tokens"));

    assert!(["cat", "dog"].contains(&answer(&["--regex", "cat|dog"]).0.trim_end()));
    let lark = folder.path().join("grammar.lark");
    fs::write(&lark, "start: \"one\" \" and two\"").unwrap();
    assert_eq!(answer(&["--grammar", path(&lark)]).0, "one and two\n");

    refused(1, &["--regex", "(cat"], "regular expression");
    refused(1, &["--json-schema", "/nowhere/schema.json"], "cannot read /nowhere/schema.json");
    refused(2, &["--regex", "a", "--grammar", "b"], "--grammar");
}

#[test]
fn one_of_several_answers_is_chosen() {
    let chosen = json_answer(&["--choose", "a cat", "--choose", "a dog", "--choose", "a house"]);
    let choice = &chosen["choice"];
    let shares: Vec<f64> =
        choice["options"].as_array().unwrap().iter().map(|o| o["probability"].as_f64().unwrap()).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{choice}");
    let best = choice["best"].as_u64().unwrap() as usize;
    assert_eq!(chosen["text"], choice["options"][best]["text"]);
    assert!(choice["margin"].as_f64().unwrap() >= 0.0);
    let plain = answer(&["--choose", "a cat", "--choose", "a dog", "--choose", "a house"]).0;
    assert_eq!(plain.trim_end(), chosen["text"].as_str().unwrap());
    // An image decides, too.
    let image = golden("phi3v-tiny/d2_gray/gray.png");
    let seen = json_answer(&["--image", path(&image), "--num-crops", "1", "--choose", "a cat", "--choose", "a dog"]);
    assert_ne!(seen["choice"]["options"][0]["log_probability"], choice["options"][0]["log_probability"]);

    refused(1, &["--choose", "a cat"], "at least two options");
    refused(2, &["--choose", "A", "--choose", "B", "--temperature", "1"], "--temperature");
    refused(2, &["--choose", "A", "--choose", "B", "--max-tokens", "3"], "--max-tokens");
}

#[test]
fn an_answer_comes_to_a_phrase() {
    let args = ["--constrain", "the answer is", "--within", "5", "--choose", "A", "--choose", "B"];
    let output = json_answer(&args);
    let answered = output["text"].as_str().unwrap();
    assert!(answered.contains("the answer is") && (answered.ends_with(" A") || answered.ends_with(" B")), "{answered}");
    assert_eq!(output["phrased"]["scores"].as_array().unwrap().len(), 1);
    assert!(answer(&["--constrain", "so", "--within", "4", "--beams"]).0.trim_end().ends_with("so"));
    refused(2, &["--within", "5"], "--constrain");
    refused(2, &["--beams"], "--constrain");
}

#[test]
fn everything_is_explained_that_happened() {
    let image = golden("phi3v-tiny/d2_gray/gray.png");
    let args = ["--image", path(&image), "--num-crops", "4", "--max-tokens", "3", "--explain"];
    let (_, told) = answer(&args);
    for expected in [
        "prompt      \"<|user|>\\n<|image_1|>",
        "tokens of image 1\n",
        "tile 1, 1: 12 lines of",
        "separator: ",
        "end         length",
        "factors     short (up to 4096",
        "known       0 of",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let output = json_answer(&args);
    let segments = output["explanation"]["segments"].as_array().unwrap();
    let tokens: u64 = segments.iter().map(|segment| segment["tokens"].as_u64().unwrap()).sum();
    assert_eq!(tokens, output["prompt_tokens"].as_u64().unwrap());
    assert!(segments.iter().any(|segment| segment["positions"]["image"]["tiles"].is_array()));
}

#[test]
fn prompts_and_images_are_kept_from_run_to_run() {
    let folder = TempDir::new().unwrap();
    let (prompts, images) = (folder.path().join("prompt.cache"), folder.path().join("images"));
    let image = golden("phi3v-tiny/d2_gray/gray.png");
    let plain = ["--image", path(&image), "--num-crops", "1", "--max-tokens", "4"];
    let kept = [&plain[..], &["--prompt-cache", path(&prompts), "--image-cache", path(&images)]].concat();
    let expected = json_answer(&plain);
    let (first, second) = (json_answer(&kept), json_answer(&kept));
    assert_eq!((&first["cached_tokens"], &first["cached_images"]), (&json!(0), &json!(0)));
    assert_eq!(second["cached_tokens"].as_u64(), second["prompt_tokens"].as_u64().map(|n| n - 1));
    assert_eq!(second["cached_images"], 1);
    assert!([&first, &second].iter().all(|answer| answer["tokens"] == expected["tokens"]));
    // Another type of numbers is another model.
    let other: Vec<String> =
        generate(&kept).into_iter().map(|arg| if arg == "float32" { "bfloat16".into() } else { arg }).collect();
    fails(1, &other.iter().map(String::as_str).collect::<Vec<_>>(), "another model, adapter or --dtype");
    refused(2, &["--image-cache-bytes", "1M"], "--image-cache");
    refused(2, &["--prefix-cache-bytes", "lots"], "a number of bytes is expected, such as 500M or 2G");
}

#[test]
fn what_does_not_fit_is_refused_before_loading() {
    refused(1, &["--memory-limit", "1M"], "a quantized model is smaller: phi3v convert -q");
    refused(1, &["--memory-limit", "100M", "--max-tokens", "100000"], "--max-tokens 32768 would fit");
    answer(&["--memory-limit", "100M", "--max-tokens", "3"]);
    refused(1, &["--kv-bits", "8"], "this model's head_dim, 16, has no groups of 32 or 64");
    refused(1, &["--kv-bits", "5", "--kv-group-size", "32"], "--kv-bits 5: 4 or 8 is expected");
    refused(2, &["--kv-group-size", "32"], "--kv-bits");
    refused(1, &["--max-kv-size", "3"], "--max-kv-size 3: more than 4 is expected");
}

#[test]
fn guessing_ahead_changes_nothing() {
    let tiny = golden("phi3v-tiny");
    let plain = json_answer(&["--max-tokens", "12"]);
    let lookup = json_answer(&["--max-tokens", "12", "--prompt-lookup"]);
    let draft = json_answer(&["--max-tokens", "12", "--draft-model", path(&tiny), "--num-draft-tokens", "2"]);
    assert_eq!((&lookup["tokens"], &draft["tokens"]), (&plain["tokens"], &plain["tokens"]));
    assert!(draft["accepted_tokens"].as_u64().unwrap() > 0);
    refused(1, &["--num-draft-tokens", "2"], "--num-draft-tokens needs --prompt-lookup or --draft-model");
    refused(2, &["--prompt-lookup", "--draft-model", "x"], "--draft-model");
    refused(1, &["--draft-model", path(&golden("text/qwen2"))], "another vocabulary");
}
