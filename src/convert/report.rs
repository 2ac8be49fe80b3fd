//! What a conversion costs: how far the result's predictions are from the source's, and how far each matrix is.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mlx_rs::{Array, Dtype};
use serde::Serialize;

use super::{Job, Method, OnEvent, REPORT_POSITIONS, Unit, stage};
use crate::checkpoint::quantization::QuantizedAs;
use crate::checkpoint::{ModelFiles, Weights};
use crate::convert::calibration::Samples;
use crate::convert::calibration::divergence::{Divergences, Reference};
use crate::convert::pass::{Conversion, Settings, Sizes};
use crate::convert::rule::Rule;
use crate::models;

/// Name of the report in the result's folder.
pub const FILE: &str = "quantization_report.json";

/// What a conversion costs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How numbers were rounded: `round to nearest` or `gptq`.
    pub method: &'static str,
    /// Sizes before and after.
    pub sizes: Sizes,
    /// How far predictions moved.
    pub divergence: Divergences,
    /// The same with every matrix rounded to the nearest in the default number of bits, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Each packed matrix.
    pub matrices: Vec<MatrixReport>,
}

/// What the plainest quantization costs.
#[derive(Debug, Serialize)]
pub struct Baseline {
    /// How its matrices are packed.
    pub packing: QuantizedAs,
    /// Sizes before and after.
    pub sizes: Sizes,
    /// How far predictions moved.
    pub divergence: Divergences,
}

/// A packed matrix.
#[derive(Debug, Serialize)]
pub struct MatrixReport {
    /// Its module.
    pub path: String,
    /// How it is packed.
    #[serde(flatten)]
    pub packing: QuantizedAs,
    /// Bytes of its numbers, scales and biases.
    pub bytes: u64,
    /// `‖Ŵ − W‖ / ‖W‖`
    pub error: f64,
}

/// Measures the result in `folder` against the source.
pub(super) fn measure(
    job: &Job,
    conversion: &Conversion,
    folder: &Path,
    judge: &Reference,
    on_event: &mut OnEvent,
) -> Result<Report> {
    let result = result_files(job, conversion, folder)?;
    let divergence = compare(&result, judge, "measuring the result", on_event)?;
    let written = models::weights(&result, None)?;
    let mut matrices = Vec::new();
    for matrix in conversion.to_pack() {
        let (before, after) = (job.weights.matrix(&matrix.path)?, written.matrix(&matrix.path)?);
        let bytes = (matrix.size(matrix.packing) / 8.0) as u64;
        let error = relative_error(&before, &after).with_context(|| matrix.path.clone())?;
        drop((before, after));
        [job.weights, &written].iter().for_each(|weights| weights.release_matrix(&matrix.path));
        matrices.push(MatrixReport { path: matrix.path, packing: matrix.packing, bytes, error });
        mlx_rs::memory::clear_cache()?;
    }
    let method = match job.options.method {
        Method::Nearest => "round to nearest",
        Method::Gptq => "gptq",
    };
    Ok(Report { method, sizes: conversion.sizes, divergence, baseline: None, matrices })
}

/// The source's predictions, to compare with.
pub(super) fn reference<'s>(files: &ModelFiles, judge: &'s Samples, on_event: &mut OnEvent) -> Result<Reference<'s>> {
    let mut tell = positions(judge, "measuring the source", on_event);
    let model = models::load(files, None, |_, _| ())?;
    Reference::record(&model, judge, &mut tell)
}

/// Compares the result with the model that its adapters are attached to.
///
/// # Errors
/// Also when they differ by more than rounding, where nothing is quantized.
pub(super) fn verify(job: &Job, conversion: &Conversion, folder: &Path, on_event: &mut OnEvent) -> Result<Divergences> {
    let samples = Samples::built_in(&models::processor(job.files)?, job.files.max_position_embeddings()?)?;
    let samples = samples.up_to(REPORT_POSITIONS);
    let dtype = job.options.settings.dtype;
    let reference = {
        let mut tell = positions(&samples, "asking the model with adapters", on_event);
        let weights = models::weights(job.files, dtype)?;
        let weights = job.options.adapters.iter().cloned().fold(weights, Weights::attach);
        Reference::record(&models::build(job.files, weights)?, &samples, &mut tell)?
    };
    let divergences = compare(&result_files(job, conversion, folder)?, &reference, "asking the new model", on_event)?;
    // In 16 bits a model with random weights is as far as 0.05 from itself.
    let (kl, rounding) = (divergences.all.kl, if dtype == Some(Dtype::Float32) { 1e-3 } else { 0.1 });
    ensure!(
        kl <= rounding || !conversion.packings.is_empty(),
        "the new model's predictions differ from those of the model with its adapters: by {kl:.4} nats, where rounding \
         explains {rounding}; nothing was written"
    );
    Ok(divergences)
}

/// Makes, measures and removes the plainest quantization, in a folder within the result's.
pub(super) fn baseline(
    job: &Job,
    folder: &Path,
    rule: &Rule,
    judge: &Reference,
    on_event: &mut OnEvent,
) -> Result<Baseline> {
    let plain = Rule { vision: rule.vision, ..Rule::uniform(rule.default) };
    let settings = Settings { rule: Some(plain), ..job.settings.clone() };
    let conversion = Conversion::new(job.files, job.weights, &settings)?;
    let folder = folder.join("baseline");
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    super::write(&conversion, &folder, "converting plainly", on_event)?;
    let result = result_files(job, &conversion, &folder)?;
    let divergence = compare(&result, judge, "measuring the plain one", on_event)?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(Baseline { packing: rule.default, sizes: conversion.sizes, divergence })
}

/// The files of a result that is not published yet.
fn result_files(job: &Job, conversion: &Conversion, folder: &Path) -> Result<ModelFiles> {
    Ok(ModelFiles { folder: folder.to_owned(), gguf: None, config: conversion.config()?, ..job.files.clone() })
}

fn compare(result: &ModelFiles, judge: &Reference, label: &str, on_event: &mut OnEvent) -> Result<Divergences> {
    let mut tell = positions(judge.samples(), label, on_event);
    let model = models::load(result, None, |_, _| ())?;
    judge.compare(&model, &mut tell)
}

/// Begins a stage over the samples' positions; what is returned tells of those that are done.
fn positions<'e>(
    samples: &Samples,
    label: &str,
    on_event: &'e mut OnEvent,
) -> impl FnMut(usize) -> ControlFlow<()> + 'e {
    let mut tell = stage(label, Unit::Steps, samples.positions() as u64, on_event);
    move |positions| tell(positions as u64)
}

fn relative_error(before: &Array, after: &Array) -> Result<f64> {
    let norm = |a: &Array| -> Result<f64> { Ok(f64::from(a.square()?.sum(None)?.try_item_exact::<f32>()?).sqrt()) };
    let before = before.as_dtype(Dtype::Float32)?;
    let whole = norm(&before)?;
    let difference = norm(&after.as_dtype(Dtype::Float32)?.subtract(before)?)?;
    Ok(if whole > 0.0 { difference / whole } else { difference })
}

/// A table for people.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let width = self.matrices.iter().map(|matrix| matrix.path.len()).max().unwrap_or(0);
        writeln!(f, "{:width$}  bits  group  mode          MB   error", "matrix")?;
        for MatrixReport { path, packing: QuantizedAs { group_size, bits, mode }, bytes, error } in &self.matrices {
            let (mode, megabytes) = (format!("{mode:?}").to_lowercase(), *bytes as f64 / 1e6);
            writeln!(f, "{path:width$}  {bits:4}  {group_size:5}  {mode:6}  {megabytes:8.2}  {error:6.4}")?;
        }
        writeln!(f)?;
        writeln!(f, "{:24}  bits/weight       GB      KL    top-1", "")?;
        line(f, self.method, &self.sizes, &self.divergence)?;
        if let Some(Baseline { packing, sizes, divergence }) = &self.baseline {
            line(f, &format!("{} bits, to nearest", packing.bits), sizes, divergence)?;
        }
        let positions = self.divergence.all.positions;
        write!(f, "KL: divergence of the predictions from the source's, in nats, mean of {positions} positions")
    }
}

fn line(f: &mut Formatter, name: &str, sizes: &Sizes, divergences: &Divergences) -> fmt::Result {
    let kinds = [(" text", divergences.text), (" images", divergences.images)];
    for (kind, divergence) in kinds.into_iter().filter_map(|(kind, divergence)| Some((kind, divergence?))) {
        let (name, bits, gigabytes) = (format!("{name},{kind}"), sizes.bits_per_weight, sizes.bytes as f64 / 1e9);
        let (kl, top1) = (divergence.kl, 100.0 * divergence.top1_agreement);
        writeln!(f, "{name:24}  {bits:11.2}  {gigabytes:7.3}  {kl:6.4}  {top1:5.1} %")?;
    }
    Ok(())
}
