//! What can be evaluated, and what is made of records.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::fmt;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::choose::{By, judge_letter};
use super::metrics::{AnswerMetric, Cider, bleu, rouge};
use super::record::Record;
use super::statistics::{Kind, Statistic};

/// A kind of evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// How well texts are predicted.
    Perplexity,
    /// How far predictions of texts are from another model's.
    Kl,
    /// How often the right option is chosen.
    Choice(By),
    /// How right answers are.
    Vqa(Vec<AnswerMetric>),
    /// How near captions are to people's.
    Caption(Vec<CaptionMetric>),
}

/// How near a caption is to others of the same image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptionMetric {
    /// Papineni et al. 2002, as sacrebleu has it: 0 to 100.
    Bleu,
    /// Lin 2004, the F-measure of rouge-score: 0 to 1.
    RougeL,
    /// Vedantam et al. 2015, CIDEr-D of pycocoevalcap.
    Cider,
}

impl CaptionMetric {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bleu, Self::RougeL, Self::Cider];

    /// Its name among a record's scores.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bleu => "bleu",
            Self::RougeL => "rouge_l",
            Self::Cider => "cider",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Choice(By::Likelihood) => f.write_str(" --by likelihood"),
            Self::Choice(By::LetterLikelihood) => f.write_str(" --by letter-likelihood"),
            Self::Choice(By::Letter) => f.write_str(" --by letter"),
            _ => Ok(()),
        }
    }
}

/// What gives a record with an answer its scores.
pub type Judge = Box<dyn Fn(&Record) -> BTreeMap<String, f64>>;

impl Task {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Perplexity => "perplexity",
            Self::Kl => "kl",
            Self::Choice(_) => "choice",
            Self::Vqa(_) => "vqa",
            Self::Caption(_) => "caption",
        }
    }

    /// An error unless the metrics fit a row.
    pub fn check_row(&self, record: &Record) -> Result<()> {
        let Self::Vqa(metrics) = self else { return Ok(()) };
        let check = |metric: &AnswerMetric| {
            metric.check(&record.references).with_context(|| format!("the metric {} does not fit", metric.name()))
        };
        metrics.iter().try_for_each(check)
    }

    /// An error unless the metrics fit so many rows.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        if let Self::Caption(metrics) = self {
            ensure!(
                rows > 1 || !metrics.contains(&CaptionMetric::Cider),
                "the metric cider does not fit: it weighs words by how many rows have them, and there is one row"
            );
        }
        Ok(())
    }

    /// What judges generated answers to the questions of these records.
    pub fn judge<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Judge {
        match self {
            Self::Vqa(metrics) => {
                let metrics = metrics.clone();
                Box::new(move |record| {
                    let answer = record.answer.as_deref().unwrap_or_default();
                    let score =
                        |metric: &AnswerMetric| (metric.name().to_owned(), metric.score(answer, &record.references));
                    metrics.iter().map(score).collect()
                })
            }
            Self::Caption(metrics) => {
                let (metrics, cider) = (metrics.clone(), Cider::new(records.map(|record| &*record.references)));
                Box::new(move |record| {
                    let answer = record.answer.as_deref().unwrap_or_default();
                    let score = |metric: &CaptionMetric| match metric {
                        CaptionMetric::Bleu => bleu::sentence(answer, &record.references),
                        CaptionMetric::RougeL => rouge::rouge_l(answer, &record.references),
                        CaptionMetric::Cider => cider.score(answer, &record.references),
                    };
                    metrics.iter().map(|metric| (metric.name().to_owned(), score(metric))).collect()
                })
            }
            Self::Choice(_) => Box::new(judge_letter),
            Self::Perplexity | Self::Kl => Box::new(|_| BTreeMap::new()),
        }
    }

    /// How good a record is, by what counts first: 1 is right where answers are right or wrong.
    pub fn quality(&self, record: &Record) -> f64 {
        let score = |name: &str| record.scores.get(name).copied().unwrap_or(0.0);
        match self {
            Self::Perplexity => -score("loss") / score("tokens"),
            Self::Kl => -score("kl") / score("tokens"),
            Self::Choice(By::Likelihood) => score("accuracy_norm"),
            Self::Choice(By::LetterLikelihood | By::Letter) => score("accuracy"),
            Self::Vqa(metrics) => metrics.first().map_or(0.0, |metric| score(metric.name())),
            Self::Caption(metrics) => metrics.first().map_or(0.0, |metric| score(metric.name())),
        }
    }

    /// The figures that records add up to, the one that counts first.
    ///
    /// # Errors
    /// When a record lacks a score, as it is of another kind of evaluation.
    pub fn statistics(&self, records: &[&Record]) -> Result<Vec<Statistic>> {
        let sums = |name, scores: &[&str], value: fn(&[f64]) -> f64, kind, higher_is_better| -> Result<Statistic> {
            let parts = records.iter().map(|record| scores.iter().map(|score| record.score(score)).collect());
            Ok(Statistic { name, parts: parts.collect::<Result<_>>()?, value, kind, higher_is_better })
        };
        let mean = |name: &'static str, kind| -> Result<Statistic> {
            let parts = records.iter().map(|record| Ok(vec![record.score(name)?, 1.0]));
            let parts = parts.collect::<Result<_>>()?;
            Ok(Statistic { name, parts, value: ratio, kind, higher_is_better: true })
        };
        match self {
            Self::Perplexity => Ok(vec![
                sums("perplexity", &["loss", "tokens"], exp_ratio, Kind::Plain, false)?,
                sums("bits per byte", &["loss", "bytes"], |sums| ratio(sums) / LN_2, Kind::Plain, false)?,
            ]),
            Self::Kl => Ok(vec![
                sums("kl", &["kl", "tokens"], ratio, Kind::Plain, false)?,
                sums("same best token", &["same", "tokens"], ratio, Kind::Share, true)?,
                sums("perplexity", &["loss", "tokens"], exp_ratio, Kind::Plain, false)?,
                sums("perplexity of the reference", &["reference_loss", "tokens"], exp_ratio, Kind::Plain, false)?,
            ]),
            Self::Choice(By::Likelihood) => {
                Ok(vec![mean("accuracy_norm", Kind::Binary)?, mean("accuracy", Kind::Binary)?])
            }
            Self::Choice(By::LetterLikelihood) => Ok(vec![mean("accuracy", Kind::Binary)?]),
            Self::Choice(By::Letter) => Ok(vec![mean("accuracy", Kind::Binary)?, mean("answered", Kind::Binary)?]),
            Self::Vqa(metrics) => {
                let kind = |metric: &AnswerMetric| if metric.is_binary() { Kind::Binary } else { Kind::Share };
                metrics.iter().map(|metric| mean(metric.name(), kind(metric))).collect()
            }
            // From the captions themselves: what is rare decides on CIDEr, and may be another thing among other rows.
            Self::Caption(metrics) => {
                let cider = Cider::new(records.iter().map(|record| &*record.references));
                let statistic = |&metric: &CaptionMetric| {
                    let parts = records.iter().map(|record| {
                        let (answer, references) = (record.answer.as_deref().unwrap_or_default(), &record.references);
                        match metric {
                            CaptionMetric::Bleu => bleu::parts(answer, references),
                            CaptionMetric::RougeL => vec![rouge::rouge_l(answer, references), 1.0],
                            CaptionMetric::Cider => vec![cider.score(answer, references), 1.0],
                        }
                    });
                    let value = if metric == CaptionMetric::Bleu { bleu::score } else { ratio };
                    let (name, kind) = (metric.name(), Kind::Plain);
                    Statistic { name, parts: parts.collect(), value, kind, higher_is_better: true }
                };
                Ok(metrics.iter().map(statistic).collect())
            }
        }
    }
}

fn ratio(sums: &[f64]) -> f64 {
    sums[0] / sums[1]
}

fn exp_ratio(sums: &[f64]) -> f64 {
    ratio(sums).exp()
}
