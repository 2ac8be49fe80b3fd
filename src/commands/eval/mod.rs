//! `phi3v eval`: how good a model is, and whether another one is better.

mod args;
mod checks;
mod evaluation;
mod items;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use phi3v::eval::page::Page;
use phi3v::eval::record::{self, Record, Results, pair};
use phi3v::eval::summary::{Compared, Summary, first_error};
use phi3v::eval::task::Task;
use phi3v::rows::{Selection, State};

pub(crate) use args::EvalArgs;
use args::{CommonArgs, EvalCommand};
use evaluation::{Evaluation, How, Prepared};

use crate::commands::args::{AdapterArg, ModelArgs, OutputArgs, adapter as parse_adapter};
use crate::commands::session::check_output;
use crate::interrupt;
use crate::ui::Ui;

pub(super) fn run(args: EvalArgs) -> Result<ExitCode> {
    match args.command {
        EvalCommand::Perplexity(args) => {
            let how = How::Read { text: args.text, reference: None };
            evaluate(Task::Perplexity, args.common, how)
        }
        EvalCommand::Kl(args) => {
            let reference = ModelArgs {
                model: Some(args.reference),
                revision: None,
                adapters: Vec::new(),
                ..args.common.model.clone()
            };
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

fn evaluate(task: Task, common: CommonArgs, how: How) -> Result<ExitCode> {
    let CommonArgs { data, limit, shuffle, seed, skip_bad, output, resume, force, compare, report, json, .. } = common;
    let OutputArgs { quiet, verbose } = common.output_args;
    let ui = Ui::new(quiet, verbose);
    let selection = Selection { limit, shuffle, seed };
    let evaluation = Evaluation { task, data, selection, skip_bad, image_options: common.image_options, how };
    let task = &evaluation.task;

    // Everything cheap first: a mistake should not cost the loading of a model.
    let other = compare.as_deref().map(|compare| find_other(compare, &common.model)).transpose()?;
    let other_output = output.as_deref().filter(|_| matches!(other, Some(Other::Model(_)))).map(other_output);
    check_paths(&evaluation.data, [&output, &other_output], &report, &other, resume || force)?;
    let names = names(&common.model, other.as_ref());
    let begin = |model, output| Run::begin(&evaluation, model, output, resume, force, &ui);
    let ours = begin(common.model, output)?;
    let theirs = match other {
        None => None,
        Some(Other::Results(path, records)) => {
            check_results(&path, task, &ours.prepared, &records)?;
            Some(Theirs::Results(records))
        }
        Some(Other::Model(model)) => {
            let theirs = begin(*model, other_output)?;
            pair(&ours.prepared.items.records(), &theirs.prepared.items.records())?;
            Some(Theirs::Model(Box::new(theirs)))
        }
    };

    interrupt::listen()?;
    let images = if report.is_some() { ours.prepared.items.images() } else { BTreeMap::new() };
    let interrupted = Ok(ExitCode::from(interrupt::EXIT_CODE));
    let Some(records) = ours.finish(&evaluation, &ui)? else { return interrupted };
    let others = match theirs {
        None => Vec::new(),
        Some(Theirs::Results(records)) => records,
        Some(Theirs::Model(theirs)) => match theirs.finish(&evaluation, &ui)? {
            Some(records) => records,
            None => return interrupted,
        },
    };
    let mut summary = Summary::new(task, &names[0], &records, seed)?;
    if !others.is_empty() {
        summary.comparison = Some(Compared::new(task, [&names[0], &names[1]], &records, &others, seed)?);
    }
    report::print(&summary, json)?;
    if let Some(path) = &report {
        let (others, limits) = (&others[..], evaluation.image_options.limits());
        let page = Page { task, summary: &summary, records: &records, others, images: &images, limits };
        report::write_page(path, &page)?;
        ui.status(format!("report      {}", path.display()));
    }
    ensure!(summary.failed == 0, "{} of {} rows failed; {}", summary.failed, records.len(), first_error(&records));
    Ok(ExitCode::SUCCESS)
}

/// What the model is compared with.
enum Other {
    /// Another model, or this one with another adapter.
    Model(Box<ModelArgs>),
    /// What an earlier run wrote.
    Results(PathBuf, Vec<Record>),
}

/// The same when all that is cheap is done.
enum Theirs {
    Model(Box<Run>),
    Results(Vec<Record>),
}

fn find_other(compare: &str, model: &ModelArgs) -> Result<Other> {
    let path = Path::new(compare);
    if path.extension().is_some_and(|extension| extension == "jsonl") || State::path(path).is_file() {
        return Ok(Other::Results(path.to_owned(), record::read(path)?));
    }
    let adapter: AdapterArg = parse_adapter(compare).map_err(anyhow::Error::msg)?;
    let holds = |file: &str| adapter.folder.join(file).is_file();
    let is_adapter = holds("adapter_config.json") && !holds("config.json");
    Ok(Other::Model(Box::new(match is_adapter {
        true => ModelArgs { adapters: vec![adapter], ..model.clone() },
        false => ModelArgs { model: Some(compare.to_owned()), revision: None, adapters: Vec::new(), ..model.clone() },
    })))
}

/// Where the other model's results go.
fn other_output(output: &Path) -> PathBuf {
    let extension = output.extension().unwrap_or_default().to_string_lossy();
    output.with_extension(if extension.is_empty() { "other".into() } else { format!("other.{extension}") })
}

/// An error unless all that is written can be, and nothing that is read or written twice.
fn check_paths(
    data: &Path,
    outputs: [&Option<PathBuf>; 2],
    report: &Option<PathBuf>,
    other: &Option<Other>,
    may_exist: bool,
) -> Result<()> {
    let compared = match other {
        Some(Other::Results(path, _)) => Some(path.as_path()),
        _ => None,
    };
    let outputs = outputs.into_iter().flatten().map(|path| ("--output", path, may_exist));
    let mut taken: Vec<(&str, &Path)> = vec![("the data", data)];
    taken.extend(compared.map(|path| ("what is compared with", path)));
    for (flag, path, may_exist) in outputs.chain(report.iter().map(|path| ("--report", path, true))) {
        for (what, other) in &taken {
            let same = path == other || matches!((path.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b);
            ensure!(!same, "{flag} {}: that is {what}", path.display());
        }
        check_output(flag, path, data, may_exist)?;
        taken.push(("written by another flag", path));
    }
    Ok(())
}

/// An error unless earlier results can be compared with.
fn check_results(path: &Path, task: &Task, prepared: &Prepared, records: &[Record]) -> Result<()> {
    let refused = || format!("--compare {}", path.display());
    let state = State::read(path).with_context(refused)?;
    ensure!(*state.get("input") == *prepared.sha256, "{}: it is of other data", refused());
    let theirs: Task = serde_json::from_value(state.get("task").clone())
        .with_context(|| format!("{}: it is no output of phi3v eval", refused()))?;
    let alike = match (&theirs, task) {
        (Task::Choice(a), Task::Choice(b)) => a == b,
        _ => theirs.name() == task.name(),
    };
    ensure!(alike, "{}: it is of phi3v eval {theirs}, not {task}", refused());
    let ours = prepared.items.records();
    let (_, records) = pair(&ours, records).with_context(refused)?;
    task.statistics(&records).map(|_| ()).with_context(refused)
}

/// Rows that are on their way to records.
struct Run {
    prepared: Prepared,
    results: Results,
    can_resume: bool,
}

impl Run {
    fn begin(
        evaluation: &Evaluation,
        model: ModelArgs,
        output: Option<PathBuf>,
        resume: bool,
        force: bool,
        ui: &Ui,
    ) -> Result<Self> {
        let prepared = evaluation.prepare(model, ui)?;
        let results = match &output {
            None => Results::new(),
            Some(path) => {
                let state = evaluation.state(&prepared)?;
                match resume && path.exists() {
                    true => Results::resume(path, &state, &prepared.items.rows())?,
                    false => Results::create(path, state, force),
                }
            }
        };
        Ok(Self { prepared, results, can_resume: output.is_some() })
    }

    /// All records of a model; none if Ctrl-C came first.
    fn finish(self, evaluation: &Evaluation, ui: &Ui) -> Result<Option<Vec<Record>>> {
        let Self { prepared, mut results, can_resume } = self;
        let rows = prepared.items.rows().len();
        let hint = if can_resume { ", --resume continues" } else { "" };
        let how_far = |results: &Results| format!("{} of {rows} rows are done{hint}", results.records.len());
        if results.records.len() < rows {
            let run = evaluation.run(prepared, &mut results, ui);
            if !run.with_context(|| how_far(&results))? {
                ui.warning(format!("interrupted; {}", how_far(&results)));
                return Ok(None);
            }
        }
        Ok(Some(results.records))
    }
}

/// What the model and the other one are called in figures.
fn names(model: &ModelArgs, other: Option<&Other>) -> [String; 2] {
    match other {
        None => [name_of(model), String::new()],
        Some(Other::Results(path, _)) => [name_of(model), path.display().to_string()],
        Some(Other::Model(other)) if name_of(model) == name_of(other) => [full_name(model), full_name(other)],
        Some(Other::Model(other)) => [name_of(model), name_of(other)],
    }
}

fn name_of(model: &ModelArgs) -> String {
    let last = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let name = last(Path::new(model.name()));
    let adapters = model.adapters.iter().map(|adapter| format!(" + {}", last(&adapter.folder)));
    name.strip_suffix(".gguf").unwrap_or(&name).to_owned() + &adapters.collect::<String>()
}

/// The same with all that tells it from others.
fn full_name(model: &ModelArgs) -> String {
    let revision = model.revision.iter().map(|revision| format!("@{revision}"));
    let adapters = model.adapters.iter().map(|adapter| format!(" + {}:{}", adapter.folder.display(), adapter.weight));
    model.name().to_owned() + &revision.chain(adapters).collect::<String>()
}
