//! What is left of a run is gone on with, by the same command alone.

use std::fs;

use serde_json::{Value, json};

use super::Rows;
use super::killed::kill_and_resume;
use crate::common::{copy_of, edit_json, fails, path, phi3v, text};

#[cfg(unix)]
#[test]
fn killed_runs_give_the_same_file() {
    kill_and_resume(200, 10);
}

fn rows() -> Rows {
    let row = |at: usize| match at {
        2 => json!({"prompt": "Hi", "surprise": true}),
        _ => json!({"prompt": format!("Row {at}"), "max_tokens": at + 1}),
    };
    Rows::new(&(0..6).map(row).collect::<Vec<Value>>())
}

#[test]
fn a_run_goes_on_after_the_last_whole_line() {
    let file = rows();
    file.run(&["--resume"]); // from the beginning, if there is nothing
    let whole = fs::read(file.path("out.jsonl")).unwrap();
    for len in 0..whole.len() {
        // Cutting anywhere would take a minute.
        let near_end_of_line = whole[len.saturating_sub(2)..(len + 2).min(whole.len())].contains(&b'\n');
        if len == 0 || near_end_of_line {
            fs::write(file.path("out.jsonl"), &whole[..len]).unwrap();
            file.run(&["--resume"]);
            assert!(fs::read(file.path("out.jsonl")).unwrap() == whole, "{len}");
        }
    }
    // There is nothing to do then: no weights are needed. The failed row still counts.
    let output = phi3v(&as_strs(&file.args("out.jsonl", &["--resume"]))).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("all of the 6 rows are done") && stderr.contains("1 of 6 rows failed, the first in line 3")
    );
    assert!(fs::read(file.path("out.jsonl")).unwrap() == whole);
}

fn as_strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn other_rows_models_and_settings_are_refused() {
    let file = rows();
    file.run(&["--temperature", "0.7"]);
    let whole = fs::read(file.path("out.jsonl")).unwrap();
    let part = &whole[..whole.len() / 2];
    fs::write(file.path("out.jsonl"), part).unwrap();
    let refused = |more: &[&str], expected: &str| file.fails(1, "out.jsonl", &[&["--resume"], more].concat(), expected);
    let same = ["--temperature", "0.7"];
    let with = |more: &[&str], expected: &str| refused(&[&same[..], more].concat(), expected);
    refused(&[], "another sampling");
    with(&["--seed", "1"], "another sampling");
    with(&["-n", "7"], "another max_tokens (512, now 7)");
    with(&["--system", "Be brief"], "another system");
    with(&["--stop", "x"], "another stop");
    with(&["--ignore-chat-template"], "another chat_template");
    with(&["--max-image-pixels", "7"], "another max_image_pixels");
    with(&["--kv-bits", "8"], "another kv_bits");
    with(&["--max-kv-size", "64"], "another max_kv_size");

    let with_model = |change: &dyn Fn(&std::path::Path)| {
        let model = copy_of("phi3v-tiny");
        change(model.path());
        let mut args = file.args("out.jsonl", &["--resume", "--temperature", "0.7"]);
        args[2] = path(model.path()).to_owned();
        fails(1, &as_strs(&args), "another model");
    };
    with_model(&|model| edit_json(&model.join("config.json"), |json| json["rope_theta"] = 5000.0.into()));
    with_model(&|model| {
        edit_json(&model.join("tokenizer_config.json"), |json| {
            json["chat_template"] = "{{ messages[0].content }}".into();
        });
    });

    let state = file.path("out.jsonl.state");
    let saved = fs::read(&state).unwrap();
    edit_json(&state, |json| json["version"] = 2.into());
    with(&[], "out.jsonl was begun with another version of phi3v, whose settings cannot be compared (version 2");
    edit_json(&state, |json| drop(json.as_object_mut().unwrap().remove("version")));
    with(&[], "(version 0, where 1 is read); finish it with that version, or begin anew with --force");
    fs::write(&state, "{").unwrap();
    with(&[], "is damaged; --force begins anew");
    fs::remove_file(&state).unwrap();
    with(&[], "out.jsonl.state, which says what");
    fs::write(&state, saved).unwrap();

    let rows = fs::read(file.path("rows.jsonl")).unwrap();
    fs::write(file.path("rows.jsonl"), [&rows[..], b"\n{\"prompt\": \"One more\"}"].concat()).unwrap();
    with(&[], "another input");
    fs::write(file.path("rows.jsonl"), rows).unwrap();

    let lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    for (broken, expected) in [
        ([&lines[1..], &[]].concat(), "line 1 of"),
        ([&lines[..2], &lines[1..]].concat(), "answers row 2, where row 3 is expected"),
        ([&lines[..], &lines[5..]].concat(), "more lines than there are rows"),
        ([&lines[..2], &[b"{}\n"]].concat(), "line 3 of"),
    ] {
        fs::write(file.path("out.jsonl"), broken.concat()).unwrap();
        with(&[], expected);
        assert!(fs::read(file.path("out.jsonl")).unwrap() == broken.concat(), "{expected}");
    }

    // What does not change answers may change.
    fs::write(file.path("out.jsonl"), part).unwrap();
    file.run(
        &[&same[..], &["--resume", "--max-batch-size", "2", "--prefill-step-size", "7", "--prompt-lookup"]].concat(),
    );
    assert!(fs::read(file.path("out.jsonl")).unwrap() == whole);
}

/// A later version of phi3v reads this, so its form is settled.
#[test]
fn what_a_run_depends_on_is_json_of_a_version() {
    let file = rows();
    file.run(&["--temperature", "0.5", "--regex", "[ab]+"]);
    let mut state: Value = serde_json::from_slice(&fs::read(file.path("out.jsonl.state")).unwrap()).unwrap();
    for hash in ["input", "model"] {
        assert_eq!(state[hash].take().as_str().unwrap().len(), 64, "{hash}");
    }
    let expected = json!({
        "version": 1,
        "input": null,
        "model": null,
        "system": null,
        "chat_template": true,
        "max_tokens": 512,
        "stop": [],
        "sampling": {
            "temperature": 0.5,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "repetition_context_size": null,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": 0
        },
        "image_options": {"num_crops": 1},
        "max_image_pixels": 178_956_970,
        "grammar": {"regex": "[ab]+"},
        "early_stop": null,
        "max_kv_size": null,
        "kv_bits": null,
        "kv_group_size": null,
        "quantized_kv_start": null
    });
    assert_eq!(state, expected);
}

#[cfg(unix)]
#[test]
fn ctrl_c_says_how_far_it_came() {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let row = |at: usize| json!({"prompt": format!("Row {at}"), "max_tokens": 1 + at % 50});
    let file = Rows::new(&(0..300).map(row).collect::<Vec<Value>>());
    file.run(&[]);
    let whole = fs::read(file.path("out.jsonl")).unwrap();
    let args = file.args("again.jsonl", &[]);
    let child = phi3v(&as_strs(&args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = || fs::read_to_string(file.path("again.jsonl")).unwrap_or_default().lines().count();
    while lines() < 5 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // A second run keeps away from the file.
    file.fails(1, "again.jsonl", &["--resume"], "another run is writing it");
    assert!(Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let (stderr, done) = (text(&output.stderr), lines());
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains(&format!("interrupted; {done} of 300 rows are done, --resume continues")), "{stderr}");
    assert!((5..300).contains(&done));
    let output = phi3v(&as_strs(&file.args("again.jsonl", &["--resume"]))).output().unwrap();
    assert!(output.status.success());
    assert!(fs::read(file.path("again.jsonl")).unwrap() == whole);
}
