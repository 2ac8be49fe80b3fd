//! `phi3v lora export`: an adapter for other programs.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use phi3v::adapter::Adapter;

use super::args::ExportArgs;
use crate::commands::args::OutputArgs;
use crate::ui::Ui;

pub(super) fn run(args: ExportArgs) -> Result<ExitCode> {
    let ExportArgs { adapter, format, save_path, base_model, force, output: OutputArgs { quiet, verbose } } = args;
    let ui = Ui::new(quiet, verbose);
    let there = save_path.join("adapter_config.json").exists();
    ensure!(!there || force, "{} holds an adapter already; --force replaces it", save_path.display());
    let mut adapter = Adapter::read(&adapter)?;
    if base_model.is_some() {
        adapter.about.base_model = base_model;
    }
    adapter.write(&save_path, format.into(), &serde_json::Map::new())?;
    ui.status(format!("written     {}", save_path.display()));
    Ok(ExitCode::SUCCESS)
}
