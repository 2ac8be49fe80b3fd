//! Compares a model, stage by stage, with what the reference implementation computed from the same checkpoint.
//!
//! A recorded case is a `golden.json` with the conversation and a safetensors file with the results; the folder of the
//! checkpoint is the nearest one above that has a `config.json`. Everything is computed in float32. All that is recorded
//! must be compared: a case fails if it lacks what its kind must have, or holds what no stage knows.

mod compare;
mod pixels;
mod recording;
mod stages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mlx_rs::Dtype;
use serde::Serialize;

use crate::checkpoint::ModelFiles;
use crate::checkpoint::json::{parse, read_json};
use crate::models::{self, Arch};
use compare::Outcome;
use recording::{Recording, Tensors, TokenizerCase, find};
use stages::{Case, Subject};

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was compared, by its name in the recording: `input_ids`, `last_logits`, …
    pub stage: String,
    /// Whether it is there and within tolerance.
    pub passed: bool,
    /// The largest difference, the first divergence, or what is missing.
    pub detail: String,
}

impl Check {
    fn new(stage: impl Into<String>, outcome: Outcome) -> Self {
        let passed = outcome.is_ok();
        Self { stage: stage.into(), passed, detail: outcome.unwrap_or_else(|wrong| wrong) }
    }
}

/// What came of one recorded case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The recording, relative to the folder that was searched.
    pub case: String,
    /// Why it was not run, if it was not.
    pub skipped: Option<String>,
    /// The comparisons, in the order of the stages.
    pub checks: Vec<Check>,
}

impl CaseReport {
    /// Whether something is missing or outside its tolerance.
    pub fn failed(&self) -> bool {
        self.skipped.is_none() && (self.checks.is_empty() || self.checks.iter().any(|check| !check.passed))
    }
}

/// Runs every recording below `golden`, with the model in `model` or else the one each belongs to. Prefills in steps of
/// each of `prefill_step_sizes`. `on_case` is told as soon as a case is done; the reports are also returned.
///
/// # Errors
/// When nothing is recorded there, a file cannot be read, or a model that was asked for cannot be loaded.
pub fn verify(
    model: Option<&Path>,
    golden: &Path,
    prefill_step_sizes: &[usize],
    mut on_case: impl FnMut(&CaseReport),
) -> Result<Vec<CaseReport>> {
    ensure!(!prefill_step_sizes.is_empty(), "`prefill_step_size`: at least one is expected");
    let mut reports = Vec::new();
    let mut report = |path: &Path, skipped: Option<String>, checks: Vec<Check>| {
        let case = path.strip_prefix(golden).unwrap_or(path).display().to_string();
        let case = CaseReport { case: if case.is_empty() { ".".into() } else { case }, skipped, checks };
        on_case(&case);
        reports.push(case);
    };
    for (folder, paths) in by_checkpoint(model, golden)? {
        let files = ModelFiles::read(&folder)?;
        if model.is_none()
            && let Err(unsupported) = Arch::of(&files)
        {
            report(&folder, Some(format!("{unsupported:#}")), Vec::new());
            continue;
        }
        let subject = Subject {
            model: models::load(&files, Some(Dtype::Float32), |_, _| ())?,
            processor: models::processor(&files)?,
            prefill_step_sizes,
        };
        let texts = folder.join("tokenizer_golden.json");
        if let Some(value) = read_json(&texts)? {
            let cases: Vec<TokenizerCase> = parse(&value).with_context(|| texts.display().to_string())?;
            report(&texts, None, vec![Check::new("tokenizer", subject.tokenizer(&cases)?)]);
        }
        for path in paths {
            verify_recording(&path, &subject, &mut report)?;
        }
    }
    Ok(reports)
}

/// The recordings by the checkpoint that each is of.
fn by_checkpoint(model: Option<&Path>, golden: &Path) -> Result<BTreeMap<PathBuf, Vec<PathBuf>>> {
    let mut recordings: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in find(golden)? {
        let owner = path.ancestors().skip(1).find(|folder| folder.join("config.json").is_file());
        let folder = model.or(owner).ok_or_else(|| {
            anyhow!("{}: no folder above it has a config.json; name the model with `model`", path.display())
        })?;
        recordings.entry(folder.to_owned()).or_default().push(path);
    }
    if recordings.is_empty() {
        bail!("{} holds no golden.json: there is nothing to compare with", golden.display());
    }
    Ok(recordings)
}

/// Compares what one `golden.json` records: what belongs to all of its cases, then each case.
fn verify_recording(
    path: &Path,
    subject: &Subject,
    report: &mut impl FnMut(&Path, Option<String>, Vec<Check>),
) -> Result<()> {
    let value = read_json(path)?.unwrap_or_default();
    let recording: Recording = parse(&value).with_context(|| path.display().to_string())?;
    let folder = path.parent().unwrap_or(path);
    if recording.is_training() {
        report(folder, Some("it records training, not generation".into()), Vec::new());
        return Ok(());
    }
    let common = subject.common(&recording).with_context(|| path.display().to_string())?;
    if !common.is_empty() {
        report(path, None, common);
    }
    for (name, listed) in recording.files() {
        let file = folder.join(format!("{name}.safetensors"));
        let case = Case { folder, recording: &recording, tensors: Tensors::read(&file)?, listed };
        let checks = subject.case(&case).with_context(|| file.display().to_string())?;
        report(if recording.cases.is_empty() { folder } else { &file }, None, checks);
    }
    Ok(())
}
