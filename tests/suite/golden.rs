//! The reference's results, through `verify`.

use std::fs;

use mlx_rs::Dtype;
use phi3v::checkpoint::ModelFiles;
use phi3v::engine::sequence::Sequence;
use phi3v::models;
use phi3v::processor::Message;
use phi3v::verify::{CaseReport, verify};

use crate::common::{copy_of, crops, edit_json, golden};

fn assert_passes(folder: &str, steps: &[usize]) {
    let reports = verify(None, &golden(folder), steps, |_| ()).unwrap();
    let failures: Vec<&CaseReport> =
        reports.iter().filter(|report| report.failed() || report.skipped.is_some()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(reports.iter().map(|report| report.checks.len()).sum::<usize>() > 0);
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
    assert!(failed.iter().any(|check| check.stage == "last_logits"), "{failed:?}");
    assert!(failed.iter().all(|check| check.detail.contains("divergence") || check.detail.contains("recorded")));
}
