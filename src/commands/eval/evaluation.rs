//! One evaluation, of whichever model: rows to items, items to records.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use phi3v::checkpoint::ModelFiles;
use phi3v::dataset::{Reader, Settings};
use phi3v::engine::sampler::Sampling;
use phi3v::engine::stop_tokens;
use phi3v::eval::ask::{self, Asking};
use phi3v::eval::choose::{self, By, Posed};
use phi3v::eval::passage::{Passage, Windows};
use phi3v::eval::read;
use phi3v::eval::record::Results;
use phi3v::eval::task::Task;
use phi3v::processor::ImageSizes;
use phi3v::rows::{self, Defaults, Fields, Rows, Selection, State, folder_of};
use phi3v::train::batch::Reading;
use serde_json::json;

use super::args::{AskArgs, TextArgs};
use super::checks::{check_reference, is_rows, refuse_generation};
use super::items::{Items, demand};
use crate::commands::args::{EngineArgs, ImageOptionArgs, ModelArgs};
use crate::commands::bad_rows;
use crate::commands::session::{self, Opened, add_cache};
use crate::interrupt;
use crate::ui::Ui;

/// Positions of a window where nobody says otherwise.
const WINDOW: usize = 2048;

/// The same of tokens of an answer, and of answers at once.
const MAX_TOKENS: usize = 64;
const AT_ONCE: usize = 8;

/// What an empty file means.
const NOTHING: &str = "there is nothing to evaluate";

/// What is asked, of which rows.
pub(super) struct Evaluation {
    pub(super) task: Task,
    pub(super) data: PathBuf,
    pub(super) selection: Selection,
    pub(super) skip_bad: bool,
    pub(super) image_options: ImageOptionArgs,
    pub(super) how: How,
}

/// How rows are put to a model.
pub(super) enum How {
    /// Texts are read, by a reference, too, where there is one.
    Read { text: TextArgs, reference: Option<ModelArgs> },
    /// Questions are answered.
    Ask { ask: AskArgs, prompt: Option<String>, engine: Box<EngineArgs> },
}

/// A model, and rows that are good for it.
pub(super) struct Prepared {
    pub(super) opened: Opened,
    pub(super) items: Items,
    /// Of the data.
    pub(super) sha256: String,
    reference: Option<Opened>,
}

impl Evaluation {
    /// Opens a model and checks all rows; weights are not read yet.
    pub(super) fn prepare(&self, model: ModelArgs, ui: &Ui) -> Result<Prepared> {
        let opened = session::open(model, ui)?;
        let mut reference = None;
        let (items, sha256) = match &self.how {
            How::Read { text, reference: model } => {
                let rows = self.passages(text, &opened, ui)?;
                if let Some(model) = model {
                    let model = session::open(model.clone(), ui)?;
                    check_reference(&opened, &model, &rows.good)?;
                    reference = Some(model);
                }
                (Items::Passages(rows.good), rows.sha256)
            }
            How::Ask { ask, prompt, engine } => self.questions(ask, prompt.as_deref(), engine, &opened, ui)?,
        };
        self.task.check_rows(items.records().len())?;
        Ok(Prepared { opened, items, sha256, reference })
    }

    fn passages(&self, text: &TextArgs, opened: &Opened, ui: &Ui) -> Result<Rows<Passage>> {
        let context = opened.files.max_position_embeddings()?;
        if !is_rows(&self.data)? {
            let window = text.window.unwrap_or(WINDOW.min(context));
            ensure!(window <= context, "--window {window}: the model's context is {context}");
            ensure!(text.max_seq_length.is_none(), "--max-seq-length is for rows; windows of a text have --window");
            return Windows { window, stride: text.stride }.read(&self.data, &opened.processor, &self.selection);
        }
        ensure!(
            text.window.is_none() && text.stride.is_none(),
            "--window and --stride are for a file of text; each row is read as a whole"
        );
        let settings = Settings {
            max_seq_length: text.max_seq_length.unwrap_or(context),
            max_position_embeddings: context,
            image_options: self.image_options.options(),
            limits: self.image_options.limits(),
            mask_prompt: true,
            stop_tokens: stop_tokens(&opened.files, &opened.processor.tokenizer)?,
        };
        let mut reader = Reader::new(&opened.processor, &settings);
        let read =
            bad_rows::with_progress(ui, |progress| reader.read_some(&self.data, NOTHING, &self.selection, progress))?;
        let Rows { good, bad, sha256 } = read.context("interrupted")?;
        bad_rows::report(&bad.iter().collect::<Vec<_>>(), good.len(), self.skip_bad, ui)?;
        let good = good.into_iter().map(|example| Passage::of(example, &opened.processor)).collect::<Result<_>>()?;
        Ok(Rows { good, bad, sha256 })
    }

    fn questions(
        &self,
        ask: &AskArgs,
        prompt: Option<&str>,
        engine: &EngineArgs,
        opened: &Opened,
        ui: &Ui,
    ) -> Result<(Items, String)> {
        if matches!(self.task, Task::Choice(By::Likelihood | By::LetterLikelihood)) {
            refuse_generation(ask, engine)?;
        }
        let asking = self.asking(ask, prompt, &opened.files)?;
        let processor = &opened.processor;
        let mut sizes = ImageSizes::new(self.image_options.limits());
        let folder = folder_of(&self.data);
        let mut unused = BTreeSet::new();
        let items = if let Task::Choice(by) = self.task {
            let Rows { good: posed, sha256, .. } = self.check(ui, &mut |number, fields| {
                let (posed, keys) = Posed::read(by, &asking, number, fields, &folder, processor, &mut sizes)?;
                unused.extend(keys);
                Ok(posed)
            })?;
            match by {
                By::Letter => (Items::Asked(posed.into_iter().map(|posed| posed.asked).collect()), sha256),
                By::Likelihood | By::LetterLikelihood => (Items::Posed(posed), sha256),
            }
        } else {
            let Rows { good: asked, sha256, .. } = self.check(ui, &mut |number, fields| {
                let (asked, keys) = asking.read(number, fields, &folder, processor, &mut sizes)?;
                self.task.check_row(&asked.record)?;
                unused.extend(keys);
                Ok(asked)
            })?;
            (Items::Asked(asked), sha256)
        };
        if !unused.is_empty() {
            let keys = unused.into_iter().collect::<Vec<_>>().join(", ");
            ui.status(format!("{}: not used: {keys}", self.data.display()));
        }
        Ok(items)
    }

    /// Checks the rows, with a bar on stderr.
    fn check<T>(&self, ui: &Ui, read: &mut dyn FnMut(u64, Fields) -> Result<T>) -> Result<Rows<T>> {
        let mut read = |number, line: &[u8]| read(number, Fields::parse(line)?);
        let rows = bad_rows::with_progress(ui, |progress| {
            rows::check(&self.data, NOTHING, &self.selection, &mut read, progress)
        })?;
        let rows = rows.context("interrupted")?;
        bad_rows::report(&rows.bad.iter().collect::<Vec<_>>(), rows.good.len(), self.skip_bad, ui)?;
        Ok(rows)
    }

    fn asking(&self, ask: &AskArgs, prompt: Option<&str>, files: &ModelFiles) -> Result<Asking> {
        let by_letter = self.task == Task::Choice(By::Letter);
        let instruction = by_letter.then(|| choose::INSTRUCTION.to_owned());
        Ok(Asking {
            defaults: Defaults {
                system: ask.system.clone(),
                chat_template: !ask.ignore_chat_template,
                max_tokens: ask.max_tokens.unwrap_or(MAX_TOKENS),
                sampling: Sampling::default(),
                stop: ask.stop.clone(),
                image_options: self.image_options.options(),
                limits: self.image_options.limits(),
                grammar: None,
                early_stop: None,
            },
            prompt: prompt.map(str::to_owned),
            instruction: ask.instruction.clone().or(instruction),
            max_position_embeddings: files.max_position_embeddings()?,
        })
    }

    /// What the records of a model depend on.
    pub(super) fn state(&self, prepared: &Prepared) -> Result<State> {
        let Opened { files, dtype, .. } = &prepared.opened;
        let mut state = State::new(&prepared.sha256, files, *dtype)?;
        state.add("task", serde_json::to_value(&self.task)?);
        let Selection { limit, shuffle, seed } = self.selection;
        state.add("rows", json!({ "limit": limit, "shuffle": shuffle, "seed": shuffle.then_some(seed) }));
        if !prepared.opened.adapters.is_empty() {
            state.add("adapters", prepared.opened.adapters_identity()?);
        }
        match &self.how {
            How::Read { text, .. } => {
                state.add("texts", json!([text.window, text.stride, text.max_seq_length]));
                state.add("image_options", json!(self.image_options.options()));
                state.add("max_image_pixels", self.image_options.limits().max_pixels);
                if let Some(reference) = &prepared.reference {
                    state.add("reference", reference.identity()?);
                }
            }
            How::Ask { ask, prompt, engine } => {
                let asking = self.asking(ask, prompt.as_deref(), files)?;
                state.add_defaults(&asking.defaults);
                state.add("prompt", asking.prompt);
                state.add("instruction", asking.instruction);
                add_cache(&mut state, engine);
            }
        }
        Ok(state)
    }

    /// Loads the model and makes the records that are missing; false if Ctrl-C came first.
    pub(super) fn run(&self, prepared: Prepared, results: &mut Results, ui: &Ui) -> Result<bool> {
        let Prepared { opened, items, reference, .. } = prepared;
        let first = results.records.len();
        match (&self.how, items) {
            (How::Read { .. }, Items::Passages(passages)) => self.read(opened, reference, &passages, results, ui),
            (How::Ask { ask, prompt, engine }, items) => {
                let asking = self.asking(ask, prompt.as_deref(), &opened.files)?;
                let judge = self.task.judge(items.records().into_iter());
                let options = self.image_options.options();
                let tower_positions = opened.processor.largest_tower_positions(&options)?;
                let (total, demand) = demand(&items, asking.defaults.max_tokens, tower_positions);
                let session = opened.load(
                    (**engine).clone(),
                    demand,
                    Some(ask.max_batch_size.map_or(AT_ONCE, usize::from)),
                    ui,
                )?;
                let bar = bar(ui, total, first);
                let mut on_record = |record| {
                    bar.inc(1);
                    results.push(record)
                };
                let engine = &session.engine;
                let done = match items {
                    Items::Asked(asked) => {
                        let asked = &asked[first..];
                        ask::answer(engine, asked, &asking.defaults, &judge, &mut on_record, &mut |_| go_on())
                    }
                    Items::Posed(posed) => {
                        choose::likelihoods(engine, &posed[first..], &asking.defaults, &mut on_record, &mut go_on)
                    }
                    Items::Passages(_) => unreachable!("questions are no passages"),
                };
                bar.finish_and_clear();
                session.save_prompt()?;
                done
            }
            (How::Read { .. }, _) => unreachable!("texts are passages"),
        }
    }

    fn read(
        &self,
        opened: Opened,
        reference: Option<Opened>,
        passages: &[Passage],
        results: &mut Results,
        ui: &Ui,
    ) -> Result<bool> {
        let demand = read::largest(passages).demand();
        let load = |opened: Opened| opened.load_model(demand, ui);
        let (ours, theirs) = (load(opened)?, reference.map(load).transpose()?);
        let reading = |(model, processor)| Reading {
            model,
            processor,
            limits: self.image_options.limits(),
            image_options: self.image_options.options(),
            feature_bytes: None,
        };
        let first = results.records.len();
        let bar = bar(ui, passages.len(), first);
        let mut on_record = |record| results.push(record);
        let mut on_read = |done: usize| {
            bar.set_position(done as u64);
            go_on()
        };
        let ours = reading((&ours.0, &ours.1));
        let done = match &theirs {
            Some((model, processor)) => {
                let theirs = reading((model, processor));
                read::divergence(&ours, &theirs, passages, first, &mut on_record, &mut on_read)
            }
            None => read::perplexity(&ours, passages, first, &mut on_record, &mut on_read),
        };
        bar.finish_and_clear();
        done
    }
}

fn bar(ui: &Ui, total: usize, before: usize) -> ProgressBar {
    let bar = ui.rows(total as u64);
    bar.set_message("evaluating");
    bar.set_position(before as u64);
    bar.reset_eta();
    bar
}

fn go_on() -> ControlFlow<()> {
    if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
