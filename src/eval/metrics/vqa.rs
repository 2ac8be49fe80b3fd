//! Accuracy of VQA: an answer that three of ten people gave is right.

use std::collections::HashMap;
use std::sync::LazyLock;

use anyhow::{Result, ensure};
use regex::Regex;

/// People with the same answer that make it right.
const AGREED: usize = 3;

/// Words without their apostrophes and with them, the two of them on a line: the table of VQA's evaluation. Slips such
/// as `somebody'd somebodyd` are its own.
static CONTRACTIONS: LazyLock<HashMap<&str, &str>> =
    LazyLock::new(|| include_str!("contractions.txt").lines().filter_map(|line| line.split_once(' ')).collect());

/// What says that commas are between digits.
static COMMA: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d,+\d").expect("a regular expression"));

const PUNCTUATION: &str = ";/[]\"{}()=+\\_->@<`,?!";

/// The mean of min(1, matches / 3) over all sets of references that leave out one (Antol et al. 2015, section 3, and
/// <https://visualqa.org/evaluation>). 0 without references.
///
/// Both sides are always normalized, as lmms-eval does. VQA's own code leaves them as they are where all references are
/// the same text, and `Yes.` is wrong to it there.
pub(super) fn accuracy(answer: &str, references: &[String]) -> f64 {
    let answer = normalize(answer);
    let matches = references.iter().filter(|reference| normalize(reference) == answer).count();
    let others = references.len() - matches;
    let share = |matches: usize| (matches as f64 / AGREED as f64).min(1.0);
    let sum = matches as f64 * share(matches.saturating_sub(1)) + others as f64 * share(matches);
    sum / references.len().max(1) as f64
}

/// One of them is left out, so three do not do.
pub(super) fn check(references: &[String]) -> Result<()> {
    ensure!(
        references.len() > AGREED,
        "vqa needs the answers of at least {} people, by whom a right one scores 1: a row has {}",
        AGREED + 1,
        references.len()
    );
    Ok(())
}

/// Lower case, digits for small numbers, no articles, and apostrophes where they were left out.
fn normalize(text: &str) -> String {
    let text = text.replace(['\n', '\t'], " ");
    let words = without_punctuation(text.trim()).to_lowercase();
    let words = words.split_whitespace().map(|word| digits(word).unwrap_or(word));
    let words = words.filter(|word| !["a", "an", "the"].contains(word));
    words.map(|word| *CONTRACTIONS.get(word).unwrap_or(&word)).collect::<Vec<_>>().join(" ")
}

/// Punctuation goes: a mark that is beside a space anywhere without a trace, one that is between words for a space, and
/// each without a trace in a text with a comma between digits. Then the points that no digit follows go. Colons and
/// apostrophes stay.
fn without_punctuation(text: &str) -> String {
    let in_number = COMMA.is_match(text);
    let goes = |mark: char| in_number || text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
    let marks = text.chars().filter_map(|c| match c {
        _ if !PUNCTUATION.contains(c) => Some(c),
        _ if goes(c) => None,
        _ => Some(' '),
    });
    let mut rest = marks.peekable();
    let mut words = String::with_capacity(text.len());
    while let Some(c) = rest.next() {
        if c != '.' || rest.peek().is_some_and(char::is_ascii_digit) {
            words.push(c);
        }
    }
    words
}

fn digits(word: &str) -> Option<&'static str> {
    Some(match word {
        "none" | "zero" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        _ => return None,
    })
}
