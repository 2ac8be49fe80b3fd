//! What `phi3v convert` does: a model folder from another, packed as asked, with the price of it where wanted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mlx_quantized::Mode;
use mlx_rs::Array;

use crate::checkpoint::low_rank::Attached;
use crate::checkpoint::quantization::QuantizedAs;
use crate::checkpoint::staging::{Staging, write_file};
use crate::checkpoint::{ModelFiles, Weights};
use crate::convert::calibration::Samples;
use crate::convert::calibration::divergence::Divergences;
use crate::convert::calibration::gptq::Gptq;
use crate::convert::calibration::sensitivity::{Sensitivities, coarse_bits};
use crate::convert::pass::{Conversion, Settings, Sizes, ToPack, round_to_nearest};
use crate::convert::report::Report;
use crate::convert::rule::Rule;
use crate::models;

pub mod calibration;
mod card;
pub mod export;
pub mod pass;
pub mod report;
pub mod rule;

/// Positions on which a matrix' sensitivity is measured, each matrix alone.
const SENSITIVITY_POSITIONS: usize = 512;
/// Positions that guide the rounding.
const GUIDE_POSITIONS: usize = 8192;
/// Positions that a report is measured on.
const REPORT_POSITIONS: usize = 2048;

/// How numbers are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Each to the nearest.
    #[default]
    Nearest,
    /// So that the errors of a row make up for one another on the inputs that the matrix is given.
    Gptq,
}

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
    /// How numbers are rounded.
    pub method: Method,
    /// Bits per weight of the whole, for which bits are chosen matrix by matrix.
    pub target_bpw: Option<f64>,
    /// Texts and images to be guided and judged by; none for the built-in ones.
    pub calibration: Option<PathBuf>,
    /// Whether to measure what the conversion costs.
    pub report: bool,
    /// What becomes part of the matrices.
    pub adapters: Vec<Attached>,
    /// Whether to compare the result's predictions with those of the model with its adapters.
    pub verify: bool,
}

impl Options {
    /// Everything as it is, into a new folder.
    pub fn new(target: PathBuf) -> Self {
        Self {
            target,
            replace: false,
            settings: Settings::default(),
            source_name: None,
            method: Method::Nearest,
            target_bpw: None,
            calibration: None,
            report: false,
            adapters: Vec::new(),
            verify: false,
        }
    }
}

/// What happens meanwhile.
pub enum Event<'a> {
    /// Something the user should know, which does not stop the work.
    Warning(String),
    /// A stage begins, with so many steps.
    Stage(&'a str, Unit, u64),
    /// So many steps of the stage are done.
    Done(u64),
}

/// What a stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of tensors.
    Bytes,
    /// Positions of samples, or matrices.
    Steps,
}

/// Told what happens; may break off.
pub type OnEvent<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// What came out.
pub struct Outcome {
    /// Sizes before and after.
    pub sizes: Sizes,
    /// How each packed matrix is packed, by module.
    pub packings: BTreeMap<String, QuantizedAs>,
    /// What it cost, if that was asked.
    pub report: Option<Report>,
    /// How far its predictions are from those of the model with its adapters, if that was asked.
    pub divergence: Option<Divergences>,
}

/// A conversion under way.
struct Job<'a> {
    files: &'a ModelFiles,
    weights: &'a Weights,
    options: &'a Options,
    /// Those of the options, and bits that were chosen.
    settings: Settings,
}

/// Makes the folder. `on_event` may break off, which is an error, and leaves nothing behind.
pub fn convert(files: &ModelFiles, options: &Options, on_event: &mut OnEvent) -> Result<Outcome> {
    ensure_apart(&files.folder, &options.target)?;
    let weights = options.adapters.iter().cloned().fold(models::weights(files, None)?, Weights::attach);
    let mut job = Job { files, weights: &weights, options, settings: options.settings.clone() };
    // Whether it is possible, before anything slow.
    let mut conversion = job.conversion()?;
    for warning in conversion.warnings() {
        let _ = on_event(Event::Warning(warning));
    }
    let staging = Staging::begin(&options.target, options.replace)?;
    let folder = staging.folder();
    let samples = job.samples()?;

    if let (Some(target), Some((guide, _))) = (options.target_bpw, &samples) {
        job.choose_bits(&conversion, target, guide, on_event)?;
        conversion = job.conversion()?;
    }
    match (options.method, &samples) {
        (Method::Gptq, Some((guide, _))) => job.write_guided(&conversion, folder, guide, on_event)?,
        _ => write(&conversion, folder, "converting", on_event)?,
    }
    let report = match &samples {
        Some((_, judge)) if options.report => Some(job.report(&conversion, folder, judge, on_event)?),
        _ => None,
    };
    if let Some(report) = &report {
        write_file(folder, report::FILE, format!("{:#}\n", serde_json::to_value(report)?).as_bytes())?;
    }
    let divergence = options.verify.then(|| report::verify(&job, &conversion, folder, on_event)).transpose()?;
    let card = card::model_card(files, options.source_name.as_deref(), &conversion)?;
    write_file(folder, "README.md", card.as_bytes())?;
    // Last: without it nobody takes the folder for a model.
    write_file(folder, "config.json", format!("{:#}\n", conversion.config()?).as_bytes())?;
    staging.publish()?;
    Ok(Outcome { sizes: conversion.sizes, packings: conversion.packings, report, divergence })
}

impl<'a> Job<'a> {
    fn conversion(&self) -> Result<Conversion<'a>> {
        Conversion::new(self.files, self.weights, &self.settings)
    }

    /// Those to be guided and those to be judged by, if anything asks for them.
    fn samples(&self) -> Result<Option<(Samples, Samples)>> {
        let Options { method, target_bpw, report, calibration, .. } = self.options;
        if *method == Method::Nearest && target_bpw.is_none() && !report {
            return Ok(None);
        }
        let processor = models::processor(self.files)?;
        let longest = self.files.max_position_embeddings()?;
        let samples = match calibration {
            Some(path) => Samples::read(path, &processor, longest)?,
            None => Samples::built_in(&processor, longest)?,
        };
        let (guide, judge) = samples.split();
        Ok(Some((guide.up_to(GUIDE_POSITIONS), judge.up_to(REPORT_POSITIONS))))
    }

    /// Bits for each matrix, so that the whole has `target` bits per weight.
    fn choose_bits(
        &mut self,
        conversion: &Conversion,
        target: f64,
        guide: &Samples,
        on_event: &mut OnEvent,
    ) -> Result<()> {
        let packed = self.files.quantization()?.is_some();
        ensure!(!packed, "`target_bpw` measures against the original model, and this one is quantized");
        let rule = self.settings.rule.as_mut().context("`target_bpw` is about quantizing")?;
        ensure!(rule.default.mode == Mode::Affine, "`target_bpw` chooses bits of affine quantization");
        let mut matrices = conversion.to_pack();
        matrices.retain(|matrix| !rule.is_exception(&matrix.path));
        let parameters = conversion.sizes.parameters as f64;
        let in_bits = |bits| QuantizedAs { bits, ..rule.default };
        let size = |bits| matrices.iter().map(|matrix| matrix.size(in_bits(bits))).sum::<f64>();
        let packed = matrices.iter().map(|matrix| matrix.size(matrix.packing)).sum::<f64>();
        let fixed = 8.0 * conversion.sizes.bytes as f64 - packed;
        let budget = target * parameters - fixed;
        ensure!(
            (size(2)..=size(8)).contains(&budget),
            "`target_bpw` {target}: with what stays unpacked this model takes {:.2} to {:.2} bits per weight",
            (fixed + size(2)) / parameters,
            (fixed + size(8)) / parameters
        );
        let coarse = in_bits(coarse_bits(budget / matrices.iter().map(ToPack::parameters).sum::<f64>()));
        let samples = guide.up_to(SENSITIVITY_POSITIONS);
        let _ = on_event(Event::Stage("measuring matrices", Unit::Steps, matrices.len() as u64));
        let mut tell = |done| on_event(Event::Done(done as u64));
        let sensitivities = Sensitivities::measure(self.files, &samples, &matrices, coarse, &mut tell)?;
        rule.chosen = sensitivities.choose(&matrices, rule.default.group_size, budget);
        Ok(())
    }

    /// Guided by what matrices are given when the source reads the samples.
    fn write_guided(
        &self,
        conversion: &Conversion,
        folder: &Path,
        guide: &Samples,
        on_event: &mut OnEvent,
    ) -> Result<()> {
        let mut gptq = Gptq::new(self.files, guide, &conversion.to_pack());
        // Both the runs over the samples and the steps of the conversion tell, and may break off; runs take the time.
        let positions = gptq.runs() * guide.positions();
        let tell = RefCell::new(stage("calibrating", Unit::Steps, positions as u64, on_event));
        let mut pack = |path: &str, matrix: &Array, packing: QuantizedAs| {
            gptq.pack(path, matrix, packing, &mut |positions| (tell.borrow_mut())(positions as u64))
        };
        conversion.write(folder, &mut pack, |_| (tell.borrow_mut())(0))
    }

    /// Measures what the conversion cost, and what the plainest quantization would cost where it is another one.
    fn report(
        &self,
        conversion: &Conversion,
        folder: &Path,
        judge: &Samples,
        on_event: &mut OnEvent,
    ) -> Result<Report> {
        let judge = report::reference(self.files, judge, on_event)?;
        let report = report::measure(self, conversion, folder, &judge, on_event)?;
        let plain = |rule: &Rule| rule.mixed.is_none() && rule.overrides.is_empty() && rule.chosen.is_empty();
        let baseline = match &self.settings.rule {
            Some(rule) if !plain(rule) || self.options.method != Method::Nearest => {
                Some(report::baseline(self, folder, rule, &judge, on_event)?)
            }
            _ => None,
        };
        Ok(Report { baseline, ..report })
    }
}

fn write(conversion: &Conversion, folder: &Path, label: &str, on_event: &mut OnEvent) -> Result<()> {
    let tell = stage(label, Unit::Bytes, conversion.sizes.source_bytes, on_event);
    conversion.write(folder, &mut round_to_nearest, tell)
}

/// Begins a stage of so many steps; what is returned is told of steps that are done.
fn stage<'e>(
    label: &str,
    unit: Unit,
    total: u64,
    on_event: &'e mut OnEvent,
) -> impl FnMut(u64) -> ControlFlow<()> + 'e {
    let _ = on_event(Event::Stage(label, unit, total));
    let mut done = 0;
    move |steps| {
        done += steps;
        on_event(Event::Done(done))
    }
}

/// Replacing the folder that is read, or one around it, would take the source away.
fn ensure_apart(source: &Path, target: &Path) -> Result<()> {
    let Ok(target) = fs::canonicalize(target) else { return Ok(()) };
    let source = fs::canonicalize(source).with_context(|| format!("cannot find {}", source.display()))?;
    ensure!(!source.starts_with(&target), "the result cannot take the place of its own source, {}", source.display());
    Ok(())
}
