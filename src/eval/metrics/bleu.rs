//! BLEU-4 (Papineni et al. 2002), as sacrebleu computes it with its defaults: 13a tokens, mixed case, and each order
//! without a match smoothed by a power of two (`exp`).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use super::ngrams;

/// The longest n-grams.
const ORDER: usize = 4;

/// What BLEU is computed of; those of several rows add up. The answer's n-grams that are in a reference, for n from 1
/// to 4, each as often as the reference with most of it has it; all of its n-grams, for n from 1 to 4; its length, and
/// that of the reference whose length is closest, both in tokens.
pub fn parts(answer: &str, references: &[String]) -> Vec<f64> {
    let answer = tokenize(answer);
    let answer: Vec<&str> = answer.split_whitespace().collect();
    let references: Vec<String> = references.iter().map(|text| tokenize(text)).collect();
    let references: Vec<Vec<&str>> = references.iter().map(|text| text.split_whitespace().collect()).collect();
    let matches = (1..=ORDER).map(|n| matches(&answer, &references, n));
    let totals = (1..=ORDER).map(|n| (answer.len() + 1).saturating_sub(n));
    let lengths = references.iter().map(Vec::len);
    let closest = lengths.min_by_key(|&length| (length.abs_diff(answer.len()), length));
    matches.chain(totals).chain([answer.len(), closest.unwrap_or(0)]).map(|part| part as f64).collect()
}

/// BLEU of a corpus, from 0 to 100, of its rows' [`parts`] added up.
pub fn score(sums: &[f64]) -> f64 {
    bleu(sums, false)
}

/// BLEU of a single answer, from 0 to 100. Only the orders for which it is long enough count (`effective_order`).
pub fn sentence(answer: &str, references: &[String]) -> f64 {
    bleu(&parts(answer, references), true)
}

fn bleu(parts: &[f64], effective_order: bool) -> f64 {
    let &[ref counts @ .., length, reference] = parts else { return 0.0 };
    let (matches, totals) = counts.split_at(counts.len() / 2);
    let orders = totals.iter().take_while(|&&total| total > 0.0).count();
    if matches.iter().all(|&n| n == 0.0) || (orders < ORDER && !effective_order) {
        return 0.0;
    }
    let mut smoothing = 1.0;
    let logarithms = matches.iter().zip(totals).take(orders).map(|(&matches, total)| {
        if matches > 0.0 {
            return (matches / total).ln();
        }
        smoothing *= 2.0;
        (1.0 / (smoothing * total)).ln()
    });
    let mean = logarithms.sum::<f64>() / orders as f64;
    let brevity = (1.0 - reference / length).min(0.0);
    100.0 * (mean + brevity).exp()
}

fn matches(answer: &[&str], references: &[Vec<&str>], n: usize) -> usize {
    let mut most: BTreeMap<&[&str], usize> = BTreeMap::new();
    for (ngram, count) in references.iter().flat_map(|reference| ngrams::counts(reference, n)) {
        let most = most.entry(ngram).or_default();
        *most = count.max(*most);
    }
    ngrams::counts(answer, n).iter().map(|(ngram, &count)| count.min(*most.get(ngram).unwrap_or(&0))).sum()
}

/// The tokens of `mteval-v13a.pl`, the script of the NIST, with spaces between them.
fn tokenize(text: &str) -> String {
    /// Marks; points and commas that are not between digits; dashes after a digit.
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        [
            (r"([{-~\[-` -&(-+:-@/])", " $1 "),
            (r"([^0-9])([.,])", "$1 $2 "),
            (r"([.,])([^0-9])", " $1 $2"),
            (r"([0-9])(-)", "$1 $2 "),
        ]
        .map(|(pattern, with)| (Regex::new(pattern).expect("a regular expression"), with))
    });
    let mut text = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, mark) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, mark);
    }
    RULES.iter().fold(format!(" {text} "), |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn parts_are_clipped_to_the_reference_with_most() {
        let references = texts(&["the cat the mat", "the", "a b c d e f"]);
        assert_eq!(parts("the the the", &references), [2.0, 0.0, 0.0, 0.0, 3.0, 2.0, 1.0, 0.0, 3.0, 4.0]);
    }

    #[test]
    fn of_two_references_as_close_the_shorter_counts() {
        assert_eq!(parts("a b c", &texts(&["a b c d", "a b"]))[9], 2.0);
    }

    #[test]
    fn nothing_scores_nothing() {
        for (answer, references) in [("", texts(&["a"])), ("a", vec![]), ("", vec![]), ("a", texts(&[""]))] {
            assert_eq!(sentence(answer, &references), 0.0);
            assert_eq!(score(&parts(answer, &references)), 0.0);
        }
        assert_eq!(score(&[]), 0.0);
    }

    #[test]
    fn a_corpus_of_short_answers_has_no_bleu_but_each_of_them_has() {
        let references = texts(&["a red car"]);
        assert_eq!(score(&parts("a red car", &references)), 0.0);
        assert!((sentence("a red car", &references) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn tokens_are_those_of_13a() {
        let tokens = |text| tokenize(text).split_whitespace().collect::<Vec<_>>().join("|");
        assert_eq!(tokens("It's $1,000.50, or 5-10%.\n"), "It's|$|1,000.50|,|or|5|-|10|%|.");
        assert_eq!(tokens("a-b &quot;c&quot; well-\nknown <skipped>…"), "a-b|\"|c|\"|wellknown|…");
    }
}
