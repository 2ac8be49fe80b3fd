//! What cannot be learnt is said before anything is loaded or written.

use std::fs;

use serde_json::{Value, json};

use super::bench::{Bench, question, strs, three_rows};
use crate::common::{golden, path, phi3v, succeeds, text};

/// Twelve rows, six of which are bad, each in another way.
fn bad_bench() -> Bench {
    let bench = Bench::new(&[] as &[Value]);
    image::RgbImage::from_pixel(30, 20, image::Rgb([9, 99, 200])).save(bench.path("a.png")).unwrap();
    let good = |at: usize| question(&format!("Row {at}?"), "Good").to_string();
    let with_image = |question: &str, image: Value| json!({"question": question, "answer": "b", "images": image});
    let rows = [
        good(1),
        "{\"question\": ".to_owned(),
        good(3),
        with_image("What?", json!(["missing.png"])).to_string(),
        with_image("What?", json!(["a.png"])).to_string(),
        with_image("<|image_1|> and <|image_2|>", json!(["a.png"])).to_string(),
        good(7),
        question("a", &"word ".repeat(500)).to_string(),
        good(9),
        question("a", " ").to_string(),
        json!({"question": "a", "answer": "b", "colour": "c"}).to_string(),
        good(12),
    ];
    bench.write("train.jsonl", &rows);
    bench
}

const BAD: [(usize, &str); 6] = [
    (2, "the line holds no JSON object"),
    (4, "missing.png"),
    (6, "names <|image_2|>, but 1 image is given"),
    (8, "more than the 400 of --max-seq-length"),
    (10, "the answer is empty"),
    (11, "the key \"colour\" means nothing here"),
];

#[test]
fn bad_rows_are_listed_before_anything_is_learnt() {
    let bench = bad_bench();
    let limits = ["--max-seq-length", "400", "--iters", "2"];
    let output = phi3v(&strs(&bench.args("run", &limits))).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), BAD.len() + 1, "{stderr}");
    for (line, (row, expected)) in lines.iter().zip(BAD) {
        assert!(line.contains(&format!("train.jsonl, row {row}: ")) && line.contains(expected), "{line}");
    }
    assert_eq!(lines[6], "error: 6 of 12 rows are bad; mend them, or leave them out with --skip-bad");
    assert!(!bench.path("run").exists());

    // Going on without them is asked for.
    let args = bench.args("run", &[&limits[..], &["--skip-bad"]].concat());
    let (_, stderr) = succeeds(&strs(&args));
    assert!(stderr.contains("6 of 12 rows are left out") && stderr.contains("rows        6, 0 held out"), "{stderr}");
    assert!(bench.path("run/adapters.safetensors").exists());

    // lora test has the same rules.
    let (tiny, rows) = (golden("phi3v-tiny"), bench.arg("train.jsonl"));
    let test = ["lora", "test", "-m", path(&tiny), "--num-crops", "1", "--max-seq-length", "400", "--data", &rows];
    let output = phi3v(&test).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("6 of 12 rows are bad"));
    let (stdout, _) = succeeds(&[&test[..], &["--skip-bad"]].concat());
    assert!(stdout.contains("rows right    0 of 6, 0.0 %"), "{stdout}");
}

#[test]
fn rows_that_are_all_bad_teach_nothing() {
    let bench = bad_bench();
    for skip in [&[][..], &["--skip-bad"]] {
        bench.write("train.jsonl", &["{", "{\"id\": 1}"]);
        let output = phi3v(&strs(&bench.args("run", skip))).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.ends_with("error: all of the 2 rows are bad; nothing was done\n"), "{stderr}");
    }
    bench.write("train.jsonl", &vec!["{"; 50]);
    let output = phi3v(&strs(&bench.args("run", &[]))).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(stderr.contains("and 30 bad rows more") && stderr.lines().count() == 22, "{stderr}");
    bench.write("train.jsonl", &[""]);
    bench.refuses(1, "run", &[], "train.jsonl holds no rows: it has nothing to learn from");
    assert!(!bench.path("run").exists());
}

#[test]
fn files_that_are_not_there_are_named() {
    let bench = Bench::new(&three_rows());
    let (folder, rows) = (bench.arg(""), bench.arg("train.jsonl"));
    bench.refuses(1, "run", &["--data", "/nonexistent"], "there is no /nonexistent");
    let empty = tempfile::tempdir().unwrap();
    bench.refuses(1, "run", &["--data", path(empty.path())], "has no train.jsonl");
    let output = phi3v(&["lora", "-m", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--data"));

    let test = |data: &str, code: i32, expected: &str| {
        let args = ["lora", "test", "-m", path(&golden("phi3v-tiny")), "--data", data].map(str::to_owned);
        let output = phi3v(&strs(&args)).output().unwrap();
        let stderr = text(&output.stderr);
        assert!(output.status.code() == Some(code) && stderr.contains(expected), "{stderr}");
    };
    test(&folder, 1, "has no test.jsonl");
    test("/nonexistent", 1, "/nonexistent");
    test(&rows, 0, "");
    bench.write("test.jsonl", &[question("a", "b")]);
    test(&folder, 0, "");

    // Rows that are held out are those of valid.jsonl, or a share, but not both.
    let held_out = |more: &[&str]| -> Value {
        let more = [&["--data", &folder, "--dry-run", "--json"], more].concat();
        serde_json::from_str(&succeeds(&strs(&bench.args("run", &more))).0).unwrap()
    };
    assert_eq!(held_out(&[])["held_out"], 0);
    let split = held_out(&["--val-split", "0.4"]);
    assert_eq!((&split["rows"], &split["held_out"]), (&2.into(), &1.into()));
    bench.write("valid.jsonl", &[question("a", "b"), question("c", "d")]);
    assert_eq!(held_out(&[])["held_out"], 2);
    bench.refuses(1, "run", &["--data", &folder, "--val-split", "0.4"], "valid.jsonl is there for validation already");
    bench.write("valid.jsonl", &["{"]);
    let output = phi3v(&strs(&bench.args("run", &["--data", &folder]))).output().unwrap();
    assert!(text(&output.stderr).contains("valid.jsonl, row 1: "));
    assert!(!bench.path("run").exists());
}

#[test]
fn what_cannot_be_trained_is_said() {
    let bench = Bench::new(&three_rows());
    let refused = |more: &[&str], expected: &str| bench.refuses(1, "run", more, expected);
    refused(
        &["--target", "nothing"],
        "--target: \"nothing\" is found in no path of the model, such as model.layers.0.",
    );
    refused(&["--freeze", "nothing"], "--freeze: \"nothing\" is found in no path of the model");
    refused(&["--freeze", "layers"], "nothing is left to train: --target, --num-layers or --freeze leave all as it is");
    refused(&["--rank", "65"], "--rank: 65 is more than model.layers.0.mlp.down_proj of 64 × 128 can have; 64 or less");
    refused(&["--num-layers", "4"], "--num-layers: 4, but the model has 3");
    refused(&["--dtype", "float16"], "--dtype float16 loses small gradients; take bfloat16 or float32");
    refused(&["--fine-tune-type", "full", "--dropout", "0.1"], "--dropout, --rslora and --alpha mean nothing there");
    refused(&["--min-learning-rate", "1"], "--min-learning-rate: 1 is more than the learning rate of 0.0001");
    refused(&["--model", path(&golden("text/llama")), "--train-vision"], "this model has no vision");
    refused(&["--model", path(&golden("text/llama")), "--train-projector"], "this model has no vision");
    let usage = |more: &[&str], expected: &str| bench.refuses(2, "run", more, expected);
    usage(&["--epochs", "0"], "--epochs");
    usage(&["--epochs", "2", "--iters", "2"], "cannot be used with");
    usage(&["--dropout", "1"], "--dropout");
    usage(&["--learning-rate", "0"], "--learning-rate");
    usage(&["--target", "("], "--target");
    usage(&["--freeze", "("], "--freeze");
    usage(&["--num-layers", "0"], "a number from 1 or all is expected");
    usage(&["--val-split", "1"], "--val-split");
    usage(&["--sample-image", "a.png"], "--sample-prompt");

    let quantized = bench.arg("quantized");
    let tiny = golden("phi3v-tiny");
    succeeds(&["convert", "--model", path(&tiny), "--mlx-path", &quantized, "-q", "--q-group-size", "32", "--quiet"]);
    refused(
        &["--model", &quantized, "--fine-tune-type", "full"],
        "lm_head is quantized and cannot be changed as a whole: take --fine-tune-type lora",
    );
    refused(
        &["--model", &quantized, "--fine-tune-type", "full", "--num-layers", "1"],
        "model.layers.2.mlp.down_proj is quantized",
    );

    fs::write(bench.path("file"), "mine").unwrap();
    bench.refuses(1, "file", &[], "that is no folder");
    assert_eq!(fs::read_to_string(bench.path("file")).unwrap(), "mine");
    assert!(!bench.path("run").exists());
}

#[test]
fn a_loss_that_grows_beyond_all_numbers_ends_the_run() {
    let bench = Bench::new(&three_rows());
    let more = ["--learning-rate", "1e30", "--iters", "9", "--warmup-steps", "0", "--quiet"];
    bench.refuses(1, "run", &more, "training has come apart; take a lower --learning-rate");
}

#[test]
fn memory_is_asked_for_before_it_is_taken() {
    let bench = Bench::new(&three_rows());
    let limit = |bytes: &str, more: &[&str]| {
        let args = bench.args("run", &[&["--memory-limit", bytes, "--quiet"], more].concat());
        text(&phi3v(&strs(&args)).output().unwrap().stderr)
    };
    bench.refuses(1, "run", &["--memory-limit", "1M", "--quiet"], "a quantized model is smaller: phi3v convert -q");
    let needed = |more: &[&str]| -> u64 {
        let args = bench.args("run", &[&["--dry-run", "--json", "--memory-limit", "99G"], more].concat());
        let plan: Value = serde_json::from_str(&succeeds(&strs(&args)).0).unwrap();
        ["weights", "trained", "activations"].iter().map(|part| plan["memory"][part].as_u64().unwrap()).sum()
    };
    let (plain, checkpoint) = (needed(&[]), needed(&["--grad-checkpoint"]));
    assert!(checkpoint < plain, "{checkpoint} {plain}");
    assert!(limit(&((plain + checkpoint) / 2).to_string(), &[]).contains("--grad-checkpoint would fit"));
    assert!(!bench.path("run").exists());
    assert_eq!(limit(&((plain + checkpoint) / 2).to_string(), &["--grad-checkpoint", "--iters", "1"]), "");

    // Of a tower that is not trained, nothing is kept.
    image::RgbImage::new(30, 20).save(bench.path("a.png")).unwrap();
    bench.write("pictures.jsonl", &[json!({"question": "a", "answer": "b", "image": "a.png"})]);
    let images = bench.arg("pictures.jsonl");
    let of = |flag: &str| needed(&["--data", &images, flag]);
    // This checkpoint's tower has 4 layers, 64 and 128 wide; the image has two tiles.
    let layer = 2 * 577 * (8 * 64 + 2 * 128) * 4;
    let kept = of("--train-vision") - of("--train-projector");
    assert!(kept >= 3 * layer && kept < 4 * layer, "{kept} of layers that take {layer}");
}

#[test]
fn a_dry_run_tells_what_would_be_trained() {
    let bench = Bench::new(&three_rows());
    // By the shapes of the checkpoint, with rank 8.
    let linears = [
        ("model.layers.*.mlp.down_proj", 3, [64, 128]),
        ("model.layers.*.mlp.gate_up_proj", 3, [256, 64]),
        ("model.layers.*.self_attn.o_proj", 3, [64, 64]),
        ("model.layers.*.self_attn.qkv_proj", 3, [192, 64]),
    ];
    let args = |more: &[&str]| bench.args("run", &[&["--dry-run"], more].concat());
    let (table, stderr) = succeeds(&strs(&args(&["--rank", "8"])));
    assert_eq!(stderr, "");
    let mut all = 0;
    for ((module, count, [output, input]), line) in linears.iter().zip(table.lines()) {
        let parameters = count * 8 * (output + input);
        all += parameters;
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers = [count, output, input, &parameters].map(ToString::to_string);
        let [count, output, input, parameters] = numbers.each_ref().map(String::as_str);
        assert_eq!(words, [module, count, "of", output, "×", input, parameters, "parameters"]);
    }
    let shown = ["rows        3, 0 held out; 3 steps", "memory      about "];
    assert!(
        table.contains(&format!("trained     {all} parameters\n")) && shown.iter().all(|line| table.contains(line))
    );
    assert!(!bench.path("run").exists());

    let plan = |more: &[&str]| -> Value {
        serde_json::from_str(&succeeds(&strs(&args(&[&["--json"], more].concat()))).0).unwrap()
    };
    let json = plan(&["--rank", "4"]);
    assert_eq!(json["parameters"], all / 2);
    assert_eq!(
        json["modules"][0],
        json!({"module": linears[0].0, "shape": [64, 128], "count": 3, "parameters": 3 * 4 * 192})
    );
    assert_eq!((&json["rows"], &json["steps"]), (&3.into(), &3.into()));
    assert_eq!(plan(&["--fine-tune-type", "dora"])["parameters"], all + 3 * (64 + 256 + 64 + 192));
    assert_eq!(plan(&["--num-layers", "1"])["parameters"], all / 3);
    // The matrices, two norms a layer, one in the end, and the tables at both ends.
    let matrices: i32 = linears.iter().map(|(_, count, [output, input])| count * output * input).sum();
    let full = matrices + 3 * 2 * 64 + 64 + 2 * 32064 * 64;
    assert_eq!(plan(&["--fine-tune-type", "full"])["parameters"], full);
    let without_tables = &["--fine-tune-type", "full", "--freeze", "embed_tokens|lm_head"];
    assert_eq!(plan(without_tables)["parameters"], full - 2 * 32064 * 64);
    assert_eq!(plan(&["--freeze", "qkv_proj"])["parameters"], all - 3 * 8 * (192 + 64));
    assert_eq!(plan(&["--iters", "7", "--grad-accumulation-steps", "3"])["steps"], 7);
    assert_eq!(plan(&["--epochs", "4", "--batch-size", "1", "--grad-accumulation-steps", "5"])["steps"], 3);

    // A run that is there is no obstacle.
    bench.train("run", &["--iters", "1"]);
    let before = fs::read(bench.path("run/adapters.safetensors")).unwrap();
    succeeds(&strs(&args(&[])));
    assert!(fs::read(bench.path("run/adapters.safetensors")).unwrap() == before);
}

#[test]
fn what_is_printed_where() {
    let bench = Bench::new(&three_rows());
    let args = bench.args(
        "run",
        &[
            "--iters",
            "2",
            "--steps-per-report",
            "1",
            "--sample-prompt",
            "Hi",
            "--plot",
            "--val-split",
            "0.4",
            "--dropout",
            "0.25",
        ],
    );
    let (stdout, stderr) = succeeds(&strs(&args));
    let folder = bench.arg("run");
    assert!(stdout.ends_with(&format!("{folder}\n")), "{stdout}");
    for expected in ["parameters", "step     1  epoch ", "held-out loss", "Hi → ", "use it with --adapter"] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
    for file in ["loss.png", "loss.svg", "metrics.jsonl", "adapter_config.json"] {
        assert!(bench.path("run").join(file).metadata().unwrap().len() > 0, "{file}");
    }
    let config = crate::common::json_file(&bench.path("run/adapter_config.json"));
    let told = ["fine_tune_type", "iters", "learning_rate", "optimizer", "seed"].map(|key| config[key].clone());
    assert_eq!(told, [json!("lora"), json!(2), json!(1e-4), json!("adamw"), json!(0)]);
    assert_eq!(config["lora_parameters"]["dropout"], 0.25);
}
