//! How well a model predicts the answers of rows.

use std::ops::ControlFlow;

use anyhow::Result;
use serde::Serialize;

use super::batch::Batches;
use super::gradient::Trained;

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Rows that were looked at.
    pub rows: usize,
    /// Rows of which every supervised token is the model's first choice: what greedy decoding answers, word for word.
    pub exact_rows: usize,
    /// Supervised tokens.
    pub targets: usize,
    /// Those that are the model's first choice, given those before.
    pub hits: usize,
    /// The sum of `-ln p(token)`.
    pub losses: f64,
}

impl Scores {
    /// The mean of `-ln p(token)`.
    pub fn loss(&self) -> f64 {
        self.losses / self.targets.max(1) as f64
    }

    /// The share of tokens that are the model's first choice.
    pub fn token_accuracy(&self) -> f64 {
        self.hits as f64 / self.targets.max(1) as f64
    }

    /// The share of rows that are answered word for word.
    pub fn exact(&self) -> f64 {
        self.exact_rows as f64 / self.rows.max(1) as f64
    }
}

/// Looks at all rows once. `on_rows` is told how many of how many are done, and may break off: then there are no scores.
pub fn evaluate(
    trained: &Trained,
    batches: &mut Batches,
    on_rows: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Scores>> {
    let mut scores = Scores::default();
    for index in 0..batches.in_epochs(1) {
        if on_rows(scores.rows, batches.rows()).is_break() {
            return Ok(None);
        }
        let batch = batches.get(index)?;
        let outcome = trained.evaluate(&batch)?;
        for row in batch.rows_of_targets() {
            let targets = row.len();
            let hits = outcome.hits[row].iter().filter(|&&hit| hit).count();
            scores.rows += 1;
            scores.exact_rows += usize::from(hits == targets);
            scores.hits += hits;
        }
        scores.targets += outcome.losses.len();
        scores.losses += outcome.losses.iter().sum::<f64>();
    }
    let _ = on_rows(scores.rows, batches.rows());
    Ok(Some(scores))
}
