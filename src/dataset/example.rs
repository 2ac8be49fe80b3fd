//! A row as the trainer keeps it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::processor::images::{self, ImageLimits, ImageSource};
use crate::processor::{NumCrops, Processor, Prompt, Segment, Tiles, ids, len_of};

/// A picture of a row. It is decoded when the row's turn comes, and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Where it is.
    pub source: ImageSource,
    /// Positions that it takes.
    pub tokens: usize,
}

/// A row that was found to be good.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The file that it is from.
    pub file: Arc<Path>,
    /// Its line there, from 1.
    pub row: u64,
    /// What the model reads.
    pub segments: Vec<Segment>,
    /// The pictures, each used by exactly one segment.
    pub images: Vec<Picture>,
    /// Which of the tokens that are read are to be predicted, in order; never the first, never a picture's.
    pub supervised: Vec<Range<usize>>,
    /// The position of each token where some are hidden; else they are counted from 0.
    pub positions: Option<Vec<u32>>,
    /// What the loss is multiplied with.
    pub weight: f32,
    /// Tokens of the user's text that may be hidden, see [`super::MaskRatios`].
    pub(super) hideable: Range<usize>,
}

impl Example {
    /// A part of a text, of which some tokens are to be predicted.
    pub fn of_text(file: Arc<Path>, row: u64, ids: Vec<u32>, predicted: Range<usize>) -> Self {
        Self {
            file,
            row,
            segments: vec![Segment::Text(ids)],
            images: Vec::new(),
            supervised: vec![predicted],
            positions: None,
            weight: 1.0,
            hideable: 0..0,
        }
    }

    /// Tokens to read, those of pictures included.
    pub fn len(&self) -> usize {
        len_of(&self.segments, &self.image_tokens())
    }

    /// Whether there is nothing to read, which a good row never is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens to predict.
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().map(ExactSizeIterator::len).sum()
    }

    /// The positions that each picture takes.
    pub fn image_tokens(&self) -> Vec<usize> {
        self.images.iter().map(|image| image.tokens).collect()
    }

    /// The id of each token to read; none in pictures.
    pub fn ids(&self) -> Vec<Option<u32>> {
        ids(&self.segments, &self.image_tokens())
    }

    /// The id of each token that is to be predicted; none for the others. Not shifted: a token is predicted at the one
    /// before it.
    pub fn labels(&self) -> Vec<Option<u32>> {
        let mut labels = vec![None; self.len()];
        let ids = self.ids();
        for range in &self.supervised {
            labels[range.clone()].copy_from_slice(&ids[range.clone()]);
        }
        labels
    }

    /// Decodes and cuts the pictures, with the settings that the row was checked with.
    ///
    /// # Errors
    /// When a picture cannot be read any more, or takes another number of positions than when the row was checked.
    pub fn tiles(&self, processor: &Processor, limits: &ImageLimits, num_crops: NumCrops) -> Result<Vec<Tiles>> {
        let images = self.images.iter().map(|image| images::load(&image.source, limits));
        let tiles = processor.tiles(&images.collect::<Result<Vec<_>, _>>()?, num_crops)?;
        for (image, tiles) in self.images.iter().zip(&tiles) {
            ensure!(
                image.tokens == tiles.image_tokens(),
                "the picture {} takes {} tokens, but took {} when the rows were checked: it was changed meanwhile",
                image.source.name(),
                tiles.image_tokens(),
                image.tokens
            );
        }
        Ok(tiles)
    }

    /// What the model reads, with the tiles of its pictures.
    pub fn prompt(&self, tiles: Vec<Tiles>) -> Prompt {
        Prompt { text: String::new(), segments: self.segments.clone(), images: tiles }
    }
}
