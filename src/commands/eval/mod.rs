//! `phi3v eval`: how good a model is, and whether another one is better.

mod args;
mod evaluation;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use phi3v::eval::page::Page;
use phi3v::eval::record::{self, Record, Results};
use phi3v::eval::summary::{Compared, Summary};
use phi3v::eval::task::Task;
use phi3v::rows::{Selection, State};

pub(crate) use args::EvalArgs;
use args::{CommonArgs, EvalCommand};
use evaluation::{Evaluation, How, Prepared};

use super::rows::check_output;
use crate::cli::{self, AdapterArg, ModelArgs, OutputArgs};
use crate::interrupt;
use crate::ui::Ui;

pub(super) fn run(args: EvalArgs) -> Result<ExitCode> {
    match args.command {
        EvalCommand::Perplexity(args) => {
            let how = How::Read { text: args.text, reference: None };
            evaluate(Task::Perplexity, args.common, how)
        }
        EvalCommand::Kl(args) => {
            let reference =
                ModelArgs { model: args.reference, revision: None, adapters: Vec::new(), ..args.common.model.clone() };
            evaluate(Task::Kl, args.common, How::Read { text: args.text, reference: Some(reference) })
        }
        EvalCommand::Choice(args) => {
            let how = How::Ask { ask: args.ask, prompt: None, engine: Box::new(args.engine) };
            evaluate(Task::Choice(args.by.into()), args.common, how)
        }
        EvalCommand::Vqa(args) => {
            let how = How::Ask { ask: args.ask, prompt: None, engine: Box::new(args.engine) };
            evaluate(Task::Vqa(args.metric), args.common, how)
        }
        EvalCommand::Caption(args) => {
            let how = How::Ask { ask: args.ask, prompt: Some(args.prompt), engine: Box::new(args.engine) };
            evaluate(Task::Caption(args.metric.into_iter().map(Into::into).collect()), args.common, how)
        }
    }
}

/// What the model is compared with.
enum Other {
    /// Another model, or this one with another adapter.
    Model(Box<ModelArgs>),
    /// What an earlier run wrote.
    Results(PathBuf, Vec<Record>),
}

/// Where results go, and how a run begins.
struct Target<'a> {
    output: Option<PathBuf>,
    resume: bool,
    force: bool,
    ui: &'a Ui,
}

fn evaluate(task: Task, common: CommonArgs, how: How) -> Result<ExitCode> {
    let CommonArgs { data, limit, shuffle, seed, skip_bad, output, resume, force, compare, report, json, .. } = common;
    let OutputArgs { quiet, verbose } = common.output_args;
    let ui = Ui::new(quiet, verbose);
    let selection = Selection { limit, shuffle, seed };
    let evaluation = Evaluation { task, data, selection, skip_bad, cut: common.cut, how };

    // Everything cheap first: a mistake should not cost the loading of a model.
    let other = compare.as_deref().map(|compare| find_other(compare, &common.model)).transpose()?;
    let target = |output: Option<PathBuf>| Target { output, resume, force, ui: &ui };
    let ours = target(output.clone());
    let theirs = target(output.as_deref().filter(|_| matches!(other, Some(Other::Model(_)))).map(other_output));
    for output in [&ours.output, &theirs.output].into_iter().flatten() {
        check_output(output, &evaluation.data, resume || force)?;
    }
    if let Some(report) = &report {
        check_output(report, &evaluation.data, true)?;
    }
    let prepared = evaluation.prepare(common.model, &ui)?;
    let other = match other {
        Some(Other::Model(model)) => Some(Against::Model(Box::new(evaluation.prepare(*model, &ui)?))),
        Some(Other::Results(path, records)) => {
            check_same_data(&path, &evaluation.task, &prepared)?;
            Some(Against::Results(path.display().to_string(), records))
        }
        None => None,
    };

    interrupt::listen()?;
    let name = prepared.name.clone();
    let pictures = if report.is_some() { prepared.items.pictures() } else { BTreeMap::new() };
    let Some(records) = ours.records(&evaluation, prepared)? else { return Ok(ExitCode::from(interrupt::EXIT_CODE)) };
    let mut summary = Summary::new(&evaluation.task, &name, &records, seed)?;
    let mut others = Vec::new();
    if let Some(other) = other {
        let (their_name, their_records) = match other {
            Against::Results(name, records) => (name, records),
            Against::Model(prepared) => {
                let name = prepared.name.clone();
                match theirs.records(&evaluation, *prepared)? {
                    Some(records) => (name, records),
                    None => return Ok(ExitCode::from(interrupt::EXIT_CODE)),
                }
            }
        };
        summary.comparison = Some(Compared::new(&evaluation.task, &name, &records, &their_name, &their_records, seed)?);
        others = their_records;
    }
    if let Some(path) = &report {
        let page = Page {
            task: &evaluation.task,
            summary: &summary,
            records: &records,
            others: &others,
            pictures: &pictures,
            limits: evaluation.cut.limits(),
        };
        report::write_page(path, &page)?;
        ui.status(format!("report      {}", path.display()));
    }
    report::print(&summary, json)?;
    Ok(ExitCode::SUCCESS)
}

/// What is compared with, when all that is cheap is done.
enum Against {
    Model(Box<Prepared>),
    Results(String, Vec<Record>),
}

fn find_other(compare: &str, model: &ModelArgs) -> Result<Other> {
    let path = Path::new(compare);
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        return Ok(Other::Results(path.to_owned(), record::read(path)?));
    }
    let adapter: AdapterArg = cli::adapter(compare).map_err(anyhow::Error::msg)?;
    let holds = |file: &str| adapter.folder.join(file).is_file();
    let is_adapter = holds("adapter_config.json") && !holds("config.json");
    Ok(Other::Model(Box::new(match is_adapter {
        true => ModelArgs { adapters: vec![adapter], ..model.clone() },
        false => ModelArgs { model: compare.to_owned(), revision: None, adapters: Vec::new(), ..model.clone() },
    })))
}

/// Where the other model's results go.
fn other_output(output: &Path) -> PathBuf {
    let extension = output.extension().unwrap_or_default().to_string_lossy();
    output.with_extension(if extension.is_empty() { "other".into() } else { format!("other.{extension}") })
}

fn check_same_data(path: &Path, task: &Task, prepared: &Prepared) -> Result<()> {
    let state = State::read(path)?;
    ensure!(*state.get("input") == *prepared.sha256, "--compare {}: it is of other data", path.display());
    let theirs: Task = serde_json::from_value(state.get("task").clone())
        .with_context(|| format!("--compare {}: it is no output of phi3v eval", path.display()))?;
    ensure!(
        theirs.name() == task.name(),
        "--compare {}: it is of phi3v eval {}, not {}",
        path.display(),
        theirs.name(),
        task.name()
    );
    Ok(())
}

impl Target<'_> {
    /// All records of a model; none if Ctrl-C came first.
    fn records(&self, evaluation: &Evaluation, prepared: Prepared) -> Result<Option<Vec<Record>>> {
        let rows: Vec<u64> = prepared.items.records().iter().map(|record| record.row).collect();
        let mut results = match &self.output {
            None => Results::new(),
            Some(path) => {
                let state = evaluation.state(&prepared)?;
                match self.resume && path.exists() {
                    true => Results::resume(path, &state, &rows)?,
                    false => Results::create(path, state, self.force),
                }
            }
        };
        let hint = if self.output.is_some() { ", --resume continues" } else { "" };
        let how_far = |results: &Results| format!("{} of {} rows are done{hint}", results.records.len(), rows.len());
        if results.records.len() < rows.len() {
            let run = evaluation.run(prepared, &mut results, self.ui);
            if !run.with_context(|| how_far(&results))? {
                self.ui.warning(format!("interrupted; {}", how_far(&results)));
                return Ok(None);
            }
        }
        Ok(Some(results.records))
    }
}
