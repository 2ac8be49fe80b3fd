//! The ids of a text that is given part by part.

use anyhow::{Result, bail, ensure};

use super::images::Piece;
use super::{Processor, Segment};

/// Ids as they are written one after the other. processing_phi3_v.py, _convert_images_texts_to_inputs: the text between two
/// tags is tokenized by itself. To models without vision a tag is text like any other.
pub(super) struct Writer<'a> {
    processor: &'a Processor,
    /// Whether the tokenizer puts its special tokens around texts.
    special: bool,
    /// Whether a text that cannot go on after a known part begins by itself.
    lenient: bool,
    segments: Vec<Segment>,
    /// By image, whether it was named.
    used: Vec<bool>,
    /// The known part that a text goes on after.
    before: Option<&'a str>,
    /// The latest text.
    last: &'a str,
}

impl<'a> Writer<'a> {
    pub(super) fn new(processor: &'a Processor, images: usize, special: bool) -> Self {
        let used = vec![false; images];
        Self { processor, special, lenient: false, segments: Vec::new(), used, before: None, last: "" }
    }

    /// Lets a text begin by itself that cannot go on after the known part before it.
    pub(super) fn lenient(self) -> Self {
        Self { lenient: true, ..self }
    }

    /// Writes a text in which tags stand for images; false if it cannot go on after the known part before it, and
    /// nothing is written.
    pub(super) fn text(&mut self, text: &'a str) -> Result<bool> {
        let tokenizer = &self.processor.tokenizer;
        for piece in self.processor.pieces(text) {
            let text = match piece {
                Piece::Image(index, placeholder) => {
                    self.segments.push(Segment::Image(use_image(index, placeholder, &mut self.used)?));
                    self.before = None;
                    continue;
                }
                Piece::Text(text) => text,
            };
            let special = self.special && (self.segments.is_empty() || self.processor.adds_special_tokens_everywhere());
            let ids = match self.before {
                None => tokenizer.encode(text, special)?,
                Some(before) => match tokenizer.encode_after(before, text)? {
                    Some(ids) => ids,
                    None if self.lenient => tokenizer.encode_on(before, text)?,
                    None => return Ok(false),
                },
            };
            self.write(text, &ids);
        }
        Ok(true)
    }

    /// Writes a text whose ids are known.
    pub(super) fn known(&mut self, text: &'a str, ids: &[u32]) {
        self.write(text, ids);
        self.before = Some(text);
    }

    /// Writes a text without tags as a model would generate it, and returns how many ids it has.
    pub(super) fn generated(&mut self, text: &'a str) -> Result<usize> {
        let ids = self.processor.tokenizer.encode_on(self.last, text)?;
        self.known(text, &ids);
        Ok(ids.len())
    }

    /// Writes a token.
    pub(super) fn token(&mut self, id: u32) {
        append(&[id], &mut self.segments);
    }

    /// What is written by now.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segments; an error that names an image without a tag.
    pub(super) fn finish(self) -> Result<Vec<Segment>> {
        if let Some(index) = self.used.iter().position(|used| !used) {
            let placeholder = self.processor.placeholder(index)?;
            bail!("{} given, but the prompt has no {placeholder} for image {}", count(self.used.len()), index + 1);
        }
        Ok(self.segments)
    }

    fn write(&mut self, text: &'a str, ids: &[u32]) {
        append(ids, &mut self.segments);
        self.last = text;
    }
}

/// The index of the image that a placeholder stands for: the next one where it names none.
fn use_image(index: Option<usize>, placeholder: &str, used: &mut [bool]) -> Result<usize> {
    let images = used.len();
    let index = index.or_else(|| used.iter().position(|used| !used)).unwrap_or(images);
    let Some(used) = used.get_mut(index) else { bail!("the prompt names {placeholder}, but {} given", count(images)) };
    ensure!(!*used, "the prompt names {placeholder} twice; an image can be shown only once");
    *used = true;
    Ok(index)
}

pub(super) fn append(new: &[u32], segments: &mut Vec<Segment>) {
    match segments.last_mut() {
        Some(Segment::Text(ids)) => ids.extend(new),
        _ if new.is_empty() => {}
        _ => segments.push(Segment::Text(new.to_vec())),
    }
}

fn count(images: usize) -> String {
    match images {
        0 => "no images are".into(),
        1 => "1 image is".into(),
        n => format!("{n} images are"),
    }
}
