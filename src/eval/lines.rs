//! Figures as lines for people.

use super::statistics::{Estimate, Kind};
use super::summary::{Compared, Group, Positions, Summary};

/// The most groups that are told.
const MOST_GROUPS: usize = 100;

impl Summary {
    /// The figures, one a line, and what else was found below them.
    pub fn lines(&self) -> Vec<String> {
        let widest = |names: &mut dyn Iterator<Item = &str>| names.map(|name| name.chars().count()).max().unwrap_or(0);
        let width = widest(&mut self.figures.iter().map(|figure| figure.name));
        let failed = if self.failed > 0 { format!("; {} failed and do not count", self.failed) } else { String::new() };
        let mut lines = vec![format!("{:width$}  {}{failed}", self.model, rows(self.rows))];
        lines.extend(self.figures.iter().map(|figure| format!("{:width$}  {}", figure.name, shown(figure))));
        if !self.groups.is_empty() {
            let width = widest(&mut self.groups.iter().map(|group| &*group.name));
            lines.push(String::new());
            let line =
                |Group { name, figure }: &Group| format!("{name:width$}  {} of {}", shown(figure), rows(figure.rows));
            lines.extend(self.groups.iter().take(MOST_GROUPS).map(line));
            if self.groups.len() > MOST_GROUPS {
                lines.push(format!("and {} groups more, which `json` has", self.groups.len() - MOST_GROUPS));
            }
        }
        if let Some(Positions { median, percentile_99, max, ranges }) = &self.positions {
            lines.push(String::new());
            lines.push(format!("kl of a position: median {median:.5}, 99 % up to {percentile_99:.4}, max {max:.3}"));
            lines.extend(ranges.iter().map(|range| {
                let (from, last) = (range.from, range.to - 1);
                format!("{from:>7} to {last:<7} kl {:.5}  same {:.1} %", range.kl, 100.0 * range.same)
            }));
        }
        if let Some(Compared { sentences, rows, .. }) = &self.comparison {
            lines.push(String::new());
            if *rows < self.rows {
                lines.push(format!("On the {} that both have:", self::rows(*rows)));
            }
            lines.extend(sentences.iter().cloned());
        }
        lines
    }
}

/// A figure with its error and interval.
pub(super) fn shown(figure: &Estimate) -> String {
    let number = |x: f64| number(x, figure.kind);
    let error = figure.standard_error.map(|error| format!(" ± {}", number(error)));
    let interval = figure.interval.map(|[low, high]| format!("  95 % interval {} to {}", number(low), number(high)));
    [Some(number(figure.value)), error, interval].into_iter().flatten().collect()
}

fn number(x: f64, kind: Kind) -> String {
    match kind {
        Kind::Binary | Kind::Share => format!("{:.1} %", 100.0 * x),
        // Four digits that count.
        Kind::Plain => format!("{x:.*}", (3 - x.abs().max(1e-9).log10().floor() as i32).clamp(0, 6) as usize),
    }
}

fn rows(count: usize) -> String {
    if count == 1 { "1 row".into() } else { format!("{count} rows") }
}
