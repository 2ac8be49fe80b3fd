//! GGUF files as checkpoints, against what the Python package `gguf` wrote and what Hugging Face's folders hold.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};
use phi3v::checkpoint::ModelFiles;
use phi3v::checkpoint::gguf::{self, Gguf, GgufType, Source};
use phi3v::models;
use phi3v::processor::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::{bytes, copy_of, edit_json, golden, json_file};

fn fixture(name: &str) -> PathBuf {
    golden("gguf").join(name)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file as a folder of Hugging Face's.
fn unpacked(file: &Path) -> TempDir {
    let gguf = Gguf::open(file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), gguf.config().unwrap().to_string()).unwrap();
    for (name, bytes) in gguf.companions().unwrap() {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let tensors: Vec<(String, Array)> =
        gguf.tensors().map(|tensor| (tensor.name.clone(), gguf.read(&tensor.name).unwrap())).collect();
    for (info, (name, array)) in gguf.tensors().zip(&tensors) {
        assert_eq!((array.shape(), array.dtype()), (&info.shape[..], info.dtype), "{name}");
    }
    let tensors = tensors.iter().map(|(name, array)| (name.as_str(), array));
    Array::save_safetensors(tensors, None, folder.path().join("model.safetensors")).unwrap();
    folder
}

#[test]
fn every_type_is_read() {
    let gguf = Gguf::open(&fixture("blocks.gguf")).unwrap();
    let expected = json_file(&fixture("blocks.json"));
    for (name, expected) in expected.as_object().unwrap() {
        let array = gguf.read(name).unwrap();
        let dtype = match expected["type"].as_str().unwrap() {
            "F32" => Dtype::Float32,
            "BF16" => Dtype::Bfloat16,
            _ => Dtype::Float16,
        };
        assert_eq!((json!(array.shape()), array.dtype()), (expected["shape"].clone(), dtype), "{name}");
        let array = array.as_dtype(Dtype::Float32).unwrap();
        for (&value, expected) in array.as_slice::<f32>().iter().zip(expected["first"].as_array().unwrap()) {
            let expected = expected.as_f64().unwrap() as f32;
            assert!((value - expected).abs() <= expected.abs() / 2048.0 + 1e-7, "{name}: {value} for {expected}");
        }
        if dtype != Dtype::Float16 || expected["type"] == "F16" {
            assert_eq!(sha256(&bytes(&array)), expected["sha256"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn tensors_are_those_of_hugging_face() {
    let hashes = json_file(&fixture("models.json"));
    for (arch, tensors) in hashes.as_object().unwrap() {
        let gguf = Gguf::open(&fixture(&format!("{arch}.gguf"))).unwrap();
        for (name, hash) in tensors.as_object().unwrap() {
            assert_eq!(sha256(&bytes(&gguf.read(name).unwrap())), hash.as_str().unwrap(), "{arch} {name}");
        }
    }
    let gguf = Gguf::open(&fixture("qwen2.gguf")).unwrap();
    assert_eq!(gguf.read("model.layers.0.self_attn.k_proj.bias").unwrap().shape(), [16]);
    assert!(gguf.read("model.layers.1.mlp.up_proj.weight").is_err());
}

#[test]
fn configurations_are_those_of_hugging_face() {
    let config = |name: &str| Gguf::open(&fixture(name)).unwrap().config().unwrap();
    let llama = config("llama.gguf");
    assert_eq!(
        llama["rope_scaling"],
        json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        })
    );
    assert_eq!(llama["rms_norm_eps"], json!(1e-5));
    assert_eq!(llama["tie_word_embeddings"], json!(false));
    let phi3 = config("phi3.gguf");
    assert_eq!(phi3["rope_scaling"]["type"], "longrope");
    assert_eq!(phi3["rope_scaling"]["short_factor"][3], json!(1.0256));
    assert_eq!(phi3["rope_scaling"].as_object().unwrap().len(), 3);
    assert_eq!((&phi3["original_max_position_embeddings"], &phi3["sliding_window"]), (&json!(512), &json!(2047)));
    assert_eq!(phi3["tie_word_embeddings"], json!(true));
    let gemma = config("gemma.gguf");
    assert_eq!((&gemma["head_dim"], &gemma["hidden_act"]), (&json!(16), &json!("gelu_pytorch_tanh")));
    let qwen2 = config("qwen2.gguf");
    assert_eq!((&qwen2["rope_theta"], &qwen2["vocab_size"]), (&json!(1e6), &json!(19)));
    assert_eq!((&qwen2["model_type"], &qwen2["eos_token_id"]), (&json!("qwen2"), &json!(18)));
}

#[test]
fn supported_models_load() {
    for name in ["llama.gguf", "phi3.gguf"] {
        let folder = unpacked(&fixture(name));
        models::load(&ModelFiles::read(folder.path()).unwrap(), None, |_, _| ()).unwrap();
    }
}

#[test]
fn tokenizers_cut_and_join_as_the_originals() {
    let tokenizer = |name: &str| crate::common::tokenizer_of(unpacked(&fixture(name)).path());
    let pieces = |tokenizer: &Tokenizer, text: &str, special: bool| -> Vec<String> {
        let ids = tokenizer.encode(text, special).unwrap();
        ids.iter().map(|&id| tokenizer.decode(&[id], true).unwrap()).collect()
    };
    let llama = tokenizer("llama.gguf");
    let text = "hello world<|end|>hé  ";
    let ids = llama.encode(text, true).unwrap();
    assert_eq!(ids[..4], [1, 263, 267, llama.id("<|end|>").unwrap()]);
    // No piece for é: its two bytes.
    assert_eq!(ids[5..], [3 + 0xc3, 3 + 0xa9, llama.id("  ").unwrap()]);
    assert_eq!(llama.decode(&ids[1..], true).unwrap(), "hello world<|end|> hé  ");
    // Phi-3's control tokens swallow the white space after them.
    let phi3 = tokenizer("phi3.gguf");
    assert_eq!(phi3.encode("<|end|>\n hello", false).unwrap(), [phi3.id("<|end|>").unwrap(), 263]);
    let gemma = tokenizer("gemma.gguf");
    assert_eq!(pieces(&gemma, "hello world", true), ["<s>", "hello", " world"]);
    let qwen2 = tokenizer("qwen2.gguf");
    assert_eq!(pieces(&qwen2, "hello hello12\n<|im_end|>", true), ["hello", " hello", "1", "2", "\n", "<|im_end|>"]);
    let folder = unpacked(&fixture("qwen2.gguf"));
    let generation = json_file(&folder.path().join("generation_config.json"));
    assert_eq!(generation["eos_token_id"], json!([18, 17]));
}

/// Everything that can be asked of a file; the error of the first thing that fails.
fn read_all(path: &Path) -> Result<(), String> {
    let read = || {
        let gguf = Gguf::open(path)?;
        gguf.config()?;
        gguf.companions()?;
        for tensor in gguf.tensors() {
            gguf.read(&tensor.name)?.eval()?;
        }
        anyhow::Ok(())
    };
    read().map_err(|e| format!("{e:#}"))
}

/// The error for these bytes as a file. It is one line and names the file.
fn failure(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    fs::write(&path, bytes).unwrap();
    let error = read_all(&path).expect_err("the file is read");
    assert!(!error.contains('\n') && error.contains("broken.gguf"), "{error}");
    error
}

/// `bytes` with the first `from` in it replaced.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn lying_headers_are_plain_errors() {
    let whole = fs::read(fixture("qwen2.gguf")).unwrap();
    let with = |at: usize, bytes: &[u8]| [&whole[..at], bytes, &whole[at + bytes.len()..]].concat();
    let broken = |bytes: &[u8], expected: &str| {
        let error = failure(bytes);
        assert!(error.contains(expected), "{error}");
    };
    broken(b"", "it is no GGUF file");
    broken(b"GGUF", "more than the file has");
    broken(&whole[..300], "more than the file has");
    broken(&whole[..whole.len() - 100], "lies outside the file");
    broken(&with(4, &1u32.to_le_bytes()), "version 1");
    broken(&with(4, &3u32.to_be_bytes()), "big endian");
    broken(&with(8, &u64::MAX.to_le_bytes()), "broken.gguf");
    broken(&with(16, &u64::MAX.to_le_bytes()), "broken.gguf");
    broken(&with(24, &u64::MAX.to_le_bytes()), "more than the file has");
    broken(&replaced(&whole, b"qwen2", b"bert2"), "architecture \"bert2\" is not supported; supported are llama, phi3");
    broken(&replaced(&whole, b"qwen2", b"qw\xff\xfe2"), "is not UTF-8");
    let pre = [&5u64.to_le_bytes()[..], b"qwen2"].concat();
    let at = whole.windows(pre.len()).rposition(|window| window == pre).unwrap() + 8;
    broken(&with(at, b"other"), "tokenizer.ggml.pre is \"other\", which is not supported");
    broken(&replaced(&whole, b"gpt2", b"bert"), "its tokenizer \"bert\" is not supported");
    let tensor = b"blk.0.attn_q.weight";
    broken(&replaced(&whole, tensor, b"blk.0.attn_x.weight"), "blk.0.attn_x.weight has no place in a qwen2 model");
    broken(&replaced(&whole, tensor, b"blk.0.attn_k.weight"), "blk.0.attn_k.weight is there twice");
    // Behind the name: dimensions, two sizes, type, offset.
    let at = whole.windows(tensor.len()).position(|window| window == tensor).unwrap() + tensor.len();
    broken(&with(at, &9u32.to_le_bytes()), "has 9 dimensions");
    broken(&with(at + 4, &(1u64 << 40).to_le_bytes()), "a dimension of 1099511627776");
    broken(&with(at + 4, &[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]), "attn_q.weight");
    broken(&with(at + 20, &23u32.to_le_bytes()), "blk.0.attn_q.weight: it is of type IQ4_XS, which is not supported");
    broken(&with(at + 20, &12u32.to_le_bytes()), "rows of 32 are no whole blocks of Q4_K");
    broken(&with(at + 24, &(u64::MAX - 7).to_le_bytes()), "blk.0.attn_q.weight");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(&["llama.gguf", "phi3.gguf", "qwen2.gguf", "blocks.gguf"][..]),
        changes in prop::collection::vec((prop_oneof![0usize..1500, 0usize..40_000], any::<u8>()), 1..4),
        cut in prop::option::of(0usize..40_000),
    ) {
        let mut bytes = fs::read(fixture(name)).unwrap();
        let len = bytes.len();
        for (at, byte) in changes {
            bytes[at % len] = byte;
        }
        bytes.truncate(cut.unwrap_or(len));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.gguf");
        fs::write(&path, bytes).unwrap();
        if let Err(error) = read_all(&path) {
            prop_assert!(!error.contains('\n') && error.contains("damaged.gguf"), "{}", error);
        }
    }
}

/// The folder's checkpoint as a file, and what was told of its progress.
fn written(folder: &Path, kind: GgufType, path: &Path) -> anyhow::Result<()> {
    let tensors: std::collections::BTreeMap<String, Array> =
        Array::load_safetensors(folder.join("model.safetensors")).unwrap().into_iter().collect();
    let shapes: Vec<(String, Vec<i32>)> =
        tensors.iter().map(|(name, array)| (name.clone(), array.shape().to_vec())).collect();
    let source = Source {
        config: &json_file(&folder.join("config.json")),
        tokenizer: &json_file(&folder.join("tokenizer.json")),
        tokenizer_config: &json_file(&folder.join("tokenizer_config.json")),
        tensors: &shapes,
    };
    let mut asked = Vec::new();
    let read = |name: &str| {
        asked.push(name.to_owned());
        Ok(tensors[name].clone())
    };
    gguf::write(&source, kind, read, path)?;
    assert_eq!(asked, shapes.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
    Ok(())
}

/// A golden checkpoint with a tokenizer whose merges are a SentencePiece model's: its own were trained otherwise.
pub(crate) fn writable(model: &str) -> TempDir {
    let folder = copy_of(model);
    fs::copy(unpacked(&fixture("llama.gguf")).path().join("tokenizer.json"), folder.path().join("tokenizer.json"))
        .unwrap();
    folder
}

#[test]
fn what_is_written_is_read_back() {
    for model in ["text/llama", "text/mistral", "text/phi3"] {
        let folder = writable(model);
        let folder = folder.path();
        let original = json_file(&folder.join("config.json"));
        let here = tempfile::tempdir().unwrap();
        for kind in [GgufType::F16, GgufType::Q8_0, GgufType::Q4_0] {
            let path = here.path().join("model.gguf");
            written(folder, kind, &path).unwrap();
            let gguf = Gguf::open(&path).unwrap();
            let config = gguf.config().unwrap();
            for key in [
                "model_type",
                "hidden_size",
                "vocab_size",
                "rms_norm_eps",
                "rope_theta",
                "sliding_window",
                "num_key_value_heads",
                "intermediate_size",
                "max_position_embeddings",
                "tie_word_embeddings",
                "architectures",
                "bos_token_id",
                "eos_token_id",
                "original_max_position_embeddings",
            ] {
                assert_eq!(config[key], original[key], "{model} {key}");
            }
            assert_eq!(config["rope_scaling"], original["rope_scaling"], "{model}");
            let tensors = Array::load_safetensors(folder.join("model.safetensors")).unwrap();
            assert_eq!(gguf.tensors().count(), tensors.len());
            for (name, array) in tensors {
                let read = gguf.read(&name).unwrap();
                let array = array.as_dtype(if array.ndim() == 1 { Dtype::Float32 } else { Dtype::Float16 }).unwrap();
                if array.ndim() == 1 || kind == GgufType::F16 {
                    assert_eq!(bytes(&read), bytes(&array), "{model} {name}");
                    continue;
                }
                let largest = |array: Array| {
                    let values = array.as_dtype(Dtype::Float32).unwrap().abs().unwrap().contiguous().unwrap();
                    values.as_slice::<f32>().iter().copied().fold(0.0, f32::max)
                };
                let (most, error) = (largest(array.clone()), largest(read.subtract(&array).unwrap()));
                let bound = if kind == GgufType::Q4_0 && name != "lm_head.weight" { 0.13 } else { 0.006 };
                assert!(error <= bound * most && error > 0.0, "{model} {name} {kind:?}: {error} of {most}");
            }
            let read = unpacked(&path);
            let (ours, theirs) = (crate::common::tokenizer_of(read.path()), crate::common::tokenizer_of(folder));
            for text in ["hello world", "  hello  world\nand é <s>[user] x</s> y", ""] {
                assert_eq!(ours.encode(text, true).unwrap(), theirs.encode(text, true).unwrap(), "{model} {text:?}");
            }
            let template = |folder: &Path| json_file(&folder.join("tokenizer_config.json"))["chat_template"].clone();
            assert_eq!(template(read.path()), template(folder));
            models::load(&ModelFiles::read(read.path()).unwrap(), None, |_, _| ()).unwrap();
        }
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1, "a temporary file is left");
    }
}

#[test]
fn byte_level_tokenizers_are_written_too() {
    // Phi-4 has one; any of phi3's size does here.
    let folder = copy_of("text/phi3");
    let qwen2 = unpacked(&fixture("qwen2.gguf"));
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(qwen2.path().join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("model.gguf");
    written(folder.path(), GgufType::Q8_0, &path).unwrap();
    let read = unpacked(&path);
    let (ours, theirs) = (crate::common::tokenizer_of(read.path()), crate::common::tokenizer_of(qwen2.path()));
    let text = "hello hello12\nworld<|im_end|>";
    assert_eq!(ours.encode(text, true).unwrap(), theirs.encode(text, true).unwrap());
}

#[test]
fn what_cannot_be_written_is_said() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("model.gguf");
    let refused = |file: &str, change: fn(&mut Value), expected: &str| {
        let folder = writable("text/phi3");
        edit_json(&folder.path().join(file), change);
        let error = format!("{:#}", written(folder.path(), GgufType::F16, &path).unwrap_err());
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    };
    refused("config.json", |json| json["model_type"] = "phi3_v".into(), "no place for its vision tower");
    refused("config.json", |json| json["model_type"] = "gpt_neox".into(), "llama, mistral and phi3 can");
    refused("config.json", |json| json["rope_scaling"]["type"] = "ntk".into(), "of type ntk cannot be written");
    refused("config.json", |json| json["vocab_size"] = 100.into(), "of 100 in the model");
    refused("tokenizer.json", |json| json["model"]["merges"] = json!([]), "not those of a SentencePiece model");
    refused("tokenizer.json", |json| json["normalizer"] = json!({"type": "NFKC"}), "not known to llama.cpp");
    let folder = golden("text/phi3");
    let own = format!("{:#}", written(&folder, GgufType::F16, &path).unwrap_err());
    assert!(own.contains("not those of a SentencePiece model"), "{own}");
    let folder = writable("text/phi3");
    let folder = folder.path();
    let config = json_file(&folder.join("config.json"));
    let tokenizer = json_file(&folder.join("tokenizer.json"));
    let tensors = [("model.norm.weight".to_owned(), vec![64])];
    let source = Source { config: &config, tokenizer: &tokenizer, tokenizer_config: &Value::Null, tensors: &tensors };
    let failed = gguf::write(&source, GgufType::F16, |_| anyhow::bail!("no such tensor"), &path);
    assert_eq!(failed.unwrap_err().to_string(), "no such tensor");
    let failed = gguf::write(&source, GgufType::F16, |_| Ok(Array::from_f32(1.0)), &path);
    assert!(format!("{:#}", failed.unwrap_err()).contains("[] where [64] was announced"));
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0, "a file is left");
}
