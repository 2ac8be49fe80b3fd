//! What is told of a run: before, while it goes on, and in the end.

use std::cell::RefCell;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use indicatif::ProgressBar;
use phi3v::memory::TrainingMemory;
use phi3v::train::curve::{plot_text, write_curve};
use phi3v::train::metrics::{self, Record, Training, Validation};
use phi3v::train::plan::{Plan, SimilarTensors};
use phi3v::train::trainer::{End, Event, Trainer, metrics_path};
use serde::Serialize;
use serde_json::json;

use crate::interrupt;
use crate::ui::Ui;

/// What is known of a run before it begins.
#[derive(Serialize)]
pub(super) struct Prospect {
    modules: Vec<SimilarTensors>,
    parameters: usize,
    rows: usize,
    held_out: usize,
    steps: usize,
    memory: TrainingMemory,
}

impl Prospect {
    pub(super) fn new(plan: &Plan, rows: usize, held_out: usize, steps: usize, memory: TrainingMemory) -> Self {
        Self { modules: plan.similar(), parameters: plan.parameters(), rows, held_out, steps, memory }
    }

    /// As lines for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { modules, parameters, rows, held_out, steps, memory } = self;
        let mut lines = Vec::new();
        let widest = modules.iter().map(|group| group.module.chars().count()).max().unwrap_or(0);
        for group in modules {
            let shape = group.shape.iter().map(i32::to_string).collect::<Vec<_>>().join(" × ");
            let (module, count) = (&group.module, group.count);
            lines.push(format!("{module:widest$}  {count:>3} of {shape:<14} {:>12} parameters", group.parameters));
        }
        let gigabytes = |bytes: usize| bytes as f64 / 1e9;
        lines.push(format!("trained     {parameters} parameters"));
        lines.push(format!("rows        {rows}, {held_out} held out; {steps} steps"));
        lines.push(format!(
            "memory      about {:.2} GB: weights {:.2}, what is trained {:.2}, on the way {:.2}",
            gigabytes(memory.total()),
            gigabytes(memory.weights),
            gigabytes(memory.trained),
            gigabytes(memory.activations)
        ));
        lines
    }
}

/// A run on the screen.
pub(super) struct Shown<'u> {
    ui: &'u Ui,
    bar: ProgressBar,
    seen: RefCell<Seen>,
}

/// What was told last.
#[derive(Default)]
struct Seen {
    loss: Option<f32>,
    val_loss: Option<f32>,
    /// When this process began to read batches, and how many positions it has read.
    rate: Option<(Instant, usize)>,
}

impl<'u> Shown<'u> {
    /// Of a run of so many steps, some of which were taken before.
    pub(super) fn new(ui: &'u Ui, steps: usize, before: usize) -> Self {
        let bar = ui.steps(steps as u64);
        bar.set_position(before as u64);
        bar.reset_eta();
        Self { ui, bar, seen: RefCell::default() }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Tells of an event; breaks off where Ctrl-C was pressed.
    pub(super) fn on(&self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Batch { step, tokens } => {
                self.bar.set_position(step as u64 - 1);
                let mut seen = self.seen.borrow_mut();
                let (_, read) = seen.rate.get_or_insert_with(|| (Instant::now(), 0));
                *read += tokens;
                self.bar.set_message(seen.message());
            }
            Event::Report(report) => self.report(report),
            Event::Validating { done, total } => self.bar.set_message(format!("held-out rows: {done} of {total}")),
            Event::Validated(validation, is_best) => self.validated(validation, is_best),
            Event::Sample { prompt, text } => self.line(format!("{prompt} → {}", text.trim())),
        }
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn report(&self, report: &Training) {
        self.seen.borrow_mut().loss = Some(report.loss);
        self.bar.set_position(report.step);
        self.line(format!(
            "step {:>5}  epoch {:.2}  loss {:.4}  rate {:.2e}  norm {:.2}  {:.0} tokens/s  {:.2} GB",
            report.step,
            report.epoch,
            report.loss,
            report.learning_rate,
            report.grad_norm,
            report.tokens_per_second,
            report.peak_memory as f64 / 1e9
        ));
    }

    fn validated(&self, validation: &Validation, is_best: bool) {
        self.seen.borrow_mut().val_loss = Some(validation.val_loss);
        self.line(format!(
            "step {:>5}  held-out loss {:.4}  tokens right {:.1} %  rows right {:.1} %{}",
            validation.step,
            validation.val_loss,
            100.0 * validation.val_accuracy.unwrap_or_default(),
            100.0 * validation.val_exact.unwrap_or_default(),
            if is_best { "  kept" } else { "" }
        ));
    }

    fn line(&self, line: String) {
        self.bar.suspend(|| self.ui.status(line));
    }
}

impl Seen {
    fn message(&self) -> String {
        let loss = self.loss.map(|loss| format!("loss {loss:.3} "));
        let val_loss = self.val_loss.map(|loss| format!("held-out {loss:.3} "));
        let rate = self.rate.map(|(since, read)| (read as f64 / since.elapsed().as_secs_f64().max(1e-9)) as usize);
        // The first batch is still being read.
        let rate = rate.filter(|rate| *rate < 1_000_000).map(|rate| format!("{rate} tokens/s "));
        let memory = format!("{:.2} GB", phi3v::memory::peak() as f64 / 1e9);
        [loss, val_loss, rate].into_iter().flatten().collect::<String>() + &memory
    }
}

/// The result, the curve, and how the run ended.
pub(super) fn finish(end: End, trainer: &Trainer, folder: &Path, plot: bool, json: bool, ui: &Ui) -> Result<ExitCode> {
    let records = metrics::read(&metrics_path(folder))?;
    let progress = trainer.progress();
    if end == End::Interrupted {
        ui.warning(format!("interrupted after {} steps; --resume goes on from there", progress.step));
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    for name in ["loss.png", "loss.svg"] {
        write_curve(&records, &folder.join(name))?;
    }
    if plot {
        ui.reply(plot_text(&records, 72, 12));
    }
    let last = records.iter().rev().find_map(|record| match record {
        Record::Training(training) => Some(training),
        Record::Validation(_) => None,
    });
    let loss = last.map(|training| training.loss);
    if json {
        let all = json!({
            "adapter": folder,
            "end": if end == End::Done { "done" } else { "stopped" },
            "steps": progress.step,
            "tokens": progress.tokens,
            "loss": loss,
            "best_step": progress.best.map(|(step, _)| step),
            "val_loss": progress.best.map(|(_, loss)| loss),
            "seconds": progress.seconds,
            "peak_memory": phi3v::memory::peak(),
        });
        writeln!(std::io::stdout(), "{all}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let (seconds, tokens) = (progress.seconds, progress.tokens);
    ui.status(format!(
        "trained     {} steps, {tokens} tokens, {:.0} tokens/s",
        progress.step,
        tokens as f64 / seconds.max(1e-9)
    ));
    if end == End::Stopped {
        ui.status("            ended as the held-out rows were not predicted better any more");
    }
    let kept = match progress.best {
        Some((step, loss)) => format!("that of step {step}, held-out loss {loss:.4}"),
        None => "that of the last step".into(),
    };
    writeln!(std::io::stdout(), "{}", folder.display())?;
    ui.status(format!("adapter     {kept}; use it with --adapter {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}
