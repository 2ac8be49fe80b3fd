//! One sequence on its way through a model: prefill in chunks, then a token at a time, and anew from the start when it
//! outgrows longrope's boundary.

use std::ops::ControlFlow;

use anyhow::Result;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::cache::Cache;
use crate::models::Model;
use crate::processor::{Prompt, Segment};

/// What the model reads: ids, and vectors in the place of pictures.
enum Input {
    Tokens(Vec<u32>),
    /// `[1, image_tokens, hidden_size]`
    Features(Array),
}

/// Told about positions prefilled so far and in all; may break off.
pub type OnPrefill<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + 'a;

/// A sequence and what the model remembers of it.
pub struct Sequence<'m> {
    model: &'m dyn Model,
    inputs: Vec<Input>,
    len: usize,
    cache: Cache,
    prefill_step_size: usize,
}

impl<'m> Sequence<'m> {
    /// Encodes the prompt's pictures, one after the other so that only one is in flight. Nothing is prefilled yet.
    pub fn new(model: &'m dyn Model, prompt: &Prompt, prefill_step_size: usize) -> Result<Self> {
        prompt.check_fits(model.max_position_embeddings())?;
        let input = |segment: &Segment| -> Result<Input> {
            Ok(match segment {
                Segment::Text(ids) => Input::Tokens(ids.clone()),
                Segment::Image(index) => {
                    let features = model.encode_image(&prompt.images[*index])?;
                    features.eval()?;
                    Input::Features(features)
                }
            })
        };
        let inputs = prompt.segments.iter().map(input).collect::<Result<_>>()?;
        let cache = model.new_cache(prompt.len());
        Ok(Self { model, inputs, len: prompt.len(), cache, prefill_step_size: prefill_step_size.max(1) })
    }

    /// Positions of the sequence, those not yet in the cache included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never, as the prompt is not empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pictures' vectors, `[1, image_tokens, hidden_size]` each, in the order of the prompt.
    pub fn image_features(&self) -> impl Iterator<Item = &Array> {
        self.inputs.iter().filter_map(|input| match input {
            Input::Features(features) => Some(features),
            Input::Tokens(_) => None,
        })
    }

    /// Whether the next token makes the sequence longer than its rotary factors are for: what is cached is then dropped
    /// and computed anew, since the values of deeper layers depend on the factors, too.
    pub fn crosses_boundary(&self) -> bool {
        self.model.rope_factors(self.len + 1) != self.cache.factors
    }

    /// Prefills what is not cached yet and returns the hidden states of the last positions, at least `last` of them
    /// (if there are so many), `[1, n, hidden_size]`. Nothing if `on_prefill` breaks off.
    pub fn prefill(&mut self, last: usize, on_prefill: &mut OnPrefill) -> Result<Option<Array>> {
        let embeddings = self.embed()?; // [1, len, hidden_size]
        let total = self.len;
        let mut hidden: Vec<Array> = Vec::new();
        let mut done = self.cache.len();
        while done < total {
            if on_prefill(done, total).is_break() {
                return Ok(None);
            }
            let end = total.min(done.saturating_add(self.prefill_step_size));
            let chunk = embeddings.try_index((.., done as i32..end as i32, ..))?;
            let states = self.model.forward(&chunk, &mut self.cache)?;
            // Only what is asked for is computed: of most chunks just keys and values.
            if end + last > total {
                hidden.push(states);
            }
            eval(self.cache.arrays().chain(hidden.last()))?;
            // Buffers of one chunk's size are of no use to the next step, which is smaller.
            mlx_rs::memory::clear_cache()?;
            done = end;
        }
        // There is nothing left to break off.
        let _ = on_prefill(total, total);
        Ok(Some(concatenate(&hidden, 1)?))
    }

    /// Appends a token and returns the logits after it. Nothing if `on_prefill` breaks off, which is only asked where the
    /// boundary is crossed.
    pub fn advance(&mut self, token: u32, on_prefill: &mut OnPrefill) -> Result<Option<Vec<f32>>> {
        let crosses = self.crosses_boundary();
        self.len += 1;
        match self.inputs.last_mut() {
            Some(Input::Tokens(ids)) => ids.push(token),
            _ => self.inputs.push(Input::Tokens(vec![token])),
        }
        if crosses {
            self.cache = self.model.new_cache(self.len);
            let Some(hidden) = self.prefill(1, on_prefill)? else { return Ok(None) };
            return self.logits(&hidden).map(Some);
        }
        let hidden = self.model.forward(&self.model.embed_tokens(&[token])?, &mut self.cache)?;
        self.logits(&hidden).map(Some)
    }

    /// Logits `[vocab_size]` of the last of these hidden states `[1, n, hidden_size]`.
    pub fn logits(&self, hidden: &Array) -> Result<Vec<f32>> {
        let last = hidden.try_index((.., -1.., ..))?;
        let logits = self.model.logits(&last)?.as_dtype(Dtype::Float32)?.flatten(None, None)?;
        logits.eval()?;
        Ok(logits.as_slice::<f32>().to_vec())
    }

    fn embed(&self) -> Result<Array> {
        let parts = self.inputs.iter().map(|input| match input {
            Input::Tokens(ids) => self.model.embed_tokens(ids),
            Input::Features(features) => Ok(features.clone()),
        });
        Ok(concatenate(&parts.collect::<Result<Vec<_>, _>>()?, 1)?)
    }
}
