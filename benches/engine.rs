//! The engine at Phi-3.5-mini's shape: what a batch, a second turn and guesses gain, and what a step takes besides the
//! model. `cargo bench --bench engine [-- FOLDER]`; the model is made by `benches/peers/run.py`, or by the example
//! `random_checkpoint --q-bits 4`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlx_rs::ops::zeros_dtype;
use phi3v::checkpoint::ModelFiles;
use phi3v::engine::batch::Batch;
use phi3v::engine::speculate::Speculation;
use phi3v::engine::{Engine, EngineOptions, Generation, Request};
use phi3v::models;
use phi3v::processor::{Prompt, Segment};

/// Tokens of an answer.
const TOKENS: usize = 48;

fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let folder = folder.map_or_else(|| "target/bench/phi-3.5-mini-4bit".into(), PathBuf::from);
    if !folder.is_dir() {
        // `cargo test` runs benchmarks, too.
        println!("{} is not there: python3 benches/peers/run.py makes it", folder.display());
        return;
    }
    batches(&folder);
    second_turn(&folder);
    guesses(&folder);
}

fn engine(folder: &Path, options: EngineOptions, copies: bool) -> Engine {
    let files = ModelFiles::read(folder).expect("a model folder");
    let mut weights = models::weights(&files, None).expect("weights");
    if copies {
        for layer in 0.. {
            let Ok(spec) = weights.spec(&format!("model.layers.{layer}.self_attn.o_proj.scales")) else { break };
            for module in ["self_attn.o_proj", "mlp.down_proj"] {
                for part in ["scales", "biases"] {
                    let name = format!("model.layers.{layer}.{module}.{part}");
                    let shape = weights.spec(&name).expect("packed").shape;
                    weights = weights.replace(name, zeros_dtype(&shape, spec.dtype).expect("zeros"));
                }
            }
        }
    }
    let model = models::build(&files, weights).expect("a model");
    Engine::new(model, models::processor(&files).expect("a processor"), &files, options).expect("an engine")
}

/// Random ids.
fn prompt(len: usize, seed: u32) -> Prompt {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let id = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        3 + (state >> 8) % 31_000
    };
    Prompt { text: String::new(), segments: vec![Segment::Text((0..len).map(id).collect())], images: Vec::new() }
}

fn run(engine: &Engine, prompt: Prompt) -> Generation {
    engine.generate(Request::new(prompt, TOKENS), |_| ControlFlow::Continue(())).expect("an answer")
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64()
}

fn batches(folder: &Path) {
    let engine = engine(folder, EngineOptions { max_batch_size: 16, ..EngineOptions::default() }, false);
    let one = || {
        let answer = run(&engine, prompt(32, 1));
        rate(answer.tokens.len() - 1, answer.decode_time)
    };
    one();
    println!("rows  tokens/s  of one row");
    for rows in [1, 2, 4, 8, 16] {
        let mut batch = Batch::new(&engine);
        for row in 0..rows {
            batch.submit(row, Request::new(prompt(32, row as u32), TOKENS)).expect("a request");
        }
        // The prompts, and the first tokens.
        batch.step(&mut |_, _| ControlFlow::Continue(())).expect("a step");
        let alone = one();
        let started = Instant::now();
        let mut steps = 0;
        while !batch.is_empty() {
            batch.step(&mut |_, _| ControlFlow::Continue(())).expect("a step");
            steps += 1;
        }
        let rate = rate(rows * steps, started.elapsed());
        println!("{rows:>4}  {rate:>8.1}  {:>6.2} ×", rate / alone);
    }
}

fn second_turn(folder: &Path) {
    let options = EngineOptions { prefix_cache_bytes: 1 << 33, ..EngineOptions::default() };
    let engine = engine(folder, options, false);
    let first = prompt(512, 7);
    let answer = run(&engine, first.clone());
    let mut second = first.followed_by(&answer.tokens);
    second.segments.extend(prompt(24, 8).segments);
    let again = run(&engine, second);
    println!(
        "first turn: {} positions in {:.2} s; second: {} of {} positions in {:.2} s",
        answer.prompt_tokens,
        answer.prefill_time.as_secs_f64(),
        again.prompt_tokens - again.cached_tokens,
        again.prompt_tokens,
        again.prefill_time.as_secs_f64()
    );
}

/// The layers add nothing, so that what follows a token depends on that token alone, and what was said before follows
/// again. They take the time that they always take.
fn guesses(folder: &Path) {
    let plain = engine(folder, EngineOptions::default(), true);
    let said = run(&plain, prompt(64, 3)).tokens;
    let mut with_start = prompt(64, 3).followed_by(&said);
    with_start.segments.extend(prompt(64, 3).segments);
    let without = run(&plain, with_start.clone());
    let lookup = plain.speculate(Speculation::Lookup(10));
    let with = run(&lookup, with_start);
    assert_eq!(with.tokens, without.tokens);
    let (a, b) = (rate(TOKENS - 1, without.decode_time), rate(TOKENS - 1, with.decode_time));
    println!(
        "copying: {a:.1} tokens/s, with guesses {b:.1} ({:.2} ×); {} of {} were right",
        b / a,
        with.accepted,
        with.proposed
    );
}
