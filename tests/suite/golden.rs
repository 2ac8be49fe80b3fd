//! The reference's results, through `verify`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::Dtype;
use phi3v::checkpoint::ModelFiles;
use phi3v::engine::sequence::Sequence;
use phi3v::models;
use phi3v::processor::Message;
use phi3v::verify::{CaseReport, Check, verify};
use tempfile::TempDir;

use crate::common::{copy_of, crops, edit_json, golden};

fn assert_passes(folder: &str, steps: &[usize]) {
    let reports = verify(None, &golden(folder), steps, |_| ()).unwrap();
    let failures: Vec<&CaseReport> =
        reports.iter().filter(|report| report.failed() || report.skipped.is_some()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(reports.iter().any(|report| report.checks.iter().any(|check| check.stage.ends_with("logits"))));
}

#[test]
fn phi3_passes_below_at_and_above_the_longrope_boundary() {
    assert_passes("text/phi3", &[1, 7, 64, 2048]);
}

#[test]
fn llama_passes() {
    assert_passes("text/llama", &[1, 7, 64, 2048]);
}

#[test]
fn mistral_passes_with_its_sliding_window() {
    assert_passes("text/mistral", &[1, 7, 64, 2048]);
}

#[test]
fn qwen2_matches() {
    assert_passes("text/qwen2", &[1, 7, 64, 2048]);
}

#[test]
fn gemma_matches() {
    assert_passes("text/gemma", &[1, 7, 64, 2048]);
}

#[test]
fn gemma2_matches_with_its_windows_and_soft_caps() {
    assert_passes("text/gemma2", &[1, 7, 64, 2048]);
}

#[test]
fn phi3_v_passes_on_text_and_chats() {
    assert_passes("phi3v-tiny/e_text", &[1, 7, 64, 2048]);
    assert_passes("phi3v-tiny/f_chat", &[1, 7, 64, 2048]);
}

#[test]
fn phi3_v_passes_on_images() {
    for case in ["a_photo", "c_two_images", "d1_rgba", "d2_gray", "d3_exif"] {
        assert_passes(&format!("phi3v-tiny/{case}"), &[64]);
    }
}

#[test]
fn phi3_v_passes_on_an_upright_image_in_sixteen_tiles() {
    assert_passes("phi3v-tiny/b_portrait", &[2048]);
}

#[test]
fn tokenizer_passes_with_a_bos_and_greedy_chat_tokens() {
    let folder = copy_of("phi3v-tiny");
    edit_json(&folder.path().join("tokenizer.json"), |json| {
        for token in json["added_tokens"].as_array_mut().unwrap() {
            let name = token["content"].as_str().unwrap();
            if name.starts_with("<|") && name != "<|endoftext|>" && name != "<|image|>" {
                token["rstrip"] = true.into();
            }
        }
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        });
    });
    let tokenizer = crate::common::tokenizer_of(folder.path());
    let texts = fs::read_to_string(golden("phi3v-longrope/tokenizer_golden.json")).unwrap();
    let texts: serde_json::Value = serde_json::from_str(&texts).unwrap();
    for case in texts.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(serde_json::json!(ids), case["ids"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["decoded_with_special"], "{text:?}");
    }
}

/// What a re-prefill at the boundary must equal: the same sequence read in one go, its image included.
#[test]
fn crossing_the_boundary_keeps_the_image() {
    let folder = copy_of("phi3v-tiny");
    // The prompt below takes 329 positions.
    edit_json(&folder.path().join("config.json"), |json| json["original_max_position_embeddings"] = 333.into());
    let files = ModelFiles::read(folder.path()).unwrap();
    let processor = models::processor(&files).unwrap();
    let model = models::load(&files, Some(Dtype::Float32), |_, _| ()).unwrap();
    let image = image::open(golden("phi3v-tiny/d2_gray/gray.png")).unwrap().to_rgb8();
    let tokens = processor.tokenizer.encode("one two three four five six seven eight nine ten eleven twelve", false);
    let tokens = tokens.unwrap();

    let prepare = |answer: &[u32]| {
        let message = Message::new("user", "What is this?");
        let mut prompt = processor.prepare(&[message], std::slice::from_ref(&image), &crops(1)).unwrap();
        prompt.segments.push(phi3v::processor::Segment::Text(answer.to_vec()));
        prompt
    };
    let mut growing = Sequence::new(&model, &prepare(&[])).unwrap();
    growing.next_logits(64).unwrap();
    let mut crossings = 0;
    for (i, &token) in tokens.iter().enumerate() {
        let crosses = growing.push(token);
        crossings += usize::from(crosses);
        let logits = growing.next_logits(64).unwrap();
        if crosses || i + 1 == tokens.len() {
            let mut whole = Sequence::new(&model, &prepare(&tokens[..=i])).unwrap();
            let expected = whole.next_logits(2048).unwrap();
            let difference = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-4, "after {i} tokens: {difference}");
        }
    }
    assert_eq!(crossings, 1, "the prompt must end just below the boundary");
}

/// They are for the trainer's tests.
#[test]
fn recordings_of_training_are_passed_over() {
    let reports = verify(None, &golden("phi3v-tiny/lora"), &[64], |_| ()).unwrap();
    assert!(reports.iter().any(|report| report.skipped.is_some()) && !reports.iter().any(CaseReport::failed));
}

#[test]
fn verify_finds_a_wrong_number() {
    let folder = copy_of("text/phi3");
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    // The exponent of one weight.
    bytes[last + 1] ^= 0x02;
    fs::write(&weights, bytes).unwrap();
    let reports = verify(None, folder.path(), &[64], |_| ()).unwrap();
    let checks = reports.iter().flat_map(|report| &report.checks);
    let failed: Vec<_> = checks.filter(|check| !check.passed).collect();
    assert!(failed.iter().any(|check| check.stage.ends_with("logits")), "{failed:?}");
    assert!(failed.iter().all(|check| check.detail.contains("divergence") || check.detail.contains("recorded")));
}

/// The checks that fail in a copy of a recording that was changed.
fn failures(folder: &Path) -> Vec<Check> {
    let reports = verify(None, folder, &[64], |_| ()).unwrap();
    reports.into_iter().flat_map(|report| report.checks).filter(|check| !check.passed).collect()
}

fn fails_at(folder: &Path, stage: &str, detail: &str) {
    let failed = failures(folder);
    let found = failed.iter().any(|check| check.stage.starts_with(stage) && check.detail.contains(detail));
    assert!(found, "{stage}, {detail}: {failed:?}");
}

/// Copies of a recording of text and of one with an image, with nothing else beside the checkpoint.
fn small_recordings() -> [(TempDir, PathBuf); 2] {
    let text = copy_of("text/llama");
    edit_json(&text.path().join("golden.json"), |json| json["cases"].as_array_mut().unwrap().truncate(1));
    let image = copy_of("phi3v-tiny");
    let folder = image.path().join("d2_gray");
    std::fs::create_dir_all(&folder).unwrap();
    for file in fs::read_dir(golden("phi3v-tiny/d2_gray")).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let (of_text, of_image) = (text.path().join("golden_12.safetensors"), folder.join("golden.safetensors"));
    [(text, of_text), (image, of_image)]
}

/// The tensors of a recording as bytes; some are of types that MLX does not read.
type Recorded = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn recorded(file: &Path) -> Recorded {
    let bytes = fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
    let parts = |(name, view): (String, safetensors::tensor::TensorView)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    tensors.into_iter().map(parts).collect()
}

fn record(file: &Path, tensors: &Recorded) {
    let mut views = Vec::new();
    for (name, (dtype, shape, data)) in tensors {
        views.push((name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap()));
    }
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_recording_that_lacks_something_fails() {
    for (folder, file) in small_recordings() {
        assert!(failures(folder.path()).is_empty());
        let whole = recorded(&file);
        // Margins only excuse ties; what they belong to is compared.
        for left_out in whole.keys().filter(|name| *name != "greedy_margin") {
            let mut rest = whole.clone();
            rest.remove(left_out);
            record(&file, &rest);
            // The numbers of tokens are in both files.
            edit_json(&file.with_file_name("golden.json"), |json| _ = json.as_object_mut().unwrap().remove(left_out));
            let stage = match left_out.trim_end_matches("_0") {
                "crop_sample_index" => "crop_samples",
                stage => stage,
            };
            let failed = failures(folder.path());
            assert!(failed.iter().any(|check| check.stage.starts_with(stage)), "{left_out}: {failed:?}");
        }
    }
}

#[test]
fn a_recording_that_holds_nothing_or_something_unknown_fails() {
    for (folder, file) in small_recordings() {
        let whole = recorded(&file);
        let mut changed = whole.clone();
        changed.insert("greedy_ids".into(), (safetensors::Dtype::I32, vec![0], Vec::new()));
        record(&file, &changed);
        fails_at(folder.path(), "greedy_ids", "greedy_ids is not recorded");

        let mut changed = whole.clone();
        changed.insert("hidden_states".into(), (safetensors::Dtype::F32, vec![1], vec![0; 4]));
        record(&file, &changed);
        fails_at(folder.path(), "hidden_states", "no stage knows it");

        record(&file, &whole);
        edit_json(&file.with_file_name("golden.json"), |json| {
            let case = if json["cases"].is_array() { &mut json["cases"][0] } else { json };
            case["stages"].as_array_mut().unwrap().push("hidden_states".into());
        });
        fails_at(folder.path(), "hidden_states", "listed, and not recorded");
    }
}
