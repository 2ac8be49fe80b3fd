//! A folder is there whole or not at all, whatever happens.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use half::bf16;
use mlx_rs::Array;
use phi3v::checkpoint::staging::Staging;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::json;

use super::{Place, made_by};
use crate::common::{Tensors, copy_of, edit_json, fails, golden, load, path, phi3v, save, succeeds, text};

/// All files of a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

fn llama() -> String {
    path(&golden("text/llama")).to_owned()
}

#[test]
fn what_exists_is_not_replaced_unasked() {
    let place = made_by("quantize", &golden("text/llama"), &["--q-bits", "8"]);
    let (model, before) = (place.model(), contents(&place.model()));
    let args = ["quantize", "--model", &llama(), "--mlx-path", path(&model)];
    fails(1, &args, "exists already; name another folder, or replace it with --force");
    assert_eq!(contents(&model), before);
    succeeds(&[&args[..], &["--force"]].concat());
    let fresh = made_by("quantize", &golden("text/llama"), &[]);
    assert_eq!(contents(&model), contents(&fresh.model()));
    assert_eq!(place.names(), ["model"]);
}

#[test]
fn force_replaces_only_model_folders() {
    let place = Place::new();
    let model = place.model();
    let args = ["convert", "--model", &llama(), "--mlx-path", path(&model), "--force"];
    fs::create_dir(&model).unwrap();
    fs::write(model.join("thesis.txt"), "years of work").unwrap();
    fails(1, &args, "is no model folder, so --force does not replace it");
    assert_eq!(fs::read_to_string(model.join("thesis.txt")).unwrap(), "years of work");
    fs::remove_dir_all(&model).unwrap();
    fs::write(&model, "a file").unwrap();
    fails(1, &args, "is no model folder");
    assert_eq!(place.names(), ["model"]);
    // An empty folder is nobody's.
    fs::remove_file(&model).unwrap();
    fs::create_dir(&model).unwrap();
    succeeds(&args);
    load(&model).unwrap();
}

#[test]
fn a_source_is_not_replaced_by_its_own_conversion() {
    let home = tempfile::tempdir().unwrap();
    let source = home.path().join("source");
    fs::rename(copy_of("text/llama").keep(), &source).unwrap();
    fs::write(home.path().join("config.json"), "{}").unwrap();
    let before = contents(&source);
    let twisted = source.join("../source");
    for target in [source.as_path(), home.path(), &twisted] {
        let args = ["convert", "--model", path(&source), "--mlx-path", path(target), "--force"];
        fails(1, &args, "cannot take the place of its own source");
    }
    #[cfg(unix)]
    {
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&source, &link).unwrap();
        let args = ["convert", "--model", path(&link), "--mlx-path", path(&source), "--force"];
        fails(1, &args, "cannot take the place of its own source");
    }
    assert_eq!(contents(&source), before);
}

#[test]
fn what_a_killed_run_left_is_cleared_away() {
    let place = Place::new();
    let partial = place.0.path().join(".model.partial");
    fs::create_dir_all(partial.join("sub")).unwrap();
    for name in [".lock", "model-00001-of-00002.safetensors", "sub/x", "config.json"] {
        fs::write(partial.join(name), "left").unwrap();
    }
    succeeds(&["convert", "--model", &llama(), "--mlx-path", path(&place.model())]);
    assert_eq!(place.names(), ["model"]);
    let fresh = made_by("convert", &golden("text/llama"), &[]);
    assert_eq!(contents(&place.model()), contents(&fresh.model()));
}

/// A kill may come between putting the old model aside and naming the new one, or while the old one is removed.
#[test]
fn what_was_put_aside_comes_back_if_it_is_whole() {
    let place = Place::new();
    let aside = place.0.path().join(".model.replaced");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("generation_config.json"), "{}").unwrap();
    drop(Staging::begin(&place.model(), true).unwrap());
    assert_eq!(place.names(), Vec::<String>::new());
    fs::rename(copy_of("text/llama").keep(), &aside).unwrap();
    drop(Staging::begin(&place.model(), true).unwrap());
    assert_eq!(place.names(), ["model"]);
    load(&place.model()).unwrap();
}

#[test]
fn of_two_writers_the_second_is_told() {
    let place = Place::new();
    let model = place.model();
    let first = Staging::begin(&model, false).unwrap();
    fs::write(first.folder().join("a"), b"first").unwrap();
    let args = ["convert", "--model", &llama(), "--mlx-path", path(&model)];
    fails(1, &args, "another process is writing");
    first.publish().unwrap();
    assert_eq!(contents(&model), [("a".to_owned(), b"first".to_vec())].into());
}

#[test]
fn a_folder_that_appears_meanwhile_is_left_alone() {
    let place = Place::new();
    let staging = Staging::begin(&place.model(), false).unwrap();
    fs::create_dir(place.model()).unwrap();
    fs::write(place.model().join("thesis.txt"), "years of work").unwrap();
    assert!(staging.publish().is_err());
    assert_eq!(fs::read_to_string(place.model().join("thesis.txt")).unwrap(), "years of work");
    assert_eq!(place.names(), ["model"]);
}

#[test]
fn the_new_folder_may_lie_in_folders_that_are_not_there_yet() {
    let place = Place::new();
    let model = place.0.path().join("a/b/model");
    succeeds(&["convert", "--model", &llama(), "--mlx-path", path(&model)]);
    load(&model).unwrap();
    fails(1, &["convert", "--model", &llama(), "--mlx-path", "/"], "/");
}

/// A limit on the size of files is as good as a full disk: writing fails in the middle.
#[cfg(unix)]
#[test]
fn a_full_disk_is_a_plain_error_and_leaves_nothing() {
    let place = Place::new();
    let (tiny, model) = (golden("phi3v-tiny"), place.model());
    for limit in ["1", "100", "3000"] {
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", path(cargo_bin!("phi3v"))]);
        command.args(["convert", "--model", path(&tiny), "--mlx-path", path(&model)]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        crate::common::assert_failure(&output, 1, &[limit], "annot "); // cannot write or copy what
        assert_eq!(place.names(), Vec::<String>::new(), "{limit}");
    }
}

/// The same while a model folder is replaced: the old one stays.
#[cfg(unix)]
#[test]
fn a_full_disk_does_not_cost_the_folder_that_was_to_be_replaced() {
    let place = made_by("convert", &golden("text/llama"), &[]);
    let before = contents(&place.model());
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh", path(cargo_bin!("phi3v"))]);
    command.args(["convert", "--model", path(&golden("phi3v-tiny")), "--mlx-path", path(&place.model()), "--force"]);
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert_eq!(contents(&place.model()), before);
    assert_eq!(place.names(), ["model"]);
}

const LAYERS: usize = 10;

/// A model that takes long enough to convert to be hit in the middle: 47 MB.
fn larger() -> tempfile::TempDir {
    let source = copy_of("text/llama");
    for name in ["golden_12.safetensors", "golden_40.safetensors"] {
        fs::remove_file(source.path().join(name)).unwrap();
    }
    let (hidden, inner, vocab) = (512, 1408, 768);
    edit_json(&source.path().join("config.json"), |json| {
        json["hidden_size"] = hidden.into();
        json["intermediate_size"] = inner.into();
        json["num_hidden_layers"] = LAYERS.into();
        json["num_key_value_heads"] = json!(4);
    });
    let mut random = ChaCha12Rng::seed_from_u64(7);
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[i32]| {
        let size: i32 = shape.iter().product();
        let numbers: Vec<bf16> = (0..size).map(|_| bf16::from_f32(random.random_range(-0.1..0.1))).collect();
        tensors.insert(name, Array::from_slice(&numbers, shape));
    };
    add("model.embed_tokens.weight".into(), &[vocab, hidden]);
    add("lm_head.weight".into(), &[vocab, hidden]);
    add("model.norm.weight".into(), &[hidden]);
    for i in 0..LAYERS {
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(format!("model.layers.{i}.self_attn.{name}.weight"), &[hidden, hidden]);
        }
        for (name, shape) in [("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])] {
            add(format!("model.layers.{i}.mlp.{name}_proj.weight"), &shape);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{i}.{name}.weight"), &[hidden]);
        }
    }
    save(source.path(), "model.safetensors", &tensors);
    source
}

/// Whatever is there is whole, and so is every folder beside it that could be taken for a model.
fn assert_whole_or_absent(place: &Place, whole: &BTreeMap<String, Vec<u8>>) {
    for name in place.names() {
        let folder = place.0.path().join(&name);
        if name == "model" || load(&folder).is_ok() {
            let mut found = contents(&folder);
            found.remove(".lock");
            assert!(found == *whole, "{name}: {:?}", found.keys());
        }
    }
}

#[cfg(unix)]
#[test]
fn a_killed_run_leaves_no_broken_model() {
    const KILLS: u32 = 50;
    let source = larger();
    let place = Place::new();
    let args =
        ["quantize", "--model", path(source.path()), "--mlx-path", path(&place.model()), "--quiet"].map(str::to_owned);
    let args = args.each_ref().map(String::as_str);
    let started = Instant::now();
    succeeds(&args);
    let total = started.elapsed();
    let whole = contents(&place.model());
    load(&place.model()).unwrap();
    fs::remove_dir_all(place.model()).unwrap();

    let mut random = ChaCha12Rng::seed_from_u64(1);
    let mut in_the_middle = 0;
    // Also when something is done to what an earlier kill left there.
    let last_change =
        || fs::metadata(place.0.path().join(".model.partial")).and_then(|partial| partial.modified()).ok();
    for kill in 0..KILLS {
        // Every other run replaces a model that is there already: either is to be had afterwards.
        let replaces = kill % 2 == 1 && place.model().exists();
        if !replaces {
            let _ = fs::remove_dir_all(place.model());
        }
        let before = last_change();
        let mut command = phi3v(&args);
        command.arg("--force").stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(random.random_range(0.0..total.as_secs_f64())));
        child.kill().unwrap();
        let killed = !child.wait().unwrap().success();
        let after = last_change();
        in_the_middle += u32::from(killed && after.is_some() && after != before);
        assert_whole_or_absent(&place, &whole);
        assert!(!replaces || place.model().exists() || place.0.path().join(".model.replaced").exists());
    }
    assert!(in_the_middle >= KILLS / 3, "only {in_the_middle} of {KILLS} kills hit the middle");
    succeeds(&[&args[..], &["--force"]].concat());
    assert_eq!(place.names(), ["model"]);
    assert!(contents(&place.model()) == whole);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing() {
    let source = larger();
    let place = Place::new();
    let model = place.model();
    let mut child = phi3v(&["quantize", "--model", path(source.path()), "--mlx-path", path(&model)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It listens before it begins the folder.
    while !place.names().iter().any(|name| name == ".model.partial") {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was seen to begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("sh").arg("-c").arg(format!("kill -INT {}", child.id())).status().unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return load(&model).map(drop).unwrap(); // it was faster
    }
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("interrupted; nothing was written"), "{}", text(&output.stderr));
    assert_eq!(place.names(), Vec::<String>::new());
}
