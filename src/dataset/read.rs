//! Rows to examples.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::dataset::example::{Example, Image};
use crate::dataset::mask::{ASSISTANT, hideable};
use crate::dataset::row::{Lesson, Row};
use crate::processor::images::{ImageLimits, ImageOptions};
use crate::processor::{ImageSizes, Processor, ids};
use crate::rows::{Checked, Fields, Rows, Selection, check, folder_of};

/// How rows are read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most tokens of a row.
    pub max_seq_length: usize,
    /// The model's context.
    pub max_position_embeddings: usize,
    /// How images are processed.
    pub image_options: ImageOptions,
    /// How large images may be.
    pub limits: ImageLimits,
    /// Whether only answers are learned; else everything is that can be predicted.
    pub mask_prompt: bool,
    /// Tokens that end answers: [`crate::engine::stop_tokens`].
    pub stop_tokens: Vec<u32>,
}

/// A file's rows.
pub type Dataset = Rows<Example>;

/// Checks rows. An image that several of them show is decoded once.
pub struct Reader<'a> {
    processor: &'a Processor,
    settings: &'a Settings,
    assistant: Option<u32>,
    sizes: ImageSizes,
}

impl<'a> Reader<'a> {
    /// A reader for a model's rows.
    pub fn new(processor: &'a Processor, settings: &'a Settings) -> Self {
        let assistant = processor.tokenizer.id(ASSISTANT);
        Self { processor, settings, assistant, sizes: ImageSizes::new(settings.limits) }
    }

    /// Checks all rows of a file; none if `progress` breaks off.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no rows.
    pub fn read(
        &mut self,
        path: &Path,
        progress: &mut dyn FnMut(Checked) -> ControlFlow<()>,
    ) -> Result<Option<Dataset>> {
        self.read_some(path, "it has nothing to learn from", &Selection::default(), progress)
    }

    /// Checks some rows of a file; none if `progress` breaks off.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no rows: `purpose` says what that means.
    pub fn read_some(
        &mut self,
        path: &Path,
        purpose: &str,
        selection: &Selection,
        progress: &mut dyn FnMut(Checked) -> ControlFlow<()>,
    ) -> Result<Option<Dataset>> {
        let folder = folder_of(path);
        let file: Arc<Path> = path.into();
        let mut read = |row, line: &[u8]| self.example(line, &folder, &file, row);
        check(path, purpose, selection, &mut read, progress)
    }

    fn example(&mut self, line: &[u8], folder: &Path, file: &Arc<Path>, row: u64) -> Result<Example> {
        let Settings { ref image_options, mask_prompt, ref stop_tokens, .. } = *self.settings;
        let Row { lesson, images } = Row::read(Fields::parse(line)?, self.processor, folder)?;
        let sizes = images.iter().map(|source| self.sizes.of(source)).collect::<Result<Vec<_>, _>>()?;
        let layouts = self.processor.layouts(&sizes, image_options)?;
        let image_tokens: Vec<usize> = layouts.iter().map(|layout| layout.tokens).collect();
        let text = lesson.read(self.processor, &image_tokens, stop_tokens)?;

        let ids = ids(&text.segments, &image_tokens);
        self.check_len(ids.len(), image_tokens.iter().sum())?;
        let hideable = match (&lesson, text.supervised.first()) {
            (Lesson::Chat(_) | Lesson::Completion(..), Some(answer)) => hideable(&ids[..answer.start], self.assistant),
            _ => 0..0,
        };
        let everything = matches!(lesson, Lesson::Text(_)) || !mask_prompt;
        let supervised = if everything { predictable(&ids) } else { text.supervised };
        ensure!(!supervised.is_empty(), "the row is a single token: there is nothing to learn");
        let images = images.into_iter().zip(layouts).map(|(source, layout)| Image { source, layout }).collect();
        let segments = text.segments;
        Ok(Example { file: file.clone(), row, segments, images, supervised, positions: None, weight: 1.0, hideable })
    }

    fn check_len(&self, len: usize, image_tokens: usize) -> Result<()> {
        let Settings { max_seq_length, max_position_embeddings, .. } = *self.settings;
        let takes = match image_tokens {
            0 => format!("the row takes {len} tokens"),
            _ => format!("the row takes {len} tokens, of which {image_tokens} are for its images"),
        };
        let (images, shorter) = match image_tokens {
            0 => ("", "shorten the text"),
            _ => ("smaller images, ", "give smaller images, or shorten the text"),
        };
        ensure!(
            len <= max_position_embeddings,
            "{takes}, more than the model's context of {max_position_embeddings}; {shorter}"
        );
        ensure!(
            len <= max_seq_length,
            "{takes}, more than the {max_seq_length} of `max_seq_length`; a larger `max_seq_length`, \
             {images}or a shorter text helps"
        );
        Ok(())
    }
}

/// All that can be predicted: texts, but for the first position.
fn predictable(ids: &[Option<u32>]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for at in (1..ids.len()).filter(|&at| ids[at].is_some()) {
        match ranges.last_mut() {
            Some(range) if range.end == at => range.end += 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}
