//! A run that is killed again and again gives the bytes of one that is not. The suite does this with a few rows, the slow
//! tests with many.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;

const PICTURES: usize = 40;

/// Writes 40 small images, and rows about them of which some are bad.
pub(crate) fn write_rows(folder: &Path, rows: usize) -> PathBuf {
    let mut random = ChaCha12Rng::seed_from_u64(11);
    for at in 0..PICTURES {
        let pixels: Vec<u8> = (0..30 * 20 * 3).map(|_| random.random()).collect();
        let image = image::RgbImage::from_raw(30, 20, pixels).unwrap();
        image.save(folder.join(format!("{at}.png"))).unwrap();
    }
    let mut lines = String::new();
    for at in 0..rows {
        let words: Vec<String> =
            (0..random.random_range(1..20)).map(|_| format!("word{}", random.random_range(0..99))).collect();
        let mut row =
            json!({ "id": format!("row-{at}"), "prompt": words.join(" "), "max_tokens": random.random_range(2..7) });
        match random.random_range(0..20) {
            0 => row["image"] = "missing.png".into(),
            1 => row["surprise"] = true.into(),
            2 => {}
            3 => row["images"] = json!([image(&mut random), image(&mut random)]),
            _ => row["image"] = image(&mut random).into(),
        }
        if random.random_bool(0.3) {
            row["temperature"] = json!(0.9);
            row["seed"] = at.into();
        }
        lines += &format!("{row}\n{}", if random.random_bool(0.05) { "\n" } else { "" });
    }
    let input = folder.join("rows.jsonl");
    fs::write(&input, lines).unwrap();
    input
}

fn image(random: &mut ChaCha12Rng) -> String {
    format!("{}.png", random.random_range(0..PICTURES))
}

fn start(input: &Path, output: &Path, resume: bool) -> Child {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/phi3v-tiny");
    let mut command = Command::new(cargo_bin!("phi3v"));
    command.arg("generate").arg("--model").arg(tiny).args(["--dtype", "float32", "--num-crops", "1", "--quiet"]);
    command.arg("--input").arg(input).arg("--output").arg(output);
    command.args(resume.then_some("--resume")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn lines(output: &Path) -> usize {
    fs::read(output).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count()
}

/// Cuts off some bytes of the last line, as a machine that goes down may.
fn break_last_line(output: &Path, random: &mut ChaCha12Rng) {
    let bytes = fs::read(output).unwrap_or_default();
    let last = bytes.split_inclusive(|&byte| byte == b'\n').next_back().unwrap_or_default().len();
    if last > 1 {
        fs::write(output, &bytes[..bytes.len() - random.random_range(1..last)]).unwrap();
    }
}

pub(crate) fn kill_and_resume(rows: usize, kills: usize) {
    let folder = tempfile::tempdir().unwrap();
    let input = write_rows(folder.path(), rows);
    let (whole, output) = (folder.path().join("whole.jsonl"), folder.path().join("out.jsonl"));
    let started = Instant::now();
    // Some rows are bad.
    assert_eq!(start(&input, &whole, false).wait().unwrap().code(), Some(1));
    let total = started.elapsed();
    println!("{rows} rows take {:.1} s", total.as_secs_f64());
    assert_eq!(lines(&whole), rows);

    let mut random = ChaCha12Rng::seed_from_u64(rows as u64);
    let mut broken = 0;
    for kill in 0..kills {
        let mut child = start(&input, &output, kill > 0);
        // Every other time anywhere, be it before the first line; else after so many lines.
        if kill % 2 == 0 {
            while lines(&output) < (kill + 1) * rows / (kills + 4) {
                assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        std::thread::sleep(total.mul_f64(random.random_range(0.0..0.08)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), None, "it ended before it was killed");
        let before = lines(&output);
        if random.random_bool(0.5) {
            break_last_line(&output, &mut random);
            broken += 1;
        }
        println!("killed with {before} lines");
        assert!(fs::read(&whole).unwrap().starts_with(&fs::read(&output).unwrap_or_default()));
    }
    assert!(broken > 0);
    assert_eq!(start(&input, &output, true).wait().unwrap().code(), Some(1));
    assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
    println!("{kills} kills: {:.1} s in all", started.elapsed().as_secs_f64());
}
