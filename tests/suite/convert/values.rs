//! The new folder's numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlx_quantized::{Mode, Packed};
use mlx_rs::{Array, Dtype};
use phi3v::convert::pass::Settings;
use serde_json::json;

use super::{made, made_by, packed_as};
use crate::common::{
    Tensors, bytes, copy_of, difference, edit_json, golden, json_file, load, logits, path, save, succeeds, tensors,
};

/// Type, shape and bytes of each.
fn contents(tensors: &Tensors) -> BTreeMap<&str, (Dtype, Vec<i32>, Vec<u8>)> {
    let of = |array: &Array| (array.dtype(), array.shape().to_vec(), bytes(array));
    tensors.iter().map(|(name, array)| (name.as_str(), of(array))).collect()
}

fn assert_same(a: &Tensors, b: &Tensors, what: &str) {
    assert!(a.keys().eq(b.keys()), "{what}: {:?} {:?}", a.keys(), b.keys());
    let (a, b) = (contents(a), contents(b));
    for (name, ours) in &a {
        assert!(*ours == b[name], "{what}: {name}");
    }
}

/// How far logits are from the second model's, relative to the largest of these.
fn distance(ours: &Path, theirs: &Path) -> f32 {
    let (ours, theirs) = (logits(ours), logits(theirs));
    let largest = theirs.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    difference(&ours, &theirs) / largest
}

const MODES: [(Mode, i32, i32); 11] = [
    (Mode::Affine, 2, 64),
    (Mode::Affine, 3, 64),
    (Mode::Affine, 4, 64),
    (Mode::Affine, 5, 64),
    (Mode::Affine, 6, 64),
    (Mode::Affine, 8, 64),
    (Mode::Affine, 3, 32),
    (Mode::Affine, 4, 32),
    (Mode::Mxfp4, 4, 32),
    (Mode::Nvfp4, 4, 16),
    (Mode::Mxfp8, 8, 32),
];

/// All matrices packed by MLX.
fn packed(tensors: &Tensors, (mode, bits, group_size): (Mode, i32, i32)) -> Tensors {
    let mut packed = Tensors::new();
    for (name, array) in tensors {
        let Some(module) = name.strip_suffix(".weight").filter(|_| array.ndim() == 2) else {
            packed.insert(name.clone(), array.clone());
            continue;
        };
        let parts = Packed::quantize(array, group_size, bits, mode).unwrap();
        packed.insert(name.clone(), parts.weight);
        packed.insert(format!("{module}.scales"), parts.scales);
        packed.extend(parts.biases.map(|biases| (format!("{module}.biases"), biases)));
    }
    packed
}

/// All packed matrices as MLX reads them.
fn unpacked(tensors: &Tensors, (mode, bits, group_size): (Mode, i32, i32)) -> Tensors {
    let mut unpacked = Tensors::new();
    for (name, array) in tensors {
        if name.ends_with(".scales") || name.ends_with(".biases") {
            continue;
        }
        let part = |part: &str| tensors.get(&name.replace(".weight", part)).cloned();
        let array = match part(".scales").filter(|_| name.ends_with(".weight")) {
            Some(scales) => {
                let packed = Packed { weight: array.clone(), scales, biases: part(".biases"), group_size, bits, mode };
                packed.dequantize(Dtype::Bfloat16).unwrap()
            }
            None => array.clone(),
        };
        unpacked.insert(name.clone(), array);
    }
    unpacked
}

#[test]
fn an_unquantized_conversion_changes_no_number() {
    for model in ["text/llama", "text/mistral", "text/phi3", "phi3v-tiny"] {
        let (place, _) = made(&golden(model), Settings::default());
        assert_eq!(logits(&place.model()), logits(&golden(model)), "{model}");
    }
}

#[test]
fn convolutions_are_in_mlx_order_and_images_are_still_seen() {
    let (place, _) = made(&golden("phi3v-tiny"), Settings::default());
    let patches = "model.vision_embed_tokens.img_processor.vision_model.embeddings.patch_embedding.weight";
    assert_eq!(tensors(&place.model())[patches].shape(), [64, 14, 14, 3]);
    let recording = golden("phi3v-tiny/d2_gray");
    let reports = phi3v::verify::verify(Some(&place.model()), &recording, &[64], |_| ()).unwrap();
    assert!(reports.iter().all(|report| !report.failed()), "{reports:#?}");
}

#[test]
fn several_files_become_one() {
    let source = copy_of("text/llama");
    let all = tensors(source.path());
    let (first, second): (Tensors, Tensors) = all.clone().into_iter().partition(|(name, _)| name.contains("layers.0"));
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    save(source.path(), "model-00001-of-00002.safetensors", &first);
    save(source.path(), "model-00002-of-00002.safetensors", &second);
    for name in ["golden_12.safetensors", "golden_40.safetensors"] {
        fs::remove_file(source.path().join(name)).unwrap();
    }
    let (place, _) = made(source.path(), Settings::default());
    assert_same(&tensors(&place.model()), &all, "shards");
}

#[test]
fn packed_tensors_are_mlx_own_bit_for_bit() {
    let original = tensors(&golden("text/llama"));
    for (mode, bits, group_size) in MODES {
        let (place, warnings) = made(&golden("text/llama"), packed_as(mode, bits, group_size));
        let what = format!("{mode:?} {bits} {group_size}");
        assert_same(&tensors(&place.model()), &packed(&original, (mode, bits, group_size)), &what);
        assert_eq!(warnings, Vec::<String>::new());
        load(&place.model()).unwrap();
    }
}

#[test]
fn dequantizing_gives_the_packed_values() {
    for packing in [(Mode::Affine, 3, 64), (Mode::Mxfp4, 4, 32), (Mode::Nvfp4, 4, 16), (Mode::Mxfp8, 8, 32)] {
        let (quantized, _) = made(&golden("text/llama"), packed_as(packing.0, packing.1, packing.2));
        let floats = made_by("convert", &quantized.model(), &["-d"]);
        let expected = unpacked(&tensors(&quantized.model()), packing);
        assert_same(&tensors(&floats.model()), &expected, &format!("{packing:?}"));
        assert!(json_file(&floats.model().join("config.json")).get("quantization").is_none());
        // MLX unpacks in the type of the scales, bfloat16, and computes products with packed matrices in more digits.
        assert!(distance(&floats.model(), &quantized.model()) < 0.05, "{packing:?}");
    }
}

#[test]
fn quantizing_what_is_quantized_warns_and_rounds_the_packed_values() {
    let (eight, _) = made(&golden("text/llama"), packed_as(Mode::Affine, 8, 64));
    let (four, warnings) = made(&eight.model(), packed_as(Mode::Affine, 4, 32));
    assert!(warnings.len() == 1 && warnings[0].contains("16 matrices are quantized already"), "{warnings:?}");
    let values = unpacked(&tensors(&eight.model()), (Mode::Affine, 8, 64));
    assert_same(&tensors(&four.model()), &packed(&values, (Mode::Affine, 4, 32)), "twice");
}

#[test]
fn converting_a_quantized_model_keeps_its_tensors() {
    let quantized = made_by("quantize", &golden("text/llama"), &["--q-bits", "3", "--q-override", "lm_head=8:32"]);
    let again = made_by("convert", &quantized.model(), &[]);
    assert_same(&tensors(&again.model()), &tensors(&quantized.model()), "again");
    let config = |folder: &Path| json_file(&folder.join("config.json"));
    let packing = json!({"group_size": 32, "bits": 8, "mode": "affine"});
    assert_eq!(config(&quantized.model())["quantization"]["lm_head"], packing);
    assert_eq!(logits(&again.model()), logits(&quantized.model()));
}

#[test]
fn quantize_and_convert_with_q_are_one() {
    let quantized = made_by("quantize", &golden("text/phi3"), &["--q-mode", "mxfp4"]);
    let converted = made_by("convert", &golden("text/phi3"), &["-q", "--q-mode", "mxfp4"]);
    assert_same(&tensors(&quantized.model()), &tensors(&converted.model()), "mxfp4");
    let config = |folder: &Path| fs::read(folder.join("config.json")).unwrap();
    assert_eq!(config(&quantized.model()), config(&converted.model()));
}

/// Phi-3-Vision-MLX packs all that it can, what sees included, and calls file and key by names of its own.
#[test]
fn phi_3_vision_mlx_layout_becomes_the_new_one() {
    let source = copy_of("phi3v-tiny");
    let old = packed(&tensors(source.path()), (Mode::Affine, 4, 64));
    assert!(old.keys().any(|name| name.ends_with("position_embedding.scales")));
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    save(source.path(), "quantized_model.safetensors", &old);
    edit_json(&source.path().join("config.json"), |json| {
        json["quantized"] = json!({"group_size": 64, "bits": 4});
        json["sanitized"] = json!(true);
    });
    let (place, warnings) = made(source.path(), Settings::default());
    assert_eq!(warnings, Vec::<String>::new());
    let config = json_file(&place.model().join("config.json"));
    assert_eq!(config["quantization"]["bits"], 4);
    assert!(config.get("quantized").is_none() && config.get("sanitized").is_none());
    assert_eq!(logits(&place.model()), logits(source.path()));
    let answer = |folder: &Path| {
        let photo = golden("phi3v-tiny/a_photo/photo.png");
        succeeds(&["generate", "-m", path(folder), "-i", path(&photo), "-p", "Hi", "-n", "4", "-q"]).0
    };
    assert_eq!(answer(&place.model()), answer(source.path()));
}

#[test]
fn dtype_casts_what_is_not_packed() {
    for (name, dtype) in [("float16", Dtype::Float16), ("bfloat16", Dtype::Bfloat16), ("float32", Dtype::Float32)] {
        let plain = made_by("convert", &golden("text/phi3"), &["--dtype", name]);
        assert!(tensors(&plain.model()).values().all(|array| array.dtype() == dtype), "{name}");
        let quantized = made_by("quantize", &golden("text/phi3"), &["--dtype", name]);
        for (tensor, array) in tensors(&quantized.model()) {
            let packed = array.dtype() == Dtype::Uint32 && array.ndim() == 2;
            assert!(packed || array.dtype() == dtype, "{name}: {tensor} is {:?}", array.dtype());
        }
    }
}

#[test]
fn types_are_those_that_config_json_names() {
    let source = copy_of("text/phi3");
    edit_json(&source.path().join("config.json"), |json| json["torch_dtype"] = "float16".into());
    let (place, _) = made(source.path(), Settings::default());
    assert!(tensors(&place.model()).values().all(|array| array.dtype() == Dtype::Float16));
}

#[test]
fn what_sees_stays_unless_asked_for() {
    let scales = |place: &super::Place| -> Vec<String> {
        let names = tensors(&place.model()).into_keys();
        names.filter(|name| name.contains("vision") && name.ends_with(".scales")).collect()
    };
    let (stays, _) = made(&golden("phi3v-tiny"), packed_as(Mode::Affine, 4, 64));
    assert_eq!(scales(&stays), Vec::<String>::new());
    let place = made_by("quantize", &golden("phi3v-tiny"), &["--quantize-vision", "--q-bits", "8"]);
    let packed = scales(&place);
    // Six matrices in each of four layers, and two of the projection; of the embeddings none.
    assert_eq!(packed.len(), 26, "{packed:?}");
    assert!(!packed.iter().any(|name| name.contains("embeddings")), "{packed:?}");
    let photo = golden("phi3v-tiny/a_photo/photo.png");
    succeeds(&["generate", "-m", path(&place.model()), "-i", path(&photo), "-p", "Hi", "-n", "2"]);
}

#[test]
fn a_table_that_is_also_the_map_to_logits_is_packed_once() {
    let source = copy_of("text/llama");
    edit_json(&source.path().join("config.json"), |json| json["tie_word_embeddings"] = true.into());
    let mut tied = tensors(source.path());
    tied.remove("lm_head.weight");
    save(source.path(), "model.safetensors", &tied);
    let (place, _) = made(source.path(), packed_as(Mode::Affine, 8, 64));
    let result = tensors(&place.model());
    assert!(result.contains_key("model.embed_tokens.scales") && !result.contains_key("lm_head.weight"));
    assert!(distance(&place.model(), source.path()) < 0.05);
    let (plain, _) = made(source.path(), Settings::default());
    assert_eq!(logits(&plain.model()), logits(source.path()));
}
