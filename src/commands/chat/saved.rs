//! Conversations in files: JSON with all that was said and where the images are.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use phi3v::checkpoint::staging::replace_file;
use phi3v::processor::images::ImageOptions;
use serde::{Deserialize, Serialize};

use super::conversation::{Answer, Conversation, Exchange, Image};

const FORMAT: &str = "phi3v conversation";
const VERSION: u32 = 1;

/// What makes a file one of ours.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    format: String,
    version: u32,
    /// As it was named.
    pub(super) model: String,
    system: Option<String>,
    messages: Vec<SavedMessage>,
    /// Images for the next question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attached: Vec<SavedImage>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum SavedMessage {
    User {
        content: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty", alias = "pictures")]
        images: Vec<SavedImage>,
    },
    Assistant {
        content: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<Vec<u32>>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        interrupted: bool,
    },
}

/// Where an image is, and how it was processed.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedImage {
    pub(super) source: String,
    #[serde(flatten)]
    pub(super) options: ImageOptions,
    /// How many images its question has.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) count: usize,
}

fn one() -> usize {
    1
}

fn is_one(count: &usize) -> bool {
    *count == 1
}

impl From<&Image> for SavedImage {
    fn from(image: &Image) -> Self {
        Self { source: image.source.clone(), options: image.options, count: image.count }
    }
}

impl Saved {
    pub(super) fn of(conversation: &Conversation, model: &str) -> Self {
        let mut messages = Vec::new();
        for Exchange { question, images, answer, .. } in &conversation.exchanges {
            let images = images.iter().map(SavedImage::from).collect();
            messages.push(SavedMessage::User { content: question.clone(), images });
            messages.extend(answer.clone().map(|Answer { text, tokens, interrupted }| SavedMessage::Assistant {
                content: text,
                tokens,
                interrupted,
            }));
        }
        Self {
            format: FORMAT.into(),
            version: VERSION,
            model: model.to_owned(),
            system: conversation.system.clone(),
            messages,
            attached: conversation.attached.iter().map(SavedImage::from).collect(),
        }
    }

    /// Writes the file whole or not at all. One of another kind is not overwritten.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let name = path.display();
        match fs::read(path) {
            Ok(bytes) => ensure!(
                serde_json::from_slice::<Header>(&bytes).is_ok_and(|header| header.format == FORMAT),
                "{name} is there already, and no conversation; name another file"
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write {name}")),
        }
        replace_file(path, |file| Ok(writeln!(file, "{}", serde_json::to_string_pretty(self)?)?))
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let Ok(Header { format, version }) = serde_json::from_slice(&bytes) else { bail!("{name} is no conversation") };
        ensure!(format == FORMAT, "{name} is no conversation");
        ensure!(version == VERSION, "{name} is a conversation of version {version}, where {VERSION} is read");
        serde_json::from_slice(&bytes).with_context(|| format!("the conversation in {name} is damaged"))
    }

    /// The conversation, with images that `image` reads.
    pub(super) fn into_conversation(self, mut image: impl FnMut(SavedImage) -> Result<Image>) -> Result<Conversation> {
        let mut conversation = Conversation { system: self.system, ..Conversation::default() };
        for message in self.messages {
            let open = conversation.exchanges.last().is_some_and(|exchange| exchange.answer.is_none());
            match message {
                SavedMessage::User { content, images } => {
                    ensure!(!open, "it is damaged: two questions follow each other");
                    conversation.attached = images.into_iter().map(&mut image).collect::<Result<_>>()?;
                    conversation.ask(content);
                }
                SavedMessage::Assistant { content, tokens, interrupted } => {
                    ensure!(open, "it is damaged: an answer follows no question");
                    conversation.answer(Answer { text: content, tokens, interrupted });
                }
            }
        }
        let open = conversation.exchanges.last().is_some_and(|exchange| exchange.answer.is_none());
        ensure!(!open, "it is damaged: the last question has no answer");
        conversation.attached = self.attached.into_iter().map(&mut image).collect::<Result<_>>()?;
        Ok(conversation)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use phi3v::processor::images::{Layout, NumCrops, Pixels};

    use super::*;

    fn saved(source: &str, num_crops: Option<NumCrops>, count: usize) -> SavedImage {
        SavedImage { source: source.into(), options: ImageOptions { num_crops, ..ImageOptions::default() }, count }
    }

    fn image(saved: SavedImage) -> Result<Image> {
        ensure!(saved.source != "gone", "gone is gone");
        let pixels = Pixels { values: Vec::new(), layout: Layout::default() };
        Ok(Image { source: saved.source, options: saved.options, count: saved.count, size: (1, 1), pixels })
    }

    fn conversation() -> Conversation {
        let mut conversation = Conversation { system: Some("s".into()), ..Conversation::default() };
        conversation.attached.push(image(saved("a", Some(NumCrops::Fixed(4)), 1)).unwrap());
        conversation.ask("one".into());
        conversation.answer(Answer { text: "1".into(), tokens: Some(vec![1, 2]), interrupted: true });
        conversation.ask("two".into());
        conversation.answer(Answer { text: "2".into(), tokens: None, interrupted: false });
        conversation.attached.push(image(saved("b", Some(NumCrops::Auto), 2)).unwrap());
        conversation
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        for _ in 0..2 {
            Saved::of(&conversation(), "model").write(&path).unwrap();
        }
        let saved = Saved::read(&path).unwrap();
        assert_eq!(saved.model, "model");
        assert_eq!(saved.into_conversation(image).unwrap(), conversation());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn other_files_are_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.json");
        let error = |result: Result<()>| format!("{:#}", result.unwrap_err());
        for (contents, expected) in [
            ("{}", "is no conversation"),
            ("text", "is no conversation"),
            (r#"{"format": "phi3v conversation", "version": 2}"#, "of version 2, where 1 is read"),
            (r#"{"format": "phi3v conversation", "version": 1}"#, "is damaged: missing field"),
        ] {
            fs::write(&path, contents).unwrap();
            assert!(error(Saved::read(&path).map(drop)).contains(expected), "{contents}");
        }
        fs::write(&path, "{}").unwrap();
        assert!(error(Saved::of(&conversation(), "m").write(&path)).contains("no conversation; name another file"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
        let missing = folder.path().join("none/talk.json");
        assert!(error(Saved::of(&conversation(), "m").write(&missing)).contains("cannot write"));
        assert!(error(Saved::read(&missing).map(drop)).contains("cannot read"));
    }

    #[test]
    fn questions_and_answers_must_alternate() {
        let user = || SavedMessage::User { content: String::new(), images: Vec::new() };
        let assistant = || SavedMessage::Assistant { content: String::new(), tokens: None, interrupted: false };
        let read = |messages| Saved { messages, ..Saved::of(&Conversation::default(), "") }.into_conversation(image);
        assert!(read(vec![user(), assistant(), user(), assistant()]).is_ok());
        for messages in [vec![user()], vec![assistant()], vec![user(), user()], vec![user(), assistant(), assistant()]]
        {
            assert!(read(messages).unwrap_err().to_string().contains("it is damaged"));
        }
        let gone = saved("gone", None, 1);
        let question = SavedMessage::User { content: String::new(), images: vec![gone] };
        assert!(read(vec![question, assistant()]).is_err());
    }
}
