//! `phi3v verify`: a model against recordings of the reference implementation.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use phi3v::device;
use phi3v::verify::{CaseReport, verify};

use crate::commands::args::{CpuArgs, OutputArgs};
use crate::ui::Ui;

/// Arguments of `phi3v verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Folder of a checkpoint [default: for each recording the nearest folder above it that has a config.json]
    #[arg(short, long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Folder with recordings of the reference implementation; folders below it are searched, too
    #[arg(short, long, value_name = "FOLDER")]
    golden: PathBuf,
    /// Prefill in steps of so many positions; several, separated by commas, must all give the same
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,7,64,2048",
        value_parser = clap::value_parser!(u64).range(1..))]
    prefill_step_size: Vec<u64>,
    /// Print one JSON object per recording
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cpu: CpuArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: VerifyArgs) -> Result<ExitCode> {
    let VerifyArgs {
        model,
        golden,
        prefill_step_size,
        json,
        cpu: CpuArgs { threads },
        output: OutputArgs { quiet, verbose },
    } = args;
    device::use_threads(threads.map(usize::from))?;
    let ui = Ui::new(quiet, verbose);
    let steps: Vec<usize> = prefill_step_size.iter().map(|&step| step as usize).collect();

    let mut written = Ok(());
    let reports = verify(model.as_deref(), &golden, &steps, |report| {
        if written.is_ok() {
            written = if json { print_json(report) } else { print(report, &ui) };
        }
    })?;
    written?;

    let failed = reports.iter().filter(|report| report.failed()).count();
    let skipped = reports.iter().filter(|report| report.skipped.is_some()).count();
    let passed = reports.len() - failed - skipped;
    ui.status(format!("{passed} passed, {failed} failed, {skipped} skipped"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_json(report: &CaseReport) -> Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(report)?)?;
    Ok(())
}

/// A line per case, and under it the comparisons that failed; with `--verbose` all of them.
fn print(report: &CaseReport, ui: &Ui) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(reason) = &report.skipped {
        writeln!(out, "skipped  {}: {reason}", report.case)?;
        return Ok(());
    }
    writeln!(out, "{}  {}", if report.failed() { "FAILED " } else { "passed " }, report.case)?;
    for check in report.checks.iter().filter(|check| !check.passed || ui.is_verbose()) {
        let mark = if check.passed { " " } else { "!" };
        writeln!(out, "       {mark} {}: {}", check.stage, check.detail)?;
    }
    Ok(())
}
