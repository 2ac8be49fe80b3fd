//! Conversations as OpenAI's API writes them: the text of a message, or its parts, images among them.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::fields::{Fields, shortened};
use crate::processor::images::ImageSource;
use crate::processor::{Message, Processor};

/// Images of a conversation, in the order of their numbers, and those of the row that no message took yet.
pub(crate) struct RowImages {
    named: Vec<String>,
    left: std::vec::IntoIter<String>,
}

impl RowImages {
    /// Takes the keys of a row that name images.
    pub(crate) fn take(fields: &mut Fields) -> Result<Self> {
        let image: Option<String> = fields.take("image", "a path or an address")?;
        let images: Option<Vec<String>> = fields.take("images", "a list of paths and addresses")?;
        ensure!(image.is_none() || images.is_none(), "the row has image and images; one of them is expected");
        let left = images.unwrap_or_else(|| image.into_iter().collect());
        Ok(Self { named: Vec::new(), left: left.into_iter() })
    }

    /// So many images, whose names do not matter.
    pub(crate) fn unnamed(count: usize) -> Self {
        Self { named: Vec::new(), left: vec![String::new(); count].into_iter() }
    }

    /// All images in the order of their numbers. Paths start from `folder`.
    pub(crate) fn sources(mut self, folder: &Path) -> Result<Vec<ImageSource>> {
        if self.named.is_empty() {
            self.named = self.left.collect();
        } else {
            let left = self.left.count();
            ensure!(left == 0, "images: no part of a message stands for the last {left}");
        }
        self.named.iter().map(|name| source(name, folder)).collect()
    }
}

/// An image by its path, which starts from `folder`, or its address.
pub(crate) fn source(name: &str, folder: &Path) -> Result<ImageSource> {
    match name.parse()? {
        ImageSource::Stdin => bail!("a row's image cannot be read from stdin (-)"),
        ImageSource::Path(path) => Ok(ImageSource::Path(folder.join(path))),
        source @ (ImageSource::Url(_) | ImageSource::Data(_)) => Ok(source),
    }
}

/// Reads a conversation. An image among the parts of a message becomes its placeholder.
pub(crate) fn conversation(messages: &Value, images: &mut RowImages, processor: &Processor) -> Result<Vec<Message>> {
    let Value::Array(messages) = messages else {
        bail!("messages: a list is expected, not {}", shortened(&messages.to_string()));
    };
    ensure!(!messages.is_empty(), "messages: the list is empty; there is nothing to answer");
    let read = |(at, value)| message(value, images, processor).with_context(|| format!("messages[{at}]"));
    messages.iter().enumerate().map(read).collect()
}

fn message(value: &Value, images: &mut RowImages, processor: &Processor) -> Result<Message> {
    let message = object(value, &["role", "content"])?;
    let role = text(message, "role")?;
    ensure!(
        ["system", "user", "assistant"].contains(&role),
        "role: system, user or assistant is expected, not {}",
        shortened(role)
    );
    let content = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let read = |(at, value)| part(value, images, processor).with_context(|| format!("content[{at}]"));
            processor.join(&parts.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?)
        }
        other => bail!("content: a text or a list of parts is expected, {}", found(other)),
    };
    Ok(Message::new(role, content))
}

fn part(value: &Value, images: &mut RowImages, processor: &Processor) -> Result<String> {
    let part = object(value, &["type", "text", "image", "image_url"])?;
    let source = match text(part, "type")? {
        "text" => {
            object(value, &["type", "text"])?;
            return text(part, "text").map(str::to_owned);
        }
        "image" => {
            object(value, &["type", "image"])?;
            part.contains_key("image").then(|| text(part, "image")).transpose()?
        }
        "image_url" => {
            object(value, &["type", "image_url"])?;
            match part.get("image_url") {
                Some(value @ Value::Object(_)) => Some(text(object(value, &["url"])?, "url").context("image_url")?),
                Some(_) => Some(text(part, "image_url")?),
                None => None,
            }
        }
        other => bail!("type: text, image or image_url is expected, not {}", shortened(other)),
    };
    let source = match source {
        Some(source) => source.to_owned(),
        None => images.left.next().context("the part names no image, and images has no further one")?,
    };
    images.named.push(source);
    processor.placeholder(images.named.len() - 1)
}

/// An object without any other keys than these.
fn object<'v>(value: &'v Value, keys: &[&str]) -> Result<&'v Map<String, Value>> {
    let object = value.as_object().with_context(|| format!("an object is expected, {}", found(Some(value))))?;
    if let Some(key) = object.keys().find(|key| !keys.contains(&key.as_str())) {
        bail!("the key \"{key}\" means nothing here; {} are read", keys.join(", "));
    }
    Ok(object)
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> Result<&'v str> {
    let value = object.get(key);
    value.and_then(Value::as_str).with_context(|| format!("{key}: a text is expected, {}", found(value)))
}

fn found(value: Option<&Value>) -> String {
    value.map_or_else(|| "and missing".into(), |value| format!("not {}", shortened(&value.to_string())))
}
