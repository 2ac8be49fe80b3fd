//! What a conversion costs is measured, and what is measured guides it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{Place, made_by};
use crate::common::{copy_of, edit_json, fails, golden, json_file, load, path, phi3v, tensors, text};
use crate::gguf::writable;

/// A short text: seconds count here, not figures.
fn texts() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    let lines = ["the quick brown fox jumps over the lazy dog\n", "def wrap(self): return [x for x in self]\n"];
    fs::write(&file, lines.concat().repeat(6)).unwrap();
    (folder, file)
}

/// A quantization with figures; what it prints, and the folder.
fn reported(source: &Path, args: &[&str]) -> (Value, String, Place) {
    let (_folder, file) = texts();
    let place = Place::new();
    let run = |json: &[&str]| {
        let model = place.model();
        let all = ["quantize", "--model", path(source), "--mlx-path", path(&model), "--report", "--force"];
        let mut command = phi3v(&[&all, args, json].concat());
        if !args.contains(&"--calibration") {
            command.args(["--calibration", path(&file)]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let table = run(&[]);
    (json_file(&place.model().join("quantization_report.json")), table, place)
}

fn kl(report: &Value) -> f64 {
    report["divergence"]["all"]["kl"].as_f64().unwrap()
}

/// Every packed matrix of the folder is listed, and figures are what figures can be.
fn assert_plausible(report: &Value, table: &str, place: &Place) {
    let packed: Vec<String> = tensors(&place.model())
        .into_keys()
        .filter_map(|name| name.strip_suffix(".scales").map(str::to_owned))
        .collect();
    let mut listed: Vec<&str> =
        report["matrices"].as_array().unwrap().iter().map(|matrix| matrix["path"].as_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, packed);
    for matrix in report["matrices"].as_array().unwrap() {
        let error = matrix["error"].as_f64().unwrap();
        assert!(error > 0.0 && error < 1.0 && matrix["bytes"].as_u64().unwrap() > 0, "{matrix}");
        assert!(table.contains(matrix["path"].as_str().unwrap()), "{table}");
    }
    let size: usize = tensors(&place.model()).values().map(mlx_rs::Array::nbytes).sum();
    assert_eq!(report["sizes"]["bytes"], size);
    for part in ["all", "text", "images"].map(|kind| &report["divergence"][kind]).into_iter().filter(|v| !v.is_null()) {
        assert!(part["kl"].as_f64().unwrap() > 0.0, "{report}");
        assert!((0.0..=1.0).contains(&part["top1_agreement"].as_f64().unwrap()), "{report}");
        assert!(part["positions"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn reports_have_all_matrices_and_how_far_predictions_moved() {
    let (report, table, place) = reported(&golden("text/llama"), &[]);
    assert_plausible(&report, &table, &place);
    assert_eq!(report["method"], "round to nearest");
    assert!(report["divergence"]["images"].is_null() && report.get("baseline").is_none());
}

#[test]
fn reports_on_models_that_see_tell_of_images_too() {
    let (texts, file) = texts();
    fs::copy(golden("phi3v-tiny/a_photo/photo.png"), texts.path().join("photo.png")).unwrap();
    let folder = file.parent().unwrap();
    let (report, table, place) = reported(&golden("phi3v-tiny"), &["--calibration", path(folder)]);
    assert_plausible(&report, &table, &place);
    assert!(report["divergence"]["images"].is_object() && table.contains(" images"), "{table}");
}

#[test]
fn one_json_object_is_printed_where_asked_for() {
    let place = made_by("quantize", &golden("text/llama"), &[]);
    let args = ["quantize", "--model", path(&golden("text/llama")), "--mlx-path", path(&place.model()), "--force"]
        .map(str::to_owned);
    let args = args.each_ref().map(String::as_str);
    let print = |more: &[&str]| -> Value {
        let output = phi3v(&[&args[..], &["--json"], more].concat()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
    };
    let plain = print(&[]);
    assert!(plain["report"].is_null() && plain["seconds"].as_f64().unwrap() >= 0.0, "{plain}");
    assert_eq!(plain["path"], path(&place.model()));
    assert_eq!(plain["sizes"]["parameters"], 172_352);
    let (_folder, file) = texts();
    let report = print(&["--report", "--calibration", path(&file)]);
    assert_eq!(report["report"], json_file(&place.model().join("quantization_report.json")));
}

#[test]
fn more_bits_cost_less() {
    let of = |bits: &str| kl(&reported(&golden("text/phi3"), &["--q-bits", bits]).0);
    let (eight, four, two) = (of("8"), of("4"), of("2"));
    assert!(eight < four && four < two, "{eight} {four} {two}");
}

#[test]
fn the_report_on_a_recipe_has_the_plain_quantization_beside_it() {
    let (report, table, place) = reported(&golden("text/llama"), &["--quant-predicate", "mixed_2_6"]);
    assert_plausible(&report, &table, &place);
    let baseline = &report["baseline"];
    assert_eq!((&baseline["packing"]["bits"], &baseline["packing"]["mode"]), (&2.into(), &"affine".into()));
    assert!(baseline["divergence"]["all"]["kl"].as_f64().unwrap() > kl(&report), "{report}");
    assert!(baseline["sizes"]["bytes"].as_u64() < report["sizes"]["bytes"].as_u64());
    assert!(table.contains("2 bits, to nearest"), "{table}");
    // What was measured for comparison is gone.
    assert_eq!(place.names(), ["model"]);
}

#[test]
fn guided_rounding_loads_and_differs_from_the_nearest() {
    let (report, table, place) =
        reported(&golden("text/llama"), &["--quant-method", "gptq", "--q-bits", "3", "--q-group-size", "32"]);
    assert_plausible(&report, &table, &place);
    assert_eq!(report["method"], "gptq");
    load(&place.model()).unwrap();
    let nearest = made_by("quantize", &golden("text/llama"), &["--q-bits", "3", "--q-group-size", "32"]);
    let (ours, theirs) = (tensors(&place.model()), tensors(&nearest.model()));
    assert!(ours.keys().eq(theirs.keys()));
    let same = |name: &str| crate::common::bytes(&ours[name]) == crate::common::bytes(&theirs[name]);
    assert!(!same("model.layers.0.mlp.down_proj.weight") && same("model.norm.weight"));
    // On the text that it was guided by and is judged by here, it is the better one.
    assert!(kl(&report) < report["baseline"]["divergence"]["all"]["kl"].as_f64().unwrap(), "{table}");
}

#[test]
fn built_in_texts_fit_into_short_contexts() {
    let source = copy_of("text/llama");
    edit_json(&source.path().join("config.json"), |json| json["max_position_embeddings"] = 64.into());
    made_by("quantize", source.path(), &["--report"]);
}

#[test]
fn a_wanted_size_is_met_from_below() {
    let (_folder, file) = texts();
    for target in ["4.5", "6"] {
        let args = ["--target-bpw", target, "--calibration", path(&file), "--q-group-size", "32"];
        let place = made_by("quantize", &golden("text/llama"), &args);
        let (bits, target) = (bits_per_weight(&place.model()), target.parse::<f64>().unwrap());
        assert!(bits <= target && bits > target - 0.5, "{bits} of {target}");
        let config = json_file(&place.model().join("config.json"));
        let chosen = config["quantization"].as_object().unwrap();
        assert!(chosen.values().any(Value::is_object), "{config}");
        load(&place.model()).unwrap();
    }
}

/// Bits of all tensors for each number of the source.
fn bits_per_weight(folder: &Path) -> f64 {
    let numbers: usize = tensors(&golden("text/llama")).values().map(mlx_rs::Array::size).sum();
    let bytes: usize = tensors(folder).values().map(mlx_rs::Array::nbytes).sum();
    8.0 * bytes as f64 / numbers as f64
}

#[test]
fn sizes_out_of_range_are_refused_with_the_range() {
    let place = Place::new();
    let (_folder, file) = texts();
    let model = place.model();
    for target in ["1", "12", "-4", "nan"] {
        let flag = format!("--target-bpw={target}");
        let source = golden("text/llama");
        let args = ["quantize", "--model", path(&source), "--mlx-path", path(&model), &flag];
        fails(1, &[&args[..], &["--calibration", path(&file)]].concat(), "takes 2.53 to 8.51 bits per weight");
    }
    let eight = made_by("quantize", &golden("text/llama"), &["--q-bits", "8"]);
    let source = eight.model();
    let args = ["quantize", "--model", path(&source), "--mlx-path", path(&model), "--target-bpw", "4.5"];
    let output = phi3v(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr); // a warning comes first
    assert!(stderr.lines().last().unwrap().ends_with("this one is quantized"), "{stderr}");
    let source = golden("text/llama");
    let args = ["quantize", "--model", path(&source), "--mlx-path", path(&model), "--target-bpw", "4.5"];
    fails(1, &[&args[..], &["--q-mode", "mxfp4"]].concat(), "affine");
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn calibration_that_is_none_is_refused() {
    let place = Place::new();
    let (folder, model, source) = (tempfile::tempdir().unwrap(), place.model(), golden("text/llama"));
    let refused = |file: &Path, expected: &str| {
        let args = ["quantize", "--model", path(&source), "--mlx-path", path(&model), "--report", "--calibration"];
        fails(1, &[&args[..], &[path(file)]].concat(), expected);
        assert_eq!(place.names(), Vec::<String>::new());
    };
    refused(folder.path(), "holds neither text nor images");
    refused(Path::new("no-such.txt"), "no-such.txt");
    fs::write(folder.path().join("x.pdf"), "x").unwrap();
    refused(folder.path(), "is neither text (.txt) nor an image");
    refused(&golden("phi3v-tiny/a_photo/photo.png"), "this model takes no images");
}

#[test]
fn a_report_on_a_gguf_file_compares_with_the_result() {
    let folder = writable("text/llama");
    let place = Place::new();
    let file = place.0.path().join("model.gguf");
    crate::common::succeeds(&["convert", "--model", path(folder.path()), "--export-gguf", path(&file)]);
    let (report, table, place) = reported(&file, &["--q-bits", "2"]);
    assert_plausible(&report, &table, &place);
}
