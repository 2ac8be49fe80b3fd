//! Questions whose answers are generated: rows as `generate --input` and `lora` read them, with the right answers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::question::group;
use super::record::{OnRecord, Record};
use crate::engine::Engine;
use crate::engine::queue::{self, Progress};
use crate::processor::{ImageSizes, Message, Processor};
use crate::rows::{Ask, Defaults, Fields, Row};

/// A question that was found to be good.
#[derive(Debug)]
pub struct Asked {
    /// What will be known of it.
    pub record: Record,
    /// What is asked.
    pub row: Row,
    /// The prompt's positions.
    pub positions: usize,
}

/// How rows become questions.
#[derive(Debug, Clone)]
pub struct Asking {
    /// What holds for rows that say nothing else.
    pub defaults: Defaults,
    /// What is asked where a row has an image and no question.
    pub prompt: Option<String>,
    /// What is added to every question, on a line of its own.
    pub instruction: Option<String>,
    /// The longest sequence.
    pub max_position_embeddings: usize,
}

/// Keys under which right answers stand, in lora's rows and in data sets.
const REFERENCES: [&str; 8] =
    ["references", "answers", "answer", "completion", "label", "captions", "caption", "sentences"];

impl Asking {
    /// Reads a question and its right answers; also the keys that mean nothing here.
    pub fn read(
        &self,
        number: u64,
        mut fields: Fields,
        folder: &Path,
        processor: &Processor,
        sizes: &mut ImageSizes,
    ) -> Result<(Asked, Vec<String>)> {
        let id = fields.take("id", "a value")?;
        let group = group(&mut fields)?;
        let mut references = Vec::new();
        for key in REFERENCES {
            if let Some(value) = fields.take::<Value>(key, "a text or a list of texts")? {
                references = texts(&value).with_context(|| format!("{key}: texts are expected"))?;
            }
            if !references.is_empty() {
                break;
            }
        }
        self.name_the_prompt(&mut fields)?;
        let mut row = Row::read(fields, &self.defaults, processor, folder)?;
        if let Ask::Chat(messages) = &mut row.ask
            && messages.last().is_some_and(|last| last.role == "assistant")
            && let Some(answer) = messages.pop()
        {
            ensure!(references.is_empty(), "the row's messages end with an answer, and it has another one beside them");
            references.push(answer.content);
        }
        if let Some(instruction) = &self.instruction {
            let text = match &mut row.ask {
                Ask::Text(text) => Some(text),
                Ask::Chat(messages) => {
                    messages.iter_mut().rfind(|message| message.role == "user").map(|message| &mut message.content)
                }
            };
            text.context("nobody asks anything in these messages")?.extend(["\n", instruction]);
        }
        ensure!(
            references.iter().any(|reference| !reference.trim().is_empty()),
            "the row has no right answer; one of {} is expected",
            REFERENCES.join(", ")
        );
        let unused = row.other.left().map(str::to_owned).collect();
        let record = Record { row: number, id, group, references, ..Record::default() };
        Ok((self.ask(record, row, processor, sizes)?, unused))
    }

    /// Gives the question the name that it has in `generate`.
    fn name_the_prompt(&self, fields: &mut Fields) -> Result<()> {
        if fields.has("prompt") || fields.has("messages") {
            return Ok(());
        }
        let asked: Option<String> = fields.take_first(&["question", "query"], "a text")?;
        if let Some(prompt) = asked.or_else(|| self.prompt.clone()) {
            fields.put("prompt", &prompt);
        }
        Ok(())
    }

    /// Makes sure that a question can be asked.
    pub fn ask(&self, record: Record, row: Row, processor: &Processor, sizes: &mut ImageSizes) -> Result<Asked> {
        let positions = row.check(processor, &self.defaults, sizes)?;
        let most = self.max_position_embeddings;
        ensure!(
            positions < most,
            "the prompt takes {positions} positions, more than the model's context of {most} leaves; shorten it, or give \
             smaller images"
        );
        let prompt = match &row.ask {
            Ask::Text(text) => text.clone(),
            Ask::Chat(messages) => messages.iter().map(|message| &*message.content).collect::<Vec<_>>().join("\n"),
        };
        let images = row.images.iter().map(|source| source.name()).collect();
        Ok(Asked { record: Record { prompt, images, ..record }, row, positions })
    }

    /// A question of one's own making.
    pub fn row(&self, text: String, images: Vec<crate::processor::images::ImageSource>) -> Row {
        let Defaults { system, chat_template, max_tokens, ref sampling, ref stop, .. } = self.defaults.clone();
        let ask = if chat_template {
            let system = system.map(|system| Message::new("system", system));
            Ask::Chat(system.into_iter().chain([Message::new("user", text)]).collect())
        } else {
            Ask::Text(text)
        };
        Row { ask, images, max_tokens, sampling: sampling.clone(), stop: stop.clone(), other: Fields::default() }
    }
}

/// The texts of a value as data sets have them: a text, a number, a list of such, or an object with them.
fn texts(value: &Value) -> Result<Vec<String>> {
    Ok(match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Bool(answer) => vec![answer.to_string()],
        Value::Array(values) => values.iter().map(texts).collect::<Result<Vec<_>>>()?.concat(),
        Value::Object(object) => match ["answer", "text", "raw"].iter().find_map(|key| object.get(*key)) {
            Some(value) => texts(value)?,
            None => bail!("found an object without answer, text or raw"),
        },
        Value::Null => bail!("found null"),
    })
}

/// Has the questions answered, as many at once as the engine takes; `judge` gives the scores of a record with its answer.
/// False if broken off.
pub fn answer(
    engine: &Engine,
    asked: &[Asked],
    defaults: &Defaults,
    judge: &dyn Fn(&Record) -> BTreeMap<String, f64>,
    on_record: &mut OnRecord,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<bool> {
    let mut left = asked.iter();
    let mut next = || Ok(left.next().map(|asked| (asked, asked.row.request(engine.processor(), defaults))));
    let mut done = |asked: &Asked, result: Result<crate::engine::Generation>| {
        let record = asked.record.clone();
        on_record(match result {
            Ok(generation) => {
                let record = Record { answer: Some(generation.text), ..record };
                Record { scores: judge(&record), ..record }
            }
            Err(error) => record.failed(&error),
        })
    };
    queue::serve(engine, &mut next, &mut done, on_progress)
}
