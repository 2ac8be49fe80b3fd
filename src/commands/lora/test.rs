//! `phi3v lora test`: how well the rows of a file are answered.

use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Context, Result};
use phi3v::dataset::{DataFiles, Order, Reader};
use phi3v::train::batch::{Batches, Largest, Reading};
use phi3v::train::evaluate::evaluate;
use phi3v::train::gradient::Trained;
use serde_json::json;

use super::args::TestArgs;
use super::rows;
use crate::commands::args::OutputArgs;
use crate::commands::{bad_rows, session};
use crate::interrupt;
use crate::ui::Ui;

pub(super) fn run(args: TestArgs) -> Result<ExitCode> {
    let TestArgs { data, json, output: OutputArgs { quiet, verbose }, model, rows } = args;
    let ui = Ui::new(quiet, verbose);
    let path = match data.is_dir() {
        true => DataFiles::find(&data)?.test.with_context(|| format!("{} has no test.jsonl", data.display()))?,
        false => data,
    };
    let opened = session::open(model, &ui)?;
    let settings = rows::settings(&rows, &opened)?;
    let mut reader = Reader::new(&opened.processor, &settings);
    let dataset = bad_rows::with_progress(&ui, |progress| reader.read(&path, progress))?.context("interrupted")?;
    bad_rows::report(&dataset.bad.iter().collect::<Vec<_>>(), dataset.good.len(), rows.skip_bad, &ui)?;

    let order = Order::new(0, rows.batch_size.into(), None)?;
    let (largest, _) = Largest::of(&dataset.good, &order);
    let (model, processor) = opened.load_model(largest.demand(), &ui)?;
    interrupt::listen()?;
    let reading = Reading {
        model: &model,
        processor: &processor,
        limits: settings.limits,
        image_options: settings.image_options,
        feature_bytes: Some(0),
    };
    let mut batches = Batches::new(dataset.good, order, reading);
    let trained = Trained { model: &model, params: Vec::new(), checkpoint: true };
    let bar = ui.rows(batches.rows() as u64);
    let scores = evaluate(&trained, &mut batches, &mut |done, _| {
        bar.set_position(done as u64);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    let Some(scores) = scores else { return Ok(ExitCode::from(interrupt::EXIT_CODE)) };
    if json {
        let all = json!({
            "rows": scores.rows,
            "rows_right": scores.exact_rows,
            "tokens": scores.targets,
            "tokens_right": scores.hits,
            "loss": scores.loss(),
            "perplexity": scores.loss().exp(),
        });
        writeln!(std::io::stdout(), "{all}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout();
    writeln!(out, "rows right    {} of {}, {:.1} %", scores.exact_rows, scores.rows, 100.0 * scores.exact())?;
    writeln!(out, "tokens right  {} of {}, {:.1} %", scores.hits, scores.targets, 100.0 * scores.token_accuracy())?;
    writeln!(out, "loss          {:.4}, perplexity {:.3}", scores.loss(), scores.loss().exp())?;
    Ok(ExitCode::SUCCESS)
}
