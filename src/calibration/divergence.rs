//! How far a model's predictions are from another's.

use std::ops::ControlFlow;

use anyhow::{Result, bail};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::indexing::argmax_axis;
use mlx_rs::ops::{exp, logsumexp_axis};
use mlx_rs::{Array, Dtype};
use serde::Serialize;

use super::Samples;
use crate::engine::sequence::Sequence;
use crate::models::Model;
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

/// On pieces of text, and on answers to questions about pictures.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Divergences {
    /// Over all positions.
    pub all: Divergence,
    /// Of prompts without pictures.
    pub text: Divergence,
    /// Of prompts with pictures; the positions after them.
    pub images: Option<Divergence>,
}

/// A model's predictions on some prompts.
pub struct Reference<'s> {
    samples: &'s Samples,
    /// Of each prompt, `[positions, vocab_size]`, float32.
    log_probabilities: Vec<Array>,
}

impl<'s> Reference<'s> {
    /// Runs the model.
    pub fn record(model: &dyn Model, samples: &'s Samples, on_prompt: &mut OnPrompt) -> Result<Self> {
        let mut log_probabilities = Vec::new();
        for prompt in &samples.prompts {
            log_probabilities.push(predictions(model, prompt)?);
            interruptible(on_prompt(prompt.len()))?;
        }
        Ok(Self { samples, log_probabilities })
    }

    /// What they are predictions on.
    pub fn samples(&self) -> &'s Samples {
        self.samples
    }

    /// How far the predictions of `model` are from these.
    pub fn compare(&self, model: &dyn Model, on_prompt: &mut OnPrompt) -> Result<Divergences> {
        let mut parts: Vec<(bool, Divergence)> = Vec::new();
        for (prompt, reference) in self.samples.prompts.iter().zip(&self.log_probabilities) {
            let ours = predictions(model, prompt)?;
            parts.push((!prompt.images.is_empty(), divergence(reference, &ours)?));
            interruptible(on_prompt(prompt.len()))?;
        }
        let of_kind = |images: bool| parts.iter().filter(move |part| part.0 == images).map(|part| &part.1);
        Ok(Divergences {
            all: Divergence::mean(parts.iter().map(|part| &part.1)),
            text: Divergence::mean(of_kind(false)),
            images: of_kind(true).next().is_some().then(|| Divergence::mean(of_kind(true))),
        })
    }
}

/// An error if the caller breaks off.
pub(super) fn interruptible(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() {
        bail!("interrupted; nothing was written");
    }
    Ok(())
}

/// Logarithms of the probabilities of what follows, `[positions, vocab_size]`, at all positions of a text and at those
/// after the last picture.
fn predictions(model: &dyn Model, prompt: &Prompt) -> Result<Array> {
    let mut sequence = Sequence::new(model, prompt, STEP)?;
    let positions = match prompt.segments.last() {
        Some(Segment::Text(ids)) => ids.len(),
        _ => 1,
    };
    let hidden = sequence.prefill(positions, &mut |_, _| ControlFlow::Continue(()))?;
    let Some(hidden) = hidden else { bail!("interrupted") };
    let hidden = hidden.try_index((0, -(positions as i32).., ..))?; // [positions, hidden_size]
    let logits = model.logits(&hidden)?.as_dtype(Dtype::Float32)?;
    let log_probabilities = logits.subtract(logsumexp_axis(&logits, -1, true)?)?;
    log_probabilities.eval()?;
    Ok(log_probabilities)
}

fn divergence(reference: &Array, ours: &Array) -> Result<Divergence> {
    let positions = reference.dim(0) as usize;
    let kl = exp(reference)?.multiply(reference.subtract(ours)?)?.sum(None)?;
    let same = argmax_axis(reference, -1, None)?.eq(argmax_axis(ours, -1, None)?)?.as_type::<f32>()?.sum(None)?;
    let mean = |sum: Array| -> Result<f64> { Ok(f64::from(sum.try_item_exact::<f32>()?) / positions as f64) };
    Ok(Divergence { kl: mean(kl)?, top1_agreement: mean(same)?, positions })
}
