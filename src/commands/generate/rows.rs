//! `phi3v generate --input`: a file of prompts, a file of answers.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use phi3v::engine::Engine;
use phi3v::memory::Demand;
use phi3v::rows::{Defaults, Output, RowFile, State, serve};

use crate::commands::args::{ImageArgs, OutputArgs};
use crate::commands::generate::{GenerateArgs, RowsArgs, form};
use crate::commands::session;
use crate::commands::session::{add_cache, check_output};
use crate::interrupt;
use crate::ui::Ui;

const DEFAULT_BATCH_SIZE: u16 = 8;

pub(super) fn run(args: GenerateArgs) -> Result<ExitCode> {
    let GenerateArgs {
        prompt: _, // the parser refuses it and what else is not taken beside --input
        system,
        ignore_chat_template,
        max_tokens,
        stop,
        json: _,
        explain: _,
        form,
        output: OutputArgs { quiet, verbose },
        model,
        images: ImageArgs { images: _, options: image_options },
        sampling,
        engine,
        rows: RowsArgs { input, output, resume, force, max_batch_size },
    } = args;
    let (input, path) = input.zip(output).context("--input and --output belong together")?;
    let ui = Ui::new(quiet, verbose);
    let to_stdout = path.as_os_str() == "-";

    // Everything cheap first, again.
    let mut rows = RowFile::open(&input)?;
    match to_stdout {
        true => ensure!(!resume && !force, "--output - cannot be resumed or replaced; name a file"),
        false => check_output("--output", &path, &input, resume || force)?,
    }
    let scan = RowFile::scan(&input)?;
    let mut opened = session::open(model, &ui)?;
    let defaults = Defaults {
        system,
        chat_template: !ignore_chat_template,
        max_tokens: usize::try_from(max_tokens).unwrap_or(usize::MAX),
        sampling: sampling.into(),
        stop,
        image_options: image_options.options(),
        limits: image_options.limits(),
        grammar: form::grammar(&form)?,
        early_stop: form.early_stop,
    };
    defaults.image_options.check(opened.processor.images())?;
    if let Some(grammar) = &defaults.grammar {
        opened.check_grammar(grammar)?;
    }
    let mut state = State::new(&scan.sha256, &opened.files, opened.dtype)?;
    state.add_defaults(&defaults);
    if !opened.adapters.is_empty() {
        state.add("adapters", opened.adapters_identity()?);
    }
    add_cache(&mut state, &engine);
    let begun = if resume && path.exists() { Some(Output::resume(&path, &state, &mut rows)?) } else { None };
    let before = begun.as_ref().map_or(0, |output| output.rows);
    ui.verbose(format!("{}: {} rows, {before} of them done before", input.display(), scan.rows));
    if let Some(output) = begun.as_ref().filter(|output| output.rows == scan.rows) {
        ui.status(format!("all of the {} rows are done", scan.rows));
        return finish(output, &path);
    }

    // What the rows hold is not known yet: a step of a prompt, and a large image of a vision model.
    let demand = Demand {
        prompt_tokens: usize::try_from(engine.prefill_step_size).unwrap_or(usize::MAX).min(512),
        tower_positions: opened.processor.largest_tower_positions(&defaults.image_options)?,
        max_tokens: defaults.max_tokens,
        ..Demand::default()
    };
    let session = opened.load(engine, demand, Some(max_batch_size.unwrap_or(DEFAULT_BATCH_SIZE).into()), &ui)?;
    // What comes earlier can simply be ended.
    interrupt::listen()?;
    let mut output = match begun {
        Some(output) => output,
        None if to_stdout => Output::stream(Box::new(std::io::stdout())),
        None => Output::create(&path, &state, force)?,
    };
    let all = answer(&session.engine, &mut rows, &defaults, &mut output, scan.rows, &ui);
    let how_far = || {
        let hint = if to_stdout { "" } else { ", --resume continues" };
        format!("{} of {} rows are done{hint}", output.rows, scan.rows)
    };
    if all.with_context(how_far)? {
        session.save_prompt()?;
        return finish(&output, &path);
    }
    ui.warning(format!("interrupted; {}", how_far()));
    Ok(ExitCode::from(interrupt::EXIT_CODE))
}

/// Answers what is left; false if Ctrl-C came first.
fn answer(
    engine: &Engine,
    rows: &mut RowFile,
    defaults: &Defaults,
    output: &mut Output,
    total: u64,
    ui: &Ui,
) -> Result<bool> {
    let started = Instant::now();
    let before = output.rows;
    let rate = |tokens: u64| tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
    let bar = ui.rows(total);
    bar.set_position(before);
    bar.reset_eta();
    let done = serve(engine, rows, defaults, output, &mut |progress| {
        bar.set_position(before + progress.rows);
        bar.set_message(format!("{:.1} tokens/s", rate(progress.tokens)));
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let (rows, tokens, seconds) = (output.rows - before, output.tokens, started.elapsed().as_secs_f64());
    ui.status(format!("rows        {rows} in {seconds:.1} s"));
    ui.status(format!("generation  {tokens} tokens, {:.1} tokens/s", rate(tokens)));
    done
}

/// Success, if no row failed, in this run or before.
fn finish(output: &Output, path: &Path) -> Result<ExitCode> {
    match output.first_failed {
        None => Ok(ExitCode::SUCCESS),
        Some(first) => bail!(
            "{} of {} rows failed, the first in line {first} of the input; {} says why",
            output.failed,
            output.rows,
            if path.as_os_str() == "-" { "the output".into() } else { path.display().to_string() }
        ),
    }
}
