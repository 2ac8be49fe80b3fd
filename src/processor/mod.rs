//! Conversations and images to what a model reads: token ids and pixels.

pub mod images;
mod positions;
mod template;
mod token_bytes;
mod tokenizer;
mod training;
mod turns;
mod writer;

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use image::RgbImage;

use crate::checkpoint::ModelFiles;
use images::{Explanation, ImageOptions, ImageProcessor, Layout, Piece, Pixels};
use turns::Known;
use writer::Writer;

pub use images::ImageSizes;
pub use positions::PositionCounter;
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;
pub use training::TrainingText;
pub(crate) use training::{ids, positions as len_of};
pub use turns::Turn;

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Token ids.
    Text(Vec<u32>),
    /// The image of this index.
    Image(usize),
}

impl Segment {
    /// Its ids; none of an image.
    pub fn ids(&self) -> &[u32] {
        match self {
            Self::Text(ids) => ids,
            Self::Image(_) => &[],
        }
    }
}

/// A prompt that is ready for a model.
#[derive(Clone)]
pub struct Prompt {
    /// What the chat template made of the conversation.
    pub text: String,
    /// Its pieces in order.
    pub segments: Vec<Segment>,
    /// The images, each used by exactly one segment.
    pub images: Vec<Pixels>,
}

impl Prompt {
    /// Positions that the prompt takes.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| self.segment_len(segment)).sum()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An error unless there is something to continue, and room for it in a context of `max_position_embeddings`.
    pub fn check_fits(&self, max_position_embeddings: usize) -> Result<()> {
        ensure!(!self.is_empty(), "the prompt is empty: there is nothing to continue");
        ensure!(
            self.len() < max_position_embeddings,
            "the prompt takes {} positions, more than the model's context of {max_position_embeddings} leaves; \
             shorten it, or give fewer or smaller images",
            self.len()
        );
        Ok(())
    }

    /// The ids of its text.
    pub fn token_ids(&self) -> impl Iterator<Item = u32> {
        self.segments.iter().flat_map(Segment::ids).copied()
    }

    /// Positions that the vision tower computes for the largest image.
    pub fn tower_positions(&self) -> usize {
        self.images.iter().map(|image| image.layout.tower_positions).max().unwrap_or(0)
    }

    /// Positions of all images.
    pub fn image_tokens(&self) -> usize {
        self.images.iter().map(|image| image.layout.tokens).sum()
    }

    fn segment_len(&self, segment: &Segment) -> usize {
        match segment {
            Segment::Text(ids) => ids.len(),
            Segment::Image(index) => self.images[*index].layout.tokens,
        }
    }
}

/// What stands between a user and a model: the checkpoint's tokenizer, chat template and image processor.
pub struct Processor {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// What `tokenizer_config.json` calls `eos_token`.
    eos_token: Option<u32>,
    /// None for models without vision.
    images: Option<Box<dyn ImageProcessor>>,
}

impl Processor {
    /// Reads the processor's files of a checkpoint; the architecture makes the image processor.
    pub fn new(files: &ModelFiles, images: Option<Box<dyn ImageProcessor>>) -> Result<Self> {
        let tokenizer = Tokenizer::read(files)?;
        let eos_token = files.tokenizer.special_tokens().get("eos_token").and_then(|token| tokenizer.id(token));
        Ok(Self { tokenizer, template: ChatTemplate::of(&files.tokenizer), eos_token, images })
    }

    /// The image processor of a vision model.
    pub fn images(&self) -> Option<&dyn ImageProcessor> {
        self.images.as_deref()
    }

    /// Whether prompts can hold images.
    pub fn has_vision(&self) -> bool {
        self.images.is_some()
    }

    fn image_processor(&self) -> Result<&dyn ImageProcessor> {
        self.images().context("this model has no vision: it takes no images")
    }

    /// The text that stands for an image in a message; the first has the index 0.
    ///
    /// # Errors
    /// When the model has no vision.
    pub fn placeholder(&self, index: usize) -> Result<String> {
        Ok(self.image_processor()?.placeholder(index).into_owned())
    }

    /// The parts of a message, images as their placeholders, as one text.
    pub fn join(&self, parts: &[String]) -> String {
        parts.join(self.images().map_or("\n", ImageProcessor::separator))
    }

    /// Whether the checkpoint says how conversations are written.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Makes a prompt of a conversation and its images. Where no message has a placeholder of an image, all of them come
    /// before the text of the first user message.
    pub fn prepare(&self, messages: &[Message], images: &[RgbImage], options: &ImageOptions) -> Result<Prompt> {
        let images = self.pixels(images, options)?;
        let (text, segments) = self.read_conversation(messages, images.len())?;
        Ok(Prompt { text, segments, images })
    }

    /// The text and the segments of [`Self::prepare`], for so many images.
    pub fn read_conversation(&self, messages: &[Message], images: usize) -> Result<(String, Vec<Segment>)> {
        ensure!(
            self.template.is_some(),
            "the checkpoint has no chat template; `ignore_chat_template` sends the prompt as it is"
        );
        let turns = self.with_images(messages, images)?.into_iter().map(|message| Turn { message, ids: None });
        self.read_turns(&turns.collect::<Vec<_>>(), images)
    }

    /// Makes a prompt of a conversation that has placeholders for all its images. Messages with ids of their own keep them:
    /// all else has the ids of the same text without such messages.
    pub fn prepare_turns(&self, turns: &[Turn], images: Vec<Pixels>) -> Result<Prompt> {
        let (text, segments) = self.read_turns(turns, images.len())?;
        Ok(Prompt { text, segments, images })
    }

    fn read_turns(&self, turns: &[Turn], images: usize) -> Result<(String, Vec<Segment>)> {
        let Some(template) = &self.template else { bail!("the checkpoint has no chat template") };
        let messages: Vec<Message> = turns.iter().map(|turn| turn.message.clone()).collect();
        let text = template.render(&messages, true)?;
        let special = self.adds_special_tokens(template, &text);
        let known = turns::find(template, turns, &text);
        let segments = match self.segments(&text, &known, images, special)? {
            Some(segments) => segments,
            None => self.tokenize(&text, images, special)?,
        };
        Ok((text, segments))
    }

    /// Makes a prompt of plain text, which may hold placeholders of images.
    pub fn prepare_text(&self, text: &str, images: &[RgbImage], options: &ImageOptions) -> Result<Prompt> {
        let images = self.pixels(images, options)?;
        let segments = self.read_text(text, images.len())?;
        Ok(Prompt { text: text.to_owned(), segments, images })
    }

    /// The segments of [`Self::prepare_text`], for so many images.
    pub fn read_text(&self, text: &str, images: usize) -> Result<Vec<Segment>> {
        self.tokenize(text, images, true)
    }

    /// Ids of answers as the model would write them after a prompt with this text: with a blank before each, unless the text
    /// ends with one, with a line's end or a special token.
    pub fn encode_answers(&self, prompt: &str, answers: &[String]) -> Result<Vec<Vec<u32>>> {
        let before = match self.pieces(prompt).pop() {
            Some(Piece::Text(text)) => text,
            _ => "",
        };
        let apart = before.is_empty() || before.ends_with(char::is_whitespace) || self.tokenizer.ends_specially(before);
        let blank = if apart { "" } else { " " };
        answers.iter().map(|answer| self.tokenizer.encode_on(before, &[blank, answer].concat())).collect()
    }

    /// Whether the tokenizer's own special tokens are put around what a template wrote. Most models are trained on rendered
    /// chats as they are, where the template writes the BOS itself if there is to be one.
    fn adds_special_tokens(&self, template: &ChatTemplate, text: &str) -> bool {
        let written = template.bos_token().is_some_and(|bos| text.starts_with(bos));
        self.adds_special_tokens_everywhere() || !written
    }

    fn adds_special_tokens_everywhere(&self) -> bool {
        self.images().is_some_and(ImageProcessor::adds_special_tokens)
    }

    fn tokenize(&self, text: &str, images: usize, special: bool) -> Result<Vec<Segment>> {
        Ok(self.segments(text, &[], images, special)?.expect("nothing is known that could not be joined"))
    }

    /// Known parts end a text, and it goes on after them; none if it cannot.
    fn segments(&self, text: &str, known: &[Known], images: usize, special: bool) -> Result<Option<Vec<Segment>>> {
        let mut writer = Writer::new(self, images, special);
        let mut start = 0;
        for Known { range, ids } in known {
            if !writer.text(&text[start..range.start])? {
                return Ok(None);
            }
            writer.known(&text[range.clone()], ids);
            start = range.end;
        }
        if !writer.text(&text[start..])? {
            return Ok(None);
        }
        writer.finish().map(Some)
    }

    fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        self.images().map_or_else(|| vec![Piece::Text(text)], |images| images.pieces(text))
    }

    /// The placeholders of images in a text.
    pub fn placeholders<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let placeholder = |piece| if let Piece::Image(_, placeholder) = piece { Some(placeholder) } else { None };
        self.pieces(text).into_iter().filter_map(placeholder).collect()
    }

    /// The pixels of images that are in one prompt.
    pub fn pixels(&self, images: &[RgbImage], options: &ImageOptions) -> Result<Vec<Pixels>> {
        let sizes: Vec<(u32, u32)> = images.iter().map(RgbImage::dimensions).collect();
        let layouts = self.layouts(&sizes, options)?;
        let Some(processor) = self.images() else { return Ok(Vec::new()) };
        Ok(images.iter().zip(&layouts).map(|(image, layout)| processor.pixels(image, layout)).collect())
    }

    /// The layouts of images of these widths and heights that are in one prompt.
    pub fn layouts(&self, sizes: &[(u32, u32)], options: &ImageOptions) -> Result<Vec<Layout>> {
        if sizes.is_empty() {
            return Ok(Vec::new());
        }
        let processor = self.image_processor()?;
        options.check(Some(processor))?;
        sizes.iter().map(|&size| processor.layout(size, sizes.len(), options)).collect()
    }

    /// The ids of a prompt as the reference writes them.
    pub fn input_ids(&self, prompt: &Prompt) -> Vec<i64> {
        let ids = |segment: &Segment| -> Vec<i64> {
            match (segment, self.images()) {
                (Segment::Image(index), Some(images)) => {
                    vec![images.input_id(*index); prompt.images[*index].layout.tokens]
                }
                (segment, _) => segment.ids().iter().map(|&id| id.into()).collect(),
            }
        };
        prompt.segments.iter().flat_map(ids).collect()
    }

    /// Positions that the vision tower computes for a large image; 0 without vision.
    pub fn largest_tower_positions(&self, options: &ImageOptions) -> Result<usize> {
        const LARGE: (u32, u32) = (1 << 14, 1 << 14);
        let layout = self.images().map(|images| images.layout(LARGE, 1, options)).transpose()?;
        Ok(layout.map_or(0, |layout| layout.tower_positions))
    }

    /// A message's text with a placeholder for each of these images: those for which it has none come first.
    pub fn with_placeholders(&self, text: &str, images: Range<usize>) -> Result<String> {
        let pieces = self.pieces(text);
        let named =
            |index: usize| pieces.iter().any(|piece| matches!(piece, Piece::Image(at, _) if *at == Some(index)));
        let in_order = pieces.iter().filter(|piece| matches!(piece, Piece::Image(None, _))).count();
        let missing = images.filter(|&index| !named(index)).collect::<Vec<_>>();
        let missing = &missing[..missing.len().saturating_sub(in_order)];
        let mut parts = missing.iter().map(|&index| self.placeholder(index)).collect::<Result<Vec<_>>>()?;
        parts.push(text.to_owned());
        Ok(self.join(&parts))
    }

    /// Messages in which every image has a placeholder: before the first user message's text, if there is none yet.
    fn with_images(&self, messages: &[Message], images: usize) -> Result<Vec<Message>> {
        let mut messages = messages.to_vec();
        let placed = messages.iter().any(|message| !self.placeholders(&message.content).is_empty());
        if images > 0
            && !placed
            && let Some(first) = messages.iter_mut().find(|message| message.role == "user")
        {
            first.content = self.with_placeholders(&first.content, 0..images)?;
        }
        Ok(messages)
    }

    /// The pieces of a prompt in order, with their positions and, of images, where their parts are.
    pub fn explain(&self, prompt: &Prompt) -> Vec<(Range<usize>, Option<Explanation>)> {
        let mut start = 0;
        let piece = |segment: &Segment| {
            let at = start;
            start += prompt.segment_len(segment);
            let explanation = match segment {
                Segment::Text(_) => None,
                Segment::Image(index) => self.images().map(|images| images.explain(&prompt.images[*index].layout, at)),
            };
            (at..start, explanation)
        };
        prompt.segments.iter().map(piece).collect()
    }
}

/// A range of positions, for people.
pub fn span(range: &Range<usize>) -> String {
    format!("{}–{}", range.start, range.end.saturating_sub(1))
}
