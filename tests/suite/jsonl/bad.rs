//! Rows that cannot be answered.

use serde_json::json;

use super::{Rows, without_row};

#[test]
fn what_is_wrong_with_a_row_is_said_in_its_line() {
    let good = json!({"prompt": "Hi"}).to_string();
    let bad = [
        ("no json", "the line holds no JSON object: expected ident at column 2"),
        ("[1]", "expected an object"),
        ("{\"prompt\": \"Hi\"", "EOF"),
        (r#"{"prompt": "Hi", "prompt": "Ho"}"#, "the key \"prompt\" is there twice"),
        ("{}", "no prompt and no messages"),
        (r#"{"prompt": " "}"#, "the prompt is empty"),
        (r#"{"prompt": 7}"#, "prompt: a text is expected, not 7"),
        (r#"{"prompt": "Hi", "messages": []}"#, "a prompt and messages"),
        (r#"{"prompt": "Hi", "surprise": 1}"#, "the key \"surprise\" means nothing here"),
        (r#"{"prompt": "Hi", "image": "none.png"}"#, "none.png"),
        (r#"{"prompt": "Hi", "image": "rows.jsonl"}"#, "no image in a supported format"),
        (r#"{"prompt": "Hi", "image": "-"}"#, "cannot be read from stdin"),
        (r#"{"prompt": "Hi", "image": "ftp://a/b.png"}"#, "ftp://a/b.png"),
        (r#"{"prompt": "Hi", "image": ["images/a.png"]}"#, "image: a path or an address is expected"),
        (r#"{"prompt": "Hi", "images": "images/a.png"}"#, "images: a list of paths"),
        (r#"{"prompt": "Hi", "image": "images/a.png", "images": []}"#, "image and images"),
        (r#"{"prompt": "<|image_1|>"}"#, "no images are given"),
        (r#"{"prompt": "Hi", "max_tokens": 0}"#, "max-tokens is 0"),
        (r#"{"prompt": "Hi", "max_tokens": 2.5}"#, "max_tokens: a whole number from 1 is expected, not 2.5"),
        (r#"{"prompt": "Hi", "temperature": "hot"}"#, "temperature: a number is expected, not \"hot\""),
        (r#"{"prompt": "Hi", "temperature": -1}"#, "a number from 0 is expected"),
        (r#"{"prompt": "Hi", "top_p": 7}"#, "top-p 7"),
        (r#"{"prompt": "Hi", "seed": -1}"#, "seed: a whole number from 0"),
        (r#"{"prompt": "Hi", "stop": ""}"#, "stop: an empty text"),
        (r#"{"prompt": "Hi", "stop": [1]}"#, "stop: a text or a list of texts"),
        (r#"{"messages": {}}"#, "messages: a list is expected"),
        (r#"{"messages": []}"#, "messages: the list is empty"),
        (r#"{"messages": ["Hi"]}"#, "messages[0]: an object is expected"),
        (r#"{"messages": [{"role": "cook", "content": "Hi"}]}"#, "messages[0]: role: system, user or assistant"),
        (r#"{"messages": [{"role": "user"}]}"#, "content: a text or a list of parts is expected, and missing"),
        (r#"{"messages": [{"role": "user", "content": "Hi", "name": "Al"}]}"#, "the key \"name\""),
        (r#"{"messages": [{"role": "user", "content": [{"type": "sound"}]}]}"#, "messages[0]: content[0]: type: text"),
        (r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#, "images has no further one"),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": ["images/a.png", "b", "c"]}"#,
            "no part of a message stands for the last 2",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detail": "low"}}]}]}"#,
            "the key \"detail\"",
        ),
        (r#"{"messages": [{"role": "system", "content": "Hi"}], "system": "Ho"}"#, "a system message already"),
    ];
    let mut lines = vec![good.clone()];
    lines.extend(bad.iter().map(|(line, _)| (*line).to_owned()));
    let long = json!({"prompt": "word ".repeat(140_000), "id": {"long": [1]}}).to_string();
    lines.extend([long, good]);
    let file = Rows::new(&lines);
    let answers = file.run(&["-n", "3"]);
    assert_eq!(answers.len(), bad.len() + 3);
    for (answer, (line, expected)) in answers[1..].iter().zip(bad) {
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(expected)), "{line}: {answer}");
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    }
    let [first, .., long, last] = &answers[..] else { panic!() };
    assert_eq!(without_row(first.clone()), without_row(last.clone()));
    assert!(long["error"].as_str().unwrap().contains("more than the model's context"), "{long}");
    assert_eq!(long["id"], json!({"long": [1]}));
    let no_template = [r#"{"messages": [{"role": "user", "content": "Hi"}]}"#, r#"{"prompt": "Hi", "system": "Ho"}"#];
    file.write(&no_template);
    for answer in file.run(&["--ignore-chat-template", "--force"]) {
        assert!(answer["error"].as_str().unwrap().contains("ignore_chat_template"), "{answer}");
    }
}
