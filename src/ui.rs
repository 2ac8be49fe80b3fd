//! All that is drawn in a terminal. Results go to stdout and are the commands' own; status, warnings and progress go to
//! stderr, progress only where that is a terminal.

use std::cell::RefCell;
use std::fmt::Display;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use phi3v::checkpoint::hub;

use crate::commands::flags::named;

/// How much is told on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Progress and figures, too.
    Normal,
    /// Decisions, too.
    Verbose,
}

/// Where a command draws.
pub(crate) struct Ui {
    verbosity: Verbosity,
    /// Whether notes are set apart by their colour.
    color: bool,
    /// The download in progress.
    download: RefCell<ProgressBar>,
}

impl Ui {
    pub(crate) fn new(quiet: bool, verbose: bool) -> Self {
        let verbosity = match (quiet, verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        };
        Self { verbosity, color: false, download: RefCell::new(ProgressBar::hidden()) }
    }

    pub(crate) fn in_color(self, color: bool) -> Self {
        Self { color, ..self }
    }

    /// A remark between questions and answers, unless the user wants quiet.
    pub(crate) fn note(&self, message: impl Display) {
        match self.color {
            true => self.status(format!("\x1b[2m{message}\x1b[0m")),
            false => self.status(message),
        }
    }

    /// What the user asked to be told, beside results.
    pub(crate) fn reply(&self, message: impl Display) {
        eprintln!("{message}");
    }

    /// A figure or a piece of news, unless the user wants quiet.
    pub(crate) fn status(&self, message: impl Display) {
        if self.verbosity >= Verbosity::Normal {
            eprintln!("{message}");
        }
    }

    /// Something the user should know.
    pub(crate) fn warning(&self, message: impl Display) {
        eprintln!("warning: {}", named(&message.to_string()));
    }

    /// A decision, for users who ask.
    pub(crate) fn verbose(&self, message: impl Display) {
        if self.verbosity >= Verbosity::Verbose {
            eprintln!("{message}");
        }
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    /// A bar over so many bytes.
    pub(crate) fn bytes(&self, label: &str, total: u64) -> ProgressBar {
        self.bar(label, total, "{msg:24!} {bar:30} {bytes:>10} of {total_bytes} {bytes_per_sec:>12} {eta:>4}")
    }

    /// A bar over so many positions.
    pub(crate) fn positions(&self, label: &str, total: u64) -> ProgressBar {
        self.bar(label, total, "{msg:24!} {bar:30} {pos:>10} of {len} {per_sec:>14} {eta:>4}")
    }

    /// A bar over so many rows; its label is to be changed as they are answered.
    pub(crate) fn rows(&self, total: u64) -> ProgressBar {
        self.bar("answering", total, "{msg:24!} {bar:30} {pos:>10} of {len} rows {eta:>6}")
    }

    /// A bar over so many steps of training; its label is to be changed as they are taken.
    pub(crate) fn steps(&self, total: u64) -> ProgressBar {
        self.bar("training", total, "{msg:52!} {bar:20} {pos:>6} of {len} steps {eta:>6}")
    }

    /// A bar over what is to be measured; its label is to be changed from point to point.
    pub(crate) fn points(&self) -> ProgressBar {
        self.bar("", 0, "{msg:64!} {bar:20} {percent:>3} %")
    }

    fn bar(&self, label: &str, total: u64, template: &str) -> ProgressBar {
        let target = match self.verbosity {
            Verbosity::Quiet => ProgressDrawTarget::hidden(),
            // Draws nothing where stderr is no terminal.
            _ => ProgressDrawTarget::stderr(),
        };
        let style = ProgressStyle::with_template(template).expect("templates are constant");
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

impl hub::Progress for Ui {
    fn start(&self, file: &str, total: u64, already: u64) {
        let bar = self.bytes(file, total);
        bar.set_position(already);
        bar.reset_eta();
        self.download.replace(bar).finish_and_clear();
    }

    fn advance(&self, bytes: u64) {
        self.download.borrow().inc(bytes);
    }

    fn finish(&self) {
        self.download.borrow().finish_and_clear();
    }

    fn warn(&self, message: &str) {
        self.warning(message);
    }
}

/// An error as one line.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {}", named(&phi3v::one_line(error)));
}
