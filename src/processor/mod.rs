//! Conversations and pictures to what a model reads: ids and tiles.

mod template;
mod token_bytes;
mod tokenizer;
mod training;
mod turns;
mod writer;

use anyhow::{Result, bail, ensure};
use image::RgbImage;

use crate::checkpoint::ModelFiles;
use crate::models::Arch;
use crate::processor::images::phi3_v::PreprocessorConfig;
use images::phi3_v::Layout;
use turns::Known;
use writer::Writer;

pub use images::PictureSizes;
pub use images::phi3_v::{TILE, TILE_LEN, Tiles};
pub use positions::{PicturePositions, Positions, TilePositions};
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;
pub use training::TrainingText;
pub(crate) use training::{ids, positions as len_of};
pub use turns::Turn;

pub mod images;
mod positions;

/// How many tiles a picture may be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumCrops {
    /// What `preprocessor_config.json` says.
    Checkpoint,
    /// Microsoft's advice: 16 for a single picture, 4 each for several.
    Auto,
    /// This many.
    Fixed(u32),
}

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Token ids.
    Text(Vec<u32>),
    /// The picture of this index.
    Image(usize),
}

impl Segment {
    /// Its ids; none of a picture.
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
    /// The pictures, each used by exactly one segment.
    pub images: Vec<Tiles>,
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
             shorten it, or give fewer pictures or a smaller --num-crops",
            self.len()
        );
        Ok(())
    }

    /// The ids as the reference writes them, picture N as a run of -N.
    pub fn input_ids(&self) -> Vec<i64> {
        let ids = |segment: &Segment| -> Vec<i64> {
            match segment {
                Segment::Text(ids) => ids.iter().map(|&id| id.into()).collect(),
                Segment::Image(index) => vec![-(*index as i64) - 1; self.segment_len(segment)],
            }
        };
        self.segments.iter().flat_map(ids).collect()
    }

    fn segment_len(&self, segment: &Segment) -> usize {
        match segment {
            Segment::Text(ids) => ids.len(),
            Segment::Image(index) => self.images[*index].image_tokens(),
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
    images: Option<PreprocessorConfig>,
}

impl Processor {
    /// Reads the processor's files of a checkpoint folder.
    pub fn read(files: &ModelFiles) -> Result<Self> {
        let images = match (Arch::of(files)?.has_vision, PreprocessorConfig::of(files)?) {
            (false, _) => None,
            (true, Some(config)) => Some(config),
            (true, None) => bail!(
                "{} has no preprocessor_config.json, which a vision model needs; copy it from the original model",
                files.folder.display()
            ),
        };
        let tokenizer = Tokenizer::read(files)?;
        let eos_token = files.tokenizer.special_tokens().get("eos_token").and_then(|token| tokenizer.id(token));
        Ok(Self { tokenizer, template: ChatTemplate::of(&files.tokenizer), eos_token, images })
    }

    /// Whether prompts can hold pictures.
    pub fn has_vision(&self) -> bool {
        self.images.is_some()
    }

    /// Whether the checkpoint says how conversations are written.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Makes a prompt of a conversation and its pictures. Where no message has image tags, those of all pictures are put
    /// before the text of the first user message, each on a line of its own.
    pub fn prepare(&self, messages: &[Message], images: &[RgbImage], num_crops: NumCrops) -> Result<Prompt> {
        let images = self.tiles(images, num_crops)?;
        let (text, segments) = self.read_conversation(messages, images.len())?;
        Ok(Prompt { text, segments, images })
    }

    /// The text and the segments of [`Self::prepare`], for so many pictures.
    pub fn read_conversation(&self, messages: &[Message], images: usize) -> Result<(String, Vec<Segment>)> {
        ensure!(
            self.template.is_some(),
            "the checkpoint has no chat template; --ignore-chat-template sends the prompt as it is"
        );
        let turns = with_tags(messages, images).into_iter().map(|message| Turn { message, ids: None });
        self.read_turns(&turns.collect::<Vec<_>>(), images)
    }

    /// Makes a prompt of a conversation whose pictures are cut, and named by tags. Messages with ids of their own keep
    /// them: all else has the ids of the same text without such messages.
    pub fn prepare_turns(&self, turns: &[Turn], images: Vec<Tiles>) -> Result<Prompt> {
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

    /// Makes a prompt of plain text, which may hold image tags.
    pub fn prepare_text(&self, text: &str, images: &[RgbImage], num_crops: NumCrops) -> Result<Prompt> {
        let images = self.tiles(images, num_crops)?;
        let segments = self.read_text(text, images.len())?;
        Ok(Prompt { text: text.to_owned(), segments, images })
    }

    /// The segments of [`Self::prepare_text`], for so many pictures.
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

    /// Whether the tokenizer's own special tokens are put around what a template wrote. Text models are trained on rendered
    /// chats as they are, where the template writes the BOS itself if there is to be one. Phi-3-vision's processor lets the
    /// tokenizer add it in any case.
    fn adds_special_tokens(&self, template: &ChatTemplate, text: &str) -> bool {
        let written = template.bos_token().is_some_and(|bos| text.starts_with(bos));
        self.images.is_some() || !written
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
        if self.images.is_some() { pieces(text) } else { vec![Piece::Text(text)] }
    }

    /// Cuts pictures that are shown together.
    pub fn tiles(&self, images: &[RgbImage], num_crops: NumCrops) -> Result<Vec<Tiles>> {
        let Some((config, num_crops)) = self.cutting(images.len(), num_crops)? else { return Ok(Vec::new()) };
        images.iter().map(|image| Tiles::cut(image, num_crops, config)).collect()
    }

    /// Positions that pictures of these widths and heights take which are shown together.
    pub fn image_tokens(&self, sizes: &[(u32, u32)], num_crops: NumCrops) -> Result<Vec<usize>> {
        let Some((config, num_crops)) = self.cutting(sizes.len(), num_crops)? else { return Ok(Vec::new()) };
        sizes
            .iter()
            .map(|&(width, height)| Ok(Layout::new(width, height, num_crops)?.image_tokens(config.line)))
            .collect()
    }

    /// How so many pictures are cut; none without pictures.
    fn cutting(&self, images: usize, num_crops: NumCrops) -> Result<Option<(&PreprocessorConfig, u32)>> {
        if images == 0 {
            return Ok(None);
        }
        let Some(config) = &self.images else { bail!("this model has no vision: it takes no pictures") };
        let num_crops = match num_crops {
            NumCrops::Checkpoint => config.num_crops,
            NumCrops::Auto if images == 1 => 16,
            NumCrops::Auto => 4,
            NumCrops::Fixed(n) => n,
        };
        Ok(Some((config, num_crops)))
    }
}

fn with_tags(messages: &[Message], images: usize) -> Vec<Message> {
    let mut messages = messages.to_vec();
    let tagged =
        messages.iter().any(|message| pieces(&message.content).iter().any(|piece| matches!(piece, Piece::Tag(..))));
    if !tagged && let Some(first) = messages.iter_mut().find(|message| message.role == "user") {
        let tags: String = (1..=images).map(|n| format!("<|image_{n}|>\n")).collect();
        first.content.insert_str(0, &tags);
    }
    messages
}

enum Piece<'a> {
    Text(&'a str),
    Tag(usize, &'a str),
}

/// Splits at `<|image_N|>`: text and tags in turn, text first and last, empty or not.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut from = 0;
    while let Some(at) = text[from..].find("<|image_").map(|at| from + at) {
        let digits = &text[at + "<|image_".len()..];
        let len = digits.bytes().take_while(u8::is_ascii_digit).count();
        from = at + "<|image_".len();
        if len > 0 && digits[len..].starts_with("|>") {
            let end = from + len + "|>".len();
            // A number too large for usize names no picture either.
            let number = digits[..len].parse().unwrap_or(usize::MAX);
            pieces.extend([Piece::Text(&text[start..at]), Piece::Tag(number, &text[at..end])]);
            (start, from) = (end, end);
        }
    }
    pieces.push(Piece::Text(&text[start..]));
    pieces
}
