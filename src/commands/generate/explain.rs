//! `--explain`: what the model is given, and what happened to it.

use std::ops::Range;

use phi3v::engine::Generation;
use phi3v::processor::{Processor, Prompt, Segment, span};
use serde::Serialize;
use serde_json::{Map, Value};

/// A prompt as the model reads it.
#[derive(Serialize)]
pub(super) struct Explanation {
    prompt: String,
    segments: Vec<Piece>,
}

#[derive(Serialize)]
struct Piece {
    positions: Positions,
    tokens: usize,
    /// Of text, its tokens as they are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Of an image, its parts for people.
    #[serde(skip)]
    lines: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Positions {
    Text(Range<usize>),
    Image {
        /// Its number, from 1.
        image: usize,
        /// All of it.
        all: Range<usize>,
        /// Its parts, which the architecture names.
        #[serde(flatten)]
        parts: Map<String, Value>,
    },
}

impl Explanation {
    pub(super) fn new(prompt: &Prompt, processor: &Processor) -> anyhow::Result<Self> {
        let mut segments = Vec::new();
        for ((all, explanation), segment) in processor.explain(prompt).into_iter().zip(&prompt.segments) {
            let tokens = all.len();
            segments.push(match segment {
                Segment::Text(ids) => {
                    let text = Some(processor.tokenizer.decode(ids, true)?);
                    Piece { positions: Positions::Text(all), tokens, text, lines: Vec::new() }
                }
                Segment::Image(index) => {
                    let (lines, parts) = explanation.map(|it| (it.lines, it.parts)).unwrap_or_default();
                    let positions = Positions::Image { image: index + 1, all, parts };
                    Piece { positions, tokens, text: None, lines }
                }
            });
        }
        Ok(Self { prompt: prompt.text.clone(), segments })
    }

    /// As lines for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("prompt      {:?}", self.prompt)];
        for Piece { positions, tokens, text, lines: parts } in &self.segments {
            match positions {
                Positions::Text(range) => {
                    let text = text.as_deref().unwrap_or_default();
                    lines.push(format!("{:<11} {tokens} tokens of text: {text:?}", span(range)));
                }
                Positions::Image { image, all, .. } => {
                    lines.push(format!("{:<11} {tokens} tokens of image {image}", span(all)));
                    lines.extend(parts.iter().map(|part| format!("{:<11} {part}", "")));
                }
            }
        }
        lines
    }
}

/// What became of it.
pub(super) fn outcome(generation: &Generation, boundary: Option<usize>) -> Vec<String> {
    let Generation { prompt_tokens, cached_tokens, cached_images, proposed, accepted, .. } = generation;
    let factors = match (boundary, generation.long_factors) {
        (None, _) => "one set (no longrope)".to_owned(),
        (Some(boundary), false) => format!("short (up to {boundary} positions)"),
        (Some(boundary), true) => format!("long (beyond {boundary} positions)"),
    };
    let mut lines = vec![
        format!("known       {cached_tokens} of {prompt_tokens} positions, {cached_images} images"),
        format!("factors     {factors}"),
        format!("end         {}", generation.finish_reason.name()),
    ];
    if *proposed > 0 {
        lines.push(format!("guesses     {accepted} of {proposed} were right"));
    }
    lines
}
