//! The curve in characters: four dots by two a character.

use std::fmt::Write;

use super::axis::range;
use super::{Axis, Losses, Record};

/// A dot's bit in a Braille character (U+2800), by row and column.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
/// What a validation is drawn as.
const VALIDATION: char = 'o';

/// Characters of the numbers at the side.
const MARGIN: usize = 7;

/// The curve in `height` lines of at most `width` characters: the training loss as a line of dots, each the mean of the
/// steps it stands for, validations as `o`, the largest and the least number drawn at the side, the steps below. Too small
/// a size is enlarged. Empty without a loss that is a number.
pub fn plot_text(records: &[Record], width: usize, height: usize) -> String {
    let losses = Losses::of(records);
    let mut canvas = Canvas::new(width.saturating_sub(MARGIN + 2).max(16), height.saturating_sub(2).max(2));
    let x = losses.x();
    let train = means(&losses.train, &x, 2 * canvas.columns);
    let drawn = || train.iter().chain(&losses.validation).map(|&(_, loss)| loss);
    let Some((low, high)) = range(drawn()) else { return String::new() };
    let y = Axis::of_losses(drawn());
    canvas.line(&train, &x, &y);
    for &(step, loss) in &losses.validation {
        canvas.mark(x.place(step), y.place(loss), VALIDATION);
    }
    let labels = [(canvas.row(y.place(high)), short(high)), (canvas.row(y.place(low)), short(low))];
    let mut text = String::new();
    for (row, line) in canvas.lines().iter().enumerate() {
        let label = labels.iter().find(|(labelled, _)| *labelled == row);
        let (label, edge) = label.map_or(("", '│'), |(_, label)| (label, '┤'));
        let _ = writeln!(text, "{label:>MARGIN$} {edge}{}", line.trim_end());
    }
    let _ = writeln!(text, "{:MARGIN$} └{}", "", "─".repeat(canvas.columns));
    let _ = writeln!(text, "{:MARGIN$}  {}", "", footer(&losses, &x, canvas.columns));
    text
}

/// The mean of the points in each of so many equal parts of the axis, in those that have any.
fn means(points: &[(f64, f64)], x: &Axis, parts: usize) -> Vec<(f64, f64)> {
    let of_part = |points: &[(f64, f64)]| {
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
    };
    let part = |point: &(f64, f64)| nearest(x.place(point.0), parts);
    points.chunk_by(|a, b| part(a) == part(b)).map(of_part).collect()
}

/// The first step, the last losses, and the last step.
fn footer(losses: &Losses, x: &Axis, columns: usize) -> String {
    let (first, last) = (x.label(x.low), format!("step {}", x.label(x.high)));
    let mut middle = Vec::new();
    if let Some((_, loss)) = losses.smoothed().last() {
        middle.push(format!("train {}", short(*loss)));
    }
    if let Some((_, loss)) = losses.validation.last() {
        middle.push(format!("{VALIDATION} validation {}", short(*loss)));
    }
    if !losses.not_finite.is_empty() {
        middle.push(format!("{} not finite", losses.not_finite.len()));
    }
    let middle = middle.join("  ");
    match columns.checked_sub(first.len() + last.len() + 2) {
        Some(room) if room >= middle.len() => format!("{first} {middle:^room$} {last}"),
        Some(room) => format!("{first} {:room$} {last}", ""),
        None => last,
    }
}

/// To about four digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e4).contains(&size) => format!("{value:.1e}"),
        size => format!("{value:.*}", (2.0 - size.log10().floor()).clamp(0.0, 4.0) as usize),
    }
}

struct Canvas {
    columns: usize,
    rows: usize,
    /// Dots of each character, by row.
    dots: Vec<u32>,
    marks: Vec<Option<char>>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Self {
        Self { columns, rows, dots: vec![0; columns * rows], marks: vec![None; columns * rows] }
    }

    /// A line through points, from left to right.
    fn line(&mut self, points: &[(f64, f64)], x: &Axis, y: &Axis) {
        let (columns, rows) = (2 * self.columns, 4 * self.rows);
        let dot =
            |&(step, loss): &(f64, f64)| (nearest(x.place(step), columns), rows - 1 - nearest(y.place(loss), rows));
        let dots: Vec<_> = points.iter().map(dot).collect();
        dots.iter().for_each(|&(column, row)| self.dot(column, row));
        for pair in dots.windows(2) {
            self.join(pair[0], pair[1]);
        }
    }

    /// The dots between two, the first of which is to the left.
    fn join(&mut self, (from, top): (usize, usize), (to, bottom): (usize, usize)) {
        let steps = (to - from).max(top.abs_diff(bottom));
        for step in 1..steps {
            let share = step as f64 / steps as f64;
            let between = |a: usize, b: usize| (a as f64 + (b as f64 - a as f64) * share).round() as usize;
            self.dot(between(from, to), between(top, bottom));
        }
    }

    fn dot(&mut self, column: usize, row: usize) {
        self.dots[row / 4 * self.columns + column / 2] |= DOTS[row % 4][column % 2];
    }

    fn row(&self, y: f64) -> usize {
        self.rows - 1 - nearest(y, self.rows)
    }

    fn mark(&mut self, x: f64, y: f64, mark: char) {
        let (column, row) = (nearest(x, self.columns), self.row(y));
        self.marks[row * self.columns + column] = Some(mark);
    }

    fn lines(&self) -> Vec<String> {
        let character = |(&dots, &mark): (&u32, &Option<char>)| match (mark, dots) {
            (Some(mark), _) => mark,
            (None, 0) => ' ',
            (None, dots) => char::from_u32(0x2800 + dots).unwrap_or(' '),
        };
        let rows = self.dots.chunks(self.columns).zip(self.marks.chunks(self.columns));
        rows.map(|(dots, marks)| dots.iter().zip(marks).map(character).collect()).collect()
    }
}

/// Which of so many equal parts of `[0, 1]`.
fn nearest(place: f64, parts: usize) -> usize {
    ((place * parts as f64) as usize).min(parts - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{run, training, validation};
    use super::*;

    #[test]
    fn a_fall_is_drawn_as_one() {
        let records: Vec<_> = (0..=30).map(|step| training(step, 3.0 - 0.1 * step as f32)).collect();
        let text = plot_text(&records, 25, 6);
        let expected = "   \
   3.00 ┤⠑⠢⢄⡀
        │   ⠈⠑⠢⢄⡀
        │       ⠈⠉⠒⠤⣀
      0 ┤            ⠉⠒⠤⣀
        └────────────────
         0        step 30
";
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn it_keeps_to_its_size() {
        for (width, height) in [(80, 15), (40, 8), (25, 4)] {
            let text = plot_text(&run(500, 3.0, 0.5), width, height);
            assert_eq!(text.lines().count(), height);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        }
        assert!(!plot_text(&run(500, 3.0, 0.5), 0, 0).is_empty());
    }

    #[test]
    fn both_losses_and_their_ends_are_told() {
        let text = plot_text(&[training(1, 2.0), training(10, 1.0), validation(10, 1.25)], 80, 10);
        assert!(text.contains("train 1.00  o validation 1.25") && text.contains("step 10"), "{text}");
        assert!(text.starts_with("   2.00 ┤") && text.contains("\n   1.00 ┤"), "{text}");
        let marks = text.lines().take(8).flat_map(str::chars).filter(|&c| c == VALIDATION).count();
        assert_eq!(marks, 1);
    }

    #[test]
    fn few_points_and_odd_ones_are_drawn() {
        assert_eq!(plot_text(&[], 80, 10), "");
        assert_eq!(plot_text(&[training(1, f32::NAN)], 80, 10), "");
        assert!(plot_text(&[training(1, 2.0)], 80, 10).matches("2.00").count() == 2);
        let text = plot_text(&[training(1, 2.0), training(2, f32::INFINITY), training(3, 1e-9)], 80, 10);
        assert!(text.contains("1 not finite") && text.contains("1.0e-9"), "{text}");
    }
}
