//! The metrics give the numbers of their published implementations (`tests/golden/metrics/make_metrics.py`).

use phi3v::eval::metrics::{AnswerMetric, Cider, bleu, rouge};
use proptest::prelude::*;
use serde::Deserialize;

use crate::common::{golden, json_file};

#[derive(Deserialize)]
struct Recorded {
    answers: Vec<Answer>,
    vqa: Vec<Vqa>,
    regex: Vec<Regex>,
    captions: Captions,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
    references: Vec<String>,
    exact: f64,
    f1: f64,
    relaxed: f64,
    anls: f64,
}

#[derive(Deserialize)]
struct Vqa {
    answer: String,
    references: Vec<String>,
    vqa: f64,
}

#[derive(Deserialize)]
struct Regex {
    answer: String,
    references: Vec<String>,
    regex: f64,
}

#[derive(Deserialize)]
struct Captions {
    rows: Vec<Caption>,
    bleu: f64,
    cider: f64,
}

#[derive(Deserialize)]
struct Caption {
    answer: String,
    references: Vec<String>,
    bleu_parts: Vec<f64>,
    bleu: f64,
    rouge_l: f64,
    cider: f64,
}

/// Where the published code is not followed, and the score here: it takes a text of which its normalization leaves
/// nothing for any other one, and texts for wrong that are the reference.
const DIFFERENT: [(&str, AnswerMetric, f64); 6] = [
    ("A", AnswerMetric::Exact, 0.0),
    ("A", AnswerMetric::F1, 0.0),
    ("The", AnswerMetric::Exact, 0.0),
    ("The", AnswerMetric::F1, 0.0),
    ("U.S.", AnswerMetric::Relaxed, 1.0),
    ("inf", AnswerMetric::Relaxed, 1.0),
];

fn recorded() -> Recorded {
    serde_json::from_value(json_file(&golden("metrics/metrics.json"))).unwrap()
}

#[track_caller]
fn assert_near(ours: f64, theirs: f64, what: &str) {
    assert!((ours - theirs).abs() <= 1e-9 * theirs.abs(), "{ours} instead of {theirs}: {what}");
}

#[test]
fn answers_score_as_published() {
    let mut different = 0;
    for row in recorded().answers {
        for (metric, theirs) in [
            (AnswerMetric::Exact, row.exact),
            (AnswerMetric::F1, row.f1),
            (AnswerMetric::Relaxed, row.relaxed),
            (AnswerMetric::Anls, row.anls),
        ] {
            let ours = metric.score(&row.answer, &row.references);
            let what = format!("{} of {:?}, references {:?}", metric.name(), row.answer, row.references);
            match DIFFERENT.iter().find(|(answer, other, _)| row.answer == *answer && metric == *other) {
                Some(&(_, _, expected)) => {
                    assert!(ours == expected && ours != theirs, "{ours}: {what}");
                    different += 1;
                }
                None => assert_near(ours, theirs, &what),
            }
            assert!(!metric.is_binary() || ours == 0.0 || ours == 1.0, "{what}");
        }
    }
    assert_eq!(different, DIFFERENT.len());
}

#[test]
fn answers_of_people_score_as_published() {
    for row in recorded().vqa {
        let ours = AnswerMetric::Vqa.score(&row.answer, &row.references);
        assert_near(ours, row.vqa, &format!("{:?}, references {:?}", row.answer, row.references));
    }
}

#[test]
fn regular_expressions_are_found() {
    for row in recorded().regex {
        assert_eq!(AnswerMetric::Regex.score(&row.answer, &row.references), row.regex, "{:?}", row.answer);
    }
}

#[test]
fn captions_score_as_published() {
    let captions = recorded().captions;
    let cider = Cider::new(captions.rows.iter().map(|row| row.references.as_slice()));
    let (mut sums, mut ciders) = (vec![0.0; 10], 0.0);
    for row in &captions.rows {
        let parts = bleu::parts(&row.answer, &row.references);
        assert_eq!(parts, row.bleu_parts, "{}", row.answer);
        sums.iter_mut().zip(&parts).for_each(|(sum, part)| *sum += part);
        assert_near(bleu::sentence(&row.answer, &row.references), row.bleu, &row.answer);
        assert_near(rouge::rouge_l(&row.answer, &row.references), row.rouge_l, &row.answer);
        let score = cider.score(&row.answer, &row.references);
        assert_near(score, row.cider, &row.answer);
        ciders += score;
    }
    assert_near(bleu::score(&sums), captions.bleu, "BLEU of the corpus");
    assert_near(ciders / captions.rows.len() as f64, captions.cider, "CIDEr of the corpus");
}

/// Of the marks and words that the rules of the metrics are about.
fn texts() -> impl Strategy<Value = String> {
    let word =
        prop_oneof!["[a-c'.,%$€ -]{0,4}", "[-0-9.,%/]{0,5}", "(the|a|n't|U\\.S\\.|\\(|\\[|\n|&amp;|ß|猫)", ".{0,2}"];
    prop::collection::vec(word, 0..6).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn any_texts_have_scores(answer in texts(), references in prop::collection::vec(texts(), 0..5)) {
        for metric in AnswerMetric::ALL {
            let score = metric.score(&answer, &references);
            prop_assert!((0.0..=1.0).contains(&score), "{metric:?}: {score}");
        }
        let bleu = bleu::sentence(&answer, &references);
        prop_assert!((0.0..=100.0).contains(&bleu) && bleu::score(&bleu::parts(&answer, &references)) <= bleu);
        prop_assert!((0.0..=1.0).contains(&rouge::rouge_l(&answer, &references)));
        let rows = [references.as_slice(), &[]];
        let cider = Cider::new(rows.into_iter()).score(&answer, &references);
        prop_assert!((0.0..10.0 + 1e-9).contains(&cider), "{cider}");
    }

    #[test]
    fn a_reference_is_right(text in texts()) {
        for metric in [AnswerMetric::Exact, AnswerMetric::Relaxed, AnswerMetric::Anls, AnswerMetric::F1] {
            prop_assert_eq!(metric.score(&text, std::slice::from_ref(&text)), 1.0, "{:?}", metric);
        }
        prop_assert_eq!(AnswerMetric::Vqa.score(&text, &vec![text.clone(); 4]), 1.0);
    }
}
