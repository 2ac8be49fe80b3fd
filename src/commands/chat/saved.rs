//! Conversations in files: JSON with all that was said and where the pictures are.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use phi3v::checkpoint::staging::replace_file;
use serde::{Deserialize, Serialize};

use super::conversation::{Answer, Conversation, Exchange, Picture};

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
    /// Pictures for the next question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attached: Vec<SavedPicture>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum SavedMessage {
    User {
        content: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pictures: Vec<SavedPicture>,
    },
    Assistant {
        content: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<Vec<u32>>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        interrupted: bool,
    },
}

/// Where a picture is, and the most tiles that it is cut into.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedPicture {
    pub(super) source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) num_crops: Option<u32>,
}

impl From<&Picture> for SavedPicture {
    fn from(picture: &Picture) -> Self {
        Self { source: picture.source.clone(), num_crops: picture.num_crops }
    }
}

impl Saved {
    pub(super) fn of(conversation: &Conversation, model: &str) -> Self {
        let mut messages = Vec::new();
        for Exchange { question, pictures, answer, .. } in &conversation.exchanges {
            let pictures = pictures.iter().map(SavedPicture::from).collect();
            messages.push(SavedMessage::User { content: question.clone(), pictures });
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
            attached: conversation.attached.iter().map(SavedPicture::from).collect(),
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

    /// The conversation, with pictures that `picture` makes.
    pub(super) fn into_conversation(
        self,
        mut picture: impl FnMut(SavedPicture) -> Result<Picture>,
    ) -> Result<Conversation> {
        let mut conversation = Conversation { system: self.system, ..Conversation::default() };
        for message in self.messages {
            let open = conversation.exchanges.last().is_some_and(|exchange| exchange.answer.is_none());
            match message {
                SavedMessage::User { content, pictures } => {
                    ensure!(!open, "it is damaged: two questions follow each other");
                    conversation.attached = pictures.into_iter().map(&mut picture).collect::<Result<_>>()?;
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
        conversation.attached = self.attached.into_iter().map(&mut picture).collect::<Result<_>>()?;
        Ok(conversation)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use phi3v::processor::Tiles;

    use super::*;

    fn picture(saved: SavedPicture) -> Result<Picture> {
        ensure!(saved.source != "gone", "gone is gone");
        let tiles = Tiles { pixels: Vec::new(), rows: 1, cols: 1, line: 12 };
        Ok(Picture { source: saved.source, num_crops: saved.num_crops, tiles })
    }

    fn conversation() -> Conversation {
        let mut conversation = Conversation { system: Some("s".into()), ..Conversation::default() };
        conversation.attached.push(picture(SavedPicture { source: "a".into(), num_crops: Some(4) }).unwrap());
        conversation.ask("one".into());
        conversation.answer(Answer { text: "1".into(), tokens: Some(vec![1, 2]), interrupted: true });
        conversation.ask("two".into());
        conversation.answer(Answer { text: "2".into(), tokens: None, interrupted: false });
        conversation.attached.push(picture(SavedPicture { source: "b".into(), num_crops: None }).unwrap());
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
        assert_eq!(saved.into_conversation(picture).unwrap(), conversation());
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
        let user = || SavedMessage::User { content: String::new(), pictures: Vec::new() };
        let assistant = || SavedMessage::Assistant { content: String::new(), tokens: None, interrupted: false };
        let read = |messages| Saved { messages, ..Saved::of(&Conversation::default(), "") }.into_conversation(picture);
        assert!(read(vec![user(), assistant(), user(), assistant()]).is_ok());
        for messages in [vec![user()], vec![assistant()], vec![user(), user()], vec![user(), assistant(), assistant()]]
        {
            assert!(read(messages).unwrap_err().to_string().contains("it is damaged"));
        }
        let gone = SavedPicture { source: "gone".into(), num_crops: None };
        let question = SavedMessage::User { content: String::new(), pictures: vec![gone] };
        assert!(read(vec![question, assistant()]).is_err());
    }
}
