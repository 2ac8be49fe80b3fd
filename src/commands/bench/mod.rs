//! `phi3v bench`: how fast a model is on this machine.

mod args;

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use mlx_rs::Dtype;
use phi3v::bench::compare::Regression;
use phi3v::bench::report::{AdapterFigures, Report};
use phi3v::bench::shape::Shape;
use phi3v::bench::work::Facts;
use phi3v::bench::{self, Point, Settings};
use phi3v::checkpoint::json::{parse, read_json};
use phi3v::checkpoint::low_rank::Attached;
use phi3v::checkpoint::staging::replace_file;
use phi3v::checkpoint::{ModelFiles, Weights};
use phi3v::models::{self, Model};
use phi3v::{device, memory};

pub(crate) use args::BenchArgs;

use super::session;
use crate::interrupt;
use crate::ui::Ui;

pub(super) fn run(args: BenchArgs) -> Result<ExitCode> {
    if args.list_shapes {
        return list_shapes();
    }
    let ui = Ui::new(args.verbosity.quiet, args.verbosity.verbose);
    // Everything cheap first: a mistake should not cost a download or the loading of a model.
    let settings = Settings {
        repetitions: args.repetitions,
        warmup: args.warmup,
        prefill_step_size: args.memory.prefill_step_size,
        kv_bits: args.memory.kv_bits,
    };
    let sweep = args.sweep.sweep()?;
    check_files(args.output.as_deref(), args.compare.as_deref())?;
    let mut adapters = Vec::new();
    let subject = match &args.shape {
        Some(name) => {
            device::use_threads(args.model.cpu.threads.map(usize::from))?;
            let shape = Shape::find(name, None)?;
            let (shape, warnings) = match args.packing.packing()? {
                Some(packing) => shape.quantized(packing)?,
                None => (shape, Vec::new()),
            };
            warnings.into_iter().for_each(|warning| ui.warning(warning));
            Subject::Shape(shape, args.model.dtype.dtype())
        }
        None => {
            let name = args.model.name().to_owned();
            let folders: Vec<_> = args.model.adapters.iter().map(|adapter| adapter.folder.clone()).collect();
            let opened = session::open(args.model, &ui)?;
            for (folder, attached) in folders.iter().zip(&opened.adapters) {
                let (name, parameters) = (folder.display().to_string(), attached.adapter.parameters());
                adapters.push(AdapterFigures { name, parameters });
            }
            Subject::Checkpoint { name, files: opened.files, dtype: opened.dtype, adapters: opened.adapters }
        }
    };
    let facts = Facts::of(subject.files(), subject.weights()?)?;
    let points = sweep.with_defaults(&facts).points();
    let baseline = args.compare.as_deref().map(|path| read_baseline(path, &points, &ui)).transpose()?;
    let available = args.memory.memory_limit.unwrap_or_else(memory::available);
    points.iter().try_for_each(|point| point.check(&facts, &settings, available))?;
    let mut report = bench::begin(subject.name(), matches!(subject, Subject::Shape(..)), adapters, &facts, settings)?;
    if let Some(baseline) = &baseline {
        report.check_baseline(baseline)?;
    }

    let model = subject.load(&ui)?;
    // Not before: what comes earlier can simply be ended.
    interrupt::listen()?;
    let finished = measure(&mut report, &model, &facts, &points, &ui);
    let most = args.max_regression;
    let regression = baseline.and_then(|baseline| report.compare(&baseline, most.unwrap_or(f64::INFINITY)));
    let text = match (args.json, args.markdown) {
        (true, _) => serde_json::to_string(&report)? + "\n",
        (_, true) => report.to_markdown(),
        _ => report.to_text(),
    };
    // Whatever goes wrong, what was measured is not lost.
    let printed = if report.points.is_empty() { Ok(()) } else { write!(std::io::stdout(), "{text}") };
    if !finished? {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    if let Some(path) = &args.output {
        // Of a link, the file that it names.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        replace_file(&path, |file| Ok(writeln!(file, "{}", serde_json::to_string_pretty(&report)?)?))?;
    }
    printed?;
    match regression {
        Some(regression) => bail!(complaint(&regression, most.unwrap_or_default())),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What is measured.
enum Subject {
    /// Random numbers.
    Shape(Shape, Option<Dtype>),
    Checkpoint {
        name: String,
        files: ModelFiles,
        dtype: Option<Dtype>,
        adapters: Vec<Attached>,
    },
}

impl Subject {
    fn name(&self) -> &str {
        match self {
            Self::Shape(shape, _) => &shape.name,
            Self::Checkpoint { name, .. } => name,
        }
    }

    fn files(&self) -> &ModelFiles {
        match self {
            Self::Shape(shape, _) => &shape.files,
            Self::Checkpoint { files, .. } => files,
        }
    }

    /// Nothing of them is read yet.
    fn weights(&self) -> Result<Weights> {
        match self {
            Self::Shape(shape, dtype) => shape.random_weights(*dtype),
            Self::Checkpoint { files, dtype, .. } => models::weights(files, *dtype),
        }
    }

    fn load(&self, ui: &Ui) -> Result<Model> {
        let adapters = match self {
            Self::Shape(..) => &[][..],
            Self::Checkpoint { adapters, .. } => adapters,
        };
        session::load_model(self.files(), self.weights()?, adapters, ui)
    }
}

/// An error unless the report can be written in the end.
fn check_files(output: Option<&Path>, compare: Option<&Path>) -> Result<()> {
    let Some(output) = output else { return Ok(()) };
    let may_be = fs::symlink_metadata(output).is_err() || output.is_file();
    ensure!(may_be, "--output {}: this is there, and no file; name another", output.display());
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "--output {}: there is no folder {}", output.display(), folder.display());
    tempfile::tempfile_in(folder).with_context(|| format!("--output {}: cannot write there", output.display()))?;
    if let (Some(compare), Ok(output)) = (compare, fs::canonicalize(output))
        && fs::canonicalize(compare).is_ok_and(|compare| compare == output)
    {
        bail!("--output {} would replace the baseline; name another file", output.display());
    }
    Ok(())
}

fn read_baseline(path: &Path, points: &[Point], ui: &Ui) -> Result<Report> {
    let json = read_json(path)?.with_context(|| format!("--compare {}: there is no such file", path.display()))?;
    let report: Report = parse(&json).with_context(|| format!("{} is no report of phi3v bench", path.display()))?;
    report.check().with_context(|| format!("--compare {}", path.display()))?;
    let is_known = |point: &&Point| report.points.iter().any(|known| known.point == **point);
    let known = points.iter().filter(is_known).count();
    ensure!(known > 0, "{} has none of the combinations that are to be measured", path.display());
    if known < points.len() {
        ui.warning(format!("{} has {known} of {} combinations", path.display(), points.len()));
    }
    Ok(report)
}

/// False if it was interrupted.
fn measure(report: &mut Report, model: &Model, facts: &Facts, points: &[Point], ui: &Ui) -> Result<bool> {
    let bar = ui.points();
    let mut shown = None;
    let finished = bench::run(report, model, facts, points, &mut |progress| {
        // Steps are short: what takes time is done once.
        if shown != Some(*progress.point) {
            let at = points.iter().position(|point| point == progress.point).map_or(0, |at| at + 1);
            bar.set_message(format!("{at} of {}: {}", points.len(), progress.point));
            bar.set_length(progress.total as u64);
            shown = Some(*progress.point);
        }
        bar.set_position(progress.done as u64);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    finished
}

fn complaint(regression: &Regression, most: f64) -> String {
    let Regression { point, phase, before, now } = regression;
    let unit = phase.unit();
    let lost = 100.0 * (1.0 - now / before);
    let most = 100.0 * most;
    format!("{phase} lost {lost:.1} % of its speed, more than {most} %: {now:.3} {unit}, before {before:.3} ({point})")
}

fn list_shapes() -> Result<ExitCode> {
    let mut out = std::io::stdout();
    for name in Shape::names() {
        let shape = Shape::find(&name, None)?;
        let parameters = bench::count(shape.parameters);
        let vision = if models::Arch::of(&shape.files)?.images.is_some() { "images" } else { "text" };
        let source = shape.files.config["_name_or_path"].as_str().unwrap_or_default();
        writeln!(out, "{name:<16} {parameters:>8}  {vision:<8}  {source}")?;
    }
    Ok(ExitCode::SUCCESS)
}
