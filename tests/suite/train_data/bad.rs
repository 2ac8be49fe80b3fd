//! Rows that cannot be learned from.

use phi3v::processor::images::NumCrops;
use serde_json::json;

use super::*;
use crate::common::crops;

fn user_says(question: &str, answer: &str) -> Value {
    json!([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
}

#[test]
fn every_kind_is_found_with_its_row_and_what_is_wrong() {
    let model = Model::new(&golden("phi3v-tiny"));
    let a = "images/a.png";
    let kinds = [
        ("{\"text\": ".to_owned(), "the line holds no JSON object"),
        (json!({"id": 1}).to_string(), "nothing to learn; messages, prompt and completion"),
        (json!({"text": "a", "prompt": "b", "completion": "c"}).to_string(), "prompt and completion, and text; one"),
        (json!({"messages": user_says("a", "b"), "conversations": []}).to_string(), "messages and conversations"),
        (json!({"text": "a", "label": "b"}).to_string(), "the key \"label\" means nothing here"),
        (json!({"prompt": "a"}).to_string(), "a prompt but no completion"),
        (json!({"answer": "a"}).to_string(), "answer but no question"),
        (json!({"prompt": "a", "completion": 3}).to_string(), "completion: a text is expected, not 3"),
        (json!({"question": "a", "answer": " \n"}).to_string(), "the answer is empty"),
        (json!({"text": " "}).to_string(), "the text is empty"),
        (json!({"text": "a", "system": "b"}).to_string(), "system: a text has no place for it"),
        (json!({"messages": [{"role": "user", "content": "a"}]}).to_string(), "ends with a message of the user"),
        (json!({"messages": []}).to_string(), "messages: the list is empty"),
        (json!({"messages": user_says("a", "")}).to_string(), "an answer is empty"),
        (json!({"messages": user_says("a", "b<|end|>")}).to_string(), "an answer holds <|end|>, which ends answers"),
        (json!({"messages": user_says("a", "<|image_1|>"), "image": a}).to_string(), "a model cannot write images"),
        (json!({"messages": [{"role": "assistant", "content": "a"}]}).to_string(), "begins with an answer"),
        (json!({"messages": user_says("<|image_2|>", "b"), "image": a}).to_string(), "names <|image_2|>, but 1 image"),
        (json!({"messages": user_says("<|image_1|>", "b")}).to_string(), "names <|image_1|>, but no images are given"),
        (
            json!({"messages": user_says("<|image_1|>", "b"), "images": [a, a]}).to_string(),
            "2 images are given, but the prompt has no <|image_2|>",
        ),
        (json!({"prompt": "a", "completion": "b", "image": "no.png"}).to_string(), "cannot read the image"),
        (json!({"prompt": "a", "completion": "b", "image": "rows.jsonl"}).to_string(), "is no image in a supported"),
    ];
    let good = json!({"text": "good"}).to_string();
    let lines: Vec<String> = kinds.iter().flat_map(|(line, _)| [String::new(), line.clone(), good.clone()]).collect();
    let rows = Rows::new(&lines);
    let dataset = model.read(&rows.path("rows.jsonl"));
    assert_eq!(dataset.good.len(), kinds.len());
    assert_eq!(dataset.bad.len(), kinds.len());
    for ((bad, (line, expected)), at) in dataset.bad.iter().zip(&kinds).zip(0..) {
        assert_eq!(bad.row, at * 3 + 2, "{line}");
        assert!(bad.error.contains(expected), "{line}: {}", bad.error);
        assert!(!bad.error.contains('\n'));
        assert!(bad.to_string().contains(&format!("rows.jsonl, row {}: ", bad.row)), "{bad}");
    }
}

#[test]
fn text_models_take_no_images() {
    let model = Model::new(&golden("text/llama"));
    let rows = Rows::new(&[json!({"prompt": "a", "completion": "b", "image": "images/a.png"})]);
    let bad = model.read(&rows.path("rows.jsonl")).bad;
    assert_eq!(bad[0].error, "this model has no vision: it takes no images");
}

#[test]
fn rows_that_are_too_long_are_never_cut() {
    let mut model = Model::new(&golden("phi3v-tiny"));
    let rows = Rows::new(&[
        json!({"prompt": "What?", "completion": "Blue.", "image": "images/a.png"}),
        json!({"prompt": "What?", "completion": "Blue."}),
    ]);
    let len = model.examples(&rows)[0].len();
    let errors = |model: &Model| -> Vec<String> {
        model.read(&rows.path("rows.jsonl")).bad.into_iter().map(|bad| bad.error).collect()
    };
    model.settings.max_seq_length = len;
    assert_eq!(errors(&model), [""; 0]);
    model.settings.max_seq_length = len - 1;
    assert_eq!(
        errors(&model),
        [format!(
            "the row takes {len} tokens, of which 313 are for its images, more than the {} of `max_seq_length`; a larger \
             `max_seq_length`, smaller images, or a shorter text helps",
            len - 1
        )]
    );
    model.settings.max_seq_length = 3;
    assert!(errors(&model)[1].contains("`max_seq_length`; a larger `max_seq_length`, or a shorter text helps"));
    model.settings.max_position_embeddings = 100;
    assert_eq!(
        errors(&model)[0],
        format!(
            "the row takes {len} tokens, of which 313 are for its images, more than the model's context of 100; give \
             smaller images, or shorten the text"
        )
    );
    // Up to sixteen tiles.
    model.settings.image_options.num_crops = Some(NumCrops::Auto);
    model.settings.max_position_embeddings = 1900;
    assert!(errors(&model)[0].contains("of which 1921 are for its images, more than the model's context of 1900"));
}

#[test]
fn images_that_change_after_the_check_are_found() {
    let model = Model::new(&golden("phi3v-tiny"));
    let rows = Rows::new(&[json!({"prompt": "What?", "completion": "Blue.", "image": "images/a.png"})]);
    let example = &model.examples(&rows)[0];
    let pixels = || example.pixels(&model.processor, &model.settings.limits, &crops(4));
    let error = pixels().unwrap_err().to_string();
    assert!(error.contains("a.png takes ") && error.contains("but took 313 when the rows were checked"), "{error}");
    fs::remove_file(rows.path("images/a.png")).unwrap();
    assert!(pixels().unwrap_err().to_string().contains("cannot read the image"));
}

#[test]
fn files_without_rows_are_errors_and_checking_can_be_broken_off() {
    let model = Model::new(&golden("phi3v-tiny"));
    let rows = Rows::new(&["", " "]);
    let mut reader = Reader::new(&model.processor, &model.settings);
    let mut go_on = |_: phi3v::rows::Checked| ControlFlow::Continue(());
    let error = reader.read(&rows.path("rows.jsonl"), &mut go_on).unwrap_err();
    assert!(error.to_string().ends_with("rows.jsonl holds no rows: it has nothing to learn from"), "{error}");
    assert!(reader.read(&rows.path("none.jsonl"), &mut go_on).is_err());

    rows.write("rows.jsonl", &[json!({"text": "a"}), json!({"text": "b"})]);
    let mut seen = Vec::new();
    let read = reader.read(&rows.path("rows.jsonl"), &mut |checked| {
        seen.push((checked.rows, checked.of));
        if checked.rows == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(read.unwrap(), None);
    assert_eq!(seen, [(0, 2), (1, 2)]);
}
