//! What figures over a few rows say of all rows that there might be: standard errors, intervals, and whether one model is
//! better than another.

mod bootstrap;
mod proportion;
mod sentence;

use serde::Serialize;

/// A figure over rows: a function of sums, such as a mean or a perplexity.
#[derive(Debug, Clone)]
pub struct Statistic {
    /// What it is called.
    pub name: &'static str,
    /// Each row's summands; all rows have the same number of them.
    pub parts: Vec<Vec<f64>>,
    /// The figure, of the sums over rows.
    pub value: fn(&[f64]) -> f64,
    /// What values it has.
    pub kind: Kind,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// What values a figure has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The mean of one 0 or 1 a row, shown as a percentage.
    Binary,
    /// From 0 to 1, shown as a percentage.
    Share,
    /// Any number.
    Plain,
}

/// A figure, and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// What it is called.
    pub name: &'static str,
    /// Of the rows.
    pub value: f64,
    /// By the jackknife over rows: of a mean it is s / √n, with n − 1 in s.
    pub standard_error: Option<f64>,
    /// Ends of the 95 % interval: Wilson's for [`Kind::Binary`], else the bootstrap's percentiles.
    pub interval: Option<[f64; 2]>,
    /// How many there are.
    pub rows: usize,
    /// What values it has.
    #[serde(skip)]
    pub kind: Kind,
}

/// The figures of two models on the same rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What the figure is called.
    pub name: &'static str,
    /// The figure of the one model.
    pub ours: f64,
    /// That of the other.
    pub theirs: f64,
    /// Ours less theirs.
    pub difference: f64,
    /// Ends of the 95 % interval of the difference: Newcombe's for [`Kind::Binary`], else the bootstrap's percentiles.
    pub interval: Option<[f64; 2]>,
    /// How likely a difference as large as this were between models that are equally good.
    pub p_value: Option<f64>,
    /// What the p value comes from.
    pub test: &'static str,
    /// How many rows both have.
    pub rows: usize,
    #[serde(skip)]
    kind: Kind,
    #[serde(skip)]
    higher_is_better: bool,
}

impl Statistic {
    /// The figure with its standard error and interval, neither of which fewer than two rows have, nor a figure that is not
    /// finite for some of the samples that they are computed from. The same seed gives the same interval.
    pub fn estimate(&self, seed: u64) -> Estimate {
        let mut estimate = self.in_brief();
        if self.kind != Kind::Binary && estimate.rows > 1 {
            estimate.interval = bootstrap::interval(&bootstrap::resample(&self.parts, self.value, seed));
        }
        estimate
    }

    /// The same, without an interval that would take the bootstrap.
    pub fn in_brief(&self) -> Estimate {
        let rows = self.parts.len();
        let interval = (self.kind == Kind::Binary && rows > 1)
            .then(|| proportion::wilson(self.ones().filter(|&one| one).count(), rows));
        let (name, kind) = (self.name, self.kind);
        Estimate { name, value: self.total(), standard_error: self.standard_error(), interval, rows, kind }
    }

    /// NaN of no rows: of these not even the number of sums is known.
    fn total(&self) -> f64 {
        if self.parts.is_empty() { f64::NAN } else { (self.value)(&self.sums()) }
    }

    fn sums(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.parts.first().map_or(0, Vec::len)];
        for row in &self.parts {
            sums.iter_mut().zip(row).for_each(|(sum, part)| *sum += part);
        }
        sums
    }

    /// Efron and Tibshirani, An Introduction to the Bootstrap, (11.5).
    fn standard_error(&self) -> Option<f64> {
        let rows = self.parts.len() as f64;
        let sums = self.sums();
        let without = |row: &Vec<f64>| {
            let others: Vec<f64> = sums.iter().zip(row).map(|(sum, part)| sum - part).collect();
            (self.value)(&others)
        };
        let values: Vec<f64> = self.parts.iter().map(without).collect();
        let mean = values.iter().sum::<f64>() / rows;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = ((rows - 1.0) / rows * squares).sqrt();
        (self.parts.len() >= 2 && error.is_finite()).then_some(error)
    }

    /// Of each row, whether it has a 1.
    fn ones(&self) -> impl Iterator<Item = bool> {
        self.parts.iter().map(|row| (self.value)(row) > 0.5)
    }
}

/// Compares two models' figures of the same rows in the same order. The p value is McNemar's exact one for
/// [`Kind::Binary`]; else it is twice the share of the bootstrap's differences on the rarer side of 0, so that it is below
/// 0.05 where the interval leaves 0 out.
///
/// # Panics
/// If one has more rows than the other.
pub fn compare(ours: &Statistic, theirs: &Statistic, seed: u64) -> Comparison {
    let rows = ours.parts.len();
    assert_eq!(rows, theirs.parts.len(), "figures of the same rows");
    let (test, interval, p_value) = match ours.kind {
        Kind::Binary => {
            let pairs = proportion::Pairs::new(ours.ones().zip(theirs.ones()));
            ("exact McNemar test", Some(pairs.newcombe()), Some(pairs.mc_nemar()))
        }
        Kind::Share | Kind::Plain => {
            let both: Vec<_> = ours.parts.iter().zip(&theirs.parts).map(|(a, b)| [&a[..], &b[..]].concat()).collect();
            let first = ours.parts.first().map_or(0, Vec::len);
            let difference = |sums: &[f64]| (ours.value)(&sums[..first]) - (theirs.value)(&sums[first..]);
            let differences = bootstrap::resample(&both, difference, seed);
            ("paired bootstrap", bootstrap::interval(&differences), bootstrap::p_value(&differences))
        }
    };
    let (name, kind, higher_is_better) = (ours.name, ours.kind, ours.higher_is_better);
    let (ours, theirs) = (ours.total(), theirs.total());
    let (interval, p_value) = (interval.filter(|_| rows >= 2), p_value.filter(|_| rows >= 2));
    Comparison { name, ours, theirs, difference: ours - theirs, interval, p_value, test, rows, kind, higher_is_better }
}
