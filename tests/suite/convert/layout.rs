//! The new folder's files are those of mlx-lm and mlx-vlm.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mlx_quantized::Mode;
use mlx_rs::Array;
use phi3v::checkpoint::safetensors::{Shards, TensorSpec};
use phi3v::convert::pass::Settings;
use safetensors::SafeTensors;
use serde_json::json;

use super::{Place, made, made_by, packed_as};
use crate::common::{bytes, copy_of, edit_json, golden, json_file, path, phi3v, tensors, text};
use crate::hub::server::Hub;

#[test]
fn configurations_are_spelled_as_mlx_spells_them() {
    let (place, _) = made(&golden("phi3v-tiny"), packed_as(Mode::Affine, 4, 64));
    let config = json_file(&place.model().join("config.json"));
    let fields = config.as_object().unwrap();
    assert!(fields.keys().is_sorted());
    assert_eq!(config["quantization"], json!({"group_size": 64, "bits": 4, "mode": "affine"}));
    assert_eq!(config["quantization"], config["quantization_config"]);
    assert_eq!(config["vision_config"], json!({}));
    for key in ["_name_or_path", "torch_dtype"] {
        assert!(!fields.contains_key(key), "{key}");
    }
    let source = json_file(&golden("phi3v-tiny/config.json"));
    let ours = ["_name_or_path", "torch_dtype"];
    for (key, value) in source.as_object().unwrap().iter().filter(|(key, _)| !ours.contains(&key.as_str())) {
        assert_eq!(config[key], *value, "{key}");
    }
}

#[test]
fn only_models_that_see_have_a_vision_config_and_only_packed_ones_a_quantization() {
    let (place, _) = made(&golden("text/phi3"), Settings::default());
    let config = json_file(&place.model().join("config.json"));
    for key in ["vision_config", "quantization", "quantization_config"] {
        assert!(config.get(key).is_none(), "{key}");
    }
}

#[test]
fn weights_are_one_file_with_an_index() {
    let (place, _) = made(&golden("text/llama"), packed_as(Mode::Affine, 4, 64));
    let file = fs::read(place.model().join("model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(json!(header.metadata()), json!({"format": "mlx"}));
    let tensors = tensors(&place.model());
    let index = json_file(&place.model().join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    assert!(map.keys().is_sorted());
    assert!(map.keys().eq(tensors.keys()));
    assert!(map.values().all(|file| file == "model.safetensors"));
    let total: usize = tensors.values().map(Array::nbytes).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    let numbers: usize = crate::common::tensors(&golden("text/llama")).values().map(Array::size).sum();
    assert_eq!(index["metadata"]["total_parameters"], numbers);
}

#[test]
fn tensors_beyond_the_limit_go_into_further_files() {
    let place = Place::new();
    fs::create_dir(place.model()).unwrap();
    // One that alone is over the limit, and small ones that share a file.
    let sizes = [("a", 10), ("b", 300), ("c", 20), ("d", 30), ("e", 50)];
    let values: Vec<Array> =
        sizes.iter().map(|&(_, size)| Array::full::<f32>(&[size], Array::from_f32(0.5)).unwrap()).collect();
    let specs: Vec<TensorSpec> = sizes
        .iter()
        .zip(&values)
        .map(|((name, _), array)| TensorSpec {
            name: (*name).into(),
            dtype: array.dtype(),
            shape: array.shape().to_vec(),
        })
        .collect();
    let mut shards = Shards::create(&place.model(), "mlx", &specs, 4 * 60).unwrap();
    for ((name, _), array) in sizes.iter().zip(&values) {
        array.eval().unwrap();
        shards.write(name, array).unwrap();
    }
    shards.finish(&place.model(), 410).unwrap();
    let file = |n: usize| format!("model-0000{n}-of-00004.safetensors");
    let index = json_file(&place.model().join("model.safetensors.index.json"));
    assert_eq!(index["weight_map"], json!({"a": file(1), "b": file(2), "c": file(3), "d": file(3), "e": file(4)}));
    assert_eq!(index["metadata"]["total_size"], 4 * 410);
    for ((name, _), array) in sizes.iter().zip(&values) {
        let shard = place.model().join(index["weight_map"][name].as_str().unwrap());
        assert_eq!(bytes(&Array::load_safetensors(shard).unwrap()[*name]), bytes(array));
    }
    assert_eq!(fs::read_dir(place.model()).unwrap().count(), 5);
}

#[test]
fn a_tensor_that_was_announced_must_come() {
    let place = tempfile::tempdir().unwrap();
    let spec = TensorSpec { name: "a".into(), dtype: mlx_rs::Dtype::Float32, shape: vec![2] };
    let shards = Shards::create(place.path(), "mlx", std::slice::from_ref(&spec), 100).unwrap();
    assert!(shards.finish(place.path(), 2).is_err());
    let mut shards = Shards::create(place.path(), "mlx", &[spec], 100).unwrap();
    assert!(shards.write("a", &Array::zeros::<f32>(&[3]).unwrap()).is_err());
    assert!(shards.write("b", &Array::zeros::<f32>(&[2]).unwrap()).is_err());
}

/// A checkpoint with everything that one may come with.
fn furnished() -> tempfile::TempDir {
    let source = copy_of("phi3v-tiny");
    let files = [
        ("modeling_phi3_v.py", "import torch\n"),
        ("LICENSE", "MIT"),
        ("chat_template.jinja", "{{ messages }}"),
        ("merges.txt", "a b"),
        ("README.md", "---\nlicense: mit\nlanguage:\n- en\ntags:\n- nlp\n---\n# Phi\n"),
        // None of the model.
        (".gitattributes.json", "{}"),
        ("adapter_config.json", "{}"),
        ("quantization_report.json", "{}"),
        ("pytorch_model.bin.index.json", "{}"),
        ("training_args.bin", "x"),
    ];
    for (name, contents) in files {
        fs::write(source.path().join(name), contents).unwrap();
    }
    source
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_belongs_to_a_model_comes_along() {
    let source = furnished();
    let place = made_by("convert", source.path(), &[]);
    let left = [".gitattributes.json", "adapter_config.json", "quantization_report.json", "training_args.bin"];
    let mut expected = names(source.path());
    expected.retain(|name| !left.contains(&name.as_str()));
    expected.remove("pytorch_model.bin.index.json");
    expected.insert("model.safetensors.index.json".into());
    assert_eq!(names(&place.model()), expected);
    for name in expected {
        if !["config.json", "README.md"].contains(&name.as_str()) && !name.starts_with("model.safetensors") {
            let read = |folder: &Path| fs::read(folder.join(&name)).unwrap();
            assert_eq!(read(&place.model()), read(source.path()), "{name}");
        }
    }
}

#[test]
fn the_model_card_keeps_the_licence() {
    let place = made_by("convert", furnished().path(), &["-q"]);
    let card = fs::read_to_string(place.model().join("README.md")).unwrap();
    let (front, rest) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    for line in ["library_name: mlx", "pipeline_tag: image-text-to-text", "license: mit", "language:\n- en"] {
        assert!(front.contains(line), "{card}");
    }
    // A folder's name is nobody's business.
    assert!(!front.contains("base_model") && !front.contains("nlp") && rest.contains("bits per weight"), "{card}");
}

#[test]
fn the_model_card_names_the_hub_model_it_was_made_of() {
    let source = copy_of("text/llama");
    edit_json(&source.path().join("config.json"), |json| json["_name_or_path"] = "/home/someone".into());
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    let files = names.map(|name| (name, fs::read(source.path().join(name)).unwrap()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let hub = Hub::start("0123456789abcdef0123456789abcdef01234567", &files);
    let (home, place) = (tempfile::tempdir().unwrap(), Place::new());
    let mut command = phi3v(&["convert", "--hf-path", "org/name", "--mlx-path", path(&place.model())]);
    command.env("HF_HOME", home.path()).env("HF_ENDPOINT", &hub.endpoint).env("HF_HUB_OFFLINE", "0");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let card = fs::read_to_string(place.model().join("README.md")).unwrap();
    assert!(card.contains("\nbase_model: org/name\n") && card.contains("pipeline_tag: text-generation"), "{card}");
}
