//! A task that nobody can do without the images.

use std::time::Instant;

use image::{Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

use super::bench::{Bench, losses};

const COLOURS: [(&str, [u8; 3]); 4] =
    [("red", [220, 30, 30]), ("green", [30, 200, 40]), ("blue", [30, 40, 220]), ("yellow", [230, 220, 30])];

/// Something of a colour on a dark ground, no two alike in size, shape and noise.
fn image(colour: [u8; 3], random: &mut ChaCha12Rng) -> RgbImage {
    let (width, height) = (random.random_range(24..64), random.random_range(24..64));
    let (shape, period, ground) = (random.random_range(0..4), random.random_range(3..9), random.random_range(0..90));
    RgbImage::from_fn(width, height, |x, y| {
        let from_middle = |at: u32, of: u32| (f64::from(at) - f64::from(of) / 2.0).powi(2);
        let is_coloured = match shape {
            0 => true,
            1 => from_middle(x, width) + from_middle(y, height) < (0.42 * f64::from(width.min(height))).powi(2),
            2 => x / period % 2 == 0,
            _ => random.random_bool(0.7),
        };
        let pixel = if is_coloured { colour } else { [ground; 3] };
        Rgb(pixel.map(|value| (i32::from(value) + random.random_range(-25..=25)).clamp(0, 255) as u8))
    })
}

/// Rows with new images, colours in turn.
fn rows(bench: &Bench, name: &str, count: usize, random: &mut ChaCha12Rng) -> Vec<Value> {
    let row = |at: usize| {
        let (word, colour) = COLOURS[at % COLOURS.len()];
        let file = format!("{name}{at}.png");
        image(colour, random).save(bench.path(&file)).unwrap();
        json!({"question": "Which colour?", "answer": word, "image": file})
    };
    (0..count).map(row).collect()
}

/// The rows with the image of a row that is `by` places further.
fn moved(rows: &[Value], by: impl Fn(usize) -> usize) -> Vec<Value> {
    let moved = |(at, row): (usize, &Value)| {
        let mut row = row.clone();
        row["image"] = rows[(at + by(at)) % rows.len()]["image"].clone();
        row
    };
    rows.iter().enumerate().map(moved).collect()
}

#[test]
fn images_are_learnt_and_looked_at() {
    let started = Instant::now();
    let bench = Bench::new(&[] as &[Value]);
    let mut random = ChaCha12Rng::seed_from_u64(4);
    let learnt = rows(&bench, "learnt", 48, &mut random);
    let held_out = rows(&bench, "held_out", 24, &mut random);
    bench.write("train.jsonl", &learnt);
    bench.write("test.jsonl", &held_out);
    // Always the image of another colour; and one of the same colour for one row in four.
    bench.write("swapped.jsonl", &moved(&held_out, |at| 1 + at / 4 % 3));
    bench.write("shuffled.jsonl", &moved(&held_out, |at| (at / 4 + at) % 4));
    let method = ["--train-projector", "--learning-rate", "1e-2", "--epochs", "5", "--batch-size", "4"];
    let metrics = bench.train("adapter", &[&method[..], &["--dtype", "auto"]].concat());
    println!("losses {:?}, {:.1} s", losses(&metrics), started.elapsed().as_secs_f64());

    let right = |rows: &str, adapter: &[&str]| {
        let scores = bench.test(rows, adapter);
        println!("{rows} {adapter:?} {scores}");
        assert_eq!((&scores["rows"], &scores["tokens"]), (&json!(24), &json!(48)));
        scores["rows_right"].as_u64().unwrap()
    };
    let folder = bench.arg("adapter");
    let adapter = ["--adapter", &folder];
    assert!(right("test.jsonl", &adapter) >= 22);
    // Chance is 6 of 24.
    assert!(right("swapped.jsonl", &adapter) <= 3);
    assert!((3..=9).contains(&right("shuffled.jsonl", &adapter)));
    assert_eq!(right("test.jsonl", &[]), 0);

    // As it is used.
    let answers_right = held_out[..4].iter().filter(|row| {
        let image = bench.arg(row["image"].as_str().unwrap());
        let more = ["--image", &image, "--dtype", "auto"];
        bench.answer("Which colour?", &[&more[..], &adapter].concat()) == row["answer"].as_str().unwrap()
    });
    assert!(answers_right.count() >= 3);
    println!("{:.1} s", started.elapsed().as_secs_f64());
}
