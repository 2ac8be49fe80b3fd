//! `phi3v generate`: one prompt, one answer.

mod args;
mod explain;
mod form;
mod rows;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use phi3v::engine::{FinishReason, Generation, Request};
use phi3v::memory::{self, Demand};
use phi3v::processor::images::{self, ImageSource};
use phi3v::processor::{Message, Processor, Prompt};
use serde::Serialize;

use crate::commands::text::rate;

pub(crate) use args::GenerateArgs;
pub(super) use args::{FormArgs, RowsArgs};

use self::explain::Explanation;
use self::form::Formed;
use super::session;
use super::session::Session;
use super::stream::stream;
use crate::commands::args::{ImageArgs, OutputArgs};
use crate::interrupt;
use crate::ui::Ui;

pub(super) fn run(args: GenerateArgs) -> Result<ExitCode> {
    if args.rows.input.is_some() {
        return rows::run(args);
    }
    let GenerateArgs {
        model,
        prompt,
        system,
        ignore_chat_template,
        images: ImageArgs { images, options: image_options },
        max_tokens,
        stop,
        sampling,
        engine,
        form,
        json,
        explain,
        output: OutputArgs { quiet, verbose },
        rows: _, // all of them need --input
    } = args;
    let ui = Ui::new(quiet, verbose);

    // Everything cheap first: a mistake should not cost a download or the loading of a model.
    let prompt = read_prompt(prompt.unwrap_or_default(), &images, form::readers(&form))?;
    let grammar = form::grammar(&form)?;
    let limits = image_options.limits();
    let decoding = Instant::now();
    let images = images
        .iter()
        .map(|source| images::load(&source.parse::<ImageSource>()?, &limits))
        .collect::<Result<Vec<_>, _>>()?;
    let image_decode_time = decoding.elapsed();

    let mut opened = session::open(model, &ui)?;
    if let Some(grammar) = &grammar {
        opened.check_grammar(grammar)?;
    }
    let image_options = image_options.options();
    image_options.check(opened.processor.images())?;
    let resizing = Instant::now();
    let prompt = if ignore_chat_template {
        opened.processor.prepare_text(&prompt, &images, &image_options)?
    } else {
        let messages: Vec<Message> =
            system.map(|text| Message::new("system", text)).into_iter().chain([Message::new("user", prompt)]).collect();
        opened.processor.prepare(&messages, &images, &image_options)?
    };
    drop(images);
    prompt.check_fits(opened.files.max_position_embeddings()?)?;
    let image_time = image_decode_time + resizing.elapsed();
    report_prompt(&ui, &prompt, &opened.processor);
    let explanation = explain.then(|| Explanation::new(&prompt, &opened.processor)).transpose()?;
    if !json && let Some(explanation) = &explanation {
        explanation.lines().iter().for_each(|line| ui.reply(line));
    }

    let loading = Instant::now();
    let max_tokens = usize::try_from(max_tokens).unwrap_or(usize::MAX);
    let tokens_in_form = form.constrain.iter().map(|text| text.len() + form.within).sum::<usize>();
    let is_formed = !form.choose.is_empty() || !form.constrain.is_empty();
    let demand = Demand::of(&prompt, if is_formed { tokens_in_form } else { max_tokens });
    let session = opened.load(engine, demand, None, &ui)?;
    let load_time = loading.elapsed();
    if is_formed {
        return print_formed(&session, prompt, &form, json, explanation.as_ref());
    }

    let early_stop = form.early_stop;
    let request = Request { sampling: sampling.into(), stop, grammar, early_stop, ..Request::new(prompt, max_tokens) };
    // Not before: what comes earlier can simply be ended, downloads go on where they stopped.
    interrupt::listen()?;
    let bar = ui.positions("reading the prompt", request.prompt.len() as u64);
    let generation = stream(&session.engine, request, !json, Some(bar), &ui)?;
    session.save_prompt()?;
    let statistics = Statistics::new(&generation, image_time, load_time);
    if json {
        let output = Output {
            text: &generation.text,
            tokens: &generation.tokens,
            finish_reason: generation.finish_reason,
            complete: generation.complete,
            statistics,
            explanation,
        };
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&output)?)?;
    } else {
        writeln!(std::io::stdout())?;
        if explain {
            let boundary = session.engine.model().text.rope_boundary();
            explain::outcome(&generation, boundary).iter().for_each(|line| ui.reply(line));
        }
        statistics.print(&ui);
    }
    if generation.complete == Some(false) {
        ui.warning("the answer is not complete by its grammar; allow more tokens with --max-tokens");
    }
    Ok(match generation.finish_reason {
        FinishReason::Interrupted => ExitCode::from(interrupt::EXIT_CODE),
        FinishReason::Stop | FinishReason::EarlyStop | FinishReason::Length => ExitCode::SUCCESS,
    })
}

/// A chosen answer, or one with phrases in it.
fn print_formed(
    session: &Session,
    prompt: Prompt,
    form: &FormArgs,
    json: bool,
    explanation: Option<&Explanation>,
) -> Result<ExitCode> {
    let Some(formed) = form::run(&session.engine, prompt, form)? else {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    };
    session.save_prompt()?;
    if json {
        let Formed { text, phrased, choice } = formed;
        let output =
            serde_json::json!({ "text": text, "phrased": phrased, "choice": choice, "explanation": explanation });
        writeln!(std::io::stdout(), "{output}")?;
    } else {
        writeln!(std::io::stdout(), "{}", formed.text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The prompt, from stdin if it is `-`.
fn read_prompt(prompt: String, images: &[String], other_readers: usize) -> Result<String> {
    let readers = usize::from(prompt == "-") + images.iter().filter(|source| *source == "-").count() + other_readers;
    ensure!(readers <= 1, "stdin (-) can be read only once: for the prompt, one image or a grammar");
    let text = if prompt == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the prompt from stdin")?;
        // The line's end belongs to the shell.
        text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).to_owned()).unwrap_or(text)
    } else {
        prompt
    };
    if text.trim().is_empty() {
        bail!("the prompt is empty; say with --prompt what to do");
    }
    Ok(text)
}

fn report_prompt(ui: &Ui, prompt: &Prompt, processor: &Processor) {
    for (index, image) in prompt.images.iter().enumerate() {
        let grid = processor.images().map(|images| images.describe(&image.layout)).unwrap_or_default();
        ui.verbose(format!("image {}: {grid}, {} tokens", index + 1, image.layout.tokens));
    }
    ui.verbose(format!("prompt: {:?}", prompt.text));
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    text: &'a str,
    tokens: &'a [u32],
    finish_reason: FinishReason,
    /// Whether the answer is a whole one by its grammar.
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
    #[serde(flatten)]
    statistics: Statistics,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<Explanation>,
}

/// Times are in seconds, memory in bytes.
#[derive(Serialize)]
struct Statistics {
    prompt_tokens: usize,
    /// Of these, known from an earlier prompt.
    cached_tokens: usize,
    cached_images: usize,
    generation_tokens: usize,
    proposed_tokens: usize,
    accepted_tokens: usize,
    long_factors: bool,
    prompt_tps: f64,
    generation_tps: f64,
    peak_memory: usize,
    image_seconds: f64,
    load_seconds: f64,
    encoder_seconds: f64,
    prefill_seconds: f64,
    decode_seconds: f64,
}

impl Statistics {
    fn new(generation: &Generation, image_time: Duration, load_time: Duration) -> Self {
        Self {
            prompt_tokens: generation.prompt_tokens,
            cached_tokens: generation.cached_tokens,
            cached_images: generation.cached_images,
            proposed_tokens: generation.proposed,
            accepted_tokens: generation.accepted,
            long_factors: generation.long_factors,
            generation_tokens: generation.tokens.len(),
            prompt_tps: rate(generation.prompt_tokens - generation.cached_tokens, generation.prefill_time),
            // The first token comes out of the prefill.
            generation_tps: rate(generation.tokens.len().saturating_sub(1), generation.decode_time),
            peak_memory: memory::peak(),
            image_seconds: image_time.as_secs_f64(),
            load_seconds: load_time.as_secs_f64(),
            encoder_seconds: generation.encoder_time.as_secs_f64(),
            prefill_seconds: generation.prefill_time.as_secs_f64(),
            decode_seconds: generation.decode_time.as_secs_f64(),
        }
    }

    fn print(&self, ui: &Ui) {
        ui.status(format!("prompt      {} tokens, {:.1} tokens/s", self.prompt_tokens, self.prompt_tps));
        ui.status(format!("generation  {} tokens, {:.1} tokens/s", self.generation_tokens, self.generation_tps));
        ui.status(format!(
            "time        load {:.2} s, images {:.2} s, encoder {:.2} s, prefill {:.2} s, decode {:.2} s",
            self.load_seconds, self.image_seconds, self.encoder_seconds, self.prefill_seconds, self.decode_seconds
        ));
        ui.status(format!("memory      {:.2} GB peak", self.peak_memory as f64 / 1e9));
    }
}
