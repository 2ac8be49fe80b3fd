//! Compares a model, stage by stage, with what the reference implementation computed from the same checkpoint.
//!
//! A recorded case is a `golden.json` with the conversation and a safetensors file with the results; the folder of the
//! checkpoint is the nearest one above that has a `config.json`. Everything is computed in float32.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use image::RgbImage;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::checkpoint::ModelFiles;
use crate::checkpoint::json::{parse, read_json};
use crate::engine::sequence::Sequence;
use crate::models::{self, Arch, Model};
use crate::processor::images::phi3_v::TILE;
use crate::processor::images::{self, ImageLimits, ImageOptions, ImageSource, NumCrops, Pixels};
use crate::processor::{Message, Processor, Prompt, Segment};

/// Largest differences that count as equal; the recordings' README says how they were measured.
mod tolerance {
    pub(super) const PIXELS: f64 = 1e-5;
    pub(super) const IMAGE_FEATURES: f64 = 1e-3;
    pub(super) const LOGITS: f64 = 2e-3;
}

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was compared: `input_ids`, `last_logits`, …
    pub stage: String,
    /// Whether it is within tolerance.
    pub passed: bool,
    /// The largest difference, or the first divergence.
    pub detail: String,
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
    /// Whether something is outside its tolerance.
    pub fn failed(&self) -> bool {
        self.checks.iter().any(|check| !check.passed)
    }
}

/// The parts of `golden.json` that say what to compute.
#[derive(Debug, Clone, Deserialize)]
struct Recording {
    messages: Option<Vec<Message>>,
    #[serde(default)]
    images: Vec<String>,
    num_crops: Option<u32>,
    prompt: Option<String>,
    #[serde(default)]
    cases: Vec<TextCase>,
    tokenizer: Option<TokenizerCase>,
}

#[derive(Debug, Clone, Deserialize)]
struct TextCase {
    case: String,
}

#[derive(Debug, Clone, Deserialize)]
struct TokenizerCase {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    decoded_with_special: Option<String>,
}

/// Runs every recording below `golden`, with the model in `model` or else the one each belongs to. Prefills in steps of
/// each of `prefill_step_sizes`. `on_case` is told as soon as a case is done; the reports are also returned.
///
/// # Errors
/// When nothing is recorded there, or a model that was asked for cannot be loaded.
pub fn verify(
    model: Option<&Path>,
    golden: &Path,
    prefill_step_sizes: &[usize],
    mut on_case: impl FnMut(&CaseReport),
) -> Result<Vec<CaseReport>> {
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
    let mut reports = Vec::new();
    let mut report = |path: &Path, skipped: Option<String>, checks: Vec<Check>| {
        let case = path.strip_prefix(golden).unwrap_or(path).display().to_string();
        let case = CaseReport { case: if case.is_empty() { ".".into() } else { case }, skipped, checks };
        on_case(&case);
        reports.push(case);
    };
    for (folder, paths) in recordings {
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
            report(&texts, None, vec![subject.tokenizer(&parse::<Vec<TokenizerCase>>(&value)?)?]);
        }
        for path in paths {
            let folder = path.parent().unwrap_or(golden);
            let value = read_json(&path)?.unwrap_or_default();
            let recording: Recording = parse(&value).with_context(|| format!("{}", path.display()))?;
            if let Some(case) = &recording.tokenizer {
                report(&path, None, vec![subject.tokenizer(std::slice::from_ref(case))?]);
            }
            let names: Vec<&str> = match &recording.cases[..] {
                [] => vec!["golden"],
                cases => cases.iter().map(|case| case.case.as_str()).collect(),
            };
            for name in names {
                let tensors = folder.join(format!("{name}.safetensors"));
                let recorded = Recorded::read(&tensors)?;
                let shown = if recording.cases.is_empty() { folder } else { &tensors };
                if recorded.get("input_ids").is_none() {
                    report(shown, Some("it records no generation".into()), Vec::new());
                    continue;
                }
                let checks = subject.case(folder, &recording, &recorded);
                report(shown, None, checks.with_context(|| format!("{}", tensors.display()))?);
            }
        }
    }
    Ok(reports)
}

/// Every `golden.json` below `folder`, or `folder` itself, sorted.
fn find(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            // Links are not followed, so that none can lead in a circle.
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "golden.json" {
                found.insert(entry.path());
            }
        }
    }
    Ok(found)
}

/// A tensor of numbers, whatever their type was.
struct Numbers {
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// The recorded results of one case.
struct Recorded(BTreeMap<String, Numbers>);

impl Recorded {
    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{}", path.display()))?;
        let numbers = |(name, tensor): (String, safetensors::tensor::TensorView)| -> Result<(String, Numbers)> {
            let data = tensor.data();
            let values = match tensor.dtype() {
                safetensors::Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
                safetensors::Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                safetensors::Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
                other => bail!("{}: {name} is of type {other:?}", path.display()),
            };
            Ok((name, Numbers { shape: tensor.shape().to_vec(), values }))
        };
        Ok(Self(file.tensors().into_iter().map(numbers).collect::<Result<_>>()?))
    }

    fn get(&self, name: &str) -> Option<&Numbers> {
        self.0.get(name)
    }

    fn ids(&self, name: &str) -> Vec<i64> {
        self.get(name).map(|numbers| numbers.values.iter().map(|&id| id as i64).collect()).unwrap_or_default()
    }
}

/// The model under test.
struct Subject<'a> {
    model: Model,
    processor: Processor,
    prefill_step_sizes: &'a [usize],
}

impl Subject<'_> {
    fn tokenizer(&self, cases: &[TokenizerCase]) -> Result<Check> {
        for case in cases {
            let tokenizer = &self.processor.tokenizer;
            let ids = tokenizer.encode(&case.text, true)?;
            let decoded = tokenizer.decode(&case.ids, false)?;
            let with_special = case.decoded_with_special.as_ref();
            let wrong = if ids != case.ids {
                format!("{:?} becomes {ids:?}, recorded is {:?}", case.text, case.ids)
            } else if decoded != case.decoded {
                format!("{ids:?} reads {decoded:?}, recorded is {:?}", case.decoded)
            } else if let Some(text) = with_special
                && tokenizer.decode(&case.ids, true)? != *text
            {
                format!("{ids:?} with special tokens does not read {text:?}")
            } else {
                continue;
            };
            return Ok(check("tokenizer", Err(wrong)));
        }
        Ok(check("tokenizer", Ok(format!("{} texts equal", cases.len()))))
    }

    fn case(&self, folder: &Path, recording: &Recording, recorded: &Recorded) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        let images = self.images(folder, &recording.images, &mut checks)?;
        let prompt = match &recording.messages {
            Some(messages) => {
                let num_crops = recording.num_crops.map(NumCrops::Fixed);
                let options = ImageOptions { num_crops, ..ImageOptions::default() };
                let prompt = self.processor.prepare(messages, &images, &options)?;
                if let Some(text) = &recording.prompt {
                    let same = prompt.text == *text;
                    let told = if same { Ok("equal".into()) } else { Err(format!("it reads {:?}", prompt.text)) };
                    checks.push(check("prompt", told));
                }
                checks.push(check("input_ids", equal(&self.processor.input_ids(&prompt), &recorded.ids("input_ids"))));
                prompt
            }
            None => {
                let ids = recorded.ids("input_ids").into_iter().map(u32::try_from).collect::<Result<_, _>>()?;
                Prompt { text: String::new(), segments: vec![Segment::Text(ids)], images: Vec::new() }
            }
        };
        for (index, image) in prompt.images.iter().enumerate() {
            self.pixels(folder, index, image, recorded, &mut checks)?;
        }
        self.logits(&prompt, recorded, &mut checks)?;
        for &step in self.prefill_step_sizes {
            checks.push(check(&format!("greedy, prefill in steps of {step}"), self.greedy(&prompt, recorded, step)?));
        }
        Ok(checks)
    }

    /// The images of a case. Where the reference's decoding is recorded as well, it is compared, and used.
    fn images(&self, folder: &Path, names: &[String], checks: &mut Vec<Check>) -> Result<Vec<RgbImage>> {
        let mut images = Vec::new();
        for name in names {
            let load = |path: &Path| -> Result<RgbImage> {
                Ok(images::load(&ImageSource::Path(path.to_owned()), &ImageLimits::default())?)
            };
            let path = folder.join(name);
            let image = load(&path)?;
            let reference = path.with_extension("decoded.png");
            if reference.is_file() {
                let reference = load(&reference)?;
                checks.push(check(&format!("{name} decoded"), bytes(&image, &reference)));
                images.push(reference);
            } else {
                images.push(image);
            }
        }
        Ok(images)
    }

    fn pixels(
        &self,
        folder: &Path,
        index: usize,
        image: &Pixels,
        recorded: &Recorded,
        checks: &mut Vec<Check>,
    ) -> Result<()> {
        let (rows, cols) = image.layout.grid;
        let (height, width) = (rows * TILE as usize, cols * TILE as usize);
        let sizes = recorded.ids("image_sizes");
        let size = sizes.get(2 * index..2 * index + 2).unwrap_or_default();
        checks.push(check(&format!("image_sizes {index}"), equal(&[height as i64, width as i64], size)));
        let tokens = recorded.ids("num_img_tokens").get(index).copied().into_iter().collect::<Vec<_>>();
        checks.push(check(&format!("num_img_tokens {index}"), equal(&[image.layout.tokens as i64], &tokens)));

        let sheet = folder.join(format!("sheet_{index}.png"));
        if let (true, Some(processor)) = (sheet.is_file(), self.processor.images()) {
            let sheet = images::load(&ImageSource::Path(sheet), &ImageLimits::default())?;
            // What is resized already stays as it is, so equal pixels mean equal bytes of the sheet.
            let same = processor.pixels(&sheet, &image.layout).values == image.values;
            let told = if same { Ok("equal to the byte".into()) } else { Err("its bytes differ".into()) };
            checks.push(check(&format!("sheet {index}"), told));
        }
        // Recorded crops have their channels first: [3, 336, 336].
        let area = (TILE * TILE) as usize;
        let at = |crop: usize, flat: usize| f64::from(image.values[(crop * area + flat % area) * 3 + flat / area]);
        if let (Some(samples), Some(at_index)) =
            (recorded.get(&format!("crop_samples_{index}")), recorded.get("crop_sample_index"))
        {
            let ours: Vec<f64> = (0..samples.shape[0].min(1 + rows * cols))
                .flat_map(|crop| at_index.values.iter().map(move |&flat| (crop, flat as usize)))
                .map(|(crop, flat)| at(crop, flat))
                .collect();
            checks.push(check(&format!("crop samples {index}"), close(&ours, samples, tolerance::PIXELS)));
        }
        if let Some(pixels) = recorded.get(&format!("pixel_values_{index}")) {
            let ours: Vec<f64> = (0..pixels.shape[0])
                .flat_map(|crop| (0..3 * area).map(move |flat| (crop, flat)))
                .map(|(c, f)| at(c, f))
                .collect();
            checks.push(check(&format!("pixel_values {index}"), close(&ours, pixels, tolerance::PIXELS)));
        }
        if let Some(stats) = recorded.get(&format!("crop_stats_{index}")) {
            let ours: Vec<f64> = (0..1 + rows * cols)
                .flat_map(|crop| {
                    let n = 3.0 * area as f64;
                    let sum: f64 = (0..3 * area).map(|flat| at(crop, flat)).sum();
                    let squares: f64 = (0..3 * area).map(|flat| (at(crop, flat) - sum / n).powi(2)).sum();
                    [sum / n, (squares / n).sqrt(), sum / n]
                })
                .collect();
            // The sum as a mean, so that one tolerance serves all three.
            let values = stats.values.iter().enumerate();
            let values = values.map(|(i, v)| if i % 3 == 2 { v / (3.0 * area as f64) } else { *v }).collect();
            let stats = Numbers { shape: stats.shape.clone(), values };
            checks.push(check(&format!("crop statistics {index}"), close(&ours, &stats, tolerance::PIXELS)));
        }
        Ok(())
    }

    fn logits(&self, prompt: &Prompt, recorded: &Recorded, checks: &mut Vec<Check>) -> Result<()> {
        let largest = self.prefill_step_sizes.iter().copied().max().unwrap_or(usize::MAX);
        let mut sequence = Sequence::new(&self.model, prompt)?;
        for (index, features) in sequence.image_features().enumerate() {
            if let Some(expected) = recorded.get(&format!("image_features_{index}")) {
                let told = close(&numbers(features)?, expected, tolerance::IMAGE_FEATURES);
                checks.push(check(&format!("image_features {index}"), told));
            }
        }
        let ids = recorded.ids("top10_ids");
        let rows = recorded.get("top10_ids").map_or(1, |top| top.shape[0]);
        let hidden = sequence.prefill(rows, largest, &mut |_, _| ControlFlow::Continue(()))?;
        let hidden = hidden.ok_or_else(|| anyhow!("interrupted"))?;
        let last = hidden.try_index((0, -(rows as i32).., ..))?;
        let logits = self.model.text.logits(&last)?; // [rows, vocab_size]
        let vocab_size = logits.dim(-1) as usize;
        let logits = numbers(&logits)?;
        if let Some(expected) = recorded.get("last_logits") {
            let ours = &logits[logits.len() - vocab_size..];
            checks.push(check("last_logits", close(ours, expected, tolerance::LOGITS)));
        }
        if let Some(expected) = recorded.get("top10_logits") {
            let each = expected.shape[1];
            let best = |row: &[f64]| -> Vec<i64> {
                let mut ids: Vec<i64> = (0..row.len() as i64).collect();
                ids.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
                ids.truncate(each);
                ids
            };
            let ours: Vec<i64> = logits.chunks_exact(vocab_size).flat_map(best).collect();
            checks.push(check("top10_ids", equal(&ours, &ids)));
            let ours: Vec<f64> =
                ids.iter().enumerate().map(|(i, &id)| logits[i / each * vocab_size + id as usize]).collect();
            checks.push(check("top10_logits", close(&ours, expected, tolerance::LOGITS)));
        }
        Ok(())
    }

    fn greedy(&self, prompt: &Prompt, recorded: &Recorded, step: usize) -> Result<Result<String, String>> {
        let expected = recorded.ids("greedy_ids");
        let mut sequence = Sequence::new(&self.model, prompt)?;
        for (at, &token) in expected.iter().enumerate() {
            let now = sequence.next_logits(step)?;
            let best = (0..now.len()).max_by(|&a, &b| now[a].total_cmp(&now[b])).unwrap_or(0) as i64;
            if best != token {
                let margin = recorded.get("greedy_margin").and_then(|m| m.values.get(at)).copied().unwrap_or(f64::NAN);
                // Two tokens this close may change places; what follows is then another text.
                if margin < tolerance::LOGITS {
                    return Ok(Ok(format!("{at} tokens equal, then a tie (margin {margin:.1e})")));
                }
                return Ok(Err(format!("token {at} is {best}, recorded is {token} (margin {margin:.3})")));
            }
            sequence.push(token as u32);
        }
        Ok(Ok(format!("{} tokens equal", expected.len())))
    }
}

fn check(stage: &str, told: Result<String, String>) -> Check {
    let passed = told.is_ok();
    Check { stage: stage.to_owned(), passed, detail: told.unwrap_or_else(|wrong| wrong) }
}

fn numbers(array: &Array) -> Result<Vec<f64>> {
    let array = array.as_dtype(Dtype::Float32)?.contiguous()?;
    array.eval()?;
    Ok(array.as_slice::<f32>().iter().map(|&value| value.into()).collect())
}

fn equal(ours: &[i64], expected: &[i64]) -> Result<String, String> {
    if let Some(at) = (0..ours.len().min(expected.len())).find(|&at| ours[at] != expected[at]) {
        return Err(format!("first divergence at {at}: {}, recorded is {}", ours[at], expected[at]));
    }
    if ours.len() != expected.len() {
        return Err(format!("{} numbers, recorded are {}", ours.len(), expected.len()));
    }
    Ok(format!("{} equal", ours.len()))
}

fn bytes(ours: &RgbImage, expected: &RgbImage) -> Result<String, String> {
    if ours.dimensions() != expected.dimensions() {
        return Err(format!("{:?} pixels, recorded are {:?}", ours.dimensions(), expected.dimensions()));
    }
    let differences = ours.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b));
    match differences.clone().max() {
        Some(0) | None => Ok("equal to the byte".into()),
        Some(max) => {
            let count = differences.filter(|&difference| difference > 0).count();
            Err(format!("{count} of {} bytes differ, by up to {max}", ours.len()))
        }
    }
}

fn close(ours: &[f64], expected: &Numbers, tolerance: f64) -> Result<String, String> {
    if ours.len() != expected.values.len() {
        return Err(format!("{} numbers, recorded are {:?}", ours.len(), expected.shape));
    }
    let difference = |at: usize| (ours[at] - expected.values[at]).abs();
    let outside = |at: &usize| difference(*at).is_nan() || difference(*at) > tolerance;
    let max = (0..ours.len()).map(difference).fold(0.0, f64::max);
    match (0..ours.len()).find(outside) {
        None => Ok(format!("max difference {max:.1e}, allowed {tolerance:.0e}")),
        Some(at) => Err(format!(
            "first divergence at {:?}: {:.6}, recorded is {:.6}; {} of {} outside {tolerance:.0e}, max {max:.1e}",
            position(at, &expected.shape),
            ours[at],
            expected.values[at],
            (0..ours.len()).filter(outside).count(),
            ours.len()
        )),
    }
}

/// The index along each axis of the element `flat`.
fn position(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut indices: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&dim| {
            let index = flat % dim;
            flat /= dim;
            index
        })
        .collect();
    indices.reverse();
    indices
}
