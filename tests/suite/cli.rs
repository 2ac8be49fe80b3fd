//! The real binary: what it prints where, its exit codes, and one line for everything that goes wrong.

use std::process::{Command, Stdio};

use crate::common::{assert_failure, copy_of, fails, golden, path, phi3v, succeeds, text, told};
use crate::hub::server::Hub;

fn tiny() -> String {
    golden("phi3v-tiny").display().to_string()
}

fn photo() -> String {
    golden("phi3v-tiny/a_photo/photo.png").display().to_string()
}

#[test]
fn generate_answers_on_stdout_and_reports_on_stderr() {
    let tiny = tiny();
    let (answer, report) = succeeds(&[
        "generate",
        "-m",
        &tiny,
        "--image",
        &photo(),
        "--prompt",
        "What is shown in this image?",
        "-n",
        "4",
        "--dtype",
        "float32",
    ]);
    let (quiet, nothing) = succeeds(&[
        "generate",
        "-m",
        &tiny,
        "-i",
        &photo(),
        "-p",
        "What is shown in this image?",
        "-n",
        "4",
        "--dtype",
        "float32",
        "-q",
    ]);
    assert_eq!((answer.as_str(), nothing.as_str()), (quiet.as_str(), ""));
    for figure in ["775 tokens", "tokens/s", "encoder", "prefill", "decode", "GB peak"] {
        assert!(report.contains(figure), "{report}");
    }
}

#[test]
fn generate_prints_one_json_object() {
    let (json, _) = succeeds(&[
        "generate",
        "-m",
        &tiny(),
        "--image",
        &photo(),
        "--prompt",
        "What is shown in this image?",
        "-n",
        "4",
        "--json",
        "--dtype",
        "float32",
    ]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    // The reference's own tokens.
    assert_eq!(json["tokens"], serde_json::json!([31046, 18326, 11377, 18326]));
    assert_eq!((&json["finish_reason"], &json["prompt_tokens"]), (&"length".into(), &775.into()));
    assert!(json["text"].is_string() && json["encoder_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn generate_reads_the_prompt_or_a_image_from_stdin() {
    let from_stdin = |args: &[&str], input: &[u8]| text(&told(args, input).stdout);
    let tiny = tiny();
    let (given, _) = succeeds(&["generate", "-m", &tiny, "-p", "Hello there", "-n", "6", "-q"]);
    assert_eq!(from_stdin(&["generate", "-m", &tiny, "-p", "-", "-n", "6", "-q"], b"Hello there\n"), given);

    let (given, _) = succeeds(&["generate", "-m", &tiny, "-p", "Hi", "-i", &photo(), "-n", "6", "-q"]);
    let image = std::fs::read(photo()).unwrap();
    assert_eq!(from_stdin(&["generate", "-m", &tiny, "-p", "Hi", "-i", "-", "-n", "6", "-q"], &image), given);
}

#[test]
fn generate_says_when_longrope_switches() {
    let folder = golden("text/phi3").display().to_string();
    let prompt = "the quick brown fox jumps over the lazy dog again";
    let args = ["generate", "-m", &folder, "-p", prompt, "--ignore-chat-template", "-n", "30"];
    let (_, silent) = succeeds(&args);
    let (_, told) = succeeds(&[&args[..], &["--verbose"]].concat());
    assert!(!silent.contains("long factors") && told.contains("beyond 32 positions"), "{told}");
}

#[test]
fn what_is_wrong_with_images_is_said() {
    let tiny = tiny();
    let folder = golden("phi3v-tiny").display().to_string();
    let json = golden("phi3v-tiny/config.json").display().to_string();
    let fails_with = |image: &str, expected: &str| {
        fails(1, &["generate", "-m", &tiny, "-p", "Hi", "--image", image], expected);
    };
    fails_with("no-such.png", "no-such.png");
    fails_with(&folder, "phi3v-tiny");
    fails_with(&json, "config.json");
    fails_with("ftp://example.org/cat.png", "ftp");
    fails(
        1,
        &["generate", "-m", &tiny, "-p", "Hi", "-i", &photo(), "--max-image-pixels", "1000"],
        "--max-image-pixels",
    );
    fails(1, &["generate", "-m", &tiny, "-p", "<|image_1|>"], "no images are given");
    fails(1, &["generate", "-m", &tiny, "-p", "<|image_2|>", "-i", &photo()], "1 image is given");
    fails(1, &["generate", "-m", &tiny, "-p", "-", "-i", "-"], "stdin (-) can be read only once");
    let text_model = golden("text/phi3").display().to_string();
    fails(1, &["generate", "-m", &text_model, "-p", "Hi", "-i", &photo()], "no vision");
}

#[test]
fn wrong_usage_ends_with_2() {
    let tiny = tiny();
    let usage = |args: &[&str], expected: &str| {
        fails(2, &[&["generate", "-m", &tiny, "-p", "Hi"], args].concat(), expected);
    };
    usage(&["--max-tokens", "0"], "--max-tokens");
    usage(&["--temperature", "NaN"], "a number from 0 is expected");
    usage(&["--temperature", "-1"], "--temperature");
    usage(&["--top-p", "1.5"], "a number above 0 and up to 1");
    usage(&["--min-p", "inf"], "a number from 0 to 1");
    usage(&["--repetition-penalty", "0"], "a number above 0");
    usage(&["--num-crops", "0"], "a number from 1 to 1024 or auto");
    usage(&["--stop", ""], "--stop");
    usage(&["--quiet", "--verbose"], "cannot be used with");
    usage(&["--no-such-flag"], "--no-such-flag");
    fails(2, &["generate", "-m", &tiny], "--prompt");
}

#[test]
fn what_is_wrong_with_prompts_and_models_is_said() {
    let tiny = tiny();
    fails(1, &["generate", "-m", &tiny, "-p", "  "], "the prompt is empty");
    fails(1, &["generate", "-m", &tiny, "-p", "-"], "the prompt is empty");
    fails(1, &["generate", "-m", "./no-such-folder", "-p", "Hi"], "./no-such-folder");
    fails(1, &["generate", "-m", "org/model", "-p", "Hi"], "HF_HUB_OFFLINE");
    // Nobody downloads 8 GB by accident.
    fails(1, &["generate", "-p", "Hi"], "--model microsoft/Phi-3.5-vision-instruct would download 8.3 GB");
    fails(1, &["chat"], "no model is named: --model demo works at once");
    let args = ["generate", "-p", "Hi", "-n", "1"];
    let named = phi3v(&args).env("PHI3V_MODEL", &tiny).output().unwrap();
    assert!(named.status.success(), "{}", text(&named.stderr));
    fails(1, &["generate", "-m", &tiny, "--revision", "main", "-p", "Hi"], "main");
    let empty = tempfile::tempdir().unwrap();
    fails(1, &["generate", "-m", path(empty.path()), "-p", "Hi"], "has no config.json");
    for (file, expected) in [
        ("tokenizer.json", "has no tokenizer.json"),
        ("preprocessor_config.json", "has no preprocessor_config.json"),
        ("model.safetensors", "no weights to load"),
        ("tokenizer_config.json", "no chat template"),
    ] {
        let folder = copy_of("phi3v-tiny");
        std::fs::remove_file(folder.path().join(file)).unwrap();
        fails(1, &["generate", "-m", path(folder.path()), "-p", "Hi"], expected);
    }
    for (tokens, expected) in
        [(36, "num_img_tokens is 36, but the vision tower makes 144 of a tile"), (35, "which 35 tokens")]
    {
        let folder = copy_of("phi3v-tiny");
        let file = folder.path().join("preprocessor_config.json");
        std::fs::write(file, format!(r#"{{"num_img_tokens": {tokens}}}"#)).unwrap();
        fails(1, &["generate", "-m", path(folder.path()), "-p", "Hi"], expected);
    }
    let text_model = golden("text/phi3").display().to_string();
    let long = "word ".repeat(600);
    fails(1, &["generate", "-m", &text_model, "-p", &long], "more than the model's context of 512");
}

#[test]
fn verify_reports_and_fails() {
    let phi3 = golden("text/phi3").display().to_string();
    let (report, summary) = succeeds(&["verify", "--model", &phi3, "--golden", &phi3, "--prefill-step-size", "64"]);
    assert!(
        report.contains("passed   golden_33.safetensors") && summary.contains("5 passed, 0 failed, 0 skipped"),
        "{report}{summary}"
    );

    // Another model's weights under this configuration.
    let wrong = copy_of("text/phi3");
    let config = wrong.path().join("config.json");
    crate::common::edit_json(&config, |json| json["rope_theta"] = 5000.0.into());
    let args = ["verify", "--model", path(wrong.path()), "--golden", &phi3, "--prefill-step-size", "64", "--json"];
    let output = phi3v(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("first divergence at"));
    fails(1, &["verify", "--golden", "/nonexistent"], "/nonexistent");
    fails(1, &["verify", "--golden", path(tempfile::tempdir().unwrap().path())], "holds no golden.json");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let tiny = tiny();
    let mut child = phi3v(&["generate", "-m", &tiny, "-p", "Hi", "-n", "2000", "-q"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_what_was_produced() {
    use std::io::Read;

    let mut child = phi3v(&["generate", "-m", &tiny(), "-p", "Hi", "-n", "100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert!(Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.ends_with(b"\n") && text(&output.stderr).contains("generation"), "{}", text(&output.stderr));
}

#[test]
fn a_model_comes_from_the_hub_once() {
    let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(golden("text/llama"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .filter(|(name, _)| !name.contains("golden"))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let hub = Hub::start("0123456789abcdef0123456789abcdef01234567", &files);
    let home = tempfile::tempdir().unwrap();
    let args = ["generate", "-m", "org/name", "-p", "def wrap(self):", "-n", "5", "-q"];
    let generate = |offline: &str, endpoint: &str| {
        let mut command = phi3v(&args);
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", offline);
        command.output().unwrap()
    };
    let first = generate("0", &hub.endpoint);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(
        text(&first.stdout),
        succeeds(&["generate", "-m", path(&golden("text/llama")), "-p", args[4], "-n", "5", "-q"]).0
    );
    hub.take_log();
    let again = generate("0", &hub.endpoint);
    assert_eq!((again.stdout, hub.take_log().len()), (first.stdout.clone(), 1), "only the listing is asked for");
    assert_eq!(generate("1", "http://127.0.0.1:1").stdout, first.stdout);
}

#[test]
fn threads_and_instructions_are_chosen_or_refused() {
    let (tiny, photo) = (tiny(), photo());
    let args = |threads: &'static str| {
        let (tiny, photo) = (tiny.clone(), photo.clone());
        [
            "generate",
            "-m",
            &tiny,
            "--image",
            &photo,
            "--prompt",
            "Hi",
            "--max-tokens",
            "6",
            "--quiet",
            "--dtype",
            "float32",
            "--threads",
            threads,
        ]
        .map(str::to_owned)
    };
    let run = |threads, level: Option<&str>| {
        let mut command = phi3v(&[]);
        command.args(args(threads)).envs(level.map(|level| ("PHI3V_CPU", level))).output().unwrap()
    };
    let (one, three, portable) = (run("1", None), run("3", None), run("2", Some("portable")));
    assert!(one.status.success() && !one.stdout.is_empty(), "{}", text(&one.stderr));
    assert_eq!(text(&one.stdout), text(&three.stdout));
    assert_eq!(text(&one.stdout), text(&portable.stdout));
    fails(2, &["generate", "-m", &tiny, "--prompt", "Hi", "--threads", "0"], "--threads");
    let unknown = run("1", Some("sse9"));
    assert_failure(&unknown, 1, &[], "PHI3V_CPU=sse9: no such level; there are portable, avx2");
}
