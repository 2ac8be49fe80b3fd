//! How far a model's predictions are from another's.

use std::ops::ControlFlow;

use anyhow::{Result, bail, ensure};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};
use serde::Serialize;

use crate::convert::calibration::Samples;
use crate::engine::distribution::Distribution;
use crate::engine::sequence::Sequence;
use crate::models::Model;
use crate::parallel::parallel;
use crate::processor::{Prompt, Segment};

/// Positions per step of a prefill.
const STEP: usize = 512;

/// Told after every prompt; may break off.
pub type OnPrompt<'a> = dyn FnMut(usize) -> ControlFlow<()> + 'a;

/// How far predictions are from those of the reference, on average over positions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Divergence {
    /// Kullback–Leibler divergence of the model's distribution from the reference's, in nats: 0 for equal ones.
    pub kl: f64,
    /// Share of positions at which both have the same best token.
    pub top1_agreement: f64,
    /// Positions compared.
    pub positions: usize,
}

impl Divergence {
    fn mean<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for part in parts {
            sum.kl += part.kl * part.positions as f64;
            sum.top1_agreement += part.top1_agreement * part.positions as f64;
            sum.positions += part.positions;
        }
        let positions = sum.positions.max(1) as f64;
        Self { kl: sum.kl / positions, top1_agreement: sum.top1_agreement / positions, ..sum }
    }
}

/// On pieces of text, and on answers to questions about images.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Divergences {
    /// Over all positions.
    pub all: Divergence,
    /// Of prompts without images, if there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Divergence>,
    /// Of prompts with images, if there are such; the positions after them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Divergence>,
}

/// A model's predictions on some prompts.
pub struct Reference<'s> {
    samples: &'s Samples,
    /// Of each prompt, `[positions, vocab_size]`, float32.
    logits: Vec<Array>,
}

impl<'s> Reference<'s> {
    /// Runs the model.
    pub fn record(model: &Model, samples: &'s Samples, on_prompt: &mut OnPrompt) -> Result<Self> {
        let mut recorded = Vec::new();
        for prompt in &samples.prompts {
            let logits = logits(model, prompt)?;
            logits.eval()?;
            recorded.push(logits);
            interruptible(on_prompt(prompt.len()))?;
        }
        Ok(Self { samples, logits: recorded })
    }

    /// What they are predictions on.
    pub fn samples(&self) -> &'s Samples {
        self.samples
    }

    /// How far the predictions of `model` are from these.
    pub fn compare(&self, model: &Model, on_prompt: &mut OnPrompt) -> Result<Divergences> {
        let mut parts: Vec<(bool, Divergence)> = Vec::new();
        for (prompt, reference) in self.samples.prompts.iter().zip(&self.logits) {
            let divergence = divergence(reference, &logits(model, prompt)?)?;
            parts.push((!prompt.images.is_empty(), divergence));
            interruptible(on_prompt(prompt.len()))?;
        }
        let of_kind = |images: bool| {
            let parts = || parts.iter().filter(move |part| part.0 == images).map(|part| &part.1);
            parts().next().is_some().then(|| Divergence::mean(parts()))
        };
        let all = Divergence::mean(parts.iter().map(|part| &part.1));
        Ok(Divergences { all, text: of_kind(false), images: of_kind(true) })
    }
}

/// An error if the caller breaks off.
pub(super) fn interruptible(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() {
        bail!("interrupted; nothing was written");
    }
    Ok(())
}

/// What the model expects to follow, `[positions, vocab_size]`, at all positions of a text and at those after the last
/// image.
fn logits(model: &Model, prompt: &Prompt) -> Result<Array> {
    let mut sequence = Sequence::new(model, prompt)?;
    let positions = match prompt.segments.last() {
        Some(Segment::Text(ids)) => ids.len(),
        _ => 1,
    };
    let hidden = sequence.prefill(positions, STEP, &mut |_, _| ControlFlow::Continue(()))?;
    let Some(hidden) = hidden else { bail!("interrupted") };
    let hidden = hidden.try_index((0, -(positions as i32).., ..))?; // [positions, hidden_size]
    Ok(model.text.logits(&hidden)?.as_dtype(Dtype::Float32)?.contiguous()?)
}

/// What two models make of a position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// See [`Divergence::kl`].
    pub kl: f64,
    /// Whether both have the same best token.
    pub same: bool,
    /// `-ln p(token)` of the model.
    pub loss: f64,
    /// `-ln p(token)` of the reference.
    pub reference_loss: f64,
}

/// Compares logits `[.., vocab_size]` in float32 position by position; `ids` are the tokens that came.
///
/// # Errors
/// When the two are not of the same shape, or an id is outside the vocabulary.
pub fn by_position(reference: &Array, ours: &Array, ids: &[u32]) -> Result<Vec<Position>> {
    let vocab_size = reference.dim(-1) as usize;
    ensure!(
        reference.shape() == ours.shape(),
        "the models' vocabularies have {vocab_size} and {} tokens",
        ours.dim(-1)
    );
    ensure!(ids.iter().all(|&id| (id as usize) < vocab_size), "a token is outside the vocabulary of {vocab_size}");
    eval([reference, ours])?;
    let (reference, ours) = (reference.try_as_slice::<f32>()?, ours.try_as_slice::<f32>()?);
    Ok(parallel(ids.len(), |row| {
        let range = row * vocab_size..(row + 1) * vocab_size;
        let (p, q) = (Distribution::of(&reference[range.clone()]), Distribution::of(&ours[range]));
        let (kl, same) = p.divergence(&q);
        let loss = |of: &Distribution| -of.log_probability(ids[row]);
        Position { kl, same, loss: loss(&q), reference_loss: loss(&p) }
    }))
}

/// Of logits `[positions, vocab_size]`.
fn divergence(reference: &Array, ours: &Array) -> Result<Divergence> {
    let positions = reference.dim(0) as usize;
    let found = by_position(reference, ours, &vec![0; positions])?;
    let mean = |sum: f64| sum / positions.max(1) as f64;
    let same = found.iter().filter(|position| position.same).count();
    let kl = found.iter().map(|position| position.kl).sum();
    Ok(Divergence { kl: mean(kl), top1_agreement: mean(same as f64), positions })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_by_its_definition() {
        let logits = |values: &[f32]| Array::from_slice(values, &[2, 2]);
        // Probabilities 3/4 and 1/4 against 1/2 and 1/2; equal ones in the second row.
        let three = 3_f32.ln();
        let found = divergence(&logits(&[three, 0.0, 0.0, 5.0]), &logits(&[7.0, 7.0, -5.0, 0.0])).unwrap();
        let expected = (0.75 * 1.5_f64.ln() + 0.25 * 0.5_f64.ln()) / 2.0;
        assert!((found.kl - expected).abs() < 1e-6, "{found:?}");
        assert_eq!((found.top1_agreement, found.positions), (1.0, 2));
        let swapped = divergence(&logits(&[0.0, 1.0, 0.0, 1.0]), &logits(&[1.0, 0.0, 0.0, 1.0])).unwrap();
        assert_eq!(swapped.top1_agreement, 0.5);
    }
}
