//! The figures that records add up to, and how far two models are apart.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::record::{Record, pair};
use super::statistics::{Comparison, Estimate, compare};
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
    pub fn new(task: &Task, model: &str, records: &[Record], seed: u64) -> Result<Self> {
        ensure!(!records.is_empty(), "there are no rows to sum up");
        let figures = task.statistics(records)?.iter().map(|statistic| statistic.estimate(seed)).collect();
        let mut groups: BTreeMap<&String, Vec<Record>> = BTreeMap::new();
        for record in records {
            if let Some(name) = &record.group {
                groups.entry(name).or_default().push(record.clone());
            }
        }
        let group = |(name, records): (&String, Vec<Record>)| {
            let Some(first) = task.statistics(&records)?.into_iter().next() else { bail!("no figure is asked for") };
            Ok(Group { name: name.clone(), figure: first.estimate(seed) })
        };
        let groups = if groups.len() > 1 { groups.into_iter().map(group).collect::<Result<_>>()? } else { Vec::new() };
        let (task, model) = (task.name(), model.to_owned());
        let positions = Positions::of(records);
        Ok(Self { task, model, rows: records.len(), figures, groups, positions, comparison: None })
    }
}

impl Compared {
    /// `ours` against `theirs`, which are of a model named `model`.
    pub fn new(task: &Task, name: &str, ours: &[Record], model: &str, theirs: &[Record], seed: u64) -> Result<Self> {
        let (ours, theirs) = pair(ours, theirs)?;
        let ours = task.statistics(&ours)?;
        let theirs = task.statistics(&theirs).with_context(|| format!("cannot compare with {model}"))?;
        let figures: Vec<Comparison> =
            ours.iter().zip(&theirs).map(|(ours, theirs)| compare(ours, theirs, seed)).collect();
        let sentences = figures.iter().map(|figure| figure.sentence(name, model)).collect();
        Ok(Self { model: model.to_owned(), figures, sentences })
    }
}

impl Positions {
    /// None where nothing was compared position by position.
    fn of(records: &[Record]) -> Option<Self> {
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
