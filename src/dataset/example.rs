//! A row as the trainer keeps it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::processor::images::{self, ImageLimits, ImageOptions, ImageSource, Layout, Pixels};
use crate::processor::{Processor, Prompt, Segment, ids, len_of};

/// An image of a row. It is decoded when the row's turn comes, and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Where it is.
    pub source: ImageSource,
    /// Its layout when the row was checked.
    pub layout: Layout,
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
    /// The images, each used by exactly one segment.
    pub images: Vec<Image>,
    /// Which of the tokens that are read are to be predicted, in order; never the first, never an image's.
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

    /// Tokens to read, those of images included.
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

    /// The positions that each image takes.
    pub fn image_tokens(&self) -> Vec<usize> {
        self.images.iter().map(|image| image.layout.tokens).collect()
    }

    /// The id of each token to read; none in images.
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

    /// Decodes the images, with the settings that the row was checked with.
    ///
    /// # Errors
    /// When an image cannot be read any more, or has another layout than when the row was checked.
    pub fn pixels(&self, processor: &Processor, limits: &ImageLimits, options: &ImageOptions) -> Result<Vec<Pixels>> {
        let images = self.images.iter().map(|image| images::load(&image.source, limits));
        let pixels = processor.pixels(&images.collect::<Result<Vec<_>, _>>()?, options)?;
        for (image, pixels) in self.images.iter().zip(&pixels) {
            ensure!(
                image.layout == pixels.layout,
                "the image {} takes {} tokens, but took {} when the rows were checked: it was changed meanwhile",
                image.source.name(),
                pixels.layout.tokens,
                image.layout.tokens
            );
        }
        Ok(pixels)
    }

    /// What the model reads, with its images.
    pub fn prompt(&self, images: Vec<Pixels>) -> Prompt {
        Prompt { text: String::new(), segments: self.segments.clone(), images }
    }
}
