//! Questions that are answered: what is asked, and how answers are judged.

use serde_json::{Value, json};

use super::folder::{Folder, figure, value};
use crate::common::{golden, path, succeeds};

/// What the tiny model answers.
fn answer(folder: &Folder, prompt: &str, image: Option<&str>, tokens: &str) -> String {
    let model = golden("phi3v-tiny");
    let mut args = vec!["generate", "--model", path(&model), "--dtype", "float32", "--num-crops", "1", "--quiet"];
    args.extend(["--prompt", prompt, "--max-tokens", tokens, "--json"]);
    let image = image.map(|image| folder.arg(image));
    if let Some(image) = &image {
        args.extend(["--image", image]);
    }
    let output: Value = serde_json::from_str(&succeeds(&args).0).unwrap();
    output["text"].as_str().unwrap().to_owned()
}

/// Two questions about images, of which the model answers the first as its reference says.
fn questions() -> Folder {
    let folder = Folder::new();
    folder.image("red.png", [200, 0, 0]);
    folder.image("blue.png", [0, 0, 200]);
    let right = answer(&folder, "What colour?", Some("red.png"), "5");
    folder.write(
        "rows.jsonl",
        &[
            json!({"question": "What colour?", "image": "red.png", "answer": right, "id": "a", "category": "colours"}),
            json!({"prompt": "What shape?", "image": "blue.png", "answers": ["square", {"answer": "rectangle"}], "id": 2, "category": "shapes"}),
        ],
    );
    folder
}

#[test]
fn answers_are_those_of_generate_and_judged_row_by_row() {
    let folder = questions();
    let args = ["-n", "5", "--metric", "exact,f1", "-o", "@out.jsonl"];
    let summary = folder.eval("vqa", &args);
    assert_eq!(value(&summary, "exact"), 0.5);
    let records = folder.records("out.jsonl");
    assert_eq!(records[0]["answer"], answer(&folder, "What colour?", Some("red.png"), "5").as_str());
    assert_eq!(records[1]["answer"], answer(&folder, "What shape?", Some("blue.png"), "5").as_str());
    assert_eq!((&records[0]["id"], &records[1]["id"]), (&json!("a"), &json!(2)));
    assert_eq!(records[1]["references"], json!(["square", "rectangle"]));
    assert_eq!((&records[0]["scores"]["exact"], &records[1]["scores"]["exact"]), (&json!(1.0), &json!(0.0)));
    assert!(records[0]["images"][0].as_str().unwrap().ends_with("red.png"));
    let groups: Vec<_> =
        summary["groups"].as_array().unwrap().iter().map(|group| (&group["name"], &group["figure"]["value"])).collect();
    assert_eq!(groups, [(&json!("colours"), &json!(1.0)), (&json!("shapes"), &json!(0.0))]);

    // The order of rows, and how many are answered at once, are no matter; nor is which key the row uses.
    let alone = folder.eval("vqa", &["-n", "5", "--metric", "exact,f1", "--max-batch-size", "1"]);
    assert_eq!(alone["figures"], summary["figures"]);
    let first = folder.eval("vqa", &["-n", "5", "--limit", "1"]);
    assert_eq!((&first["rows"], value(&first, "exact")), (&json!(1), 1.0));
    assert_eq!(figure(&first, "exact")["standard_error"], Value::Null);
}

#[test]
fn rows_of_a_training_are_questions_too() {
    let folder = Folder::with(&[
        json!({"prompt": "Hi", "completion": "There."}),
        json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "There."}], "_note": 1}),
        json!({"question": "Hi", "label": ["There", "You"], "unknown": 17}),
    ]);
    let args = folder.args("vqa", &["-n", "3", "-o", "@out.jsonl"]);
    let (_, stderr) = succeeds(&super::folder::strs(&args));
    assert!(stderr.contains("not used: unknown"), "{stderr}");
    let records = folder.records("out.jsonl");
    assert!(records.iter().all(|record| record["answer"] == records[0]["answer"] && record["prompt"] == "Hi"));
    assert_eq!(records[2]["references"], json!(["There", "You"]));

    let asked = folder.args("vqa", &["-n", "3", "-o", "@asked.jsonl", "--instruction", "Be brief.", "--quiet"]);
    succeeds(&super::folder::strs(&asked));
    let expected = answer(&folder, "Hi\nBe brief.", None, "3");
    assert!(folder.records("asked.jsonl").iter().all(|record| record["answer"] == expected.as_str()));
}

#[test]
fn captions_are_asked_for_and_measured() {
    let folder = Folder::new();
    folder.image("red.png", [200, 0, 0]);
    folder.image("blue.png", [0, 0, 200]);
    let prompt = "Provide a one-sentence caption for the picture.";
    let right = answer(&folder, prompt, Some("red.png"), "12");
    folder.write(
        "rows.jsonl",
        &[
            json!({"image": "red.png", "captions": [right, "A red square."]}),
            json!({"image": "blue.png", "caption": "A blue square on a table"}),
        ],
    );
    let summary = folder.eval("caption", &["-n", "12", "-o", "@out.jsonl"]);
    let records = folder.records("out.jsonl");
    let score = |row: usize, name: &str| records[row]["scores"][name].as_f64().unwrap();
    assert!(score(0, "rouge_l") > score(1, "rouge_l") && score(0, "cider") > score(1, "cider"), "{records:?}");
    assert!((value(&summary, "rouge_l") - (score(0, "rouge_l") + score(1, "rouge_l")) / 2.0).abs() < 1e-12);
    let only = folder.eval("caption", &["-n", "12", "--metric", "rouge-l"]);
    assert_eq!(only["figures"].as_array().unwrap().len(), 1);
}

#[test]
fn what_does_not_fit_is_told_before_anything_is_loaded() {
    let folder = questions();
    // No weights: whoever got as far as loading would fail otherwise.
    let model = crate::common::copy_of("phi3v-tiny");
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    let refused = |kind: &str, more: &[&str], expected: &str| {
        let error = folder.error(kind, &[more, &["--model", path(model.path())]].concat());
        assert!(error.contains(expected), "{kind} {more:?}: {error}");
    };
    refused("vqa", &["--metric", "vqa"], "all of the 2 rows are bad");
    refused("caption", &["--limit", "1"], "the metric cider does not fit");
    refused("choice", &["--stop", "x"], "--stop is about answers that are generated");
    refused("choice", &["--by", "letter-likelihood", "-n", "5"], "--max-tokens is about answers");
    refused("vqa", &["--compare", "@none.jsonl"], "cannot read");
    refused("vqa", &["-o", "@rows.jsonl"], "that is the data");
    refused("vqa", &["-o", "@new.jsonl", "--report", "@new.jsonl"], "--report");
    refused("vqa", &["--report", "/proc/page.html"], "nothing can be written there");
    refused("vqa", &["-o", "@no/out.jsonl"], "there is no folder");
    folder.write("out.jsonl", &["old"]);
    refused("vqa", &["-o", "@out.jsonl"], "--resume goes on with it, --force replaces it");
    assert_eq!(std::fs::read_to_string(folder.path("out.jsonl")).unwrap(), "old");

    folder.write(
        "bad.jsonl",
        &[
            r#"{"prompt": "Hi"}"#,
            r#"{"prompt": "Hi", "answer": " "}"#,
            "{",
            r#"{"answer": "x"}"#,
            r#"{"prompt": "Hi", "answer": "x", "image": "none.png"}"#,
            r#"{"prompt": "Hi", "answer": "x", "max_tokens": 0}"#,
            r#"{"prompt": "Hi", "answer": "x", "temperature": -1}"#,
        ],
    );
    let output =
        crate::common::phi3v(&super::folder::strs(&folder.args("vqa", &["--data", "@bad.jsonl"]))).output().unwrap();
    let stderr = crate::common::text(&output.stderr);
    for expected in [
        "row 1: the row has no right answer",
        "row 2: the row has no right answer",
        "row 3: the line holds no JSON object",
        "row 4: the row has no prompt",
        "row 5: cannot read the image",
        "row 6: max_tokens is 0",
        "row 7: ",
        "all of the 7 rows are bad",
    ] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
    folder.write("empty.jsonl", &[""]);
    refused("vqa", &["--data", "@empty.jsonl"], "holds no rows");
    refused("choice", &["--data", "@empty.jsonl"], "holds no rows");
    folder.write("label.jsonl", &[json!({"question": "?", "choices": ["a", "b"], "answer": 7})]);
    refused("choice", &["--data", "@label.jsonl"], "all of the 1 rows are bad");
}
