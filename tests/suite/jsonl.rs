//! `phi3v generate --input`: rows in, answers out.

mod bad;
mod killed;
mod resume;

use std::fs;
use std::path::PathBuf;

use base64::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{fails, golden, path, phi3v, succeeds, text};

/// A folder with a file of rows and two small images.
struct Rows(TempDir);

impl Rows {
    fn new(lines: &[impl ToString]) -> Self {
        let rows = Self(tempfile::tempdir().unwrap());
        fs::create_dir(rows.path("images")).unwrap();
        for (name, value) in [("a", 40), ("b", 200)] {
            let pixels = (0..30 * 20 * 3).map(|at| (at % 7 * value) as u8).collect();
            let image = image::RgbImage::from_raw(30, 20, pixels).unwrap();
            image.save(rows.path(&format!("images/{name}.png"))).unwrap();
        }
        rows.write(lines);
        rows
    }

    fn write(&self, lines: &[impl ToString]) {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        fs::write(self.path("rows.jsonl"), lines.join("\n")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Arguments that answer the rows with this checkpoint.
    fn args(&self, output: &str, more: &[&str]) -> Vec<String> {
        let (tiny, input) = (golden("phi3v-tiny"), self.path("rows.jsonl"));
        let output = if output == "-" { output.into() } else { self.path(output) };
        let args = ["generate", "-m", path(&tiny), "--dtype", "float32", "--num-crops", "1", "--input", path(&input)];
        let args = args.into_iter().chain(["--output", path(&output)]).chain(more.iter().copied());
        args.map(str::to_owned).collect()
    }

    /// The answers; the exit code says whether all rows have one.
    fn run(&self, more: &[&str]) -> Vec<Value> {
        let args = self.args("out.jsonl", more);
        let output = phi3v(&args.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(text(&output.stdout), "");
        let answers = self.answers("out.jsonl");
        let failed = answers.iter().filter(|answer| answer.get("error").is_some()).count();
        assert_eq!(output.status.code(), Some(i32::from(failed > 0)), "{stderr}");
        assert_eq!(
            stderr.contains(&format!("error: {failed} of {} rows failed", answers.len())),
            failed > 0,
            "{stderr}"
        );
        answers
    }

    fn answers(&self, name: &str) -> Vec<Value> {
        fs::read_to_string(self.path(name)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn fails(&self, code: i32, output: &str, more: &[&str], expected: &str) {
        let args = self.args(output, more);
        fails(code, &args.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}

fn without_row(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().shift_remove("row").unwrap();
    answer
}

#[test]
fn a_row_is_answered_as_if_it_were_alone() {
    let rows: [(Value, &[&str]); 10] = [
        (json!({"prompt": "Hello there"}), &["-p", "Hello there"]),
        (json!({"prompt": "What?", "image": "images/a.png"}), &["-p", "What?", "-i", "a"]),
        (
            json!({"prompt": "<|image_2|> or <|image_1|>", "images": ["images/a.png", "images/b.png"]}),
            &["-p", "<|image_2|> or <|image_1|>", "-i", "a", "-i", "b"],
        ),
        (
            json!({"prompt": "Why?", "system": "Be brief", "image": "images/b.png", "max_tokens": 9}),
            &["-p", "Why?", "-s", "Be brief", "-i", "b", "-n", "9"],
        ),
        (
            json!({"prompt": "Say", "temperature": 0.7, "seed": 5}),
            &["-p", "Say", "--temperature", "0.7", "--seed", "5"],
        ),
        (
            json!({"prompt": "See", "image": "images/a.png", "temperature": 1.3, "top_p": 0.9, "top_k": 40, "seed": 9}),
            &["-p", "See", "-i", "a", "--temperature", "1.3", "--top-p", "0.9", "--top-k", "40", "--seed", "9"],
        ),
        (
            json!({"prompt": "A B", "temperature": 0.5, "min_p": 0.01, "repetition_penalty": 1.4, "seed": 2,
                "repetition_context_size": 4, "presence_penalty": 0.5, "frequency_penalty": 0.25}),
            &[
                "-p",
                "A B",
                "--temperature",
                "0.5",
                "--min-p",
                "0.01",
                "--repetition-penalty",
                "1.4",
                "--seed",
                "2",
                "--repetition-context-size",
                "4",
                "--presence-penalty",
                "0.5",
                "--frequency-penalty",
                "0.25",
            ],
        ),
        (json!({"prompt": "Stop", "stop": "e", "max_tokens": 40}), &["-p", "Stop", "--stop", "e", "-n", "40"]),
        (json!({"prompt": "Stop", "stop": ["x", "t"]}), &["-p", "Stop", "--stop", "x", "--stop", "t"]),
        (json!({"prompt": "Nothing said", "stop": null, "image": null}), &["-p", "Nothing said"]),
    ];
    let file = Rows::new(&rows.each_ref().map(|(row, _)| row));
    let answers = file.run(&["-n", "6"]);
    assert_eq!(answers.len(), rows.len());
    for (answer, (row, args)) in answers.iter().zip(&rows) {
        let image = |name: &str| path(&file.path(&format!("images/{name}.png"))).to_owned();
        let args: Vec<String> =
            args.iter().map(|&arg| if arg == "a" || arg == "b" { image(arg) } else { arg.into() }).collect();
        let tiny = golden("phi3v-tiny");
        let mut all = vec!["generate", "-m", path(&tiny), "--dtype", "float32", "--num-crops", "1", "--json"];
        if !args.contains(&"-n".to_owned()) {
            all.extend(["-n", "6"]);
        }
        all.extend(args.iter().map(String::as_str));
        let alone: Value = serde_json::from_str(&succeeds(&all).0).unwrap();
        for key in ["text", "finish_reason", "prompt_tokens"] {
            assert_eq!(answer[key], alone[key], "{row}: {key}");
        }
        assert_eq!(answer["generation_tokens"], alone["tokens"].as_array().unwrap().len(), "{row}");
    }
}

#[test]
fn one_question_has_many_forms() {
    let uri = |file: &Rows| {
        let bytes = fs::read(file.path("images/a.png")).unwrap();
        format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
    };
    let file = Rows::new(&[""]);
    let a = "images/a.png";
    let chat =
        |content: Value| json!([{"role": "system", "content": "Be brief"}, {"role": "user", "content": content}]);
    let what = json!({"type": "text", "text": "What?"});
    let forms = [
        json!({"prompt": "What?", "image": a, "system": "Be brief"}),
        json!({"prompt": "What?", "images": [a]}),
        json!({"prompt": "<|image_1|>\nWhat?", "image": path(&file.path(a))}),
        json!({"prompt": "What?", "image": uri(&file)}),
        json!({"messages": chat("What?".into()), "image": a}),
        json!({"messages": [{"role": "user", "content": "What?"}], "system": "Be brief", "image": a}),
        json!({"messages": chat(json!([{"type": "image"}, what])), "images": [a]}),
        json!({"messages": chat(json!([{"type": "image", "image": a}, what]))}),
        json!({"messages": chat(json!([{"type": "image_url", "image_url": a}, what]))}),
        json!({"messages": chat(json!([{"type": "image_url", "image_url": {"url": uri(&file)}}, what]))}),
        json!({"_remark": 1, "prompt": "What?", "image": a, "_": null}),
    ];
    file.write(&forms);
    let answers = file.run(&["--system", "Be brief", "-n", "5"]);
    assert_eq!(answers.len(), forms.len());
    let first = without_row(answers[0].clone());
    for (answer, form) in answers.into_iter().zip(forms) {
        assert_eq!(without_row(answer), first, "{form}");
    }
}

#[test]
fn a_conversation_has_turns_and_images_in_each() {
    let file = Rows::new(&[json!({
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "A?"}, {"type": "image"}]},
            {"role": "assistant", "content": "B"},
            {"role": "user", "content": [{"type": "image", "image": "images/b.png"}, {"type": "text", "text": "C?"}]},
        ],
        "image": "images/a.png",
    })]);
    let chat = &file.run(&["-n", "4"])[0];
    let prompt =
        "<|user|>\nA?\n<|image_1|><|end|>\n<|assistant|>\nB<|end|>\n<|user|>\n<|image_2|>\nC?<|end|>\n<|assistant|>\n";
    file.write(&[json!({"prompt": prompt, "images": ["images/a.png", "images/b.png"]})]);
    assert_eq!(*chat, file.run(&["-n", "4", "--ignore-chat-template", "--force"])[0]);
}

#[test]
fn answers_come_in_the_order_of_the_rows_whatever_their_lengths() {
    let lengths = [40_u64, 1, 9, 1, 1, 30, 2, 2, 17, 1, 1, 1, 5];
    let row = |(at, length): (usize, &u64)| json!({"prompt": format!("Row {at}"), "max_tokens": length, "id": at});
    let rows: Vec<Value> = lengths.iter().enumerate().map(row).collect();
    let file = Rows::new(&rows);
    let mut found = Vec::new();
    for size in ["1", "3", "8"] {
        let answers = file.run(&["--max-batch-size", size, "--force"]);
        for (at, (answer, length)) in answers.iter().zip(lengths).enumerate() {
            assert_eq!((&answer["row"], &answer["id"]), (&json!(at + 1), &json!(at)));
            assert!(answer["generation_tokens"].as_u64().unwrap() <= length);
        }
        found.push(fs::read(file.path("out.jsonl")).unwrap());
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn lines_are_counted_and_ids_copied_as_they_stand() {
    let lines = "\u{feff}{\"prompt\":\"Hi\",\"id\":1.10}\r\n\n  \t\n{\"id\": {\"b\" : 12345678901234567890123, \"a\":null},\"prompt\":\"Hi\"}\n\n{\"id\":null,\"prompt\":\"Hi\"}";
    let file = Rows::new(&[lines]);
    let answers = file.run(&["-n", "2"]);
    assert_eq!(answers.iter().map(|answer| &answer["row"]).collect::<Vec<_>>(), [1, 4, 6]);
    let written = fs::read_to_string(file.path("out.jsonl")).unwrap();
    for expected in [
        "{\"row\":1,\"id\":1.10,\"text\":",
        "{\"row\":4,\"id\":{\"b\" : 12345678901234567890123, \"a\":null},\"text\":",
        "{\"row\":6,\"id\":null,\"text\":",
    ] {
        assert!(written.contains(expected), "{written}");
    }
    let args = file.args("-", &["-n", "2"]);
    let (stdout, stderr) = succeeds(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(stdout, written);
    assert!(stderr.contains("rows        3 in") && stderr.contains("tokens/s"), "{stderr}");
    file.write(&["", ""]);
    assert_eq!(file.run(&["--quiet", "--force"]), Vec::<Value>::new());
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let file = Rows::new(&[json!({"prompt": "Hi"})]);
    file.fails(2, "out.jsonl", &["--prompt", "Hi"], "--prompt");
    file.fails(2, "out.jsonl", &["--image", "a.png"], "--image");
    file.fails(2, "out.jsonl", &["--json"], "--json");
    file.fails(2, "out.jsonl", &["--resume", "--force"], "--force");
    file.fails(2, "out.jsonl", &["--max-batch-size", "0"], "--max-batch-size");
    for flag in [&["--resume"][..], &["--force"], &["--max-batch-size", "2"], &["--output", "out.jsonl"]] {
        fails(2, &[&["generate", "-p", "Hi"], flag].concat(), "cannot be used with");
        fails(2, &[&["generate"], flag].concat(), "--input");
    }
    fails(2, &["generate", "--input", "rows.jsonl"], "--output");
    file.fails(1, "-", &["--resume"], "--output - cannot be resumed");
    file.fails(1, "-", &["--force"], "--output - cannot be resumed or replaced");
    file.fails(1, "rows.jsonl", &["--force"], "that is the input");
    file.fails(1, "images", &["--force"], "that is no file");
    file.fails(1, "no/out.jsonl", &[], "there is no folder");
    fs::write(file.path("there.jsonl"), "precious").unwrap();
    file.fails(1, "there.jsonl", &[], "--resume goes on with it, --force replaces it");
    fs::remove_file(file.path("rows.jsonl")).unwrap();
    file.fails(1, "out.jsonl", &[], "cannot read the rows");
    fs::create_dir(file.path("rows.jsonl")).unwrap();
    file.fails(1, "out.jsonl", &[], "is no file");
    assert_eq!(fs::read_to_string(file.path("there.jsonl")).unwrap(), "precious");
    assert!(!file.path("out.jsonl").exists());
}
