//! A report for readers: as text in columns, or in Markdown. Both show the same cells.

use super::Point;
use super::report::{AdapterFigures, Phase, PhaseName, Report};

const HEADER: [&str; 13] = [
    "prompt",
    "gen",
    "batch",
    "images",
    "crops",
    "depth",
    "phase",
    "time",
    "median",
    "min",
    "max",
    "share",
    "peak memory",
];

/// Of the text before the numbers.
const PHASE: usize = 6;

impl Report {
    /// What was measured, where, and what that can do: a line each.
    pub fn headline(&self) -> [String; 2] {
        let (model, machine) = (&self.model, &self.machine);
        let random = if model.random { ", random numbers" } else { "" };
        let adapters = model.adapters.iter().map(|AdapterFigures { name, parameters }| {
            format!(", with {} of {name}, which shares leave out", count(*parameters))
        });
        let adapters: String = adapters.collect();
        let model = format!(
            "{}{random}: {} parameters in {}, {:.2} bits each ({}){adapters}",
            model.name,
            count(model.parameters),
            gigabytes(model.weight_bytes),
            model.bits_per_weight,
            model.types()
        );
        let machine = format!(
            "{machine}: reads {:.1} GB/s, multiplies {:.0} GFLOP/s in {}",
            machine.bytes_per_second / 1e9,
            machine.flops_per_second / 1e9,
            self.model.dtype
        );
        [model, machine]
    }

    /// As text in columns.
    pub fn to_text(&self) -> String {
        let rows = self.rows();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        let mut text = self.headline().map(|line| line + "\n").concat() + "\n";
        for row in rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                PHASE => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }

    /// As a Markdown table.
    pub fn to_markdown(&self) -> String {
        let mut rows = self.rows();
        let line = (0..rows[0].len()).map(|column| if column == PHASE { "---" } else { "---:" }.to_owned());
        rows.insert(1, line.collect());
        let mut text = self.headline().map(|line| line + "\n\n").concat();
        for row in rows {
            text += &format!("| {} |\n", row.join(" | "));
        }
        text
    }

    /// The header, and a row for each phase of each point.
    fn rows(&self) -> Vec<Vec<String>> {
        let phases = self.points.iter().flat_map(|point| point.phases.values());
        let compared = phases.into_iter().any(|phase| phase.change.is_some());
        let mut rows = vec![HEADER.map(str::to_owned).to_vec()];
        for point in &self.points {
            let mut peak = gigabytes(point.peak_memory_bytes);
            rows.extend(point.phases.iter().map(|(&name, phase)| {
                // Once: it is that of the point.
                [&cells(&point.point, name, phase)[..], &[std::mem::take(&mut peak)]].concat()
            }));
        }
        if compared {
            let phases = self.points.iter().flat_map(|point| point.phases.values());
            let change =
                |phase: &Phase| phase.change.map_or("–".into(), |change| format!("{:+.1} %", 100.0 * change));
            let column = std::iter::once("change".into()).chain(phases.map(change));
            rows.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
        }
        rows
    }
}

/// All but the last one.
fn cells(at: &Point, name: PhaseName, phase: &Phase) -> [String; HEADER.len() - 1] {
    let speed = phase.per_second;
    let share = phase.share.map_or("–".into(), |share| {
        let of = if name == PhaseName::Prefill { "compute" } else { "bandwidth" };
        format!("{:.0} % of {of}", 100.0 * share)
    });
    [
        at.prompt_tokens.to_string(),
        at.gen_tokens.to_string(),
        at.batch.to_string(),
        at.images.to_string(),
        at.num_crops.map_or("–".into(), |num_crops| num_crops.to_string()),
        at.depth.to_string(),
        name.to_string(),
        format!("{} s", figure(phase.seconds.median)),
        format!("{} {}", figure(speed.median), name.unit()),
        figure(speed.min),
        figure(speed.max),
        share,
    ]
}

/// Three digits, or more before the point.
fn figure(value: f64) -> String {
    let digits = if value > 0.0 { (2 - value.log10().floor() as i32).clamp(0, 6) } else { 0 };
    format!("{value:.*}", digits as usize)
}

/// So much memory.
pub(super) fn gigabytes(bytes: usize) -> String {
    figure(bytes as f64 / 1e9) + " GB"
}

/// So many parameters, in billions or millions.
pub fn count(parameters: u64) -> String {
    let parameters = parameters as f64;
    if parameters >= 1e9 { format!("{:.2} B", parameters / 1e9) } else { format!("{:.1} M", parameters / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let cases =
            [(0.0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (51.49, "51.5"), (512.3, "512"), (73_912.0, "73912")];
        for (value, expected) in cases {
            assert_eq!(figure(value), expected);
        }
        assert_eq!((count(3_821_079_552), count(134_515_008)), ("3.82 B".into(), "134.5 M".into()));
    }
}
