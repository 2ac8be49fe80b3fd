//! Perplexity, and divergence from another model.

use serde_json::{Value, json};

use super::folder::{Folder, value};
use crate::common::{golden, json_file, path, succeeds};

/// The recorded rows, one with an image.
fn golden_rows() -> (Folder, Value) {
    let recorded = json_file(&golden("phi3v-tiny/lora/golden.json"));
    let folder = Folder::new();
    let rows = recorded["rows"].as_array().unwrap().iter().map(|row| {
        let has_image = !row["images"].as_array().unwrap().is_empty();
        let images: Vec<_> = has_image.then(|| golden("phi3v-tiny/lora/sample.png")).into_iter().collect();
        json!({ "messages": row["messages"], "images": images })
    });
    folder.write("rows.jsonl", &rows.collect::<Vec<_>>());
    (folder, recorded)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn perplexity_of_rows_is_that_of_the_reference() {
    let (folder, recorded) = golden_rows();
    let adapter = golden("phi3v-tiny/lora");
    let with_adapter = folder.eval("perplexity", &["--adapter", path(&adapter), "-o", "@with.jsonl"]);
    assert!((value(&with_adapter, "perplexity").ln() / number(&recorded["loss"]) - 1.0).abs() < 1e-5);
    for (record, loss) in folder.records("with.jsonl").iter().zip(recorded["loss_per_row"].as_array().unwrap()) {
        let scores = &record["scores"];
        assert!((number(&scores["loss"]) / number(&scores["tokens"]) / number(loss) - 1.0).abs() < 1e-5, "{record}");
    }
    let without = folder.eval("perplexity", &[]);
    assert!((value(&without, "perplexity").ln() / number(&recorded["loss_without_adapter"]) - 1.0).abs() < 1e-5);
    assert_eq!(without["rows"], 2);

    // The same, asked as a comparison with the adapter's model.
    let compared = folder.eval("perplexity", &["--compare", path(&adapter)]);
    let figure = &compared["comparison"]["figures"][0];
    assert_eq!(number(&figure["ours"]), value(&without, "perplexity"));
    assert_eq!(number(&figure["theirs"]), value(&with_adapter, "perplexity"));
}

#[test]
fn windows_predict_every_token_once() {
    let folder = Folder::new();
    let text = "The quick brown fox jumps over the lazy dog; naïve café — 日本. ".repeat(20);
    std::fs::write(folder.path("text.txt"), &text).unwrap();
    let records = |more: &[&str]| {
        folder.eval("perplexity", &[&["--data", "@text.txt", "-o", "@out.jsonl", "--force"], more].concat());
        folder.records("out.jsonl")
    };
    let sum = |records: &[Value], name: &str| records.iter().map(|record| number(&record["scores"][name])).sum::<f64>();
    let whole = records(&["--window", "1500"]);
    assert_eq!(whole.len(), 1);
    // This tokenizer begins texts with no token of its own: "The" is not predicted.
    assert_eq!(sum(&whole, "bytes"), (text.len() - 3) as f64);
    for (more, windows) in [(&["--window", "64"][..], 2), (&["--window", "64", "--stride", "16"], 4)] {
        let cut = records(more);
        assert!(cut.len() >= windows, "{}", cut.len());
        assert_eq!((sum(&cut, "tokens"), sum(&cut, "bytes")), (sum(&whole, "tokens"), sum(&whole, "bytes")));
    }
    // A stride of one gives each token the whole window to go by: the last is predicted as in any window that ends there.
    let single = records(&["--window", "64", "--stride", "1"]);
    assert_eq!(single.len() as f64, sum(&whole, "tokens"));
    let last = records(&["--window", "64", "--stride", "1", "--limit", &single.len().to_string()]);
    assert_eq!(last.last(), single.last());
    // The first window of a long one and of a short one begin alike.
    let first = |records: &[Value]| number(&records[0]["scores"]["loss"]);
    let (short, long) = (records(&["--window", "64", "--stride", "1"]), records(&["--window", "128", "--stride", "1"]));
    assert!((first(&short) - first(&long)).abs() < 1e-5);
}

#[test]
fn a_model_does_not_differ_from_itself_and_a_quantized_one_does() {
    let (folder, _) = golden_rows();
    let tiny = golden("phi3v-tiny");
    let same = folder.eval("kl", &["--reference", path(&tiny)]);
    assert_eq!((value(&same, "kl"), value(&same, "same best token")), (0.0, 1.0));
    assert_eq!(value(&same, "perplexity"), value(&same, "perplexity of the reference"));

    let packed = folder.arg("packed");
    succeeds(&["convert", "--hf-path", path(&tiny), "--mlx-path", &packed, "-q", "--q-bits", "4", "--quiet"]);
    let args = ["--model", &packed, "--reference", path(&tiny), "-o", "@kl.jsonl"];
    let differs = folder.eval("kl", &args);
    assert!(value(&differs, "kl") > 1e-4, "{differs}");
    let perplexity = |model: &str| value(&folder.eval("perplexity", &["--model", model]), "perplexity");
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-5;
    assert!(close(value(&differs, "perplexity"), perplexity(&packed)));
    assert!(close(value(&differs, "perplexity of the reference"), perplexity(path(&tiny))));
    // Position by position, in the file and summed up.
    let records = folder.records("kl.jsonl");
    let all: Vec<f64> =
        records.iter().flat_map(|record| record["divergence"]["kl"].as_array().unwrap()).map(number).collect();
    assert_eq!(all.len(), 23);
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert!(close(mean, value(&differs, "kl")));
    let ranges = differs["positions"]["ranges"].as_array().unwrap();
    let tokens: u64 = ranges.iter().map(|range| range["tokens"].as_u64().unwrap()).sum();
    let sum: f64 = ranges.iter().map(|range| number(&range["kl"]) * number(&range["tokens"])).sum();
    assert!(tokens == 23 && close(sum / 23.0, mean));
    assert!(close(number(&differs["positions"]["max"]), all.iter().copied().fold(0.0, f64::max)));
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_is_loaded() {
    let (folder, _) = golden_rows();
    let text = golden("text/phi3");
    folder.write("text.jsonl", &[json!({"text": "Some words."})]);
    let error = folder.error("kl", &["--reference", path(&text)]);
    assert!(error.contains("another vocabulary") || error.contains("takes no images"), "{error}");
    std::fs::write(folder.path("text.txt"), "Some words to read.").unwrap();
    for (more, expected) in [
        (&["--data", "@text.txt", "--window", "200000"][..], "the model's context is"),
        (&["--data", "@text.txt", "--window", "8", "--stride", "8"], "from 1 to 7 tokens can be predicted"),
        (&["--data", "@text.txt", "--max-seq-length", "9"], "windows of a text have --window"),
        (&["--window", "64"], "are for a file of text"),
        (&["--data", "@none.txt"], "there is no such file"),
    ] {
        let error = folder.error("perplexity", more);
        assert!(error.contains(expected), "{more:?}: {error}");
    }
    std::fs::write(folder.path("empty.txt"), "").unwrap();
    assert!(folder.error("perplexity", &["--data", "@empty.txt"]).contains("holds no text to predict"));
    std::fs::write(folder.path("latin1.txt"), b"caf\xe9 au lait").unwrap();
    assert!(folder.error("perplexity", &["--data", "@latin1.txt"]).contains("is no text in UTF-8"));
}
