//! GGUF files as source and result, and publication on the hub.

use std::fs;
use std::path::Path;

use super::{Place, made_by};
use crate::common::{difference, fails, golden, json_file, load, logits, path, phi3v, succeeds, text};
use crate::gguf::writable;
use crate::upload::server::{Hub, TOKEN};

/// How far logits may be from the source's when matrices are rounded to 16-bit floats: bfloat16 has fewer digits, and
/// small numbers of the norms alone stay as they are.
const F16: f32 = 1e-2;

fn exported(model: &str, kind: &str) -> (Place, std::path::PathBuf, Vec<f32>) {
    let (folder, place) = (writable(model), Place::new());
    let file = place.0.path().join("model.gguf");
    succeeds(&["convert", "--model", path(folder.path()), "--export-gguf", path(&file), "--gguf-type", kind]);
    (place, file, logits(folder.path()))
}

fn named(place: &Place, source: &Path, args: &[&str]) {
    let model = place.model();
    succeeds(&[&["convert", "--gguf", path(source), "--mlx-path", path(&model)], args].concat());
}

#[test]
fn out_to_gguf_and_back_gives_the_same_predictions() {
    for model in ["text/llama", "text/mistral", "text/phi3"] {
        let (place, file, expected) = exported(model, "f16");
        assert!(difference(&logits(&file), &expected) < F16, "{model}");
        named(&place, &file, &[]);
        assert!(difference(&logits(&place.model()), &logits(&file)) < F16, "{model}");
        for name in ["tokenizer.json", "tokenizer_config.json", "README.md", "model.safetensors.index.json"] {
            assert!(place.model().join(name).is_file(), "{name}");
        }
        succeeds(&["generate", "-m", path(&place.model()), "-p", "hello", "--ignore-chat-template", "-n", "3", "-q"]);
    }
}

#[test]
fn files_of_others_become_folders() {
    for name in ["llama.gguf", "phi3.gguf"] {
        let place = Place::new();
        named(&place, &golden("gguf").join(name), &[]);
        load(&place.model()).unwrap();
    }
}

#[test]
fn gguf_files_are_quantized_on_the_way() {
    let (place, file, expected) = exported("text/llama", "f16");
    named(&place, &file, &["-q", "--q-bits", "8", "--q-group-size", "32"]);
    assert_eq!(json_file(&place.model().join("config.json"))["quantization"]["bits"], 8);
    let largest = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    assert!(difference(&logits(&place.model()), &expected) < 0.05 * largest);
    // The other command takes the file for a model, too.
    let other = made_by("quantize", &file, &["--q-bits", "8", "--q-group-size", "32"]);
    assert_eq!(logits(&other.model()), logits(&place.model()));
}

#[test]
fn quantized_models_are_exported_as_their_values() {
    let source = writable("text/llama");
    let quantized = made_by("quantize", source.path(), &["--q-bits", "8"]);
    let file = quantized.0.path().join("model.gguf");
    succeeds(&["convert", "--model", path(&quantized.model()), "--export-gguf", path(&file)]);
    let floats = made_by("convert", &quantized.model(), &["-d"]);
    assert!(difference(&logits(&file), &logits(&floats.model())) < F16);
}

#[test]
fn exports_that_cannot_be_are_refused() {
    let place = Place::new();
    let file = place.0.path().join("model.gguf");
    let export = |source: &Path| ["convert", "--model", path(source), "--export-gguf", path(&file)].map(str::to_owned);
    let refused = |source: &Path, expected: &str| fails(1, &export(source).each_ref().map(String::as_str), expected);
    refused(&golden("phi3v-tiny"), "no place for its vision tower");
    refused(&golden("text/llama"), "not those of a SentencePiece model");
    assert_eq!(place.names(), Vec::<String>::new());
    fs::write(&file, "somebody's").unwrap();
    let source = writable("text/llama");
    refused(source.path(), "exists already; name another file, or replace it with --force");
    assert_eq!(fs::read_to_string(&file).unwrap(), "somebody's");
    let args = export(source.path());
    succeeds(&[&args.each_ref().map(String::as_str)[..], &["--force"]].concat());
    load(&file).unwrap();
}

/// Converts and publishes.
fn published(hub: &Hub, place: &Place, token: Option<&str>, id: &str) -> std::process::Output {
    let (source, model) = (golden("text/llama"), place.model());
    let args = ["convert", "--model", path(&source), "--mlx-path", path(&model), "-q", "--upload-repo", id];
    let mut command = phi3v(&args);
    command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HUB_OFFLINE", "0").envs(token.map(|token| ("HF_TOKEN", token)));
    // A token may also lie in a file there.
    command.env("HF_HOME", place.0.path().join("no-home")).output().unwrap()
}

#[test]
fn the_new_folder_is_published() {
    let (hub, place) = (Hub::start(), Place::new());
    let output = published(&hub, &place, Some(TOKEN), "org/name");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("published: "), "{}", text(&output.stderr));
    let commits = hub.state().commits.clone();
    assert_eq!(commits.len(), 1);
    let mut here: Vec<String> =
        fs::read_dir(place.model()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    here.sort();
    assert!(commits[0].keys().eq(&here), "{:?} {here:?}", commits[0].keys());
    for (name, body) in &commits[0] {
        assert!(*body == fs::read(place.model().join(name)).unwrap(), "{name}");
    }
}

#[test]
fn publication_that_cannot_succeed_is_refused_before_any_work() {
    let (hub, place) = (Hub::start(), Place::new());
    for (token, id, expected) in [(None, "org/name", "HF_TOKEN"), (Some(TOKEN), "no id", "no id")] {
        let output = published(&hub, &place, token, id);
        crate::common::assert_failure(&output, 1, &[id], expected);
        assert_eq!(place.names(), Vec::<String>::new());
    }
    assert!(hub.take_log().is_empty());
}

#[test]
fn a_failed_publication_keeps_the_folder() {
    let (hub, place) = (Hub::start(), Place::new());
    let output = published(&hub, &place, Some("wrong"), "org/name");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    // The folder is told of before.
    assert!(stderr.lines().last().unwrap().starts_with("error: may not write to org/name"), "{stderr}");
    load(&place.model()).unwrap();
}
