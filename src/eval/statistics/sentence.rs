//! A comparison in plain English.

use super::{Comparison, Kind};

/// The usual bound.
const SIGNIFICANT: f64 = 0.05;

impl Comparison {
    /// What it says of the models with these names, in a sentence without its full stop.
    pub fn sentence(&self, ours: &str, theirs: &str) -> String {
        let name = self.name;
        if self.rows == 0 {
            return format!("there are no rows to compare {ours} and {theirs} by in {name}");
        }
        let (scale, unit, points) = match self.kind {
            Kind::Binary | Kind::Share => (100.0, " %", " points"),
            Kind::Plain => (1.0, "", ""),
        };
        let decimals = self.decimals(scale);
        let number = |value: f64| number(scale * value, decimals);
        let is = if self.difference == 0.0 {
            format!("{ours} is as high as {theirs} in {name} ({}{unit})", number(self.ours))
        } else {
            let side = if self.difference < 0.0 { "lower" } else { "higher" };
            let values = format!("{}{unit} against {}{unit}", number(self.ours), number(self.theirs));
            format!("{ours} is {}{points} {side} than {theirs} in {name} ({values})", number(self.difference.abs()))
        };
        match (self.interval, self.p_value) {
            (Some([low, high]), Some(p)) => {
                let interval = format!("95 % interval {} to {}", number(low), number(high));
                format!("{is}, {interval}, {}: {}", probability(p), self.verdict(ours))
            }
            _ if self.rows == 1 => format!("{is}: one row tells nothing"),
            _ => format!("{is}: no interval can be computed"),
        }
    }

    /// A difference is real if the test and the interval say so, which seldom disagree.
    fn verdict(&self, ours: &str) -> String {
        let outside = self.interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
        if !outside || self.p_value.is_none_or(|p| p >= SIGNIFICANT) {
            return "no difference can be told".into();
        }
        let side = if (self.difference > 0.0) == self.higher_is_better { "better" } else { "worse" };
        format!("the difference is real, {ours} is {side}")
    }

    /// As many as show the difference: one of points, two digits of other numbers.
    fn decimals(&self, scale: f64) -> usize {
        let size = (scale * self.difference).abs();
        let before = if size > 0.0 && size.is_finite() { size.log10().floor() as i32 } else { 0 };
        let (least, decimals) = if self.kind == Kind::Plain { (0, 1 - before) } else { (1, -before) };
        decimals.clamp(least, 9) as usize
    }
}

fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.bytes().all(|byte| b"0.".contains(&byte)) => zero.to_owned(),
        Some(positive) => format!("\u{2212}{positive}"),
        None => text,
    }
}

fn probability(p: f64) -> String {
    if p < 0.001 { "p < 0.001".into() } else { format!("p = {p:.3}") }
}
