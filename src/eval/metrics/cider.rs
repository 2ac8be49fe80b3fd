//! CIDEr-D, as pycocoevalcap computes it.

use std::collections::{BTreeMap, BTreeSet};

use super::{ngrams, ptb};

/// The longest n-grams.
const ORDER: usize = 4;
/// Of the Gaussian by which a length other than the reference's lessens the score.
const SIGMA: f64 = 6.0;

/// How alike captions are, by n-grams that weigh the more the fewer images' references have them: CIDEr-D (Vedantam
/// et al. 2015, sections 3 and 6).
///
/// The weights are those of a corpus, so a row's score depends on the others; with a single row it is 0.
pub struct Cider {
    /// Rows in whose references an n-gram is.
    rows: BTreeMap<Vec<String>, usize>,
    /// The natural logarithm of the number of rows.
    log_rows: f64,
}

impl Cider {
    /// Weights from the references of all rows.
    pub fn new<'a>(references: impl Iterator<Item = &'a [String]>) -> Self {
        let (mut rows, mut count) = (BTreeMap::new(), 0);
        for references in references {
            let captions: Vec<Vec<String>> = references.iter().map(|text| ptb::tokenize(text)).collect();
            let ngrams: BTreeSet<&[String]> =
                captions.iter().flat_map(|tokens| (1..=ORDER).flat_map(|n| tokens.windows(n))).collect();
            for ngram in ngrams {
                *rows.entry(ngram.to_vec()).or_default() += 1;
            }
            count += 1;
        }
        Self { rows, log_rows: f64::from(count.max(1)).ln() }
    }

    /// The mean over the references and the lengths of n-grams, from 0 to 10. A corpus has the mean over its rows.
    pub fn score(&self, answer: &str, references: &[String]) -> f64 {
        let answer = ptb::tokenize(answer);
        let sum: f64 = references.iter().map(|text| self.similarity(&answer, &ptb::tokenize(text))).sum();
        10.0 * sum / references.len().max(1) as f64
    }

    /// The mean over the lengths of n-grams of the clipped cosine, lessened by the Gaussian of the lengths' difference.
    fn similarity(&self, answer: &[String], reference: &[String]) -> f64 {
        let difference = answer.len().abs_diff(reference.len()) as f64;
        let cosines = (1..=ORDER).map(|n| {
            let (answer, reference) = (self.weights(answer, n), self.weights(reference, n));
            let product: f64 = answer
                .iter()
                .filter_map(|(ngram, &weight)| {
                    let other = *reference.get(ngram)?;
                    Some(weight.min(other) * other)
                })
                .sum();
            let norm = |weights: &BTreeMap<_, f64>| weights.values().map(|weight| weight * weight).sum::<f64>().sqrt();
            let norms = norm(&answer) * norm(&reference);
            if norms > 0.0 { product / norms } else { 0.0 }
        });
        let gaussian = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
        gaussian * cosines.sum::<f64>() / ORDER as f64
    }

    /// tf-idf of each n-gram.
    fn weights<'a>(&self, tokens: &'a [String], n: usize) -> BTreeMap<&'a [String], f64> {
        let idf = |ngram: &[String]| self.log_rows - (*self.rows.get(ngram).unwrap_or(&1) as f64).ln();
        ngrams::counts(tokens, n).into_iter().map(|(ngram, count)| (ngram, count as f64 * idf(ngram))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_caption_of_its_own_words_scores_ten() {
        let rows = [texts(&["a red car stops here"]), texts(&["two cats sleep"])];
        let cider = Cider::new(rows.iter().map(Vec::as_slice));
        assert!((cider.score("A red car stops here.", &rows[0]) - 10.0).abs() < 1e-9);
        assert_eq!(cider.score("A red car stops here.", &rows[1]), 0.0);
    }

    #[test]
    fn words_of_all_rows_weigh_nothing() {
        let rows = [texts(&["a car"]), texts(&["a cat"])];
        let cider = Cider::new(rows.iter().map(Vec::as_slice));
        assert_eq!(cider.score("a", &rows[0]), 0.0);
        assert!(cider.score("car", &rows[0]) > 0.0);
    }

    #[test]
    fn nothing_scores_nothing() {
        let rows = [texts(&["a car"]), vec![], texts(&[""])];
        let cider = Cider::new(rows.iter().map(Vec::as_slice));
        for row in &rows {
            assert_eq!(cider.score("", row), 0.0);
        }
        assert_eq!(cider.score("a car", &rows[1]), 0.0);
        assert_eq!(Cider::new([].into_iter()).score("a", &texts(&["a"])), 0.0);
        assert_eq!(Cider::new([&rows[0][..]].into_iter()).score("a car", &rows[0]), 0.0);
    }
}
