//! The metrics of answers by their names.

use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{anls, relaxed, squad, vqa};

/// How right one answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerMetric {
    /// The same as a reference, but for case, punctuation, articles (a, an, the) and white space: exact match as in
    /// SQuAD (Rajpurkar et al. 2016, section 6). A number loses its point and its sign by that; not in `Relaxed`.
    Exact,
    /// A number within 5 % of a reference, or the same text but for its case: relaxed accuracy of ChartQA (Masry et al.
    /// 2022, section 5.1, after Methani et al. 2020).
    Relaxed,
    /// What people answered, with three of them for the full score: accuracy of VQA (Antol et al. 2015, section 3).
    Vqa,
    /// Normalized Levenshtein similarity to the most similar reference, 0 where it is not above 0.5: of the mean, ANLS
    /// (Biten et al. 2019, equation 1).
    Anls,
    /// F1 of the words, those of the best reference, as in SQuAD (Rajpurkar et al. 2016, section 6).
    F1,
    /// A reference, which is a regular expression, is found in the answer.
    Regex,
}

impl AnswerMetric {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Exact, Self::Relaxed, Self::Vqa, Self::Anls, Self::F1, Self::Regex];

    /// Its name, the one that it is parsed from.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Relaxed => "relaxed",
            Self::Vqa => "vqa",
            Self::Anls => "anls",
            Self::F1 => "f1",
            Self::Regex => "regex",
        }
    }

    /// From 0 to 1: what the best of the references makes of the answer, or, for `Vqa`, all of them together. 0 without
    /// references.
    pub fn score(self, answer: &str, references: &[String]) -> f64 {
        let best = |score: &dyn Fn(&str) -> f64| references.iter().map(|text| score(text)).fold(0.0, f64::max);
        match self {
            Self::Exact => best(&|reference| f64::from(squad::exact(answer, reference))),
            Self::Relaxed => best(&|reference| f64::from(relaxed::is_right(answer, reference))),
            Self::Vqa => vqa::accuracy(answer, references),
            Self::Anls => best(&|reference| anls::similarity(answer, reference)),
            Self::F1 => best(&|reference| squad::f1(answer, reference)),
            Self::Regex => {
                best(&|reference| f64::from(Regex::new(reference).is_ok_and(|regex| regex.is_match(answer))))
            }
        }
    }

    /// Whether the references of a row are such that this metric can score with them.
    pub fn check(self, references: &[String]) -> Result<()> {
        ensure!(!references.is_empty(), "a row needs a reference answer: it has none");
        match self {
            Self::Vqa => vqa::check(references),
            Self::Regex => references.iter().try_for_each(|reference| {
                let regex = Regex::new(reference).map_err(|e| Error::msg(last_line(&e)));
                regex.map(drop).with_context(|| format!("reference {reference:?} is no regular expression"))
            }),
            _ => Ok(()),
        }
    }

    /// Whether 0 and 1 are the only scores.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Exact | Self::Relaxed | Self::Regex)
    }
}

/// What is wrong, without the drawing of where.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl FromStr for AnswerMetric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name).with_context(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no metric is called {name:?}: choose one of {names}")
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn metrics_have_one_name_each() {
        for metric in AnswerMetric::ALL {
            assert_eq!(metric.name().parse::<AnswerMetric>().unwrap(), metric);
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
        let message = "accuracy".parse::<AnswerMetric>().unwrap_err().to_string();
        assert_eq!(message, "no metric is called \"accuracy\": choose one of exact, relaxed, vqa, anls, f1, regex");
    }

    #[test]
    fn without_references_nothing_is_right() {
        for metric in AnswerMetric::ALL {
            assert_eq!(metric.score("", &[]), 0.0);
            assert!(metric.check(&[]).is_err());
        }
    }

    /// Not only of words: single letters, marks and articles are what is left of some answers.
    #[test]
    fn the_reference_itself_is_right_and_no_answer_is_wrong() {
        for text in ["yes", "A", "the", "-", "?", "...", "U.S.", "inf", "-3.5 %", "\"x\"", "東京", "I'd've", "1,000"]
        {
            for metric in [AnswerMetric::Exact, AnswerMetric::Relaxed, AnswerMetric::Anls, AnswerMetric::F1] {
                let references = texts(&[text]);
                assert_eq!(metric.score(text, &references), 1.0, "{metric:?} of {text}");
                assert_eq!(metric.score(&format!(" {text}\n"), &references), 1.0, "{metric:?} of {text}");
                assert_eq!(metric.score("", &references), 0.0, "{metric:?} of {text}");
            }
            assert_eq!(AnswerMetric::Vqa.score(text, &texts(&[text; 4])), 1.0, "{text}");
        }
    }

    #[test]
    fn the_best_reference_counts() {
        let references = texts(&["a blue car", "red"]);
        for metric in [AnswerMetric::Exact, AnswerMetric::Relaxed, AnswerMetric::Anls, AnswerMetric::F1] {
            assert_eq!(metric.score("red", &references), 1.0);
        }
        assert_eq!(AnswerMetric::Regex.score("red", &texts(&["blue", "^r"])), 1.0);
    }

    #[test]
    fn references_that_do_not_fit_are_named() {
        let message =
            |metric: AnswerMetric, references: &[&str]| format!("{:#}", metric.check(&texts(references)).unwrap_err());
        assert_eq!(
            message(AnswerMetric::Regex, &["yes", "(no"]),
            "reference \"(no\" is no regular expression: unclosed group"
        );
        assert_eq!(AnswerMetric::Regex.score("(no", &texts(&["(no"])), 0.0);
        assert_eq!(
            message(AnswerMetric::Vqa, &["yes", "yes", "yes"]),
            "vqa needs the answers of at least 4 people, by whom a right one scores 1: a row has 3"
        );
        assert!(AnswerMetric::Vqa.check(&texts(&["yes"; 4])).is_ok());
        assert!(AnswerMetric::Exact.check(&texts(&["(no"])).is_ok());
    }
}
