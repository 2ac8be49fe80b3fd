//! Passages through a model, or through two of them.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use anyhow::Result;

use super::passage::Passage;
use super::record::{ByPosition, OnRecord};
use crate::convert::calibration::divergence::{Position, by_position};
use crate::dataset::Example;
use crate::train::batch::{Largest, Reading};
use crate::train::gradient::{TARGETS_AT_ONCE, Trained};

/// Passages are read together up to so many positions. Shorter ones would leave much of a machine unused.
const POSITIONS_AT_ONCE: usize = 2048;

/// Told of the passages that are done; may break off.
pub type OnRead<'a> = dyn FnMut(usize) -> ControlFlow<()> + 'a;

/// The sum of `-ln p(token)` of each passage as its score `loss`, from the passage `first` on; false if broken off.
pub fn perplexity(
    reading: &Reading,
    passages: &[Passage],
    first: usize,
    on_record: &mut OnRecord,
    on_read: &mut OnRead,
) -> Result<bool> {
    each_group(passages, first, on_record, on_read, |examples| {
        let batch = reading.batch(examples.iter().copied())?;
        let outcome = reader(reading).evaluate(&batch)?;
        let losses = batch.rows_of_targets().map(|row| outcome.losses[row].iter().sum());
        Ok(losses.map(|loss: f64| ([("loss", loss)].into(), None)).collect())
    })
}

/// How far the predictions of a model are from those of `reference`, a model with the same vocabulary, which reads the same
/// images: the scores `kl`, `same`, `loss` and `reference_loss` of each passage are sums over its tokens.
pub fn divergence(
    reading: &Reading,
    reference: &Reading,
    passages: &[Passage],
    first: usize,
    on_record: &mut OnRecord,
    on_read: &mut OnRead,
) -> Result<bool> {
    each_group(passages, first, on_record, on_read, |examples| {
        let (batch, their_batch) =
            (reading.batch(examples.iter().copied())?, reference.batch(examples.iter().copied())?);
        let (ours, theirs) = (reader(reading), reader(reference));
        let (hidden, their_hidden) = (ours.hidden(&batch)?, theirs.hidden(&their_batch)?);
        let mut found = Vec::new();
        for targets in batch.targets.chunks(TARGETS_AT_ONCE) {
            let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
            let (logits, _) = ours.logits(&hidden, targets)?;
            let (their_logits, _) = theirs.logits(&their_hidden, targets)?;
            found.extend(by_position(&their_logits, &logits, &ids)?);
        }
        let of_row = |(row, example): (Range<usize>, &&Example)| {
            let positions = example.supervised.iter().cloned().flatten().map(|at| at as u32).collect();
            diverged(&found[row], positions)
        };
        Ok(batch.rows_of_targets().zip(examples).map(of_row).collect())
    })
}

fn diverged(found: &[Position], positions: Vec<u32>) -> Scored {
    let sum = |of: fn(&Position) -> f64| found.iter().map(of).sum::<f64>();
    let scores = [
        ("kl", sum(|position| position.kl)),
        ("same", sum(|position| f64::from(u8::from(position.same)))),
        ("loss", sum(|position| position.loss)),
        ("reference_loss", sum(|position| position.reference_loss)),
    ];
    let kl = found.iter().map(|position| position.kl as f32).collect();
    let same = found.iter().map(|position| position.same).collect();
    (scores.into(), Some(ByPosition { positions, kl, same }))
}

/// What was found of a passage.
type Scored = (BTreeMap<&'static str, f64>, Option<ByPosition>);

/// Passages that are read together are the same wherever a run begins, so that its numbers are.
fn each_group(
    passages: &[Passage],
    first: usize,
    on_record: &mut OnRecord,
    on_read: &mut OnRead,
    mut read: impl FnMut(&[&Example]) -> Result<Vec<Scored>>,
) -> Result<bool> {
    for group in groups(passages) {
        if group.end <= first {
            continue;
        }
        if on_read(group.start.max(first)).is_break() {
            return Ok(false);
        }
        let examples: Vec<&Example> = passages[group.clone()].iter().map(|passage| &passage.example).collect();
        for (at, (scores, divergence)) in group.zip(read(&examples)?) {
            if at >= first {
                let mut record = passages[at].record.clone();
                record.scores.extend(scores.into_iter().map(|(name, score)| (name.to_owned(), score)));
                record.divergence = divergence;
                on_record(record)?;
            }
        }
    }
    Ok(true)
}

fn groups(passages: &[Passage]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut positions = 0;
    for (at, passage) in passages.iter().enumerate() {
        positions += passage.example.len();
        match groups.last_mut() {
            Some(group) if positions <= POSITIONS_AT_ONCE => group.end = at + 1,
            _ => {
                groups.push(at..at + 1);
                positions = passage.example.len();
            }
        }
    }
    groups
}

/// The largest group of passages that are read together.
pub fn largest(passages: &[Passage]) -> Largest {
    Largest::of_batches(
        groups(passages).into_iter().map(|group| passages[group].iter().map(|passage| &passage.example)),
    )
}

fn reader<'m>(reading: &Reading<'m>) -> Trained<'m> {
    Trained { model: reading.model, params: Vec::new(), checkpoint: true }
}
