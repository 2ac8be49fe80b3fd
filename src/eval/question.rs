//! Multiple choice questions, as the Hugging Face Hub ships the usual benchmarks, or of one's own.
//!
//! A row is understood by its keys:
//!
//! | | what is asked | options | the right one |
//! |---|---|---|---|
//! | MMLU | `question` | `choices` | `answer` |
//! | ARC | `question` | `choices`: `text` and `label` | `answerKey` |
//! | HellaSwag | `activity_label`, `ctx_a`, `ctx_b` | `endings` | `label` |
//! | MMMU | `question` with `<image 1>` | `options`: a list written as Python's or JSON's | `answer` |
//! | ScienceQA, AI2D | `question`, `hint` before it | `choices` or `options` | `answer` |
//! | others | `question` or `prompt` | `choices` or `options` | `answer` |
//!
//! Images are in `image`, `images`, or `image_1` to `image_7`; the group in `group`, `subject`, `category`, `subfield` or
//! `activity_label`, the first of them that is there.
//!
//! The right option is a whole number, which is an index from 0, or a text. Where options have labels, the text is one of
//! them. Of MMMU it is a letter. Else it is the letter of an option, its index, or what the option says; a text that is one
//! option by its letter, say, and another one by what it says is an error.

mod answer;
mod correct;
mod images;
mod literal;
mod wikihow;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

pub use self::answer::{find_letter, letter, lettered};
use crate::processor::images::ImageSource;
use crate::rows::Fields;

/// A question and its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The row's own name for it.
    pub id: Option<Value>,
    /// What it is about: rows of a group have a figure of their own.
    pub group: Option<String>,
    /// What is asked, with placeholders where images stand; without any, they come first.
    pub text: String,
    /// Images by number: first those of the text, then those of the options.
    pub images: Vec<ImageSource>,
    /// What can be answered, two options at least.
    pub options: Vec<String>,
    /// The index of the right option.
    pub correct: usize,
    /// What options are.
    pub form: Form,
}

/// What options are to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Answers to it.
    Question,
    /// How it goes on, after a space.
    Continuation,
}

const TEXT: &str = "a text";

/// As many as there are letters.
const MOST_OPTIONS: usize = 26;

impl Question {
    /// Reads a row. Paths of images start from `folder`. The second value are keys that mean nothing here.
    ///
    /// # Errors
    /// When something is missing, or the right option cannot be told.
    pub fn read(mut fields: Fields, folder: &Path, placeholder: &images::Placeholder) -> Result<(Self, Vec<String>)> {
        if let Some(kind) = fields.take::<String>("question_type", TEXT)? {
            ensure!(kind.starts_with("multi"), "question_type: only multiple-choice questions are read, not {kind}");
        }
        let mut options = Options::take(&mut fields)?;
        let group = group(&mut fields)?;
        let (mut text, form) = match options.key {
            "endings" => {
                options.texts = options.texts.iter().map(|ending| wikihow::clean(ending)).collect();
                (wikihow::context(&mut fields, group.as_deref())?, Form::Continuation)
            }
            _ => (text(&mut fields)?, Form::Question),
        };
        options.check()?;
        let correct = options.take_correct(&mut fields)?;
        let images = images::take(&mut fields, &mut text, &mut options.texts, folder, placeholder)?;
        let mut id = fields.take("id", "anything")?;
        if id.is_none() && form == Form::Continuation {
            id = fields.take("ind", "a number")?;
        }
        let unused = fields.left().map(str::to_owned).collect();
        Ok((Self { id, group, text, images, options: options.texts, correct, form }, unused))
    }
}

/// Options, as a row has them.
struct Options {
    /// Where they were.
    key: &'static str,
    texts: Vec<String>,
    /// By what the right one is named.
    labels: Option<Vec<String>>,
    /// Whether only letters name it.
    by_letter: bool,
}

impl Options {
    fn take(fields: &mut Fields) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Found {
            List(Vec<Value>),
            Labelled { text: Vec<String>, label: Vec<String> },
            Literal(String),
        }
        let mut found = Vec::new();
        for key in ["options", "choices", "endings"] {
            found.extend(fields.take::<Found>(key, "a list of options")?.map(|options| (key, options)));
        }
        ensure!(found.len() <= 1, "the row has {} and {}; one of them is expected", found[0].0, found[1].0);
        let (key, options) = found.pop().context("the row has no options: options or choices is expected")?;
        let by_letter = matches!(options, Found::Literal(_));
        let (texts, labels) = match options {
            Found::List(values) => (values.iter().map(option).collect::<Result<_>>().context(key)?, None),
            Found::Labelled { text, label } => {
                let (texts, labels) = (text.len(), label.len());
                ensure!(texts == labels, "{key}: it has {texts} texts and {labels} labels");
                (text, Some(label))
            }
            Found::Literal(literal) => {
                (literal::list(&literal).with_context(|| format!("{key}: a list is expected, not {literal}"))?, None)
            }
        };
        Ok(Self { key, texts, labels, by_letter })
    }

    fn check(&self) -> Result<()> {
        let Self { key, texts, .. } = self;
        match texts.len() {
            0 => bail!("{key}: there are no options"),
            1 => bail!("{key}: there is only one option; two at least are expected"),
            2..=MOST_OPTIONS => {}
            many => bail!("{key}: there are {many} options; {MOST_OPTIONS} are the most"),
        }
        for (at, text) in texts.iter().enumerate() {
            ensure!(!text.trim().is_empty(), "{key}: option {} is empty", letter(at));
            if let Some(before) = texts[..at].iter().position(|other| other.trim() == text.trim()) {
                bail!("{key}: options {} and {} are the same, \"{}\"", letter(before), letter(at), text.trim());
            }
        }
        Ok(())
    }
}

fn option(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => bail!("an option is a text, not {other}"),
    }
}

pub(super) fn group(fields: &mut Fields) -> Result<Option<String>> {
    for key in ["group", "subject", "category", "subfield", "activity_label"] {
        match fields.take::<Value>(key, TEXT)? {
            Some(Value::String(text)) if text.is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(text)),
            Some(number @ Value::Number(_)) => return Ok(Some(number.to_string())),
            Some(other) => bail!("{key}: a text is expected, not {other}"),
            None => {}
        }
    }
    Ok(None)
}

fn text(fields: &mut Fields) -> Result<String> {
    let (question, prompt): (Option<String>, Option<String>) =
        (fields.take("question", TEXT)?, fields.take("prompt", TEXT)?);
    ensure!(question.is_none() || prompt.is_none(), "the row has a question and a prompt; one of them is expected");
    let text = question.or(prompt).context("the row has no question")?;
    ensure!(!text.trim().is_empty(), "the question is empty");
    // lmms-eval, tasks/scienceqa/utils.py, sqa_doc_to_text.
    let hint: Option<String> = fields.take("hint", TEXT)?;
    Ok(match hint.filter(|hint| !hint.is_empty()) {
        Some(hint) => format!("Context: {hint}\n{text}"),
        None => text,
    })
}
