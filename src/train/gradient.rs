//! The loss of a batch and its gradients, through the model as one graph or layer by layer.

use std::ops::Range;

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::indexing::{take_along_axis, take_axis};
use mlx_rs::ops::{concatenate, logsumexp_axis};
use mlx_rs::transforms::{eval, fallible_vjp};
use mlx_rs::{Array, Dtype};

use crate::checkpoint::Param;
use crate::engine::distribution::Distribution;
use crate::models::{Group, GroupOf, Model, Placement, Row};
use crate::parallel::parallel;
use crate::processor::images::Pixels;

/// A piece of a row.
pub enum Piece {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Vectors that stand for an image, `[1, tokens, hidden_size]`.
    Features(Array),
    /// An image that the model is to encode.
    Image(Pixels),
}

/// Rows that are read together, one after the other in one line.
#[derive(Default)]
pub struct Batch {
    /// Of all rows.
    pub pieces: Vec<Piece>,
    /// Where each row's tokens stand.
    pub rows: Vec<Placement>,
    /// What is to be predicted, row by row.
    pub targets: Vec<Target>,
    /// Where each row's targets end.
    pub ends: Vec<usize>,
}

impl Batch {
    /// Positions of all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.positions.len()).sum()
    }

    /// Of each row, which of the targets are its own.
    pub fn rows_of_targets(&self) -> impl Iterator<Item = Range<usize>> {
        self.ends.iter().scan(0, |start, &end| Some(std::mem::replace(start, end)..end))
    }
}

/// A token that is to be predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// The place in the line that predicts it: the one before its own.
    pub from: usize,
    /// The token.
    pub id: u32,
    /// What its loss is multiplied with.
    pub weight: f32,
}

/// What the model made of a batch's targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Of each target, not multiplied with its weight: `-ln p(token)`.
    pub losses: Vec<f64>,
    /// Whether each was the most probable token.
    pub hits: Vec<bool>,
}

/// Targets whose logits are computed at once where memory is to be spared.
pub(crate) const TARGETS_AT_ONCE: usize = 256;

/// Positions of the vision tower that are computed at once, unless a single image has more: those of 17 tiles of 577, as
/// Phi-3.5-vision has them for an image that is cut into 16.
pub(super) const TOWER_POSITIONS_AT_ONCE: usize = 17 * 577;

/// A model and those of its tensors that are trained.
pub struct Trained<'m> {
    /// The model.
    pub model: &'m Model,
    /// Names and places of the tensors.
    pub params: Vec<(String, Param)>,
    /// Keep only what enters the layers, and compute each once more on the way back (Chen et al. 2016).
    pub checkpoint: bool,
}

impl Trained<'_> {
    /// The weighted sum of the batch's losses, and its gradients with respect to the tensors, float32, in their order.
    pub fn loss_and_gradients(&self, batch: &Batch) -> Result<(f32, Vec<Array>)> {
        let (loss, gradients) = if self.checkpoint { self.by_layers(batch)? } else { self.at_once(batch)? };
        let gradients =
            gradients.iter().map(|gradient| gradient.as_dtype(Dtype::Float32)).collect::<Result<Vec<_>>>()?;
        eval(gradients.iter().chain([&loss]))?;
        Ok((loss.item_exact::<f32>(), gradients))
    }

    /// The last hidden states of the batch, `[1, n of all rows, hidden_size]`, computed layer by layer.
    pub fn hidden(&self, batch: &Batch) -> Result<Array> {
        let mut x = self.embed(batch)?;
        for layer in 0..self.model.text.num_layers() {
            x = self.read(layer..layer + 1, &x, batch)?;
            x.eval()?;
        }
        Ok(x)
    }

    /// What the model makes of the batch.
    pub fn evaluate(&self, batch: &Batch) -> Result<Outcome> {
        let x = self.hidden(batch)?;
        let mut outcome = Outcome { losses: Vec::new(), hits: Vec::new() };
        for targets in batch.targets.chunks(TARGETS_AT_ONCE) {
            let (logits, _) = self.logits(&x, targets)?;
            logits.eval()?;
            let vocab_size = logits.dim(-1) as usize;
            let logits = logits.as_slice::<f32>();
            let predicted = parallel(targets.len(), |at| {
                let distribution = Distribution::of(&logits[at * vocab_size..(at + 1) * vocab_size]);
                let id = targets[at].id;
                (-distribution.log_probability(id), distribution.best == id as usize)
            });
            outcome.losses.extend(predicted.iter().map(|(loss, _)| loss));
            outcome.hits.extend(predicted.iter().map(|(_, hit)| hit));
        }
        Ok(outcome)
    }

    fn at_once(&self, batch: &Batch) -> Result<(Array, Vec<Array>)> {
        let all: Vec<usize> = (0..self.params.len()).collect();
        let whole = |_: Option<&Array>| {
            let x = self.read(0..self.model.text.num_layers(), &self.embed(batch)?, batch)?;
            self.loss(&x, &batch.targets)
        };
        let (loss, _, gradients) = self.back(whole, None, &all, &Array::from_f32(1.0))?;
        Ok((loss, gradients))
    }

    fn by_layers(&self, batch: &Batch) -> Result<(Array, Vec<Array>)> {
        let layers = self.model.text.num_layers();
        let stages = Stages::of(&self.params, layers, self.model.group)?;
        let first = stages.first_layer();
        let mut gradients: Vec<Option<Array>> = vec![None; self.params.len()];
        let mut add = |which: &[usize], new: Vec<Array>| -> Result<()> {
            for (&index, new) in which.iter().zip(new) {
                let sum = match &gradients[index] {
                    Some(before) => before.add(new)?,
                    None => new,
                };
                gradients[index] = Some(sum);
            }
            eval(which.iter().filter_map(|&index| gradients[index].as_ref()))
        };

        let mut x = self.embed(batch)?;
        let mut entering = Vec::new();
        for layer in 0..layers {
            x.eval()?;
            entering.push((layer >= first).then(|| x.clone()));
            x = self.read(layer..layer + 1, &x, batch)?;
        }
        x.eval()?;

        let mut loss = Array::from_f32(0.0);
        let mut cotangent = x.multiply(Array::from_f32(0.0).as_dtype(x.dtype())?)?;
        for targets in batch.targets.chunks(TARGETS_AT_ONCE) {
            let head = |x: Option<&Array>| self.loss(x.expect("x is given"), targets);
            let (part, dx, new) = self.back(head, Some(&x), &stages.head, &Array::from_f32(1.0))?;
            loss = loss.add(part)?;
            cotangent = cotangent.add(dx.expect("x is given"))?;
            eval([&loss, &cotangent])?;
            add(&stages.head, new)?;
        }
        drop(x);

        for layer in (first..layers).rev() {
            let read = |x: Option<&Array>| self.read(layer..layer + 1, x.expect("x is given"), batch);
            let x = entering[layer].take();
            let (_, dx, new) = self.back(read, x.as_ref(), &stages.layers[layer], &cotangent)?;
            cotangent = dx.expect("x is given");
            cotangent.eval()?;
            add(&stages.layers[layer], new)?;
        }
        if !stages.embedding.is_empty() {
            let (_, _, new) = self.back(|_| self.embed(batch), None, &stages.embedding, &cotangent)?;
            add(&stages.embedding, new)?;
        }
        let gradients = gradients.into_iter().zip(&self.params);
        let gradients = gradients.map(|(gradient, (name, _))| match gradient {
            Some(gradient) => Ok(gradient),
            None => Err(Exception::custom(format!("{name} got no gradient"))),
        });
        Ok((loss, gradients.collect::<Result<_>>()?))
    }

    /// What `f` gives, and the gradients of it along `cotangent` with respect to `x` and to the tensors `which`.
    fn back(
        &self,
        f: impl Fn(Option<&Array>) -> Result<Array>,
        x: Option<&Array>,
        which: &[usize],
        cotangent: &Array,
    ) -> Result<(Array, Option<Array>, Vec<Array>)> {
        let params = || which.iter().map(|&index| &self.params[index].1);
        let primals: Vec<Array> = params().map(|param| param.get().clone()).chain(x.cloned()).collect();
        // While `f` is traced, the model has what it is traced with.
        let traced = |inputs: &[Array]| {
            let (values, x) = inputs.split_at(which.len());
            let before: Vec<Array> = params().zip(values).map(|(param, value)| param.replace(value.clone())).collect();
            let result = f(x.first());
            params().zip(before).for_each(|(param, value)| _ = param.replace(value));
            Ok(vec![result?])
        };
        let (mut outputs, mut gradients) = fallible_vjp(traced, &primals, std::slice::from_ref(cotangent))?;
        let dx = x.and_then(|_| gradients.pop());
        Ok((outputs.remove(0), dx, gradients))
    }

    /// The hidden states of a batch after some of the layers, `[1, n of all rows, hidden_size]`.
    fn read(&self, layers: Range<usize>, x: &Array, batch: &Batch) -> Result<Array> {
        let mut rows: Vec<Row> = batch.rows.iter().map(Row::whole).collect();
        self.model.text.forward(layers, x, &mut rows)
    }

    /// `[1, n of all rows, hidden_size]`
    fn embed(&self, batch: &Batch) -> Result<Array> {
        let mut images = self.images(batch)?.into_iter();
        let vectors = batch.pieces.iter().map(|piece| match piece {
            Piece::Tokens(ids) => self.model.text.embed_tokens(ids),
            Piece::Features(features) => Ok(features.clone()),
            Piece::Image(_) => Ok(images.next().expect("all images were encoded")),
        });
        concatenate(&vectors.collect::<Result<Vec<_>>>()?, 1)
    }

    /// The vectors of the batch's images, which are encoded some at a time and all projected at once: their weights'
    /// gradients are summed fewer times.
    fn images(&self, batch: &Batch) -> Result<Vec<Array>> {
        let images = batch.pieces.iter().filter_map(|piece| match piece {
            Piece::Image(pixels) => Some(pixels),
            _ => None,
        });
        let images: Vec<&Pixels> = images.collect();
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let vision = self.model.vision()?;
        let (mut features, mut together, mut positions) = (Vec::new(), Vec::new(), 0);
        for &image in &images {
            let more = image.layout.tower_positions;
            if positions > 0 && positions + more > TOWER_POSITIONS_AT_ONCE {
                features.extend(vision.encode(&std::mem::take(&mut together))?);
                positions = 0;
            }
            together.push(image);
            positions += more;
        }
        features.extend(vision.encode(&together)?);
        vision.project(&features, &images)
    }

    /// Logits in float32 `[1, targets, vocab_size]`, and the targets' ids `[1, targets, 1]`.
    pub(crate) fn logits(&self, x: &Array, targets: &[Target]) -> Result<(Array, Array)> {
        let count = targets.len() as i32;
        let from: Vec<i32> = targets.iter().map(|target| target.from as i32).collect();
        let ids: Vec<i32> = targets.iter().map(|target| target.id as i32).collect();
        let hidden = take_axis(x, Array::from_slice(&from, &[count]), 1)?;
        Ok((self.model.text.logits(&hidden)?.as_dtype(Dtype::Float32)?, Array::from_slice(&ids, &[1, count, 1])))
    }

    /// The weighted sum of the losses.
    fn loss(&self, x: &Array, targets: &[Target]) -> Result<Array> {
        let (logits, ids) = self.logits(x, targets)?;
        let weights: Vec<f32> = targets.iter().map(|target| target.weight).collect();
        losses(&logits, &ids)?.multiply(Array::from_slice(&weights, &[1, weights.len() as i32, 1]))?.sum(None)
    }
}

/// `-ln p(id)`: `[1, targets, 1]`
fn losses(logits: &Array, ids: &Array) -> Result<Array> {
    logsumexp_axis(logits, -1, true)?.subtract(take_along_axis(logits, ids, -1)?)
}

/// Which tensors are used where, by their places among those that are trained.
struct Stages {
    embedding: Vec<usize>,
    layers: Vec<Vec<usize>>,
    head: Vec<usize>,
}

impl Stages {
    fn of(params: &[(String, Param)], layers: usize, group: GroupOf) -> Result<Self> {
        let mut stages = Self { embedding: Vec::new(), layers: vec![Vec::new(); layers], head: Vec::new() };
        for (index, (name, _)) in params.iter().enumerate() {
            match group(name) {
                Some(Group::Layer(layer)) if layer < layers => stages.layers[layer].push(index),
                // A table may serve at both ends.
                Some(Group::Embedding) => {
                    stages.embedding.push(index);
                    stages.head.push(index);
                }
                // It is computed with the last layer.
                Some(Group::FinalNorm) if layers > 0 => stages.layers[layers - 1].push(index),
                Some(Group::Head) => stages.head.push(index),
                Some(Group::Vision | Group::PatchEmbedding | Group::Projector) => stages.embedding.push(index),
                Some(Group::Layer(_) | Group::FinalNorm) | None => {
                    return Err(Exception::custom(format!("{name} belongs to no part of this model")));
                }
            }
        }
        Ok(stages)
    }

    /// The first layer that gradients must come back to.
    fn first_layer(&self) -> usize {
        if !self.embedding.is_empty() {
            return 0;
        }
        self.layers.iter().position(|layer| !layer.is_empty()).unwrap_or(self.layers.len())
    }
}
