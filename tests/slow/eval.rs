//! Evaluation: what lm-eval computes of the same questions and texts.

use serde_json::{Value, json};

use super::*;

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(path: &Path, rows: &[Value]) {
    fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

fn eval(args: &[&str], data: &Path, output: &Path) -> Vec<Value> {
    let mut eval = Command::new(cargo_bin!("phi3v"));
    eval.arg("eval").args(args).args(["--dtype", "float32", "--model"]).arg(smollm2());
    run(eval.arg("--data").arg(data).arg("--output").arg(output));
    lines(output)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn assert_close(ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        println!("{a:.4} {b:.4}");
        assert!((a - b).abs() < 2e-3, "{a} and {b}");
    }
}

#[test]
fn likelihoods_are_those_of_lm_eval() {
    let python = adapter::peft_python();
    let importable = Command::new(&python).args(["-c", "import lm_eval"]).output().unwrap().status.success();
    if !importable {
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "lm_eval==0.4.13"]));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    write(
        &file("questions.jsonl"),
        &[
            json!({"question": "What is the capital of France?", "choices": ["London", "Paris", "Buenos Aires"], "answer": 1}),
            json!({"question": "Which of these do cows eat?", "choices": ["grass", "stones and rocks", "the Moon", "cars"], "answer": 0}),
            json!({"question": "Water freezes at how many degrees Celsius?", "choices": ["0", "50", "100"], "answer": 0}),
        ],
    );
    let texts = [
        "It was the best of times, it was the worst of times.",
        "Two households, both alike in dignity,\n\nIn fair Verona.",
    ];
    write(&file("texts.jsonl"), &texts.map(|text| json!({ "text": text })));
    let mut peer = Command::new(python);
    peer.arg(root().join("tests/slow/lm_eval_peer.py")).arg(smollm2());
    run(peer.args(["questions.jsonl", "texts.jsonl", "out.json"].map(file)));
    let theirs: Value = serde_json::from_slice(&fs::read(file("out.json")).unwrap()).unwrap();

    let ours = eval(&["choice", "--ignore-chat-template"], &file("questions.jsonl"), &file("choice.jsonl"));
    let options: Vec<f64> = ours.iter().flat_map(|record| numbers(&record["log_likelihoods"])).collect();
    assert_close(&options, &numbers(&theirs["options"]));

    // lm-eval predicts a text's first token after the one that begins texts, which a window without such a token at
    // its beginning does not do here: texts with it in front are the same to both.
    for (text, theirs) in texts.iter().zip(numbers(&theirs["texts"])) {
        fs::write(file("text.txt"), format!("<|im_start|>{text}")).unwrap();
        let ours = eval(&["perplexity", "--force"], &file("text.txt"), &file("perplexity.jsonl"));
        assert_close(&[-ours[0]["scores"]["loss"].as_f64().unwrap()], &[theirs]);
    }
}
