//! Letters of options: in a prompt, and in what a model answers to it.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::Question;

/// A, B, and so on, for at most 26 options.
pub fn letter(index: usize) -> char {
    char::from(b'A' + (index % 26) as u8)
}

/// The question, and below it its options, each in a line that begins with its letter.
pub fn lettered(question: &Question) -> String {
    let mut text = question.text.clone();
    for (at, option) in question.options.iter().enumerate() {
        text += &format!("\n{}. {option}", letter(at));
    }
    text
}

/// The option that a generated answer means; none if it means none or several.
///
/// An answer that is a letter or an option's text as a whole means that one. Else what it states counts, as in "the answer
/// is B", and a first or last line that is a letter. Else it may begin with an option's letter, as in "(B) Paris", if it does not
/// come to others. Where two of these differ, it means none: nothing is guessed.
pub fn find_letter(answer: &str, options: &[String]) -> Option<usize> {
    let answer = plain(answer);
    let whole = sole(&answer, options);
    if !whole.is_empty() {
        return agreed(whole);
    }
    let ends = [answer.lines().next()?, answer.lines().next_back()?];
    let alone = ends.into_iter().filter_map(|line| only_letter(line, options));
    let stated: Vec<usize> = stated(&answer, options).into_iter().chain(alone).collect();
    if !stated.is_empty() {
        return agreed(stated);
    }
    marked(&answer, options)
}

/// Without emphasis and the like.
fn plain(text: &str) -> String {
    text.replace(['*', '_', '`', '"', '$'], "").trim().to_owned()
}

fn agreed(readings: impl IntoIterator<Item = usize>) -> Option<usize> {
    let mut readings = readings.into_iter();
    let first = readings.next()?;
    readings.all(|reading| reading == first).then_some(first)
}

/// The options that a text as a whole is, by their letters and by what they say.
fn sole(text: &str, options: &[String]) -> Vec<usize> {
    let bare = |text: &str| plain(text).trim_end_matches('.').to_lowercase();
    let says = (0..options.len()).filter(|&at| bare(&options[at]) == bare(text));
    only_letter(text, options).into_iter().chain(says).collect()
}

/// Of "B", "(B)", "B." and the like.
fn only_letter(text: &str, options: &[String]) -> Option<usize> {
    static ONLY: LazyLock<Regex> = LazyLock::new(|| expression(r"^\s*\(?([A-Za-z])\)?[.:]?\s*$"));
    index(&ONLY.captures(text)?[1], options)
}

/// Of "the answer is B", "Answer: (B)", "the correct option is B because …", and options' texts in the place of letters.
fn stated(answer: &str, options: &[String]) -> Vec<usize> {
    static BEGINNING: LazyLock<Regex> = LazyLock::new(|| {
        expression(
            r"(?i)\b(wrong |incorrect )?(?:(?:answer|option|choice) is\b:?|answer\s*:)\s*(?:(?:option|choice)\s+)?",
        )
    });
    // Not "the answer is A or B", nor "the answer is a city".
    static LETTER: LazyLock<Regex> = LazyLock::new(|| {
        expression(r"(?im)^\(?([a-z])(?:\)?[.;:!]?\s*$|\)?[.;:!]\s|\)\s|\)?,?\s+(?:because|since|as)\b)")
    });
    let beginnings = BEGINNING.captures_iter(answer).filter(|beginning| beginning.get(1).is_none());
    let means = |beginning: Captures| {
        let line = answer[beginning.get_match().end()..].lines().next().unwrap_or_default();
        match LETTER.captures(line) {
            Some(letter) => index(&letter[1], options).into_iter().collect(),
            None => sole(line, options),
        }
    };
    beginnings.flat_map(means).collect()
}

/// Of an answer that begins like "B. Paris", "(B) Paris" or "B: Paris".
fn marked(answer: &str, options: &[String]) -> Option<usize> {
    static FIRST: LazyLock<Regex> = LazyLock::new(|| expression(r"^\(?([A-Za-z])(?:[.:]|\)[.:]?)\s+"));
    static MARKS: LazyLock<Regex> = LazyLock::new(|| expression(r"(?m)^\s*([A-Z])[.:]\s|\b([A-Z])\)"));
    let first = FIRST.captures(answer)?;
    let rest = &answer[first[0].len()..];
    let first = index(&first[1], options)?;
    let marks = MARKS.captures_iter(rest).flat_map(|mark| {
        let letter = mark.get(1).or_else(|| mark.get(2))?;
        index(letter.as_str(), options)
    });
    agreed(std::iter::once(first).chain(marks).chain(sole(rest, options)))
}

fn index(letter: &str, options: &[String]) -> Option<usize> {
    let at = usize::from(letter.bytes().next()?.to_ascii_uppercase().checked_sub(b'A')?);
    (at < options.len()).then_some(at)
}

fn expression(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid expression")
}
