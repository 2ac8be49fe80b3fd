//! Checkpoints that are whole, packed, or broken in some way: the loader takes the first two and names what is wrong with
//! the third.

use std::fs;
use std::path::Path;

use mlx_quantized::{Mode, Packed};
use mlx_rs::{Array, Dtype};
use proptest::prelude::*;
use serde_json::json;

use crate::common::{Tensors, copy_of, difference, edit_json, golden, load, logits, save, tensors};

/// The one-line error that loading gives; loading must fail.
fn failure(folder: &Path) -> String {
    let error = load(folder).err().expect("loading succeeds");
    assert!(!error.contains('\n'), "{error}");
    error
}

/// Packs the modules that `bits` gives a number for; the others, and all else, stay. Returns the packed tensors and plain
/// ones with the same values.
fn packed(tensors: &Tensors, group_size: i32, mode: Mode, bits: impl Fn(&str) -> Option<i32>) -> (Tensors, Tensors) {
    let (mut packed, mut plain) = (Tensors::new(), Tensors::new());
    for (name, array) in tensors {
        let module = name.strip_suffix(".weight").filter(|_| array.ndim() == 2);
        let Some((module, bits)) = module.and_then(|module| Some((module, bits(module)?))) else {
            packed.insert(name.clone(), array.clone());
            plain.insert(name.clone(), array.clone());
            continue;
        };
        let array = array.as_dtype(Dtype::Float32).unwrap();
        let parts = Packed::quantize(&array, group_size, bits, mode).unwrap();
        plain.insert(name.clone(), parts.dequantize(Dtype::Float32).unwrap());
        packed.insert(name.clone(), parts.weight);
        packed.insert(format!("{module}.scales"), parts.scales);
        packed.extend(parts.biases.map(|biases| (format!("{module}.biases"), biases)));
    }
    (packed, plain)
}

#[test]
fn quantized_checkpoints_compute_what_their_values_say() {
    let original = tensors(&golden("text/phi3"));
    let affine = [2, 3, 4, 5, 6, 8].map(|bits| (Mode::Affine, "affine", 32, bits));
    let floating = [(Mode::Mxfp4, "mxfp4", 32, 4), (Mode::Nvfp4, "nvfp4", 16, 4), (Mode::Mxfp8, "mxfp8", 32, 8)];
    for (mode, name, group_size, bits) in affine.into_iter().chain(floating) {
        let (packed, plain) = packed(&original, group_size, mode, |_| Some(bits));
        let quantization = json!({"group_size": group_size, "bits": bits, "mode": name});
        let folder = copy_of("text/phi3");
        save(folder.path(), "model.safetensors", &plain);
        let expected = logits(folder.path());
        for key in ["quantization", "quantization_config", "quantized"] {
            let folder = copy_of("text/phi3");
            edit_json(&folder.path().join("config.json"), |json| json[key] = quantization.clone());
            save(folder.path(), "model.safetensors", &packed);
            let difference = difference(&logits(folder.path()), &expected);
            assert!(difference < 1e-4, "{key}, {name}, {bits} bits: {difference}");
        }
    }
}

#[test]
fn modules_may_be_packed_differently_or_not_at_all() {
    let (packed, plain) = packed(&tensors(&golden("text/llama")), 64, Mode::Affine, |module| match module {
        "model.layers.0.mlp.down_proj" => Some(8),
        "lm_head" | "model.layers.1.self_attn.q_proj" => None,
        _ => Some(4),
    });
    let folder = copy_of("text/llama");
    save(folder.path(), "model.safetensors", &plain);
    let expected = logits(folder.path());
    // Another name, as Phi-3-Vision-MLX has it.
    save(folder.path(), "quantized_model.safetensors", &packed);
    for file in ["model", "golden_12", "golden_40"] {
        fs::remove_file(folder.path().join(format!("{file}.safetensors"))).unwrap();
    }
    edit_json(&folder.path().join("config.json"), |json| {
        json["quantization"] = json!({
            "group_size": 64, "bits": 4, "mode": "affine",
            "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 64},
            "lm_head": false,
        });
    });
    assert!(difference(&logits(folder.path()), &expected) < 1e-4);
}

#[test]
fn what_the_quantization_says_must_fit() {
    let (packed, _) = packed(&tensors(&golden("text/phi3")), 32, Mode::Affine, |_| Some(4));
    let folder = copy_of("text/phi3");
    save(folder.path(), "model.safetensors", &packed);
    assert!(failure(folder.path()).contains("config.json has no quantization"));
    let config = folder.path().join("config.json");
    edit_json(&config, |json| json["quantization"] = json!({"group_size": 32, "bits": 8}));
    assert!(failure(folder.path()).contains("model.embed_tokens.weight: [768, 8] where [768, 16] is expected"));
    edit_json(&config, |json| json["quantization"] = json!({"group_size": 0, "bits": -4}));
    assert!(failure(folder.path()).contains("-4 bits"));
    edit_json(&config, |json| {
        json["quantization"] = json!({"group_size": 32, "bits": 4, "lm_head": {"group_size": 0}});
    });
    assert!(failure(folder.path()).contains("lm_head: groups of 0"));
    edit_json(&config, |json| json["quantization"] = json!({"group_size": 32, "bits": 4, "mode": "fp3"}));
    assert!(failure(folder.path()).contains("unknown variant `fp3`"));
    edit_json(&config, |json| json["quantization"] = json!({"quant_method": "gptq", "bits": 4}));
    assert!(failure(folder.path()).contains("\"gptq\""));
}

#[test]
fn missing_unknown_and_misshapen_tensors_are_listed() {
    let folder = copy_of("text/llama");
    let mut tensors = tensors(folder.path());
    tensors.remove("model.norm.weight");
    tensors.insert("model.layers.9.extra.weight".into(), Array::from_f32(1.0));
    tensors.insert("lm_head.weight".into(), Array::zeros::<f32>(&[3, 4]).unwrap());
    save(folder.path(), "model.safetensors", &tensors);
    let error = failure(folder.path());
    assert!(error.contains("1 tensor missing (model.norm.weight)"), "{error}");
    assert!(
        error.contains("1 tensor of the wrong shape (lm_head.weight: [3, 4] where [768, 64] is expected)"),
        "{error}"
    );
    assert!(error.contains("1 tensor unknown (model.layers.9.extra.weight)"), "{error}");
}

#[test]
fn shards_are_joined_and_checked() {
    let folder = copy_of("text/llama");
    let expected = logits(folder.path());
    let all = tensors(folder.path());
    let (first, second): (Tensors, Tensors) = all.into_iter().partition(|(name, _)| name.contains("layers.0"));
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let shard = |i: usize| format!("model-0000{i}-of-00002.safetensors");
    save(folder.path(), &shard(1), &first);
    save(folder.path(), &shard(2), &second);
    let names = |tensors: &Tensors, file: &str| -> Vec<(String, serde_json::Value)> {
        tensors.keys().map(|name| (name.clone(), file.into())).collect()
    };
    let map: serde_json::Map<_, _> =
        [names(&first, &shard(1)), names(&second, &shard(2))].concat().into_iter().collect();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    assert_eq!(logits(folder.path()), expected);

    let mut both = second.clone();
    both.extend(first.iter().take(1).map(|(name, array)| (name.clone(), array.clone())));
    save(folder.path(), &shard(2), &both);
    assert!(failure(folder.path()).contains("present more than once"));

    fs::remove_file(folder.path().join(shard(2))).unwrap();
    assert!(failure(folder.path()).contains("names files that are not there: model-00002-of-00002.safetensors"));
    fs::write(&index, json!({"weight_map": {"a": "../model.safetensors"}}).to_string()).unwrap();
    assert!(failure(folder.path()).contains("is not the name of a file beside it"));
    fs::write(&index, "{").unwrap();
    assert!(failure(folder.path()).contains("is not valid JSON"));
}

#[test]
fn vision_tensors_may_be_in_mlx_order_and_under_their_other_name() {
    let folder = copy_of("phi3v-tiny");
    let mut tensors = tensors(folder.path());
    let patches = "model.vision_embed_tokens.img_processor.vision_model.embeddings.patch_embedding.weight";
    let turned = tensors[patches].transpose_axes(&[0, 2, 3, 1]).unwrap().contiguous().unwrap();
    tensors.insert(patches.into(), turned);
    let table = tensors.remove("model.embed_tokens.weight").unwrap();
    tensors.insert("model.vision_embed_tokens.wte.weight".into(), table);
    tensors.insert(format!("{}.position_ids", patches.strip_suffix(".weight").unwrap()), Array::from_int(0));
    save(folder.path(), "model.safetensors", &tensors);
    let reports = phi3v::verify::verify(Some(folder.path()), &golden("phi3v-tiny/d2_gray"), &[64], |_| ()).unwrap();
    assert!(reports.iter().all(|report| !report.failed()), "{reports:#?}");

    tensors.insert("model.embed_tokens.weight".into(), Array::from_int(0));
    save(folder.path(), "model.safetensors", &tensors);
    assert!(failure(folder.path()).contains("more than once: model.embed_tokens.weight"));
}

#[test]
fn configurations_that_cannot_be_honoured_are_refused_by_name() {
    let refused = |model: &str, change: fn(&mut serde_json::Value), expected: &str| {
        let folder = copy_of(model);
        edit_json(&folder.path().join("config.json"), change);
        let error = failure(folder.path());
        assert!(error.contains(expected), "{error}");
    };
    refused("text/phi3", |json| json["model_type"] = "gpt2".into(), "supported are phi3_v, phi3, llama, mistral");
    refused("text/phi3", |json| json["model_type"] = json!(null), "config.json names no model_type");
    refused("text/phi3", |json| json["hidden_act"] = "relu".into(), "unknown variant `relu`");
    refused("text/phi3", |json| json["hidden_size"] = "64".into(), "hidden_size");
    refused("text/phi3", |json| json["rope_scaling"]["type"] = "ntk".into(), "unknown variant `ntk`");
    refused(
        "text/phi3",
        |json| json["rope_scaling"]["long_factor"] = json!([1.0]),
        "long_factor has 1 numbers where 8",
    );
    refused("text/llama", |json| json["rope_scaling"]["factor"] = json!(null), "factor is missing");
    refused("text/phi3", |json| json["num_attention_heads"] = 0.into(), "num_attention_heads");
    refused("text/phi3", |json| json["hidden_size"] = json!(-64), "hidden_size");
    refused("text/phi3", |json| json["num_hidden_layers"] = json!(2_000_000_000), "num_hidden_layers is 2000000000");
    refused("text/phi3", |json| json["num_key_value_heads"] = json!(3), "which does not divide 4 heads");
    refused("text/phi3", |json| json["rope_theta"] = json!(-1.0), "rope_theta is -1");
    refused(
        "text/phi3",
        |json| json["original_max_position_embeddings"] = json!(1),
        "original_max_position_embeddings is 1",
    );
    refused("text/phi3", |json| json["partial_rotary_factor"] = json!(0.2), "partial_rotary_factor: 0.2");
    refused("phi3v-tiny", |json| json["embd_layer"]["projection_cls"] = "linear".into(), "unknown variant `linear`");
    refused("phi3v-tiny", |json| json["img_processor"]["layer_idx"] = json!(-9), "layer_idx: -9 of 4 layers");
    refused(
        "phi3v-tiny",
        |json| json["img_processor"]["vision_config"]["num_attention_heads"] = 7.into(),
        "7 heads do not divide a width of 64",
    );
}

/// transformers 5 keeps what concerns the rotation in one place.
#[test]
fn rope_parameters_mean_what_rope_scaling_means() {
    let folder = copy_of("text/llama");
    let expected = logits(folder.path());
    edit_json(&folder.path().join("config.json"), |json| {
        let config = json.as_object_mut().unwrap();
        let mut parameters = config.remove("rope_scaling").unwrap();
        parameters["rope_theta"] = config.remove("rope_theta").unwrap();
        config.insert("rope_parameters".into(), parameters);
    });
    assert_eq!(logits(folder.path()), expected);
}

#[test]
fn lying_headers_are_plain_errors() {
    let folder = copy_of("text/llama");
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let broken = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        assert!(failure(folder.path()).contains("model.safetensors"), "{}", failure(folder.path()));
    };
    broken(b"");
    broken(&whole[..4]);
    broken(&whole[..whole.len() - 1]);
    broken(&[&u64::MAX.to_le_bytes()[..], &whole[8..]].concat());
    broken(&[&2u64.to_le_bytes()[..], b"{}", &whole[8..]].concat());
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[0; 8]].concat();
    broken(&header(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}"#));
    broken(&header(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}"#));
    broken(&header(r#"{"a": {"dtype": "F32", "shape": [4611686018427387905], "data_offsets": [0, 8]}}"#));
    broken(&header(r#"{"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}"#));
    broken(&header(
        r#"{"a": {"dtype": "U8", "shape": [0, 9999999999], "data_offsets": [0, 0]}, "b": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}"#,
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(at in 0usize..3000, byte: u8, cut in prop::option::of(0usize..280_000)) {
        let folder = copy_of("text/llama");
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        bytes.truncate(cut.unwrap_or(usize::MAX));
        fs::write(&path, bytes).unwrap();
        let _ = load(folder.path());
    }
}
