//! `--explain`: what the model is given, and what happened to it.

use phi3v::engine::Generation;
use phi3v::processor::{PicturePositions, Positions, Processor, Prompt, Segment};
use serde::Serialize;

/// What is told of a prompt.
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
}

impl Explanation {
    pub(super) fn new(prompt: &Prompt, processor: &Processor) -> anyhow::Result<Self> {
        let mut segments = Vec::new();
        for (positions, segment) in prompt.positions().into_iter().zip(&prompt.segments) {
            let text = match segment {
                Segment::Text(ids) => Some(processor.tokenizer.decode(ids, true)?),
                Segment::Image(_) => None,
            };
            let tokens = match &positions {
                Positions::Text(range) => range.len(),
                Positions::Picture(picture) => picture.all.len(),
            };
            segments.push(Piece { positions, tokens, text });
        }
        Ok(Self { prompt: prompt.text.clone(), segments })
    }

    /// As lines for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("prompt      {:?}", self.prompt)];
        for Piece { positions, tokens, text } in &self.segments {
            match (positions, text) {
                (Positions::Text(range), Some(text)) => {
                    lines.push(format!("{:<11} {tokens} tokens of text: {text:?}", span(range)));
                }
                (Positions::Text(range), None) => lines.push(format!("{:<11} {tokens} tokens", span(range))),
                (Positions::Picture(picture), _) => lines.extend(picture_lines(picture, *tokens)),
            }
        }
        lines
    }
}

fn span(range: &std::ops::Range<usize>) -> String {
    format!("{}–{}", range.start, range.end.saturating_sub(1))
}

fn picture_lines(picture: &PicturePositions, tokens: usize) -> Vec<String> {
    let PicturePositions { picture: number, all, rows, cols, tiles, separator, whole } = picture;
    let mut lines = vec![format!("{:<11} {tokens} tokens of picture {number}, {rows} × {cols} tiles", span(all))];
    for tile in tiles {
        let (first, last) = (&tile.lines[0], &tile.lines[tile.lines.len() - 1]);
        lines.push(format!(
            "{:<11} tile {}, {}: {} lines of {}, the last at {}",
            "",
            tile.row,
            tile.col,
            tile.lines.len(),
            span(first),
            span(last)
        ));
    }
    let (first, last) = (&whole[0], &whole[whole.len() - 1]);
    lines.push(format!("{:<11} separator: {separator}", ""));
    lines.push(format!("{:<11} the whole: {} lines from {} to {}", "", whole.len(), span(first), span(last)));
    lines
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
        format!("known       {cached_tokens} of {prompt_tokens} positions, {cached_images} pictures"),
        format!("factors     {factors}"),
        format!("end         {}", generation.finish_reason.name()),
    ];
    if *proposed > 0 {
        lines.push(format!("guesses     {accepted} of {proposed} were right"));
    }
    lines
}
