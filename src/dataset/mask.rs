//! Phi-3-Vision-MLX's `mask_ratios`: rows are learned again with parts of the question hidden. Nobody sees a hidden token
//! and it carries no loss, so it is left out, and the others keep their positions.

use std::ops::Range;

use anyhow::{Result, bail, ensure};
use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::dataset::example::Example;
use crate::processor::{Segment, Tokenizer};

/// The token before which prompts end.
pub(super) const ASSISTANT: &str = "<|assistant|>";

/// Tokens that stay at both ends of what may be hidden: `<|user|>` and its line end, `<|end|>` and its own.
const KEPT: usize = 3;

/// The shares of the user's text to hide: each row is learned whole, and once with each.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskRatios(Vec<f64>);

impl MaskRatios {
    /// Shares from 0 to below 1.
    ///
    /// # Errors
    /// When one is out of range, the model's chats have no `<|assistant|>`, or prompts are learned, too.
    pub fn new(ratios: Vec<f64>, tokenizer: &Tokenizer, mask_prompt: bool) -> Result<Self> {
        if let Some(ratio) = ratios.iter().find(|ratio| !(0.0..1.0).contains(*ratio)) {
            bail!("mask-ratios {ratio}: a number from 0 to below 1 is expected");
        }
        ensure!(
            tokenizer.id(ASSISTANT).is_some(),
            "mask-ratios: the model has no token {ASSISTANT}, which tells where the user's text ends"
        );
        ensure!(mask_prompt, "mask-ratios hide parts of prompts, which are to be learned here; mask the prompts, too");
        Ok(Self(ratios))
    }

    /// Each example, and after it once with each ratio.
    pub fn apply(&self, examples: &[Example], seed: u64) -> Vec<Example> {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let mut repeated = Vec::with_capacity(examples.len() * (self.0.len() + 1));
        for example in examples {
            repeated.push(example.clone());
            repeated.extend(self.0.iter().map(|&ratio| example.hide(ratio, &mut random)));
        }
        repeated
    }
}

/// What may be hidden of a prompt with these ids, none for images: from the last image, or the beginning, to the last
/// `<|assistant|>`, but for some tokens at both ends.
pub(super) fn hideable(prompt: &[Option<u32>], assistant: Option<u32>) -> Range<usize> {
    let Some(end) = assistant.and_then(|id| prompt.iter().rposition(|&other| other == Some(id))) else { return 0..0 };
    let start = prompt.iter().rposition(Option::is_none).unwrap_or(0) + KEPT;
    start..end.saturating_sub(KEPT).max(start)
}

impl Example {
    /// The example with a random share of the user's text hidden, and the weight 10^(−10 · ratio).
    pub fn hide(&self, ratio: f64, random: &mut impl Rng) -> Self {
        let share = (self.hideable.len() as f64 * ratio) as usize;
        let mut hidden = index::sample(random, self.hideable.len(), share).into_vec();
        hidden.iter_mut().for_each(|at| *at += self.hideable.start);
        hidden.sort_unstable();
        let is_hidden = |at: usize| hidden.binary_search(&at).is_ok();

        let lens = self.image_tokens();
        let mut at = 0;
        let mut segments = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            match segment {
                Segment::Text(ids) => {
                    let kept = ids.iter().zip(at..).filter(|&(_, at)| !is_hidden(at)).map(|(&id, _)| id).collect();
                    segments.push(Segment::Text(kept));
                    at += ids.len();
                }
                Segment::Image(index) => {
                    segments.push(segment.clone());
                    at += lens[*index];
                }
            }
        }
        let position = |at: usize| self.positions.as_ref().map_or(at as u32, |positions| positions[at]);
        let positions = (0..at).filter(|&at| !is_hidden(at)).map(position).collect();
        let moved = |at: usize| at - hidden.partition_point(|&hidden| hidden < at);
        let supervised = self.supervised.iter().map(|range| moved(range.start)..moved(range.end)).collect();
        let weight = self.weight * 10f64.powf(-10.0 * ratio) as f32;
        Self { segments, supervised, positions: Some(positions), weight, hideable: 0..0, ..self.clone() }
    }
}
