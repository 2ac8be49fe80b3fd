//! Gemma 2, whose layers have different masks and whose scores and logits have soft caps.

use std::fs;

use phi3v::verify::verify;
use serde_json::{Value, json};

use crate::common::{copy_of, edit_json, fails, golden, path, succeeds};

/// Whether a copy of the model with another configuration passes.
fn passes(change: impl FnOnce(&mut Value)) -> bool {
    let folder = copy_of("text/gemma2");
    edit_json(&folder.path().join("config.json"), change);
    let reports = verify(None, folder.path(), &[64], |_| ()).unwrap();
    !reports.iter().any(|report| report.failed())
}

#[test]
fn each_of_its_settings_is_used() {
    assert!(passes(|json| json["layer_types"] = json!(["sliding_attention", "full_attention"])));
    assert!(!passes(|json| json["layer_types"] = json!(["full_attention", "sliding_attention"])));
    assert!(!passes(|json| json["layer_types"] = json!(["full_attention", "full_attention"])));
    assert!(!passes(|json| json["sliding_window"] = 15.into()));
    assert!(!passes(|json| json["query_pre_attn_scalar"] = 32.into()));
    assert!(!passes(|json| json["attn_logit_softcapping"] = Value::Null));
    assert!(!passes(|json| json["final_logit_softcapping"] = Value::Null));
    // Newer files have one name of the activation, older ones the other.
    assert!(passes(|json| drop(json.as_object_mut().unwrap().remove("hidden_act"))));
    assert!(passes(|json| drop(json.as_object_mut().unwrap().remove("hidden_activation"))));
}

#[test]
fn settings_that_no_model_has_are_refused() {
    let refused = |change: &dyn Fn(&mut Value), expected: &str| {
        let folder = copy_of("text/gemma2");
        edit_json(&folder.path().join("config.json"), change);
        fails(1, &["generate", "-m", path(folder.path()), "-p", "Hi"], expected);
    };
    refused(&|json| json["attn_logit_softcapping"] = 0.into(), "attn_logit_softcapping is 0,");
    refused(&|json| json["query_pre_attn_scalar"] = (-1).into(), "query_pre_attn_scalar is -1,");
    refused(&|json| json["layer_types"] = json!(["full_attention"]), "layer_types has 1 entries for 2 layers");
    refused(&|json| json["layer_types"] = json!(["linear_attention", "full_attention"]), "linear_attention");
    refused(&|json| json["hidden_activation"] = "relu".into(), "relu");
}

/// Prompts on both sides of the window of 16, whose caches keep some layers' last positions and all of others'.
#[test]
fn rows_are_answered_together_as_alone_and_in_chunks_as_whole() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("rows.jsonl");
    let rows: Vec<_> = (1..6).map(|n| json!({"prompt": "one two three ".repeat(n * n)}).to_string()).collect();
    fs::write(&input, rows.join("\n")).unwrap();
    let answers = |more: &[&str]| {
        let model = golden("text/gemma2");
        let args = ["generate", "-m", path(&model), "--input", path(&input), "--output", "-", "-n", "24", "-q"];
        succeeds(&[&args[..], &["--dtype", "float32"], more].concat()).0
    };
    let alone = answers(&["--max-batch-size", "1"]);
    assert_eq!(answers(&["--max-batch-size", "5"]), alone);
    assert_eq!(answers(&["--prefill-step-size", "7"]), alone);
    assert_eq!(answers(&["--prompt-lookup"]), alone);
    assert_ne!(answers(&["--max-kv-size", "12"]), alone);
}

#[test]
fn it_is_converted_quantized_and_trained() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (golden("text/gemma2"), folder.path().join("train.jsonl"));
    let quantized = folder.path().join("q8");
    let args = ["--q-bits", "8", "--q-group-size", "32"];
    succeeds(&[&["convert", "--hf-path", path(&model), "--mlx-path", path(&quantized), "-q"][..], &args].concat());
    fs::write(&data, json!({"prompt": "Hello", "completion": " world"}).to_string()).unwrap();
    for (model, more) in [(&model, &[][..]), (&model, &["--grad-checkpoint"]), (&quantized, &[])] {
        let adapter = tempfile::tempdir_in(folder.path()).unwrap();
        let adapter = adapter.path().join("adapter");
        let args = ["lora", "-m", path(model), "--data", path(&data), "--adapter-path", path(&adapter), "-q"];
        succeeds(&[&args[..], &["--iters", "40", "--learning-rate", "1e-2", "--batch-size", "1"], more].concat());
        let args = ["generate", "-m", path(model), "-p", "Hello", "-n", "4", "-q"];
        let taught = succeeds(&[&args[..], &["--adapter", path(&adapter)]].concat()).0;
        assert!(taught.contains("world"), "{more:?}: {taught}");
    }
}
