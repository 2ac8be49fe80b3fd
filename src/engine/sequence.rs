//! Sequences on their way through a model: any number of them together, each with as many new positions as it likes, and
//! anew from the start when one outgrows longrope's boundary.

use std::ops::{ControlFlow, Range};

use anyhow::{Context, Result, ensure};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::cache::{Cache, CacheSettings, ImageKey, Unit};
use crate::engine::image_cache::FeatureStore;
use crate::models::{Model, Placement, Row};
use crate::processor::{PositionCounter, Prompt, Segment};

/// What the model reads: ids, and vectors in the place of images.
#[derive(Clone)]
pub enum Input {
    /// Token ids.
    Tokens(Vec<u32>),
    /// An image.
    Image {
        /// Its vectors, `[1, tokens, hidden_size]`.
        features: Array,
        /// What it is known by.
        key: ImageKey,
        /// See [`Layout::extent`](crate::processor::images::Layout::extent).
        extent: Option<(usize, usize)>,
    },
}

impl Input {
    /// Positions it takes.
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Image { features, .. } => features.dim(1) as usize,
        }
    }

    /// Whether it takes none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Told about positions prefilled so far and in all; may break off.
pub type OnPrefill<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + 'a;

/// A sequence and what the model remembers of it.
#[derive(Clone)]
pub struct Sequence<'m> {
    model: &'m Model,
    inputs: Vec<Input>,
    len: usize,
    /// What the model remembers of it.
    pub cache: Cache,
}

impl<'m> Sequence<'m> {
    /// A sequence by itself, whose images are encoded. Nothing is prefilled yet.
    pub fn new(model: &'m Model, prompt: &Prompt) -> Result<Self> {
        Self::with(model, prompt, CacheSettings::default(), &mut FeatureStore::new(0))
    }

    /// Encodes the prompt's images, one after the other so that only one is in flight, unless `features` has them.
    /// Nothing is prefilled yet.
    pub fn with(
        model: &'m Model,
        prompt: &Prompt,
        settings: CacheSettings,
        features: &mut FeatureStore,
    ) -> Result<Self> {
        prompt.check_fits(model.text.max_position_embeddings())?;
        let input = |segment: &Segment| -> Result<Input> {
            Ok(match segment {
                Segment::Text(ids) => Input::Tokens(ids.clone()),
                Segment::Image(index) => {
                    let image = &prompt.images[*index];
                    let (key, features) = features.encode(model, image)?;
                    Input::Image { features, key, extent: image.layout.extent }
                }
            })
        };
        Ok(Self::of(model, prompt.segments.iter().map(input).collect::<Result<_>>()?, settings))
    }

    /// A sequence of what the model reads. Nothing is prefilled yet.
    pub(crate) fn of(model: &'m Model, inputs: Vec<Input>, settings: CacheSettings) -> Self {
        let len = inputs.iter().map(Input::len).sum();
        Self { model, inputs, len, cache: model.text.new_cache(len, settings) }
    }

    /// Positions of the sequence, those not yet in the cache included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never, as the prompt is not empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that are not in the cache yet.
    pub fn pending(&self) -> usize {
        self.len - self.cache.len()
    }

    /// The model that reads it.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// What stands where.
    pub fn units(&self) -> Vec<Unit> {
        let units = |input: &Input| match input {
            Input::Tokens(ids) => ids.iter().map(|&id| Unit::Token(id)).collect(),
            Input::Image { key, .. } => vec![Unit::Image(*key, input.len())],
        };
        self.inputs.iter().flat_map(units).collect()
    }

    /// The tokens from position `start` on, which are all that follows there.
    pub fn last_tokens(&self, start: usize) -> &[u32] {
        match self.inputs.last() {
            Some(Input::Tokens(ids)) => &ids[ids.len().saturating_sub(self.len - start)..],
            _ => &[],
        }
    }

    /// Takes back tokens at the end until there are `len` positions.
    pub fn truncate(&mut self, len: usize) {
        if let Some(Input::Tokens(ids)) = self.inputs.last_mut() {
            ids.truncate(ids.len().saturating_sub(self.len - len));
        }
        self.len = len;
        if self.model.text.rope_factors(len) != self.cache.factors
            || !self.cache.can_truncate(len.min(self.cache.len()))
        {
            self.cache = self.model.text.new_cache(len, self.cache.settings());
        } else {
            self.cache.truncate(len.min(self.cache.len()));
        }
    }

    /// The images' vectors, `[1, image_tokens, hidden_size]` each, in the order of the prompt.
    pub fn image_features(&self) -> impl Iterator<Item = &Array> {
        self.inputs.iter().filter_map(|input| match input {
            Input::Image { features, .. } => Some(features),
            Input::Tokens(_) => None,
        })
    }

    /// Appends a token, which is pending then. Where the sequence gets longer than its rotary factors are for, the cache is
    /// dropped, since the values of deeper layers depend on the factors, too: everything is pending. True if so.
    pub fn push(&mut self, token: u32) -> bool {
        self.len += 1;
        match self.inputs.last_mut() {
            Some(Input::Tokens(ids)) => ids.push(token),
            _ => self.inputs.push(Input::Tokens(vec![token])),
        }
        let crosses = self.model.text.rope_factors(self.len) != self.cache.factors;
        if crosses {
            self.cache = self.model.text.new_cache(self.len, self.cache.settings());
        }
        crosses
    }

    /// Prefills what is pending, `step_size` positions at a time, and returns the hidden states of the last positions, at
    /// least `last` of them (if there are so many), `[1, n, hidden_size]`. Nothing if `on_prefill` breaks off.
    pub fn prefill(&mut self, last: usize, step_size: usize, on_prefill: &mut OnPrefill) -> Result<Option<Array>> {
        let mut hidden: Vec<Array> = Vec::new();
        while self.pending() > 0 {
            if on_prefill(self.cache.len(), self.len).is_break() {
                return Ok(None);
            }
            let n = self.pending().min(step_size.max(1));
            let states = forward(&mut [Part { sequence: self, n, proposed: &[] }])?;
            // Only what is asked for is computed: of most chunks just keys and values.
            if self.cache.len() + last > self.len {
                hidden.push(states);
            }
            eval(self.cache.arrays().chain(hidden.last()))?;
            // Buffers of one chunk's size are of no use to the next step, which is smaller.
            mlx_rs::memory::clear_cache()?;
        }
        // There is nothing left to break off.
        let _ = on_prefill(self.len, self.len);
        ensure!(!hidden.is_empty(), "there is nothing to prefill");
        Ok(Some(concatenate(&hidden, 1)?))
    }

    /// Prefills up to `len` positions, `step_size` at a time, and returns nothing.
    pub(crate) fn prefill_to(&mut self, len: usize, step_size: usize) -> Result<()> {
        while self.cache.len() < len {
            let n = (len - self.cache.len()).min(step_size.max(1));
            forward(&mut [Part { sequence: self, n, proposed: &[] }])?;
            eval(self.cache.arrays())?;
        }
        Ok(())
    }

    /// Prefills what is pending, `step_size` positions at a time, and returns the logits `[vocab_size]` after it.
    pub fn next_logits(&mut self, step_size: usize) -> Result<Vec<f32>> {
        let hidden = self.prefill(1, step_size, &mut |_, _| ControlFlow::Continue(()))?;
        self.last_logits(&hidden.context("nobody breaks off here")?)
    }

    /// Logits `[vocab_size]` after the last of these hidden states `[1, n, hidden_size]`.
    pub fn last_logits(&self, hidden: &Array) -> Result<Vec<f32>> {
        let logits = logits(self.model, hidden, &[hidden.dim(1) as usize - 1])?;
        logits.eval()?;
        Ok(logits.try_as_slice::<f32>()?.to_vec())
    }

    /// What is at these positions: ids appended to the last tokens of `to`, and parts of images.
    fn read(&self, range: Range<usize>, to: &mut Vec<Input>) -> Result<()> {
        let mut start = 0;
        for input in &self.inputs {
            let end = start + input.len();
            let (from, until) = (range.start.max(start), range.end.min(end));
            if from < until {
                match input {
                    Input::Tokens(ids) => append(&ids[from - start..until - start], to),
                    Input::Image { features, key, extent } => {
                        let part = features.try_index((.., (from - start) as i32..(until - start) as i32, ..))?;
                        to.push(Input::Image { features: part, key: *key, extent: *extent });
                    }
                }
            }
            start = end;
        }
        Ok(())
    }
}

impl Sequence<'_> {
    /// Where the `n` next tokens stand, of which some may follow the sequence as it is now.
    fn placement(&self, n: usize) -> Placement {
        let mut counter = PositionCounter::default();
        let mut positions = Vec::with_capacity(self.len);
        for input in &self.inputs {
            match input {
                Input::Tokens(ids) => positions.extend(counter.text(ids.len())),
                Input::Image { features, extent, .. } => {
                    positions.extend(counter.image(features.dim(1) as usize, *extent));
                }
            }
        }
        let start = self.cache.len();
        positions.extend(counter.text((start + n).saturating_sub(self.len)));
        Placement { positions: positions[start..start + n].to_vec(), factors: self.cache.factors }
    }
}

fn append(new: &[u32], to: &mut Vec<Input>) {
    match to.last_mut() {
        Some(Input::Tokens(ids)) => ids.extend(new),
        _ if new.is_empty() => {}
        _ => to.push(Input::Tokens(new.to_vec())),
    }
}

/// What one sequence does in a step.
pub struct Part<'a, 'm> {
    /// The sequence.
    pub sequence: &'a mut Sequence<'m>,
    /// So many of its pending positions.
    pub n: usize,
    /// Tokens that may follow them: they get into the cache, but do not belong to the sequence.
    pub proposed: &'a [u32],
}

/// Runs the parts through their model together and returns their last hidden states,
/// `[1, positions of all parts, hidden_size]`, part by part.
pub fn forward(parts: &mut [Part]) -> Result<Array> {
    let model = parts.first().context("there is nothing to compute")?.sequence.model;
    let mut inputs = Vec::new();
    for Part { sequence, n, proposed } in parts.iter() {
        let start = sequence.cache.len();
        sequence.read(start..start + n, &mut inputs)?;
        append(proposed, &mut inputs);
    }
    let embed = |input: &Input| match input {
        Input::Tokens(ids) => model.text.embed_tokens(ids),
        Input::Image { features, .. } => Ok(features.clone()),
    };
    let mut embedded = inputs.iter().map(embed).collect::<Result<Vec<_>, _>>()?;
    let x = if embedded.len() == 1 { embedded.remove(0) } else { concatenate(&embedded, 1)? };
    let mut rows = Vec::new();
    for Part { sequence, n, proposed } in parts {
        let placement = sequence.placement(*n + proposed.len());
        rows.push(Row { placement, cache: Some(&mut sequence.cache) });
    }
    Ok(model.text.forward(0..model.text.num_layers(), &x, &mut rows)?)
}

/// A step of a batch: runs the parts through their model, and computes logits `[n, vocab_size]` in float32 at these of all
/// their positions; none at none.
pub(crate) fn step(parts: &mut [Part], positions: &[usize]) -> Result<Option<Array>> {
    let model = parts.first().context("there is nothing to compute")?.sequence.model;
    let hidden = forward(parts)?;
    let total = hidden.dim(1);
    let logits = if positions.is_empty() { None } else { Some(logits(model, &hidden, positions)?) };
    drop(hidden);
    eval(parts.iter().flat_map(|part| part.sequence.cache.arrays()).chain(&logits))?;
    if total > 64 {
        // Buffers of a chunk's size are of no use to the next step, which is smaller.
        mlx_rs::memory::clear_cache()?;
    }
    Ok(logits)
}

/// Logits `[n, vocab_size]` in float32 at these positions of hidden states `[1, .., hidden_size]`.
pub fn logits(model: &Model, hidden: &Array, positions: &[usize]) -> Result<Array> {
    let all = hidden.dim(1) as usize == positions.len();
    let chosen = if all {
        hidden.clone()
    } else {
        let positions: Vec<i32> = positions.iter().map(|&position| position as i32).collect();
        hidden.take_axis(Array::from_slice(&positions, &[positions.len() as i32]), 1)?
    };
    let logits = model.text.logits(&chosen)?.as_dtype(Dtype::Float32)?;
    Ok(logits.reshape(&[positions.len() as i32, -1])?)
}
