//! Examples in the order in which they are learned, as what a model reads.

use std::collections::HashMap;

use anyhow::{Context, Result};
use mlx_rs::Array;

use super::gradient::{Batch, MOST_TILES, Piece, Target};
use crate::dataset::{Example, Order};
use crate::memory::Demand;
use crate::models::{Model, Whole};
use crate::parallel::parallel;
use crate::processor::images::ImageLimits;
use crate::processor::{NumCrops, Processor, Segment, Tiles};

/// What turns examples into batches.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The model that reads them.
    pub model: &'a dyn Model,
    /// Of the model.
    pub processor: &'a Processor,
    /// How large pictures may be.
    pub limits: ImageLimits,
    /// How pictures are cut.
    pub num_crops: NumCrops,
    /// Bytes for pictures' vectors that need not be computed again; none where the model that computes them is trained.
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
    /// Vectors of the pictures of an example.
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
        let pictures: Vec<Result<Vec<Piece>>> = match self.reading.feature_bytes {
            Some(most_bytes) => rows.iter().map(|&row| self.features(row, most_bytes)).collect(),
            None => self.decoded(&rows),
        };
        let mut batch = Batch::default();
        for (row, pictures) in rows.into_iter().zip(pictures) {
            let example = &self.examples[row];
            pictures
                .and_then(|pictures| self.reading.add(example, pictures, &mut batch))
                .with_context(|| named(example))?;
        }
        Ok(batch)
    }

    /// The pictures of each of these examples, which the model is to encode.
    fn decoded(&self, rows: &[usize]) -> Vec<Result<Vec<Piece>>> {
        let (examples, Reading { processor, limits, num_crops, .. }) = (&self.examples, self.reading);
        let tiles = parallel(rows.len(), |at| examples[rows[at]].tiles(processor, &limits, num_crops));
        tiles.into_iter().map(|tiles| Ok(tiles?.into_iter().map(Piece::Picture).collect())).collect()
    }

    /// The pictures of an example as vectors, which do not change.
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
            features.and_then(|pictures| self.add(example, pictures, &mut batch)).with_context(|| named(example))?;
        }
        Ok(batch)
    }

    fn add(&self, example: &Example, mut pictures: Vec<Piece>, batch: &mut Batch) -> Result<()> {
        let start = batch.tokens();
        let ids = example.ids();
        for segment in &example.segments {
            batch.pieces.push(match segment {
                Segment::Text(ids) => Piece::Tokens(ids.clone()),
                Segment::Image(index) => std::mem::replace(&mut pictures[*index], Piece::Tokens(Vec::new())),
            });
        }
        for at in example.supervised.iter().cloned().flatten() {
            let id = ids[at].context("a picture is to be predicted")?;
            batch.targets.push(Target { from: start + at - 1, id, weight: example.weight });
        }
        batch.ends.push(batch.targets.len());
        let positions: Vec<i32> = match &example.positions {
            Some(positions) => positions.iter().map(|&position| position as i32).collect(),
            None => (0..example.len() as i32).collect(),
        };
        let len = positions.last().map_or(0, |&last| last as usize + 1);
        batch.rows.push(Whole { positions, factors: self.model.rope_factors(len) });
        Ok(())
    }

    fn tiles(&self, example: &Example) -> Result<Vec<Tiles>> {
        example.tiles(self.processor, &self.limits, self.num_crops)
    }

    fn features(&self, example: &Example) -> Result<Vec<Array>> {
        let encode = |tiles: &Tiles| {
            let vectors = self.model.encode_image(tiles)?;
            vectors.eval()?;
            Ok(vectors)
        };
        self.tiles(example)?.iter().map(encode).collect()
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
    /// Positions of pictures of a batch.
    pub image_tokens: usize,
}

impl Largest {
    /// What reading such a batch at once asks of a model, with 144 positions for a tile as in published checkpoints.
    pub fn demand(&self) -> Demand {
        Demand {
            prompt_tokens: self.positions,
            image_tokens: self.image_tokens,
            tiles: self.image_tokens.div_ceil(144).min(MOST_TILES),
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
            }
            largest.positions = largest.positions.max(sum.positions);
            largest.targets = largest.targets.max(sum.targets);
            largest.image_tokens = largest.image_tokens.max(sum.image_tokens);
        }
        largest
    }
}
