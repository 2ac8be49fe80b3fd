//! What is compared: the stages from the conversation to the generated tokens.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, anyhow};
use image::RgbImage;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::compare::{Outcome, bytes, close, equal, tolerance};
use super::recording::{ChatCase, Numbers, Recording, Tensors, TokenizerCase};
use super::{Check, pixels};
use crate::engine::sequence::Sequence;
use crate::models::Model;
use crate::processor::images::{self, ImageLimits, ImageOptions, ImageSource, NumCrops, Pixels};
use crate::processor::{Message, PositionCounter, Processor, Prompt, Segment};
use crate::rows::{RowImages, conversation};

/// The model under test.
pub(super) struct Subject<'a> {
    pub(super) model: Model,
    pub(super) processor: Processor,
    pub(super) prefill_step_sizes: &'a [usize],
}

/// One recorded case.
pub(super) struct Case<'a> {
    pub(super) folder: &'a Path,
    pub(super) recording: &'a Recording,
    pub(super) tensors: Tensors,
    /// The stages that it is said to hold.
    pub(super) listed: Option<&'a [String]>,
}

/// The outcome of a stage that is not recorded.
pub(super) fn missing(name: &str) -> String {
    format!("{name} is not recorded")
}

/// A stage's name in lists of stages: without the number of an image or the size of a step.
fn listed_name(stage: &str) -> &str {
    let name = stage.split(',').next().unwrap_or(stage);
    name.rsplit_once('_').filter(|(_, number)| number.parse::<usize>().is_ok()).map_or(name, |(name, _)| name)
}

impl Subject<'_> {
    /// Texts to ids and back.
    pub(super) fn tokenizer(&self, cases: &[TokenizerCase]) -> Result<Outcome> {
        if cases.is_empty() {
            return Ok(Err("no text is recorded".into()));
        }
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
            return Ok(Err(wrong));
        }
        Ok(Ok(format!("{} texts equal", cases.len())))
    }

    /// What belongs to all cases of a recording.
    pub(super) fn common(&self, recording: &Recording) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        if let Some(case) = &recording.tokenizer {
            checks.push(Check::new("tokenizer", self.tokenizer(std::slice::from_ref(case))?));
        }
        if let Some(ChatCase { messages, prompt, ids }) = &recording.chat {
            let (text, segments) = self.processor.read_conversation(&self.messages(messages)?, 0)?;
            checks.push(Check::new("chat prompt", same_text(&text, prompt)));
            let ours: Vec<i64> = segments.iter().flat_map(Segment::ids).map(|&id| id.into()).collect();
            let recorded: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
            checks.push(Check::new("chat ids", equal(&ours, &recorded)));
        }
        Ok(checks)
    }

    /// Messages whose images are those of the recording, in order.
    fn messages(&self, messages: &Value) -> Result<Vec<Message>> {
        // Which files they are does not matter here: that there are enough of them is checked with the prompt.
        let mut images = RowImages::unnamed(1024);
        conversation(messages, &mut images, &self.processor)
    }

    /// All stages of a case.
    pub(super) fn case(&self, case: &Case) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        let images = images_of(case, &mut checks)?;
        let Some(prompt) = self.prompt(case, &images, &mut checks)? else { return Ok(checks) };
        if let Some(processor) = self.processor.images() {
            for (index, image) in prompt.images.iter().enumerate() {
                pixels::compare(case, processor, index, image, &mut checks)?;
            }
        }
        self.positions(case, &prompt, &mut checks);
        self.vision(case, &prompt, &mut checks)?;
        self.logits(case, &prompt, &mut checks)?;
        for &step in self.prefill_step_sizes {
            let stage = format!("greedy_ids, prefill in steps of {step}");
            checks.push(Check::new(stage, self.greedy(case, &prompt, step)?));
        }
        let unknown = case.tensors.left().into_iter().map(|name| Check::new(name, Err("no stage knows it".into())));
        checks.extend(unknown);
        let compared = |name: &String| checks.iter().any(|check| listed_name(&check.stage) == name);
        let left = case.listed.unwrap_or_default().iter().filter(|name| !compared(name));
        let left: Vec<Check> =
            left.map(|name| Check::new(name, Err("it is listed, and not recorded".into()))).collect();
        checks.extend(left);
        Ok(checks)
    }

    /// The prompt, from the conversation or else from the ids; none where there are no ids.
    fn prompt(&self, case: &Case, images: &[RgbImage], checks: &mut Vec<Check>) -> Result<Option<Prompt>> {
        let Some(ids) = case.tensors.ids("input_ids") else {
            checks.push(Check::new("input_ids", Err(missing("input_ids"))));
            return Ok(None);
        };
        let num_crops = case.recording.num_crops.map(NumCrops::Fixed);
        let options = ImageOptions { num_crops, ..ImageOptions::default() };
        let Some(messages) = &case.recording.messages else {
            let pixels = self.processor.pixels(images, &options)?;
            return self.prompt_of_ids(&ids, pixels).map(Some);
        };
        let prompt = self.processor.prepare(&self.messages(messages)?, images, &options)?;
        if let Some(text) = &case.recording.prompt {
            checks.push(Check::new("prompt", same_text(&prompt.text, text)));
        }
        checks.push(Check::new("input_ids", equal(&self.processor.input_ids(&prompt), &ids)));
        Ok(Some(prompt))
    }

    /// A prompt of these ids, in which each image takes as many positions as its layout says.
    fn prompt_of_ids(&self, ids: &[i64], images: Vec<Pixels>) -> Result<Prompt> {
        let mut segments = Vec::new();
        let (mut at, mut index) = (0, 0);
        while at < ids.len() {
            let image_id = self.processor.images().map(|images| images.input_id(index));
            match images.get(index).filter(|_| image_id == Some(ids[at])) {
                Some(image) => {
                    segments.push(Segment::Image(index));
                    (at, index) = (at + image.layout.tokens, index + 1);
                }
                None => {
                    let id = u32::try_from(ids[at])?;
                    match segments.last_mut() {
                        Some(Segment::Text(ids)) => ids.push(id),
                        _ => segments.push(Segment::Text(vec![id])),
                    }
                    at += 1;
                }
            }
        }
        Ok(Prompt { text: String::new(), segments, images })
    }

    fn positions(&self, case: &Case, prompt: &Prompt, checks: &mut Vec<Check>) {
        let mut counter = PositionCounter::default();
        let mut positions = Vec::new();
        for segment in &prompt.segments {
            match segment {
                Segment::Text(ids) => positions.extend(counter.text(ids.len())),
                Segment::Image(index) => positions.extend(counter.layout(&prompt.images[*index].layout)),
            }
        }
        if let Some(recorded) = case.tensors.ids("position_ids") {
            let ours: Vec<i64> = (0..3).flat_map(|axis| positions.iter().map(move |at| at[axis].into())).collect();
            checks.push(Check::new("position_ids", equal(&ours, &recorded)));
        }
        if let Some(recorded) = case.recording.rope_delta {
            let next = counter.text(1).next().map_or(0, |[next, ..]| i64::from(next));
            checks.push(Check::new("rope_delta", equal(&[next - prompt.len() as i64], &[recorded])));
        }
    }

    /// The features of the tower and of the projector.
    fn vision(&self, case: &Case, prompt: &Prompt, checks: &mut Vec<Check>) -> Result<()> {
        if let Some(recorded) = case.tensors.get("tower_0")
            && let Some(image) = prompt.images.first()
        {
            let features = self.model.vision()?.encode(&[image])?.remove(0);
            let width = features.dim(-1);
            let first = features.reshape(&[-1, width])?.try_index((..recorded.shape[0] as i32, ..))?;
            checks.push(Check::new("tower_0", close(&numbers(&first)?, recorded, tolerance::FEATURES)));
        }
        for (index, image) in prompt.images.iter().enumerate() {
            let name = format!("image_features_{index}");
            if let Some(recorded) = case.tensors.get(&name) {
                let features = numbers(&self.model.encode_image(image)?)?;
                checks.push(Check::new(name, close(&features, recorded, tolerance::FEATURES)));
            }
        }
        Ok(())
    }

    fn logits(&self, case: &Case, prompt: &Prompt, checks: &mut Vec<Check>) -> Result<()> {
        let all = case.tensors.get("logits");
        let top = case.tensors.get("top10_logits");
        let rows = all.or(top).map_or(1, |recorded| recorded.shape[0]);
        let logits = self.last_logits(prompt, rows)?;
        let vocab_size = logits.len() / rows;
        let last = |rows: usize| &logits[logits.len() - rows * vocab_size..];
        if let Some(recorded) = case.tensors.get("last_logits") {
            checks.push(Check::new("last_logits", close(last(1), recorded, tolerance::LOGITS)));
        } else if all.is_none() && top.is_none() {
            checks.push(Check::new("last_logits", Err(missing("last_logits, top10_logits or logits"))));
        }
        if let Some(recorded) = top {
            checks.extend(top_logits(case, last(recorded.shape[0]), vocab_size, recorded));
        }
        if let Some(recorded) = all {
            let outcome = match case.tensors.ids("logit_columns") {
                None => Err(missing("logit_columns")),
                Some(columns) => {
                    let row = |row: &[f64]| columns.iter().map(|&id| row[id as usize]).collect::<Vec<_>>();
                    let ours: Vec<f64> = logits.chunks_exact(vocab_size).flat_map(row).collect();
                    close(&ours, recorded, tolerance::LOGITS)
                }
            };
            checks.push(Check::new("logits", outcome));
        }
        if let Some(recorded) = case.tensors.ids("argmax_ids") {
            checks.push(Check::new("argmax_ids", best_ids(last(recorded.len()), vocab_size, &recorded)));
        }
        Ok(())
    }

    /// The logits of the last `rows` positions, one after the other.
    fn last_logits(&self, prompt: &Prompt, rows: usize) -> Result<Vec<f64>> {
        let largest = self.prefill_step_sizes.iter().copied().max().unwrap_or(usize::MAX);
        let mut sequence = Sequence::new(&self.model, prompt)?;
        let hidden = sequence.prefill(rows, largest, &mut |_, _| ControlFlow::Continue(()))?;
        let hidden = hidden.ok_or_else(|| anyhow!("interrupted"))?;
        numbers(&self.model.text.logits(&hidden.try_index((0, -(rows as i32).., ..))?)?)
    }

    fn greedy(&self, case: &Case, prompt: &Prompt, step: usize) -> Result<Outcome> {
        let margins = case.tensors.get("greedy_margin");
        let Some(expected) = case.tensors.ids("greedy_ids") else { return Ok(Err(missing("greedy_ids"))) };
        let mut sequence = Sequence::new(&self.model, prompt)?;
        for (at, &token) in expected.iter().enumerate() {
            let now: Vec<f64> = sequence.next_logits(step)?.into_iter().map(f64::from).collect();
            let best = best_id(&now);
            if best != token {
                let margin = margins.and_then(|m| m.values.get(at)).copied().unwrap_or(f64::NAN);
                // Two tokens this close may change places; what follows is then another text.
                if margin < tolerance::LOGITS && at > 0 {
                    return Ok(Ok(format!("{at} tokens equal, then a tie (margin {margin:.1e})")));
                }
                return Ok(Err(format!("token {at} is {best}, recorded is {token} (margin {margin:.3})")));
            }
            sequence.push(token as u32);
        }
        Ok(Ok(format!("{} tokens equal", expected.len())))
    }
}

/// The images of a case. Where the reference's decoding is recorded as well, it is compared, and used.
fn images_of(case: &Case, checks: &mut Vec<Check>) -> Result<Vec<RgbImage>> {
    let load = |path: &Path| images::load(&ImageSource::Path(path.to_owned()), &ImageLimits::default());
    let mut images = Vec::new();
    for name in &case.recording.images {
        let path = case.folder.join(name);
        let image = load(&path)?;
        let reference = path.with_extension("decoded.png");
        if reference.is_file() {
            let reference = load(&reference)?;
            checks.push(Check::new("decoded", bytes(&image, &reference)));
            images.push(reference);
        } else {
            images.push(image);
        }
    }
    Ok(images)
}

/// The best ids of each row and their logits.
fn top_logits(case: &Case, logits: &[f64], vocab_size: usize, recorded: &Numbers) -> [Check; 2] {
    let each = recorded.shape[1];
    let best = |row: &[f64]| -> Vec<i64> {
        let mut ids: Vec<i64> = (0..row.len() as i64).collect();
        ids.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        ids.truncate(each);
        ids
    };
    let Some(ids) = case.tensors.ids("top10_ids").filter(|ids| ids.len() == recorded.values.len()) else {
        return ["top10_ids", "top10_logits"].map(|stage| Check::new(stage, Err(missing("top10_ids"))));
    };
    let ours: Vec<i64> = logits.chunks_exact(vocab_size).flat_map(best).collect();
    let at_ids: Vec<f64> = ids.iter().enumerate().map(|(i, &id)| logits[i / each * vocab_size + id as usize]).collect();
    [
        Check::new("top10_ids", equal(&ours, &ids)),
        Check::new("top10_logits", close(&at_ids, recorded, tolerance::LOGITS)),
    ]
}

/// Whether each row's best id is the recorded one; two this close may change places.
fn best_ids(logits: &[f64], vocab_size: usize, recorded: &[i64]) -> Outcome {
    for (at, (row, &id)) in logits.chunks_exact(vocab_size).zip(recorded).enumerate() {
        let best = best_id(row);
        if best != id && row[best as usize] - row[id as usize] > tolerance::LOGITS {
            return Err(format!("first divergence at {at}: {best}, recorded is {id}"));
        }
    }
    Ok(format!("{} equal", recorded.len()))
}

fn best_id(row: &[f64]) -> i64 {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as i64
}

fn same_text(ours: &str, recorded: &str) -> Outcome {
    if ours == recorded { Ok("equal".into()) } else { Err(format!("it reads {ours:?}")) }
}

fn numbers(array: &Array) -> Result<Vec<f64>> {
    let array = array.as_dtype(Dtype::Float32)?.contiguous()?;
    array.eval()?;
    Ok(array.as_slice::<f32>().iter().map(|&value| value.into()).collect())
}
