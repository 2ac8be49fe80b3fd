//! The normalization of SQuAD's evaluation, and what is computed of normalized texts.

use std::sync::LazyLock;

use regex::Regex;

static ARTICLES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(?:a|an|the)\b").expect("a regular expression"));

/// The text in lower case without ASCII punctuation, articles and needless white space (`normalize_answer`).
///
/// What would leave nothing is not done: the published code takes the option `A`, `the` and no answer at all for the
/// same.
fn normalize(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.replace(|c: char| c.is_ascii_punctuation(), "");
    let rest = ARTICLES.replace_all(&words, " ");
    let texts = [&*rest, &words, &lower].map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

/// Whether both are the same after normalization (`compute_exact`).
pub(super) fn exact(answer: &str, reference: &str) -> bool {
    normalize(answer) == normalize(reference)
}

/// F1 of the words, each as often as it is there (`compute_f1` of SQuAD 2: 1 if neither has a word).
pub(super) fn f1(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (normalize(answer), normalize(reference));
    let answer: Vec<&str> = answer.split(' ').filter(|word| !word.is_empty()).collect();
    let mut left: Vec<&str> = reference.split(' ').filter(|word| !word.is_empty()).collect();
    let words = left.len();
    if answer.is_empty() || words == 0 {
        return f64::from(answer.len() == words);
    }
    for word in &answer {
        if let Some(at) = left.iter().position(|other| other == word) {
            left.swap_remove(at);
        }
    }
    2.0 * (words - left.len()) as f64 / (answer.len() + words) as f64
}
