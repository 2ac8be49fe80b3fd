//! The figures that records add up to, and how far two models are apart.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::record::{Record, pair};
use super::statistics::{Comparison, Estimate, Statistic, compare};
use super::task::Task;

/// What an evaluation found.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Of what kind.
    pub task: &'static str,
    /// The model's name.
    pub model: String,
    /// Rows that count.
    pub rows: usize,
    /// Rows that could not be answered.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: usize,
    /// The figures, the one that counts first.
    pub figures: Vec<Estimate>,
    /// The first figure of each group, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Where predictions differ, and how often how much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
    /// Against another model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Compared>,
}

/// A part of the rows.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// What the rows have in common.
    pub name: String,
    /// Their figure.
    pub figure: Estimate,
}

/// Two models on the same rows.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// The other model's name.
    pub model: String,
    /// Rows that both have.
    pub rows: usize,
    /// Figure by figure.
    pub figures: Vec<Comparison>,
    /// The same in words.
    pub sentences: Vec<String>,
}

/// Divergences of single positions.
#[derive(Debug, Clone, Serialize)]
pub struct Positions {
    /// Half of all are up to this.
    pub median: f64,
    /// 99 % of all are up to this.
    pub percentile_99: f64,
    /// The largest.
    pub max: f64,
    /// By where the token stands.
    pub ranges: Vec<PositionRange>,
}

/// Tokens that stand at these positions.
#[derive(Debug, Clone, Serialize)]
pub struct PositionRange {
    /// The first, from 0.
    pub from: u32,
    /// The one after the last.
    pub to: u32,
    /// How many tokens.
    pub tokens: usize,
    /// Their mean divergence.
    pub kl: f64,
    /// The share of which both models have the same best token.
    pub same: f64,
}

impl Summary {
    /// Of these records.
    ///
    /// # Errors
    /// When no row was answered, or records are of another evaluation.
    pub fn new(task: &Task, model: &str, records: &[Record], seed: u64) -> Result<Self> {
        let answered: Vec<&Record> = records.iter().filter(|record| record.error.is_none()).collect();
        ensure!(!answered.is_empty(), "no row was answered; {}", first_error(records));
        let statistics = task.statistics(&answered)?;
        let groups = statistics.first().map_or_else(Vec::new, |first| groups(first, &answered));
        Ok(Self {
            task: task.name(),
            model: model.to_owned(),
            rows: answered.len(),
            failed: records.len() - answered.len(),
            figures: statistics.iter().map(|statistic| statistic.estimate(seed)).collect(),
            groups,
            positions: Positions::of(&answered),
            comparison: None,
        })
    }
}

/// What kept the first of the rows that failed from being answered.
pub fn first_error(records: &[Record]) -> String {
    let failed = records.iter().find_map(|record| Some((record.row, record.error.as_ref()?)));
    failed.map_or_else(|| "there are none".into(), |(row, error)| format!("row {row}: {error}"))
}

/// None if all rows are of one group.
fn groups(statistic: &Statistic, records: &[&Record]) -> Vec<Group> {
    let mut groups: BTreeMap<&String, Vec<Vec<f64>>> = BTreeMap::new();
    for (record, parts) in records.iter().zip(&statistic.parts) {
        if let Some(name) = &record.group {
            groups.entry(name).or_default().push(parts.clone());
        }
    }
    if groups.len() < 2 {
        return Vec::new();
    }
    let Statistic { name, value, kind, higher_is_better, .. } = *statistic;
    // There may be thousands: an interval by the bootstrap for each would take long.
    let group = |(group, parts): (&String, _)| {
        let figure = Statistic { name, parts, value, kind, higher_is_better }.in_brief();
        Group { name: group.clone(), figure }
    };
    groups.into_iter().map(group).collect()
}

impl Compared {
    /// `ours` against `theirs`, by the names of their models.
    ///
    /// # Errors
    /// When they have no row in common, or are of another evaluation.
    pub fn new(task: &Task, names: [&str; 2], ours: &[Record], theirs: &[Record], seed: u64) -> Result<Self> {
        let (our_rows, their_rows) = pair(ours, theirs)?;
        let (mut ours, mut theirs) = (task.statistics(&our_rows)?, task.statistics(&their_rows)?);
        let tokens = |records: &[&Record]| -> Vec<_> {
            records.iter().map(|record| record.scores.get("tokens").copied()).collect()
        };
        // A perplexity is that of a token.
        if tokens(&our_rows) != tokens(&their_rows) {
            for statistics in [&mut ours, &mut theirs] {
                statistics.retain(|statistic| statistic.name != "perplexity");
            }
        }
        let figures: Vec<Comparison> =
            ours.iter().zip(&theirs).map(|(ours, theirs)| compare(ours, theirs, seed)).collect();
        let sentences = figures.iter().map(|figure| figure.sentence(names[0], names[1])).collect();
        Ok(Self { model: names[1].to_owned(), rows: our_rows.len(), figures, sentences })
    }
}

impl Positions {
    /// None where nothing was compared position by position.
    fn of(records: &[&Record]) -> Option<Self> {
        let found = records.iter().filter_map(|record| record.divergence.as_ref());
        let all: Vec<(u32, f64, bool)> = found
            .flat_map(|by| by.positions.iter().zip(&by.kl).zip(&by.same))
            .map(|((&position, &kl), &same)| (position, f64::from(kl), same))
            .collect();
        let mut sorted: Vec<f64> = all.iter().map(|&(_, kl, _)| kl).collect();
        sorted.sort_by(f64::total_cmp);
        let (max, last) = (*sorted.last()?, all.iter().map(|(position, ..)| *position).max()?);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        let mut ranges = Vec::new();
        let (mut from, mut to) = (0, 16);
        while from <= last {
            let here: Vec<_> = all.iter().filter(|(position, ..)| (from..to).contains(position)).collect();
            if !here.is_empty() {
                let tokens = here.len();
                let mean = |sum: f64| sum / tokens as f64;
                let kl = mean(here.iter().map(|(_, kl, _)| kl).sum());
                let same = mean(here.iter().filter(|(.., same)| *same).count() as f64);
                ranges.push(PositionRange { from, to, tokens, kl, same });
            }
            (from, to) = (to, 2 * to);
        }
        Some(Self { median: at(0.5), percentile_99: at(0.99), max, ranges })
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
