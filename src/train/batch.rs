//! Examples in the order in which they are learned, as what a model reads.

use std::collections::HashMap;

use anyhow::{Context, Result};
use mlx_rs::Array;

use super::gradient::{Batch, Piece, TOWER_POSITIONS_AT_ONCE, Target};
use crate::dataset::{Example, Order};
use crate::memory::Demand;
use crate::models::{Model, Placement};
use crate::parallel::parallel;
use crate::processor::images::{ImageLimits, ImageOptions, Pixels};
use crate::processor::{PositionCounter, Processor, Segment};

/// What turns examples into batches.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The model that reads them.
    pub model: &'a Model,
    /// Of the model.
    pub processor: &'a Processor,
    /// How large images may be.
    pub limits: ImageLimits,
    /// How images are processed.
    pub image_options: ImageOptions,
    /// Bytes for images' vectors that need not be computed again; none where the model that computes them is trained.
    pub feature_bytes: Option<usize>,
}

/// The batches of all epochs, one after the other.
pub struct Batches<'a> {
    examples: Vec<Example>,
    lengths: Vec<usize>,
    order: Order,
    reading: Reading<'a>,
    /// Where epochs begin, as far as they were looked at, and where the next one will.
    starts: Vec<usize>,
    /// An epoch and its batches.
    epoch: (usize, Vec<Vec<usize>>),
    /// Vectors of the images of an example.
    features: HashMap<usize, Vec<Array>>,
    kept_bytes: usize,
}

impl<'a> Batches<'a> {
    /// The batches of these examples.
    pub fn new(examples: Vec<Example>, order: Order, reading: Reading<'a>) -> Self {
        let lengths: Vec<usize> = examples.iter().map(Example::len).collect();
        let first = order.batches(&lengths, 0);
        let starts = vec![0, first.len()];
        Self { examples, lengths, order, reading, starts, epoch: (0, first), features: HashMap::new(), kept_bytes: 0 }
    }

    /// How many examples there are.
    pub fn rows(&self) -> usize {
        self.examples.len()
    }

    /// The batches of the first epochs.
    pub fn in_epochs(&mut self, epochs: usize) -> usize {
        while self.starts.len() <= epochs {
            self.next_epoch();
        }
        self.starts[epochs]
    }

    /// Looks at one epoch more.
    fn next_epoch(&mut self) {
        let epoch = self.starts.len() - 1;
        self.epoch = (epoch, self.order.batches(&self.lengths, epoch as u64));
        self.starts.push(self.starts[epoch] + self.epoch.1.len());
    }

    /// How many epochs the batches before this one are.
    pub fn epoch_at(&self, index: usize) -> f64 {
        let epoch = self.starts.partition_point(|&start| start <= index).saturating_sub(1).min(self.starts.len() - 2);
        let (start, end) = (self.starts[epoch], self.starts[epoch + 1]);
        epoch as f64 + (index - start) as f64 / (end - start).max(1) as f64
    }

    /// A batch by its place in the whole order.
    pub fn get(&mut self, index: usize) -> Result<Batch> {
        while self.starts.last().is_some_and(|&end| end <= index) {
            self.next_epoch();
        }
        let epoch = self.starts.partition_point(|&start| start <= index) - 1;
        if self.epoch.0 != epoch {
            self.epoch = (epoch, self.order.batches(&self.lengths, epoch as u64));
        }
        let rows = self.epoch.1[index - self.starts[epoch]].clone();
        let images: Vec<Result<Vec<Piece>>> = match self.reading.feature_bytes {
            Some(most_bytes) => rows.iter().map(|&row| self.features(row, most_bytes)).collect(),
            None => self.decoded(&rows),
        };
        let mut batch = Batch::default();
        for (row, images) in rows.into_iter().zip(images) {
            let example = &self.examples[row];
            images.and_then(|images| self.reading.add(example, images, &mut batch)).with_context(|| named(example))?;
        }
        Ok(batch)
    }

    /// The images of each of these examples, which the model is to encode.
    fn decoded(&self, rows: &[usize]) -> Vec<Result<Vec<Piece>>> {
        let (examples, Reading { processor, limits, image_options, .. }) = (&self.examples, self.reading);
        let pixels = parallel(rows.len(), |at| examples[rows[at]].pixels(processor, &limits, &image_options));
        pixels.into_iter().map(|pixels| Ok(pixels?.into_iter().map(Piece::Image).collect())).collect()
    }

    /// The images of an example as vectors, which do not change.
    fn features(&mut self, row: usize, most_bytes: usize) -> Result<Vec<Piece>> {
        let example = &self.examples[row];
        if let Some(kept) = self.features.get(&row) {
            return Ok(kept.iter().cloned().map(Piece::Features).collect());
        }
        let features = self.reading.features(example)?;
        // Rows come again in another order each epoch, all equally often: none is worth more than another.
        let bytes: usize = features.iter().map(Array::nbytes).sum();
        if bytes > 0 && self.kept_bytes + bytes <= most_bytes {
            self.kept_bytes += bytes;
            self.features.insert(row, features.clone());
        }
        Ok(features.into_iter().map(Piece::Features).collect())
    }
}

impl Reading<'_> {
    /// These examples as a batch.
    pub fn batch<'e>(&self, examples: impl Iterator<Item = &'e Example>) -> Result<Batch> {
        let mut batch = Batch::default();
        for example in examples {
            let features = self.features(example).map(|features| features.into_iter().map(Piece::Features).collect());
            features.and_then(|images| self.add(example, images, &mut batch)).with_context(|| named(example))?;
        }
        Ok(batch)
    }

    fn add(&self, example: &Example, mut images: Vec<Piece>, batch: &mut Batch) -> Result<()> {
        let start = batch.tokens();
        let ids = example.ids();
        let mut counter = PositionCounter::default();
        let mut positions = Vec::with_capacity(ids.len());
        for segment in &example.segments {
            batch.pieces.push(match segment {
                Segment::Text(ids) => {
                    positions.extend(counter.text(ids.len()));
                    Piece::Tokens(ids.clone())
                }
                Segment::Image(index) => {
                    positions.extend(counter.layout(&example.images[*index].layout));
                    std::mem::replace(&mut images[*index], Piece::Tokens(Vec::new()))
                }
            });
        }
        for at in example.supervised.iter().cloned().flatten() {
            let id = ids[at].context("an image is to be predicted")?;
            batch.targets.push(Target { from: start + at - 1, id, weight: example.weight });
        }
        batch.ends.push(batch.targets.len());
        // Where tokens are hidden, each moves back by as many as are hidden before it.
        if let Some(shown) = &example.positions {
            for (at, (position, &index)) in positions.iter_mut().zip(shown).enumerate() {
                *position = position.map(|axis| axis + (index as i32 - at as i32));
            }
        }
        let len =
            example.positions.as_ref().map_or(ids.len(), |shown| shown.last().map_or(0, |&last| last as usize + 1));
        batch.rows.push(Placement { positions, factors: self.model.text.rope_factors(len) });
        Ok(())
    }

    fn features(&self, example: &Example) -> Result<Vec<Array>> {
        let encode = |image: &Pixels| {
            let vectors = self.model.encode_image(image)?;
            vectors.eval()?;
            Ok(vectors)
        };
        example.pixels(self.processor, &self.limits, &self.image_options)?.iter().map(encode).collect()
    }
}

fn named(example: &Example) -> String {
    format!("{}, row {}", example.file.display(), example.row)
}

/// What a run's batches are at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Largest {
    /// Positions of a batch.
    pub positions: usize,
    /// Tokens of a batch that are to be predicted.
    pub targets: usize,
    /// Positions of images of a batch.
    pub image_tokens: usize,
    /// Positions that the vision tower computes for the images of a batch.
    pub tower_positions: usize,
}

impl Largest {
    /// What reading such a batch at once asks of a model.
    pub fn demand(&self) -> Demand {
        Demand {
            prompt_tokens: self.positions,
            image_tokens: self.image_tokens,
            tower_positions: self.tower_positions.min(TOWER_POSITIONS_AT_ONCE),
            prefill_step_size: self.positions,
            ..Demand::default()
        }
    }

    /// Of these examples in this order: of the first epoch, as others differ little. Also how many batches it has.
    pub fn of(examples: &[Example], order: &Order) -> (Self, usize) {
        let lengths: Vec<usize> = examples.iter().map(Example::len).collect();
        let batches = order.batches(&lengths, 0);
        let largest = Self::of_batches(batches.iter().map(|batch| batch.iter().map(|&row| &examples[row])));
        (largest, batches.len())
    }

    /// Of these batches.
    pub fn of_batches<'e>(batches: impl Iterator<Item = impl Iterator<Item = &'e Example>>) -> Self {
        let mut largest = Self::default();
        for batch in batches {
            let mut sum = Self::default();
            for example in batch {
                sum.positions += example.len();
                sum.targets += example.supervised_tokens();
                sum.image_tokens += example.image_tokens().iter().sum::<usize>();
                sum.tower_positions += example.images.iter().map(|image| image.layout.tower_positions).sum::<usize>();
            }
            largest.positions = largest.positions.max(sum.positions);
            largest.targets = largest.targets.max(sum.targets);
            largest.image_tokens = largest.image_tokens.max(sum.image_tokens);
            largest.tower_positions = largest.tower_positions.max(sum.tower_positions);
        }
        largest
    }
}
