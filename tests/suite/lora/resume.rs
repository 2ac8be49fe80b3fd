//! A run that ended anywhere goes on to the end that it would have had.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use phi3v::train::metrics::MEASURED;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;

use super::bench::{Bench, question, strs};
use crate::common::{copy_of, edit_json, path, phi3v, text};

/// Rows to learn and to hold out.
fn bench() -> Bench {
    let rows = |from: usize, to: usize| -> Vec<Value> {
        (from..to).map(|at| question(&format!("Row {at}?"), &"word ".repeat(1 + at % 5))).collect()
    };
    let bench = Bench::new(&rows(0, 11));
    fs::create_dir(bench.path("data")).unwrap();
    fs::rename(bench.path("train.jsonl"), bench.path("data/train.jsonl")).unwrap();
    bench.write("data/valid.jsonl", &rows(11, 15));
    bench
}

/// A run of 24 steps in which everything is used that has a state.
fn args(bench: &Bench, adapter: &str, more: &[&str]) -> Vec<String> {
    let data = bench.arg("data");
    let settings = ["--data", &data, "--iters", "24", "--batch-size", "2", "--grad-accumulation-steps", "2"];
    let method = ["--dropout", "0.1", "--learning-rate", "1e-2", "--warmup-steps", "4"];
    let saved = ["--save-every", "3", "--steps-per-report", "1", "--steps-per-eval", "4", "--quiet"];
    let whole = [&settings[..], &method, &saved].concat();
    let changed = |flag: &str| more.contains(&flag);
    let kept = whole.chunks(2).filter(|pair| !changed(pair[0])).flatten().copied().collect::<Vec<_>>();
    bench.args(adapter, &[&kept[..], more].concat())
}

fn start(bench: &Bench, adapter: &str, more: &[&str]) -> Child {
    let args = args(bench, adapter, more);
    phi3v(&strs(&args)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child, code: i32) -> String {
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

/// The lines of a run, without what is measured.
fn unmeasured(bench: &Bench, adapter: &str) -> Vec<Value> {
    let mut metrics = bench.metrics(adapter);
    for record in &mut metrics {
        MEASURED.iter().for_each(|key| _ = record.as_object_mut().unwrap().shift_remove(*key));
    }
    metrics
}

fn assert_same(bench: &Bench, one: &str, other: &str) {
    assert_eq!(unmeasured(bench, one), unmeasured(bench, other));
    for file in ["adapters.safetensors", "adapter_config.json"] {
        let read = |run: &str| fs::read(bench.path(run).join(file)).unwrap();
        assert!(read(one) == read(other), "{file}");
    }
}

/// Waits for a run's first file to go on from.
fn wait_for(file: &Path, child: &mut Child) {
    while !file.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(unix)]
#[test]
fn killed_runs_learn_the_same() {
    let bench = bench();
    let started = Instant::now();
    finish(start(&bench, "whole", &[]), 0);
    let total = started.elapsed();
    assert_eq!(unmeasured(&bench, "whole").len(), 24 + 6);

    let mut random = ChaCha12Rng::seed_from_u64(5);
    let written = |bench: &Bench| {
        let metrics = fs::read(bench.path("killed/metrics.jsonl")).unwrap_or_default();
        metrics.iter().filter(|&&byte| byte == b'\n').count()
    };
    let (mut kills, mut lines) = (0, Vec::new());
    for attempt in 0..8 {
        let mut child = start(&bench, "killed", if attempt > 0 { &["--resume"] } else { &[] });
        let mut ended = || child.try_wait().unwrap().is_some();
        // Every other time soon after so many lines, else anywhere, be it while it loads.
        let longest = if attempt % 2 == 0 {
            while !ended() && written(&bench) < 4 + 3 * attempt {
                std::thread::sleep(Duration::from_millis(1));
            }
            0.05
        } else {
            0.25
        };
        std::thread::sleep(total.mul_f64(random.random_range(0.0..longest)));
        if attempt == 7 || ended() {
            finish(child, 0);
            break;
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None);
        kills += 1;
        lines.push(written(&bench));
    }
    println!("{kills} kills after {lines:?} lines, a run of {:.1} s", total.as_secs_f64());
    assert!(kills >= 5, "{kills} kills");
    assert_same(&bench, "whole", "killed");

    // There is nothing left to do then, and nothing changes.
    finish(start(&bench, "killed", &["--resume"]), 0);
    assert_same(&bench, "whole", "killed");
}

#[cfg(unix)]
#[test]
fn interrupted_runs_say_how_to_go_on() {
    use std::process::Command;

    let bench = bench();
    finish(start(&bench, "whole", &[]), 0);
    let mut child = start(&bench, "interrupted", &[]);
    wait_for(&bench.path("interrupted/training.safetensors"), &mut child);
    assert!(Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap().success());
    let stderr = finish(child, 130);
    let steps = unmeasured(&bench, "interrupted").iter().filter(|record| record.get("loss").is_some()).count();
    assert!(stderr.contains(&format!("interrupted after {steps} steps; --resume goes on from there")), "{stderr}");
    assert!((3..24).contains(&steps), "{steps}");

    // What changes nothing may change.
    finish(start(&bench, "interrupted", &["--resume", "--save-every", "5"]), 0);
    assert_same(&bench, "whole", "interrupted");
}

#[test]
fn other_settings_rows_and_models_are_refused() {
    let bench = bench();
    finish(start(&bench, "run", &["--iters", "3"]), 0);
    let before = fs::read(bench.path("run/training.safetensors")).unwrap();
    let refused = |more: &[&str], expected: &str| {
        let more = [&["--resume"], more].concat();
        let more = if more.contains(&"--iters") { more } else { [&more[..], &["--iters", "3"]].concat() };
        let stderr = finish(start(&bench, "run", &more), 1);
        assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert!(fs::read(bench.path("run/training.safetensors")).unwrap() == before);
    };
    refused(&["--learning-rate", "2e-2"], "begun with another schedule");
    refused(&["--iters", "4"], "begun with another steps (3, now 4)");
    refused(&["--dropout", "0.2"], "begun with another dropout");
    refused(&["--rank", "4"], "begun with another rank (8, now 4)");
    refused(&["--seed", "1"], "begun with another seed (0, now 1)");
    refused(&["--optimizer", "lion"], "begun with another optimizer");
    refused(&["--batch-size", "4"], "begun with another batch_size (2, now 4)");
    refused(&["--dtype", "bfloat16"], "begun with another model");
    let model = copy_of("phi3v-tiny");
    edit_json(&model.path().join("config.json"), |json| json["rope_theta"] = 5000.0.into());
    refused(&["--model", path(model.path())], "begun with another model");

    for name in ["train", "valid"] {
        let file = bench.path(&format!("data/{name}.jsonl"));
        let rows = fs::read(&file).unwrap();
        fs::write(&file, [&rows[..], b"\n{\"text\": \"One more\"}"].concat()).unwrap();
        refused(&[], &format!("begun with another {name}"));
        fs::write(&file, rows).unwrap();
    }
    finish(start(&bench, "run", &["--resume", "--iters", "3"]), 0);
}

#[test]
fn a_run_of_another_version_is_refused() {
    let bench = bench();
    finish(start(&bench, "run", &["--iters", "1"]), 0);
    let state = bench.path("run/training.safetensors");
    let before = fs::read(&state).unwrap();
    let (now, other) = (br#"{\"version\":1,"#, br#"{\"version\":2,"#);
    let at = before.windows(now.len()).position(|part| part == now).unwrap();
    let changed = [&before[..at], other, &before[at + now.len()..]].concat();
    fs::write(&state, &changed).unwrap();
    let stderr = finish(start(&bench, "run", &["--resume", "--iters", "1"]), 1);
    assert!(stderr.contains("was begun with another version of phi3v"), "{stderr}");
    assert!(stderr.contains("(version 2, where 1 is read)") && stderr.trim_end().lines().count() == 1, "{stderr}");
    assert!(fs::read(&state).unwrap() == changed);
}

#[test]
fn runs_are_neither_invented_nor_overwritten() {
    let bench = bench();
    let few = ["--data", &bench.arg("data"), "--iters", "2"];
    let refused = |adapter: &str, more: &[&str], expected: &str| {
        bench.refuses(1, adapter, &[&few[..], more].concat(), expected);
    };
    refused("run", &["--resume"], "holds no run to go on with");
    assert!(!bench.path("run").exists());
    bench.refuses(2, "run", &["--resume", "--force"], "cannot be used with");
    bench.train("run", &few);
    let before = fs::read(bench.path("run/adapters.safetensors")).unwrap();
    refused("run", &[], "holds a run already; --resume goes on with it, --force begins anew");
    assert!(fs::read(bench.path("run/adapters.safetensors")).unwrap() == before);

    // What is not the run's stays.
    fs::write(bench.path("run/notes.txt"), "mine").unwrap();
    bench.train("run", &[&few[..], &["--force", "--seed", "1"]].concat());
    assert!(fs::read(bench.path("run/adapters.safetensors")).unwrap() != before);
    assert_eq!(fs::read_to_string(bench.path("run/notes.txt")).unwrap(), "mine");
    assert_eq!(bench.metrics("run").len(), 2, "the last step, and its validation");

    // Killed before there was anything to go on from.
    fs::remove_file(bench.path("run/training.safetensors")).unwrap();
    for resume in [&["--resume"][..], &[]] {
        refused("run", resume, "but no run to go on with; --force begins anew");
    }
}

#[test]
fn a_damaged_file_is_one_line() {
    let bench = bench();
    finish(start(&bench, "run", &["--iters", "3"]), 0);
    let file = bench.path("run/training.safetensors");
    let whole = fs::read(&file).unwrap();
    let metrics = fs::read(bench.path("run/metrics.jsonl")).unwrap();
    let refused = |expected: &str| {
        let stderr = finish(start(&bench, "run", &["--resume", "--iters", "3"]), 1);
        assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "{stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("panicked"), "{stderr}");
    };
    for broken in [&b""[..], b"{", &whole[..100], &whole[..whole.len() / 2], &whole[..whole.len() - 1]] {
        fs::write(&file, broken).unwrap();
        refused("training.safetensors");
    }
    // Another program's file.
    fs::copy(bench.path("run/adapters.safetensors"), &file).unwrap();
    refused("is no training file");
    fs::write(&file, &whole).unwrap();
    fs::write(bench.path("run/metrics.jsonl"), b"{\"step\":\n{}\n").unwrap();
    refused("line 1 of");
    fs::remove_file(bench.path("run/metrics.jsonl")).unwrap();
    refused("metrics.jsonl");
    fs::write(bench.path("run/metrics.jsonl"), metrics).unwrap();
    finish(start(&bench, "run", &["--resume", "--iters", "3"]), 0);
}
