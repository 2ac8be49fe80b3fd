//! Qwen2-VL through every command: it is a vision model that shares nothing with Phi-3-vision but the traits.

use std::fs;
use std::path::Path;

use mlx_rs::{Array, Dtype};
use phi3v::checkpoint::{ModelFiles, Param};
use phi3v::models::{self, Group};
use phi3v::processor::Message;
use phi3v::processor::images::ImageOptions;
use phi3v::train::gradient::Trained;
use phi3v::verify::verify;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{fails, golden, path, phi3v, succeeds, text, told};

fn model() -> std::path::PathBuf {
    golden("vlm/qwen2_vl")
}

fn image() -> String {
    path(&model().join("a_two_images/0.png")).to_owned()
}

#[test]
fn it_passes_on_all_recordings() {
    let reports = verify(None, &model(), &[1, 7, 64, 2048], |_| ()).unwrap();
    assert_eq!(reports.len(), 6);
    let failed: Vec<_> = reports.iter().filter(|report| report.failed() || report.skipped.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn answer(model: &Path, image: &str) -> String {
    let args =
        ["generate", "-m", path(model), "-p", "What is this?", "-i", image, "-n", "8", "--dtype", "float32", "-q"];
    succeeds(&args).0
}

#[test]
fn what_is_converted_answers_alike_and_has_the_names_of_mlx_vlm() {
    let folder = tempfile::tempdir().unwrap();
    let (converted, quantized) = (folder.path().join("mlx"), folder.path().join("q8"));
    succeeds(&["convert", "--hf-path", path(&model()), "--mlx-path", path(&converted)]);
    assert_eq!(answer(&converted, &image()), answer(&model(), &image()));
    let index = fs::read_to_string(converted.join("model.safetensors.index.json")).unwrap();
    for name in [
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.self_attn.q_proj.bias",
        "language_model.lm_head.weight",
        "vision_tower.blocks.1.attn.qkv.weight",
        "vision_tower.merger.mlp.2.weight",
        "vision_tower.patch_embed.proj.weight",
    ] {
        assert!(index.contains(&format!("\"{name}\"")), "{name}");
    }
    // The language part is quantized, the tower and the projector are not.
    let args = ["--q-bits", "8", "--q-group-size", "32"];
    succeeds(&[&["convert", "--hf-path", path(&converted), "--mlx-path", path(&quantized), "-q"][..], &args].concat());
    let index = fs::read_to_string(quantized.join("model.safetensors.index.json")).unwrap();
    assert!(index.contains("language_model.model.layers.0.mlp.down_proj.scales"));
    assert!(
        index.contains("language_model.lm_head.scales") && !index.contains("vision_tower.blocks.0.attn.qkv.scales")
    );
    assert!(!answer(&quantized, &image()).is_empty());
}

#[test]
fn rows_with_and_without_images_are_answered_together_as_alone() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [json!({"prompt": "What is this?", "image": image()}), json!({"prompt": "Name a color."})];
    let content = json!([{"type": "image", "image": image()}, {"type": "text", "text": "And this?"}]);
    let rows = rows.into_iter().chain([json!({"messages": [{"role": "user", "content": content}]})]);
    let rows: Vec<String> = rows.map(|row| row.to_string()).collect();
    let input = folder.path().join("rows.jsonl");
    let answers = |rows: &[String], batch: &str| -> Vec<Value> {
        fs::write(&input, rows.join("\n")).unwrap();
        let (model, input) = (model(), path(&input).to_owned());
        let args =
            ["generate", "-m", path(&model), "--input", &input, "--output", "-", "-n", "8", "--dtype", "float32"];
        let out = succeeds(&[&args[..], &["--max-batch-size", batch, "-q"]].concat()).0;
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].clone()).collect()
    };
    let together = answers(&rows, "3");
    assert_eq!(together, answers(&rows, "1"));
    assert!(together.iter().all(Value::is_string), "{together:?}");
}

#[test]
fn a_chat_goes_on_about_its_images() {
    let model = model();
    let input = format!("/image {}\nWhat is this?\nAre you sure?\n", image());
    let output = told(&["chat", "-m", path(&model), "-n", "6", "--dtype", "float32"], input.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().filter(|line| !line.is_empty()).count(), 2, "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("10 × 14 patches, 35 tokens"), "{}", text(&output.stderr));
}

#[test]
fn options_are_its_own() {
    let model = model();
    let args = ["generate", "-m", path(&model), "-p", "What is this?", "-n", "1"];
    let image = image();
    fn with<'a>(args: &[&'a str], image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [args, &["-i", image], more].concat()
    }
    fails(
        1,
        &with(&args, &image, &["--num-crops", "4"]),
        "--num-crops: this model does not have that image option; it has --min-pixels",
    );
    fails(
        1,
        &with(&args, &image, &["--min-pixels", "9999999"]),
        "--min-pixels is 9999999, more than --max-pixels, 200704",
    );
    let output = phi3v(&with(&args, &image, &["--max-pixels", "3136", "-v"])).output().unwrap();
    assert!(text(&output.stderr).contains("2 × 4 patches, 2 tokens"), "{}", text(&output.stderr));
    let phi = golden("phi3v-tiny");
    fails(1, &["generate", "-m", path(&phi), "-p", "a", "--max-pixels", "9"], "--max-pixels: this model does not have");
    let llama = golden("text/llama");
    fails(
        1,
        &["generate", "-m", path(&llama), "-p", "a", "--num-crops", "4"],
        "--num-crops: this model takes no images",
    );
}

#[test]
fn a_placeholder_says_where_an_image_stands() {
    let processor = models::processor(&ModelFiles::read(&model()).unwrap()).unwrap();
    let image = image::RgbImage::new(56, 56);
    let prompt = |text: &str, images| {
        processor.prepare(&[Message::new("user", text)], &vec![image.clone(); images], &ImageOptions::default())
    };
    let placeholder = "<|vision_start|><|image_pad|><|vision_end|>";
    assert!(prompt("a", 2).unwrap().text.contains(&format!("user\n{placeholder}{placeholder}a")));
    assert!(prompt(&format!("a{placeholder}b"), 1).unwrap().text.contains(&format!("user\na{placeholder}b")));
    let error = |text: &str, images| prompt(text, images).err().unwrap().to_string();
    assert!(error(placeholder, 0).contains("no images are given"));
    assert!(error(placeholder, 2).contains("2 images are given"));
}

/// A row with an image and an answer, as the trainer reads it, in a batch with a row of text.
fn batch(rows: &TempDir) -> (models::Model, Vec<(String, Param)>, phi3v::train::gradient::Batch) {
    use phi3v::dataset::{Reader, Settings};
    use phi3v::engine::stop_tokens;
    use phi3v::processor::images::ImageLimits;
    use phi3v::train::batch::Reading;

    let file = rows.path().join("rows.jsonl");
    let lines = [
        json!({"question": "What is this?", "answer": "A cat.", "image": image()}).to_string(),
        json!({"question": "And?", "answer": "No."}).to_string(),
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let files = ModelFiles::read(&model()).unwrap();
    let processor = models::processor(&files).unwrap();
    let weights = models::weights(&files, Some(Dtype::Float32)).unwrap();
    let (model, parts) = models::build_with_parts(&files, weights).unwrap();
    let settings = Settings {
        max_seq_length: 2048,
        max_position_embeddings: 2048,
        image_options: ImageOptions::default(),
        limits: ImageLimits::default(),
        mask_prompt: true,
        stop_tokens: stop_tokens(&files, &processor.tokenizer).unwrap(),
    };
    let mut reader = Reader::new(&processor, &settings);
    let examples = reader.read(&file, &mut |_| std::ops::ControlFlow::Continue(())).unwrap().unwrap();
    assert!(examples.bad.is_empty(), "{:?}", examples.bad);
    let (limits, image_options) = (settings.limits, settings.image_options);
    let reading = Reading { model: &model, processor: &processor, limits, image_options, feature_bytes: None };
    let order = phi3v::dataset::Order::new(0, 2, None).unwrap();
    let batch = phi3v::train::batch::Batches::new(examples.good, order, reading).get(0).unwrap();
    (model, parts.params.into_iter().collect(), batch)
}

/// The language part lies under another prefix than that of other models: layer by layer, every tensor still gets the
/// gradient that it gets at once.
#[test]
fn gradients_layer_by_layer_are_those_of_the_whole() {
    let rows = tempfile::tempdir().unwrap();
    let (model, params, batch) = batch(&rows);
    let gradients = |checkpoint| {
        let trained = Trained { model: &model, params: params.clone(), checkpoint };
        trained.loss_and_gradients(&batch).unwrap()
    };
    let ((loss, whole), (same_loss, by_layers)) = (gradients(false), gradients(true));
    assert!((loss - same_loss).abs() < 1e-4, "{loss} {same_loss}");
    let norm = |array: &Array| array.square().unwrap().sum(None).unwrap().item_exact::<f32>().sqrt();
    for ((name, _), (a, b)) in params.iter().zip(whole.iter().zip(&by_layers)) {
        let difference = norm(&a.subtract(b).unwrap());
        // Biases of keys shift all scores of a query alike, and change nothing.
        let nothing = name.ends_with("k_proj.bias") || name.contains(".attn.qkv.bias");
        assert!(difference < 1e-3 * norm(a).max(1e-3), "{name}: {difference} of {}", norm(a));
        assert!(norm(a) > 0.0 || nothing, "{name} has no gradient");
    }
}

#[test]
fn a_tensor_that_belongs_nowhere_is_an_error() {
    let rows = tempfile::tempdir().unwrap();
    let (model, mut params, batch) = batch(&rows);
    params[0].0 = "another_tower.weight".into();
    let trained = Trained { model: &model, params, checkpoint: true };
    let error = trained.loss_and_gradients(&batch).unwrap_err().to_string();
    assert!(error.contains("another_tower.weight belongs to no part of this model"), "{error}");
    assert_eq!((model.group)("language_model.model.layers.1.mlp.up_proj.weight"), Some(Group::Layer(1)));
}

#[test]
fn it_is_trained_evaluated_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (folder.path().join("train.jsonl"), model());
    let row = json!({"question": "What is this?", "answer": "A cat.", "image": image()}).to_string();
    fs::write(&data, format!("{row}\n{row}\n{}\n", json!({"question": "And?", "answer": "No."}))).unwrap();
    for more in [&["--grad-checkpoint"][..], &["--train-vision", "--train-projector", "--grad-checkpoint"], &[]] {
        let adapter = folder.path().join(format!("adapter{}", more.len()));
        let args = ["lora", "-m", path(&model), "--data", path(&data), "--adapter-path", path(&adapter)];
        let rest = ["--iters", "12", "--learning-rate", "5e-3", "--batch-size", "2", "-q"];
        succeeds(&[&args[..], &rest, more].concat());
        let args = ["generate", "-m", path(&model), "-p", "What is this?", "-i", &image(), "-n", "8", "-q"];
        let taught = succeeds(&[&args[..], &["--adapter", path(&adapter)]].concat()).0;
        assert!(taught.contains("A cat."), "{more:?}: {taught}");
    }
    let args = ["eval", "vqa", "-m", path(&model), "--data", path(&data), "--max-tokens", "4", "--json"];
    let figures: Value = serde_json::from_str(&succeeds(&args).0).unwrap();
    assert_eq!(figures["rows"], 3, "{figures}");
    let args = ["bench", "-m", path(&model), "-p", "16", "-n", "2", "--images", "1", "--repetitions", "1", "--json"];
    let report: Value = serde_json::from_str(&succeeds(&args).0).unwrap();
    assert!(report["points"][0]["image_tokens"].as_u64().unwrap() > 100, "{report}");
    fails(1, &[&args[..], &["--num-crops", "4"]].concat(), "does not have that image option");
}
