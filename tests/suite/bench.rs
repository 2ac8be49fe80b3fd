//! `phi3v bench`: what it reports and refuses. How fast anything is, is not tested.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use phi3v::adapter::{Adapter, Format};
use phi3v::bench::report::PhaseName;
use phi3v::bench::shape::Shape;
use phi3v::bench::work::Facts;
use phi3v::bench::{self, Settings, Sweep};
use phi3v::checkpoint::low_rank::LowRank;
use phi3v::models;
use serde_json::Value;

use crate::common::{edit_json, fails, golden, json_file, path, phi3v, succeeds, text};

/// The smallest shape, and as little to do as possible.
fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let least = ["bench", "--shape", "tiny", "--prompt-tokens", "5", "--gen-tokens", "3", "--quiet"];
    [&least, more].concat()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args).0).unwrap()
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {value}"))
}

#[test]
fn a_report_has_all_phases_with_sane_numbers() {
    let report = json(&quick(&["--images", "1", "--num-crops", "1", "--batch", "2", "--depth", "9", "--json"]));
    let device = report.pointer("/machine/device").and_then(Value::as_str).unwrap();
    assert!(!device.is_empty());
    for limit in ["/machine/bytes_per_second", "/machine/flops_per_second"] {
        assert!(number(&report, limit) > 1e6, "{report}");
    }
    assert_eq!(report.pointer("/model/name").unwrap(), "tiny");
    assert_eq!(number(&report, "/model/bits_per_weight"), 16.0);
    assert_eq!(number(&report, "/model/weight_bytes"), 2.0 * number(&report, "/model/parameters"));
    assert_eq!(number(&report, "/settings/repetitions"), 3.0);
    let point = &report["points"][0];
    // One tile and the whole: 313 positions.
    assert_eq!((point["image_tokens"].as_u64(), point["depth"].as_u64()), (Some(313), Some(9)));
    assert!(number(point, "/peak_memory_bytes") > number(&report, "/model/weight_bytes"));
    let counts = [("image_decode", 1), ("encoder", 1), ("projector", 1), ("prefill", 2 * 318), ("decode", 2 * 3)];
    assert_eq!(point["phases"].as_object().unwrap().len(), counts.len());
    for (name, count) in counts {
        let phase = &point["phases"][name];
        assert_eq!(phase["count"], count, "{name}");
        for spread in ["seconds", "per_second"] {
            let of = |key: &str| number(phase, &format!("/{spread}/{key}"));
            assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max"), "{phase}");
            assert!(of("median_deviation") >= 0.0);
        }
        let speed = f64::from(count) / number(phase, "/seconds/median");
        assert!((number(phase, "/per_second/median") / speed - 1.0).abs() < 1e-9);
        assert_eq!(phase["share"].is_number(), ["prefill", "decode"].contains(&name), "{phase}");
    }
    let decode = &point["phases"]["decode"];
    assert_eq!(2.0 * number(decode, "/per_second_and_row"), number(decode, "/per_second/median"));
}

#[test]
fn sweeps_give_the_product() {
    let args = ["--gen-tokens", "0,2", "--batch", "1,3", "--images", "0,1", "--num-crops", "1,2", "--depth", "0,4"];
    let mut args = [&["bench", "--shape", "tiny", "--prompt-tokens", "5", "--repetitions", "1"], &args[..]].concat();
    args.extend(["--warmup", "0", "--kv-bits", "8", "--json"]);
    let report = json(&args);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 2 * 2 * 3 * 2);
    for point in points {
        let phases = point["phases"].as_object().unwrap();
        assert_eq!(phases.contains_key("decode"), point["gen_tokens"] != 0);
        assert_eq!(phases.contains_key("encoder"), point["images"] != 0);
        assert_eq!(point["num_crops"].is_null(), point["images"] == 0);
    }
}

/// Three digits, as tables show numbers.
fn figure(value: f64) -> String {
    let digits = (2 - value.log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}

#[test]
fn tables_show_the_figures_of_the_json() {
    let folder = tempfile::tempdir().unwrap();
    for flag in ["--markdown", "--verbose"] {
        let file = folder.path().join("report.json");
        let args = ["bench", "--shape", "tiny", "-p", "5,6", "-n", "3", "--output", path(&file), flag];
        let (table, _) = succeeds(&args);
        let report = json_file(&file);
        let bandwidth = number(&report, "/machine/bytes_per_second") / 1e9;
        assert!(table.contains(&format!("reads {bandwidth:.1} GB/s")), "{table}");
        for point in report["points"].as_array().unwrap() {
            for (phase, peak) in [("prefill", 1), ("decode", 0)] {
                let cell = |pointer: &str| figure(number(&point["phases"][phase], pointer));
                let cells = [
                    format!("{} s", cell("/seconds/median")),
                    format!("{} tokens/s", cell("/per_second/median")),
                    cell("/per_second/min"),
                    cell("/per_second/max"),
                ];
                // Its first cell: a share may be as many percent as the other prompt has tokens.
                let prompt = format!("{} ", point["prompt_tokens"]);
                let row =
                    |line: &&str| line.trim_start_matches(['|', ' ']).starts_with(&prompt) && line.contains(phase);
                let row = table.lines().find(row).unwrap_or_else(|| panic!("{phase}: {table}"));
                assert!(cells.iter().all(|cell| row.contains(cell)), "{cells:?}: {row}");
                // The peak is that of the point: it is there once.
                let memory = figure(number(point, "/peak_memory_bytes") / 1e9) + " GB";
                assert_eq!(row.matches(&memory).count(), peak, "{row}");
                assert_eq!(row.starts_with('|'), flag == "--markdown");
            }
        }
    }
}

#[test]
fn quantized_shapes_and_checkpoints_are_measured() {
    for (mode, bits) in [("affine", "2"), ("affine", "8"), ("mxfp4", "4"), ("nvfp4", "4"), ("mxfp8", "8")] {
        let report = json(&quick(&["--q-mode", mode, "--q-bits", bits, "--json"]));
        assert!(number(&report, "/model/bits_per_weight") < 14.0, "{mode}: {report}");
    }
    let tiny = golden("phi3v-tiny");
    let args = ["bench", "-m", path(&tiny), "-p", "5", "-n", "3", "-i", "1", "--num-crops", "1", "--json", "--quiet"];
    let report = json(&args);
    assert_eq!(report.pointer("/model/random"), Some(&false.into()));
    assert_eq!(report["points"][0]["phases"].as_object().unwrap().len(), 5);
}

#[test]
fn limits_are_of_the_models_type_and_groups_that_do_not_fit_are_told() {
    let (table, _) = succeeds(&quick(&["--dtype", "float16"]));
    assert!(table.contains("GFLOP/s in float16"), "{table}");
    let args = ["bench", "--shape", "smollm2-135m", "--q-group-size", "128", "--memory-limit", "1000"];
    let output = phi3v(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("matrices stay floats, as groups do not divide their rows"), "{stderr}");
    assert!(stderr.contains("0.000001 GB are free"), "{stderr}");
}

#[test]
fn adapters_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let change = |shape| Array::zeros::<f32>(shape).unwrap();
    let change = LowRank { a: change(&[4, 64]), b: change(&[192, 4]), scale: 1.0, magnitude: None };
    let modules = [("model.layers.0.self_attn.qkv_proj".to_owned(), change)].into();
    let adapter = Adapter { modules, ..Adapter::default() };
    adapter.write(folder.path(), Format::Peft, &Default::default()).unwrap();
    let tiny = golden("phi3v-tiny");
    let args = ["bench", "-m", path(&tiny), "--adapter", path(folder.path()), "-p", "5", "-n", "1", "-q"];
    let (table, _) = succeeds(&args);
    let expected = format!("with 0.0 M of {}, which shares leave out", folder.path().display());
    assert!(table.contains(&expected), "{table}");
}

/// Whatever comes before, a point's peak is its own.
#[cfg(target_os = "linux")]
#[test]
fn peaks_do_not_depend_on_the_order() {
    let args = ["bench", "--shape", "smollm2-135m", "-p", "16,512,17", "-n", "0", "--batch", "6", "--json", "--quiet"];
    let report = json(&[&args[..], &["-r", "1", "--warmup", "0"]].concat());
    let peak = |at: usize| number(&report["points"][at], "/peak_memory_bytes");
    // Of 512 positions more, six rows keep 70 MB.
    assert!(peak(1) > peak(0) + 40e6 && peak(2) < peak(0) + 20e6, "{report}");
}

/// A report of one combination in a file.
fn baseline(folder: &Path) -> PathBuf {
    let file = folder.join("baseline.json");
    succeeds(&quick(&["--output", path(&file)]));
    file
}

fn multiply(report: &mut Value, factor: f64) {
    for phase in ["prefill", "decode"] {
        for key in ["median", "min", "max"] {
            let speed = &mut report["points"][0]["phases"][phase]["per_second"][key];
            *speed = (speed.as_f64().unwrap() * factor).into();
        }
    }
}

#[test]
fn a_run_is_compared_with_a_baseline() {
    let folder = tempfile::tempdir().unwrap();
    let before = baseline(folder.path());
    let compare = ["--compare", path(&before), "--max-regression", "99%"];
    let report = json(&quick(&[&compare[..], &["--json"]].concat()));
    assert!(number(&report, "/points/0/phases/decode/change").abs() < 1e3);
    assert!(succeeds(&quick(&compare[..2])).0.contains("change"));

    edit_json(&before, |report| multiply(report, 1000.0));
    let output = phi3v(&quick(&[&compare[..], &["--json"]].concat())).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.contains("of its speed, more than 99 %") && stderr.contains("(prompt 5, 3 generated"), "{stderr}");
    // What was measured is printed all the same.
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&report, "/points/0/phases/decode/change") < -0.99);
    // Without a bound nothing fails.
    succeeds(&quick(&compare[..2]));
}

#[test]
fn what_is_no_baseline_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let before = baseline(folder.path());
    let refused = |args: &[&str], expected: &str| {
        fails(1, &quick(&[&["--compare", path(&before)], args].concat()), expected);
    };
    refused(&["--depth", "6"], "none of the combinations");
    refused(&["--q-bits", "4"], "cannot be compared");
    refused(&["--kv-bits", "8"], "cannot be compared");
    refused(&["--dtype", "float16"], "(bfloat16), and this is");
    refused(&["--output", path(&before)], "would replace the baseline");
    let known = fs::read(&before).unwrap();
    edit_json(&before, |report| report["machine"]["device"] = "abacus".into());
    refused(&[], "measured with abacus");
    fs::write(&before, &known).unwrap();
    edit_json(&before, |report| multiply(report, 0.0));
    refused(&[], "the speed of prefill cannot be 0 tokens/s");
    fs::write(&before, "{}").unwrap();
    refused(&[], "no report of phi3v bench");
    fs::write(&before, &known[..known.len() / 2]).unwrap();
    refused(&[], "not valid JSON");
    fs::remove_file(&before).unwrap();
    refused(&[], "no such file");
}

#[test]
fn nothing_is_measured_or_written_that_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let fails = |code: i32, args: &[&str], expected: &str| {
        fails(code, &[&["bench", "--output", path(&file)], args].concat(), expected);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{args:?}");
    };
    let mini = ["--shape", "phi-3.5-mini"];
    let with = |args: &[&'static str]| [&mini, args].concat();
    fails(1, &["--shape", "phi-4"], "there are phi-3.5-vision, phi-3.5-mini");
    fails(1, &with(&["--images", "1"]), "--images 1: this model has no vision");
    fails(1, &with(&["--prompt-tokens", "131072"]), "the model's context has 131072");
    fails(1, &with(&["--prompt-tokens", "4090"]), "after 4096 this model reads all anew");
    fails(1, &with(&["--memory-limit", "1G"]), "7.64 GB for weights");
    fails(1, &with(&["--q-bits", "4", "--memory-limit", "9G", "--batch", "200"]), "9.00 GB are free");
    fails(1, &with(&["--q-bits", "7"]), "7 bits");
    fails(1, &with(&["--kv-bits", "5"]), "--kv-bits 5");
    fails(2, &with(&["--batch", "0"]), "from 1");
    fails(2, &with(&["--batch", ""]), "from 1");
    fails(2, &with(&["--prompt-tokens", "0"]), "from 1");
    fails(2, &with(&["--num-crops", "0"]), "1..=1024");
    fails(2, &with(&["--repetitions", "0"]), "from 1");
    fails(2, &with(&["--max-regression", "10%"]), "--compare");
    fails(2, &with(&["--compare", "x", "--max-regression", "100%"]), "such as 10%");
    fails(2, &with(&["--model", "x"]), "cannot be used with");
    fails(2, &[], "--shape <NAME>");
    fails(2, &with(&["--json", "--markdown"]), "cannot be used with");
    fails(2, &with(&["--list-shapes"]), "cannot be used with");
    fails(1, &["--shape", "phi-3.5-vision", "--num-crops", "4,16"], "there are no images to cut");
    fails(2, &["--model", "x", "--q-bits", "4"], "cannot be used with");
    fails(2, &["--q-bits", "4"], "--shape");
    let nowhere = folder.path().join("none/report.json");
    crate::common::fails(1, &quick(&["--output", path(&nowhere)]), "there is no folder");
    crate::common::fails(1, &quick(&["--output", path(folder.path())]), "this is there, and no file");
}

#[cfg(target_os = "linux")]
#[test]
fn what_was_measured_is_printed_before_it_is_written_and_links_stay_links() {
    // Temporary files can be made there, but no file of this name.
    let folder = tempfile::tempdir().unwrap();
    let output = phi3v(&quick(&["--json", "--output", path(&folder.path().join("x".repeat(300)))])).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error: cannot write"), "{}", text(&output.stderr));
    assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["points"].is_array());

    fails(1, &quick(&["--output", "/dev/null"]), "this is there, and no file");
    fails(1, &quick(&["--output", "/proc/report.json"]), "cannot write there");
    let [file, link] = ["file.json", "link.json"].map(|name| folder.path().join(name));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    succeeds(&quick(&["--output", path(&link)]));
    assert!(link.is_symlink() && json_file(&file)["points"].is_array());
}

#[test]
fn the_end_of_the_first_factors_is_reached_and_left() {
    // Up to the boundary, and from behind it, nothing is read anew.
    for depth in ["4088", "4092"] {
        json(&quick(&["--depth", depth, "--prefill-step-size", "2048", "--repetitions", "1", "--json"]));
    }
    fails(1, &quick(&["--depth", "4089"]), "goes from 4094 to 4097 positions");
}

#[test]
fn shapes_are_listed() {
    let (list, _) = succeeds(&["bench", "--list-shapes"]);
    assert!(list.lines().any(|line| line.starts_with("phi-3.5-vision") && line.contains("4.15 B  images")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("qwen2.5-0.5b") && line.contains("494.0 M  text")), "{list}");
}

#[test]
fn what_ends_early_keeps_the_points_before() {
    let shape = Shape::find("tiny", None).unwrap();
    let weights = || shape.random_weights(None).unwrap();
    let (facts, model) = (Facts::of(&shape.files, weights()).unwrap(), models::build(&shape.files, weights()).unwrap());
    let settings = Settings { repetitions: 1, warmup: 0, prefill_step_size: 512, kv_bits: None };
    let mut report = bench::begin("tiny", true, Vec::new(), &facts, settings).unwrap();
    let sweep = |images: &[usize]| Sweep {
        prompt_tokens: vec![3],
        gen_tokens: vec![1],
        batch: vec![1],
        images: images.to_vec(),
        // Points are to be checked before: this one is an error.
        num_crops: vec![0],
        depth: vec![0],
    };
    let points = sweep(&[0, 1]).points();
    bench::run(&mut report, &model, &facts, &points, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(report.points.len(), 1);
    assert!(report.points[0].phases[&PhaseName::Decode].share.is_some());
    let mut second = points[0];
    second.prompt_tokens += 1;
    let mut until = |progress: bench::Progress| match *progress.point == second {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    assert!(!bench::run(&mut report, &model, &facts, &[points[0], second], &mut until).unwrap());
    assert_eq!(report.points.len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn control_c_ends_a_run_with_nothing_written() {
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let args = ["bench", "--shape", "tiny", "-n", "1,3000", "-r", "1000", "--output", path(&file), "--json"];
    let mut child = phi3v(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Not before it listens: it would end all the same, but as a process that was killed.
    let listens = |status: String| {
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:").map(str::trim).map(str::to_owned));
        caught.is_some_and(|mask| u64::from_str_radix(&mask, 16).unwrap_or(0) & 2 != 0)
    };
    let status = format!("/proc/{}/status", child.id());
    while child.try_wait().unwrap().is_none() && !fs::read_to_string(&status).is_ok_and(listens) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    if !output.stdout.is_empty() {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["points"].as_array().unwrap().len(), 1);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
