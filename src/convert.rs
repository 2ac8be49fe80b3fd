//! What `phi3v convert` does: a model folder from another, packed as asked, with the price of it where wanted.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::checkpoint::conversion::{Conversion, Settings, Sizes, round_to_nearest};
use crate::checkpoint::staging::Staging;
use crate::checkpoint::{ModelFiles, Weights};
use crate::models::Arch;

mod card;

/// What to do, and where the result goes.
pub struct Options {
    /// The new folder.
    pub target: PathBuf,
    /// Whether it may replace a model folder of that name.
    pub replace: bool,
    /// What becomes of the tensors.
    pub settings: Settings,
    /// Name of the source for the model card: a hub id, where there is one.
    pub source_name: Option<String>,
}

/// What happens meanwhile.
pub enum Event<'a> {
    /// Something the user should know, which does not stop the work.
    Warning(String),
    /// So many bytes of so many are converted.
    Converted(u64, u64),
    /// What is done next.
    Phase(&'a str),
}

/// What came out.
pub struct Outcome {
    /// Sizes before and after.
    pub sizes: Sizes,
}

/// Makes the folder. `on_event` may break off, which is an error, and leaves nothing behind.
pub fn convert(
    files: &ModelFiles,
    options: &Options,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Outcome> {
    ensure_apart(&files.folder, &options.target)?;
    let weights = Weights::open(&files.folder, (Arch::of(files)?.remap)(files)?, files.quantization()?, None)?;
    let conversion = Conversion::new(files, &weights, &options.settings)?;
    let staging = Staging::begin(&options.target, options.replace)?;
    if conversion.repacked > 0 {
        let message = format!(
            "{} matrices are quantized already; quantizing them again adds to the error: take the original model if you can",
            conversion.repacked
        );
        let _ = on_event(Event::Warning(message));
    }

    let (mut done, total) = (0, conversion.sizes.source_bytes);
    let _ = on_event(Event::Converted(done, total));
    conversion.write(&staging, &mut round_to_nearest, |bytes| {
        done += bytes;
        on_event(Event::Converted(done, total))
    })?;
    staging.write("README.md", card::model_card(files, options.source_name.as_deref(), &conversion)?.as_bytes())?;
    // Last: without it nobody takes the folder for a model.
    let config = conversion.config()?;
    staging.write("config.json", format!("{config:#}\n").as_bytes())?;
    staging.publish()?;
    Ok(Outcome { sizes: conversion.sizes })
}

/// Replacing the folder that is read, or one around it, would take the source away.
fn ensure_apart(source: &Path, target: &Path) -> Result<()> {
    let Ok(target) = fs::canonicalize(target) else { return Ok(()) };
    let source = fs::canonicalize(source).with_context(|| format!("cannot find {}", source.display()))?;
    ensure!(!source.starts_with(&target), "the result cannot take the place of its own source, {}", source.display());
    Ok(())
}
