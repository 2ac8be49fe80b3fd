//! What a row teaches: the one place that knows the keys of a row to learn from.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::processor::images::ImageSource;
use crate::processor::{Message, Processor, TrainingText};
use crate::rows::{Fields, RowImages, conversation};

/// What is to be learned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lesson {
    /// The answers of a conversation.
    Chat(Vec<Message>),
    /// What follows a prompt, both as they are.
    Completion(String, String),
    /// A text.
    Text(String),
}

/// A row of a training file.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) lesson: Lesson,
    /// By number.
    pub(super) images: Vec<ImageSource>,
}

const TEXT: &str = "a text";

impl Row {
    /// Reads a row. Paths of images start from `folder`. Without a chat template, prompts are left as they are.
    pub(super) fn read(mut fields: Fields, processor: &Processor, folder: &Path) -> Result<Self> {
        // Names rows, for people.
        fields.take_raw("id");
        let mut images = RowImages::take(&mut fields)?;
        let lesson = lesson(&mut fields, &mut images, processor)?;
        fields.refuse_left()?;
        Ok(Self { lesson, images: images.sources(folder)? })
    }
}

impl Lesson {
    /// Its text as the model reads it.
    pub(super) fn read(
        &self,
        processor: &Processor,
        image_tokens: &[usize],
        stop_tokens: &[u32],
    ) -> Result<TrainingText> {
        match self {
            Self::Chat(messages) => processor.prepare_training(messages, image_tokens, stop_tokens),
            Self::Completion(prompt, completion) => {
                processor.prepare_completion(prompt, completion, image_tokens, stop_tokens)
            }
            Self::Text(text) => processor.prepare_plain(text, image_tokens, stop_tokens),
        }
    }
}

fn lesson(fields: &mut Fields, images: &mut RowImages, processor: &Processor) -> Result<Lesson> {
    let messages = either(fields.take("messages", "a list")?, fields.take("conversations", "a list")?)?;
    let completion = pair(fields, "prompt", "completion")?;
    let answer = pair(fields, "question", "answer")?;
    let text: Option<String> = fields.take("text", TEXT)?;
    let system: Option<String> = fields.take("system", TEXT)?;
    ensure_one([
        ("messages", messages.is_some()),
        ("prompt and completion", completion.is_some()),
        ("question and answer", answer.is_some()),
        ("text", text.is_some()),
    ])?;
    if let Some(text) = text {
        ensure!(system.is_none(), "system: a text has no place for it; give messages, or prompt and completion");
        ensure!(!text.trim().is_empty(), "the text is empty: there is nothing to learn");
        return Ok(Lesson::Text(text));
    }
    let mut messages = match (messages, completion.or(answer)) {
        (Some(messages), _) => conversation(&messages, images, processor)?,
        (None, Some((prompt, completion))) => {
            if !processor.has_chat_template() {
                ensure!(system.is_none(), "system: without a chat template there is no place for it");
                return Ok(Lesson::Completion(prompt, completion));
            }
            vec![Message::new("user", prompt), Message::new("assistant", completion)]
        }
        (None, None) => unreachable!("one of them is there"),
    };
    if let Some(system) = system {
        ensure!(
            messages.iter().all(|message| message.role != "system"),
            "system: messages hold a system message already"
        );
        messages.insert(0, Message::new("system", system));
    }
    Ok(Lesson::Chat(messages))
}

/// `conversations` is what mlx-vlm calls `messages`.
fn either(messages: Option<Value>, conversations: Option<Value>) -> Result<Option<Value>> {
    ensure!(
        messages.is_none() || conversations.is_none(),
        "the row has messages and conversations; one of them is expected"
    );
    Ok(messages.or(conversations))
}

/// Two texts that belong together.
fn pair(fields: &mut Fields, first: &str, second: &str) -> Result<Option<(String, String)>> {
    let texts: (Option<String>, Option<String>) = (fields.take(first, TEXT)?, fields.take(second, TEXT)?);
    let (asked, answered) = match texts {
        (None, None) => return Ok(None),
        (Some(asked), Some(answered)) => (asked, answered),
        (Some(_), None) => bail!("the row has a {first} but no {second} to learn"),
        (None, Some(_)) => bail!("the row has {second} but no {first}"),
    };
    ensure!(!asked.trim().is_empty(), "the {first} is empty");
    ensure!(!answered.trim().is_empty(), "the {second} is empty: there is nothing to learn");
    Ok(Some((asked, answered)))
}

fn ensure_one(forms: [(&str, bool); 4]) -> Result<()> {
    let found: Vec<&str> = forms.iter().filter(|(_, found)| *found).map(|(name, _)| *name).collect();
    match found[..] {
        [_] => Ok(()),
        [] => bail!(
            "the row has nothing to learn; messages, prompt and completion, question and answer, or text are expected"
        ),
        [first, second, ..] => bail!("the row has {first}, and {second}; one of these is expected"),
    }
}
