//! Which option is the right one.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Options, letter};
use crate::rows::Fields;

impl Options {
    /// Takes the right option from a row.
    pub(super) fn take_correct(&self, fields: &mut Fields) -> Result<usize> {
        let keys: &[&str] = if self.key == "endings" { &["label"] } else { &["answerKey", "answer"] };
        for key in keys {
            if let Some(value) = fields.take::<Value>(key, "an option")? {
                return self.correct(&value).with_context(|| (*key).to_owned());
            }
        }
        bail!("the row has no {}, which says what is right", keys.join(" and no "))
    }

    fn correct(&self, answer: &Value) -> Result<usize> {
        match answer {
            // A column of whole numbers in which some are missing is often one of others.
            Value::Number(number) => {
                let index = number.as_f64().filter(|number| (0.0..self.texts.len() as f64).contains(number));
                let index = index.filter(|index| index.fract() == 0.0).map(|index| index as usize);
                index.with_context(|| format!("{number} is none of the options: 0 to {} are possible", self.last()))
            }
            Value::String(text) => self.named(text.trim()),
            other => bail!("a number or a text is expected, not {other}"),
        }
    }

    fn named(&self, answer: &str) -> Result<usize> {
        if let Some(labels) = &self.labels {
            let labelled = labels.iter().position(|label| label == answer);
            return labelled.with_context(|| format!("\"{answer}\" is none of the labels: {}", labels.join(", ")));
        }
        let last = letter(self.last());
        let by_letter = (0..self.texts.len()).find(|&at| answer.eq_ignore_ascii_case(&letter(at).to_string()));
        if self.by_letter {
            return by_letter.with_context(|| format!("\"{answer}\" is none of the options: A to {last} are possible"));
        }
        let by_index = answer.parse().ok().filter(|&at| at < self.texts.len());
        let by_text = self.texts.iter().position(|text| text.trim() == answer);
        let readings: Vec<usize> = [by_letter, by_index, by_text].into_iter().flatten().collect();
        let Some(&first) = readings.first() else {
            bail!(
                "\"{answer}\" is none of the options: a letter from A to {last}, an index from 0 to {}, \
                 or what an option says is expected",
                self.last()
            );
        };
        if let Some(&other) = readings.iter().find(|&&other| other != first) {
            let (first, other) = (letter(first), letter(other));
            bail!("\"{answer}\" can be option {first} or option {other}; write the index, as a number");
        }
        Ok(first)
    }

    /// The index of the last option.
    fn last(&self) -> usize {
        self.texts.len() - 1
    }
}
