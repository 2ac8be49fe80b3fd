//! Questions with options: judged by the options' likelihood, or by the letter that the model answers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::ask::{Asked, Asking};
use super::question::{Form, Question, find_letter, letter, lettered};
use super::record::{OnRecord, Record};
use crate::engine::{Engine, Request};
use crate::processor::{ImageSizes, Processor};
use crate::rows::{Defaults, Fields};

/// What makes an option the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Its text is the likeliest continuation of the question.
    Likelihood,
    /// Its letter is the likeliest continuation of the question with all options.
    LetterLikelihood,
    /// The model, given the question with all options, answers with its letter.
    Letter,
}

/// A question with options that was found to be good.
#[derive(Debug)]
pub struct Posed {
    /// What is asked.
    pub asked: Asked,
    /// What is scored as its continuations; none where the answer is generated.
    pub continuations: Vec<String>,
}

/// What is asked of a model that is to answer with a letter.
pub const INSTRUCTION: &str = "Answer with the option's letter from the given choices directly.";

impl Posed {
    /// Reads a question; also the keys that mean nothing here.
    pub fn read(
        by: By,
        asking: &Asking,
        number: u64,
        fields: Fields,
        folder: &Path,
        processor: &Processor,
        sizes: &mut ImageSizes,
    ) -> Result<(Self, Vec<String>)> {
        let (question, unused) = Question::read(fields, folder, &|index| processor.placeholder(index))?;
        // Without a template, texts as lm-eval writes them: the model goes on after "Answer:".
        let plain = !asking.defaults.chat_template;
        let mut text = match by {
            By::Likelihood if plain && question.form == Form::Question => format!("Question: {}", question.text),
            By::Likelihood => question.text.clone(),
            By::Letter | By::LetterLikelihood => lettered(&question),
        };
        let goes_on = by == By::Likelihood && question.form == Form::Continuation;
        match &asking.instruction {
            Some(_) if goes_on => bail!("the options go on with the text, which leaves no place for an instruction"),
            Some(instruction) => text.extend(["\n", instruction]),
            None => {}
        }
        if plain && !goes_on {
            text += "\nAnswer:";
        }
        let continuations: Vec<String> = match by {
            By::Likelihood => question.options.clone(),
            By::LetterLikelihood => (0..question.options.len()).map(|at| letter(at).to_string()).collect(),
            By::Letter => Vec::new(),
        };
        let record = Record {
            row: number,
            id: question.id,
            group: question.group,
            references: vec![question.options[question.correct].clone()],
            options: question.options,
            ..Record::default()
        };
        let row = asking.row(text, question.images);
        let asked = asking.ask(record, row, processor, sizes)?;
        let posed = Self { asked, continuations };
        posed.check_fits(processor, asking.max_position_embeddings)?;
        Ok((posed, unused))
    }

    fn check_fits(&self, processor: &Processor, most: usize) -> Result<()> {
        for continuation in &self.continuations {
            let len = processor.tokenizer.encode(continuation, false)?.len();
            ensure!(len > 0, "the option {continuation:?} has no tokens");
            ensure!(
                self.asked.positions + len < most,
                "the question with its options takes more positions than the model's context of {most}"
            );
        }
        Ok(())
    }
}

/// Judges questions by what continues them best. `on_row` is told before each, and may break off: then it is false.
pub fn likelihoods(
    engine: &Engine,
    posed: &[Posed],
    defaults: &Defaults,
    on_record: &mut OnRecord,
    on_row: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<bool> {
    for Posed { asked, continuations } in posed {
        if on_row().is_break() {
            return Ok(false);
        }
        let judged = judge(engine, asked, continuations, defaults);
        on_record(judged.unwrap_or_else(|error| asked.record.clone().failed(&error)))?;
    }
    Ok(true)
}

fn judge(engine: &Engine, asked: &Asked, continuations: &[String], defaults: &Defaults) -> Result<Record> {
    let prompt = asked.row.prompt(engine.processor(), defaults)?;
    let ids = engine.processor().encode_answers(&prompt.text, continuations)?;
    let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
    let request = Request::new(prompt, longest);
    engine.check(&request)?;
    let log_likelihoods = engine.score(&request.prompt, &ids)?;
    Ok(judge_likelihoods(asked.record.clone(), continuations, log_likelihoods))
}

/// A record with the likelihoods of its options, of which these texts were scored. As lm-eval has them, the score `accuracy`
/// goes by the likelihoods, and `accuracy_norm` and the answer by the likelihoods per character of a text.
pub fn judge_likelihoods(record: Record, texts: &[String], log_likelihoods: Vec<f64>) -> Record {
    let best = likeliest(log_likelihoods.iter().copied());
    let len = |text: &String| text.chars().count().max(1) as f64;
    let best_by_length = likeliest(log_likelihoods.iter().zip(texts).map(|(log, text)| log / len(text)));
    let scores = [("accuracy", best), ("accuracy_norm", best_by_length)];
    Record {
        scores: scores.map(|(name, at)| (name.to_owned(), right(&record, at))).into(),
        answer: Some(record.options[best_by_length].clone()),
        log_likelihoods,
        ..record
    }
}

/// The place of the largest; the first of equal ones.
fn likeliest(log_likelihoods: impl Iterator<Item = f64>) -> usize {
    let larger = |best: (usize, f64), (at, log): (usize, f64)| if log > best.1 { (at, log) } else { best };
    log_likelihoods.enumerate().fold((0, f64::NEG_INFINITY), larger).0
}

fn right(record: &Record, at: usize) -> f64 {
    f64::from(u8::from(record.references.contains(&record.options[at])))
}

/// The scores of a generated answer: whether its letter is the right one, and whether it has one.
pub fn judge_letter(record: &Record) -> BTreeMap<String, f64> {
    let found = record.answer.as_deref().and_then(|answer| find_letter(answer, &record.options));
    let accuracy = found.map_or(0.0, |at| right(record, at));
    [("accuracy".to_owned(), accuracy), ("answered".to_owned(), f64::from(u8::from(found.is_some())))].into()
}
