//! What a row asks: the one place that knows the keys of a row.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::fields::Fields;
use super::message::{RowImages, conversation};
use crate::engine::Request;
use crate::engine::constrain::Grammar;
use crate::engine::sampler::Sampling;
use crate::processor::images::{self, ImageLimits, ImageOptions, ImageSource};
use crate::processor::{ImageSizes, Message, Processor, Prompt, len_of};

/// What holds for rows that say nothing else, and what holds for all.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// The system message of conversations without one.
    pub system: Option<String>,
    /// Whether prompts are put into the checkpoint's chat template.
    pub chat_template: bool,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// How images are processed.
    pub image_options: ImageOptions,
    /// How large images may be.
    pub limits: ImageLimits,
    /// The form that answers must have.
    pub grammar: Option<Grammar>,
    /// See [`Request::early_stop`].
    pub early_stop: Option<usize>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A text to continue as it is.
    Text(String),
    /// A conversation, for the chat template.
    Chat(Vec<Message>),
}

/// A row, with the defaults where it says nothing.
#[derive(Debug)]
pub struct Row {
    /// The prompt.
    pub ask: Ask,
    /// Its images, in the order of their numbers.
    pub images: Vec<ImageSource>,
    /// The most tokens of the answer.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Keys that are not about a prompt.
    pub other: Fields,
}

const TEXT: &str = "a text";
const NUMBER: &str = "a number";
const WHOLE: &str = "a whole number from 0";

impl Row {
    /// Reads a row. Paths of images start from `folder`.
    pub fn read(mut fields: Fields, defaults: &Defaults, processor: &Processor, folder: &Path) -> Result<Self> {
        let mut images = RowImages::take(&mut fields)?;
        let ask = ask(&mut fields, &mut images, defaults, processor)?;
        let images = images.sources(folder)?;
        let max_tokens = fields.take("max_tokens", "a whole number from 1")?.unwrap_or(defaults.max_tokens);
        let sampling = sampling(&mut fields, &defaults.sampling)?;
        let stop = stop(&mut fields)?.unwrap_or_else(|| defaults.stop.clone());
        Ok(Self { ask, images, max_tokens, sampling, stop, other: fields })
    }

    /// An error that names the first key nobody asked for.
    pub fn refuse_other(&self) -> Result<()> {
        self.other.refuse_left()
    }

    /// Makes sure that the images can be read and a prompt be made of them; the positions that it takes.
    pub fn check(&self, processor: &Processor, defaults: &Defaults, sizes: &mut ImageSizes) -> Result<usize> {
        ensure!(self.max_tokens > 0, "max_tokens is 0: nothing would be generated");
        self.sampling.check()?;
        let sizes = self.images.iter().map(|source| sizes.of(source)).collect::<Result<Vec<_>, _>>()?;
        let layouts = processor.layouts(&sizes, &defaults.image_options)?;
        let image_tokens: Vec<usize> = layouts.iter().map(|layout| layout.tokens).collect();
        let segments = match &self.ask {
            Ask::Text(text) => processor.read_text(text, sizes.len())?,
            Ask::Chat(messages) => processor.read_conversation(messages, sizes.len())?.1,
        };
        Ok(len_of(&segments, &image_tokens))
    }

    /// Reads the images and makes the prompt.
    pub fn prompt(&self, processor: &Processor, defaults: &Defaults) -> Result<Prompt> {
        let images = self.images.iter().map(|source| images::load(source, &defaults.limits));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        match &self.ask {
            Ask::Text(text) => processor.prepare_text(text, &images, &defaults.image_options),
            Ask::Chat(messages) => processor.prepare(messages, &images, &defaults.image_options),
        }
    }

    /// The request to an engine.
    pub fn request(&self, processor: &Processor, defaults: &Defaults) -> Result<Request> {
        let prompt = self.prompt(processor, defaults)?;
        Ok(Request {
            sampling: self.sampling.clone(),
            stop: self.stop.clone(),
            grammar: defaults.grammar.clone(),
            early_stop: defaults.early_stop,
            ..Request::new(prompt, self.max_tokens)
        })
    }
}

fn ask(fields: &mut Fields, images: &mut RowImages, defaults: &Defaults, processor: &Processor) -> Result<Ask> {
    let prompt: Option<String> = fields.take("prompt", TEXT)?;
    let messages: Option<Value> = fields.take("messages", "a list")?;
    let system: Option<String> = fields.take("system", TEXT)?;
    let mut messages = match (prompt, messages) {
        (Some(_), Some(_)) => bail!("the row has a prompt and messages; one of them is expected"),
        (None, None) => bail!("the row has no prompt and no messages"),
        (Some(prompt), None) => {
            ensure!(!prompt.trim().is_empty(), "the prompt is empty");
            if !defaults.chat_template {
                ensure!(system.is_none(), "system: `ignore_chat_template` leaves no place for it");
                return Ok(Ask::Text(prompt));
            }
            vec![Message::new("user", prompt)]
        }
        (None, Some(messages)) => {
            ensure!(
                defaults.chat_template,
                "messages: they need the chat template, which `ignore_chat_template` forbids"
            );
            conversation(&messages, images, processor)?
        }
    };
    let has_system = messages.iter().any(|message| message.role == "system");
    ensure!(system.is_none() || !has_system, "system: messages hold a system message already");
    if let Some(system) = system.or_else(|| defaults.system.clone().filter(|_| !has_system)) {
        messages.insert(0, Message::new("system", system));
    }
    Ok(Ask::Chat(messages))
}

/// A value, or a list of such.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl From<OneOrMore> for Vec<String> {
    fn from(texts: OneOrMore) -> Self {
        match texts {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        }
    }
}

fn sampling(fields: &mut Fields, defaults: &Sampling) -> Result<Sampling> {
    Ok(Sampling {
        temperature: fields.take("temperature", NUMBER)?.unwrap_or(defaults.temperature),
        top_k: fields.take("top_k", WHOLE)?.unwrap_or(defaults.top_k),
        top_p: fields.take("top_p", NUMBER)?.unwrap_or(defaults.top_p),
        min_p: fields.take("min_p", NUMBER)?.unwrap_or(defaults.min_p),
        repetition_penalty: fields.take("repetition_penalty", NUMBER)?.unwrap_or(defaults.repetition_penalty),
        repetition_context_size: fields.take("repetition_context_size", WHOLE)?.or(defaults.repetition_context_size),
        presence_penalty: fields.take("presence_penalty", NUMBER)?.unwrap_or(defaults.presence_penalty),
        frequency_penalty: fields.take("frequency_penalty", NUMBER)?.unwrap_or(defaults.frequency_penalty),
        seed: fields.take("seed", WHOLE)?.unwrap_or(defaults.seed),
    })
}

fn stop(fields: &mut Fields) -> Result<Option<Vec<String>>> {
    let stop = fields.take::<OneOrMore>("stop", "a text or a list of texts")?;
    let stop = stop.map(Vec::from);
    ensure!(stop.iter().flatten().all(|text| !text.is_empty()), "stop: an empty text would end every answer at once");
    Ok(stop)
}
