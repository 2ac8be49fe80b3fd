//! Which matrices are packed how, and what is refused.

use serde_json::{Value, json};

use super::{Place, made_by};
use crate::common::{copy_of, edit_json, fails, golden, json_file, path, save, tensors};

/// Bits and group sizes of all packed matrices, as `config.json` has them.
fn quantization(args: &[&str]) -> Value {
    let place = made_by("quantize", &golden("text/llama"), args);
    crate::common::load(&place.model()).unwrap();
    json_file(&place.model().join("config.json"))["quantization"].clone()
}

/// One line on stderr, this exit code, and nothing written.
fn refused(code: i32, source: &std::path::Path, args: &[&str], expected: &str) {
    let place = Place::new();
    let model = place.model();
    let common = ["convert", "--model", path(source), "--mlx-path", path(&model)];
    fails(code, &[&common, args].concat(), expected);
    assert_eq!(place.names(), Vec::<String>::new(), "{args:?}");
}

#[test]
fn of_the_overrides_that_match_the_last_counts() {
    let found = quantization(&[
        "--q-override",
        r"layers\.0=8:32",
        "--q-override",
        "down_proj=6",
        "--q-override",
        "o_proj=none",
        "--q-override",
        "layers.0.self_attn.o_proj=2",
    ]);
    let with = |bits: i32, group_size: i32| json!({"group_size": group_size, "bits": bits, "mode": "affine"});
    let mut expected = with(4, 64);
    for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"] {
        expected[format!("model.layers.0.{name}")] = with(8, 32);
    }
    expected["model.layers.0.mlp.down_proj"] = with(6, 64);
    expected["model.layers.1.mlp.down_proj"] = with(6, 64);
    expected["model.layers.0.self_attn.o_proj"] = with(2, 64);
    assert_eq!(found, expected);
}

#[test]
fn an_exempted_matrix_stays_as_it_is() {
    let place = made_by("quantize", &golden("text/llama"), &["--q-override", "lm_head=none"]);
    let (source, result) = (tensors(&golden("text/llama")), tensors(&place.model()));
    assert!(!result.contains_key("lm_head.scales") && result.contains_key("model.embed_tokens.scales"));
    let bytes = |tensors: &crate::common::Tensors| crate::common::bytes(&tensors["lm_head.weight"]);
    assert_eq!(bytes(&result), bytes(&source));
}

#[test]
fn overrides_of_other_modes_are_affine() {
    let found = quantization(&["--q-mode", "mxfp4", "--q-override", "lm_head=8"]);
    assert_eq!(
        found,
        json!({
            "group_size": 32, "bits": 4, "mode": "mxfp4",
            "lm_head": {"group_size": 64, "bits": 8, "mode": "affine"},
        })
    );
}

#[test]
fn modes_have_their_own_defaults() {
    for (mode, bits, group_size) in [("affine", 4, 64), ("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)] {
        let expected = json!({"group_size": group_size, "bits": bits, "mode": mode});
        assert_eq!(quantization(&["--q-mode", mode]), expected);
    }
}

#[test]
fn recipes_give_the_sensitive_matrices_more_bits() {
    for (recipe, low, high) in
        [("mixed_2_6", 2, 6), ("mixed_3_4", 3, 4), ("mixed_3_6", 3, 6), ("mixed_4_6", 4, 6), ("mixed_4_8", 4, 8)]
    {
        let found = quantization(&["--quant-predicate", recipe]);
        assert_eq!(found["bits"], low, "{recipe}");
        // Of two layers the last is in the last eighth.
        let favoured: Vec<&str> = ["lm_head", "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.v_proj"].into();
        let more: Vec<&str> =
            found.as_object().unwrap().iter().filter(|(_, v)| v.is_object()).map(|(key, _)| key.as_str()).collect();
        assert_eq!(more, favoured, "{recipe}");
        assert!(favoured.iter().all(|path| found[path]["bits"] == high), "{recipe}");
    }
}

#[test]
fn rows_of_no_whole_groups_stay_floats() {
    let found = made_by("quantize", &golden("text/llama"), &["--q-group-size", "128"]);
    let packed: Vec<String> = tensors(&found.model()).into_keys().filter(|name| name.ends_with(".scales")).collect();
    assert_eq!(packed, ["model.layers.0.mlp.down_proj.scales", "model.layers.1.mlp.down_proj.scales"]);
    crate::common::load(&found.model()).unwrap();
}

#[test]
fn overrides_that_cannot_be_followed_are_refused() {
    let llama = golden("text/llama");
    let over = |code, text: &str, expected: &str| refused(code, &llama, &["-q", "--q-override", text], expected);
    over(1, "qkv_proj=8", "\"qkv_proj=8\" matches no matrix");
    over(1, "norm=8", "matches no matrix");
    over(1, "lm_head=8:128", "lm_head has rows of 64, which groups of 128 do not divide");
    over(2, "lm_head", "REGEX=bits");
    over(2, "lm_head=7", "7 bits");
    over(2, "lm_head=4:48", "groups of 48");
    over(2, "(=4", "regex");
}

#[test]
fn impossible_modes_and_bits_are_refused() {
    let llama = golden("text/llama");
    let refused = |args: &[&str], expected: &str| refused(1, &llama, &[&["-q"], args].concat(), expected);
    refused(&["--q-bits", "7"], "7 bits: affine quantization has 2, 3, 4, 5, 6 and 8");
    refused(&["--q-bits", "16"], "16 bits");
    refused(&["--q-bits", "0"], "0 bits");
    refused(&["--q-group-size", "16"], "groups of 16: MLX has groups of 32, 64 and 128");
    refused(&["--q-mode", "mxfp4", "--q-bits", "8"], "Mxfp4 has 4 bits in groups of 32 and nothing else");
    refused(&["--q-mode", "nvfp4", "--q-group-size", "32"], "Nvfp4 has 4 bits in groups of 16");
    refused(&["--q-mode", "mxfp8", "--q-bits", "4"], "Mxfp8 has 8 bits");
    refused(&["--q-mode", "mxfp4", "--quant-predicate", "mixed_4_6"], "affine");
    refused(&["--q-mode", "mxfp4", "--quant-method", "gptq"], "--quant-method gptq is for affine");
    refused(&["--calibration", "x.txt"], "--calibration is used by");
}

#[test]
fn quantization_flags_without_quantizing_are_refused_by_name() {
    let llama = golden("text/llama");
    for args in [
        &["--q-bits", "4"][..],
        &["--q-group-size", "64"],
        &["--q-mode", "affine"],
        &["--quant-predicate", "mixed_4_6"],
        &["--q-override", "lm_head=8"],
        &["--quantize-vision"],
        &["--quant-method", "gptq"],
        &["--target-bpw", "4.5"],
        &["--calibration", "x.txt"],
        &["--report"],
    ] {
        refused(1, &llama, args, &format!("{} says how to quantize; add --quantize", args[0]));
    }
}

#[test]
fn flags_that_exclude_each_other_are_wrong_usage() {
    let llama = golden("text/llama");
    let usage = |args: &[&str]| refused(2, &llama, args, "cannot be used with");
    usage(&["-q", "-d"]);
    usage(&["-q", "--q-bits", "4", "--quant-predicate", "mixed_4_6"]);
    usage(&["-q", "--q-bits", "4", "--target-bpw", "4.5"]);
    usage(&["-q", "--quant-predicate", "mixed_4_6", "--target-bpw", "4.5"]);
    usage(&["--gguf", "x.gguf"]);
    usage(&["--export-gguf", "x.gguf"]);
    refused(1, &llama, &["--gguf-type", "f16"], "--gguf-type is about --export-gguf");
    refused(2, &llama, &["-q", "--q-mode", "fp3"], "invalid value 'fp3'");
}

#[test]
fn sources_that_cannot_be_converted_are_refused() {
    refused(1, &golden("text/llama"), &["-d"], "is not quantized, so there is nothing to dequantize");
    refused(1, &golden("no-such-model"), &[], "no-such-model");
    let broken = copy_of("text/llama");
    edit_json(&broken.path().join("config.json"), |json| json["model_type"] = "gpt2".into());
    refused(1, broken.path(), &[], "supported are");
    // A packed matrix that has lost a part.
    let place = made_by("quantize", &golden("text/llama"), &[]);
    let mut rest = tensors(&place.model());
    rest.remove("lm_head.biases");
    save(&place.model(), "model.safetensors", &rest);
    refused(1, &place.model(), &["-d"], "lm_head");
}
