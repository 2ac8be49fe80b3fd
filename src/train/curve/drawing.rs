//! The curve as a PNG or SVG file.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail, ensure};
use image::RgbImage;
use image::codecs::png::PngEncoder;
use image::imageops::thumbnail;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::register_font;

use super::{Axis, Losses, Record};
use crate::checkpoint::staging::replace_file;

/// Width and height, in pixels.
const SIZE: (u32, u32) = (900, 540);
/// A PNG is drawn as many times larger and then made smaller: the backend draws lines without soft edges.
const ENLARGED: u32 = 3;
/// A curve of more points is drawn by the least and the largest of as many parts: there are no more pixels.
const PARTS: usize = 1600;
/// Curves of at most so many points have a dot at each.
const DOTS: usize = 40;
/// What the font is called: SVG viewers have one of this name, and PNG has the one that is registered for it.
const FONT: &str = "sans-serif";
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(217, 95, 2);
const NOT_FINITE: RGBColor = RGBColor(200, 30, 30);
const TEXT: RGBColor = RGBColor(60, 60, 60);
const AXIS: RGBColor = RGBColor(150, 150, 150);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// Draws the losses of the records into a file, which is replaced whole. Its name says whether it is a PNG or an SVG.
///
/// # Errors
/// When its name says neither, or it cannot be written.
pub fn write_curve(records: &[Record], path: &Path) -> Result<()> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let losses = Losses::of(records);
    let bytes = match extension.as_deref() {
        Some("png") => png(&losses)?,
        Some("svg") => svg(&losses)?.into_bytes(),
        _ => bail!("{} is neither a .png nor a .svg file, which a curve can be", path.display()),
    };
    replace_file(path, |file| Ok(file.write_all(&bytes)?))
}

fn png(losses: &Losses) -> Result<Vec<u8>> {
    let size = (SIZE.0 * ENLARGED, SIZE.1 * ENLARGED);
    let mut large = RgbImage::new(size.0, size.1);
    draw(BitMapBackend::with_buffer(&mut large, size).into_drawing_area(), losses, ENLARGED)?;
    let image = thumbnail(&large, SIZE.0, SIZE.1);
    let mut bytes = Vec::new();
    image.write_with_encoder(PngEncoder::new(&mut bytes))?;
    Ok(bytes)
}

fn svg(losses: &Losses) -> Result<String> {
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), losses, 1)?;
    Ok(text)
}

fn draw<DB: DrawingBackend>(area: DrawingArea<DB, Shift>, losses: &Losses, scale: u32) -> Result<()> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let register = || register_font(FONT, FontStyle::Normal, epaint_default_fonts::HACK_REGULAR).is_ok();
    ensure!(*REGISTERED.get_or_init(register), "the font for curves cannot be read");
    // An error of a backend lives no longer than its buffer.
    chart(&area, losses, scale).and_then(|()| area.present()).map_err(|e| anyhow!("cannot draw the curve: {e}"))
}

fn chart<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    losses: &Losses,
    scale: u32,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let (x, y) = (losses.x(), losses.y());
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .margin(14 * scale)
        .margin_right(24 * scale)
        .x_label_area_size(42 * scale)
        .y_label_area_size(64 * scale)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(scale))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.stroke_width(scale))
        .set_all_tick_mark_size(5 * scale)
        .label_style(text(15 * scale))
        .axis_desc_style(text(16 * scale))
        .x_desc("step")
        .y_desc("loss")
        .x_labels(10)
        .y_labels(8)
        .x_label_formatter(&|step| x.label(*step))
        .y_label_formatter(&|loss| y.label(*loss))
        .draw()?;

    if !losses.train.is_empty() {
        let (gaps, smoothed) = (&losses.not_finite, losses.smoothed());
        chart.draw_series(lines(&losses.train, gaps, TRAIN.mix(0.3).stroke_width(scale)))?;
        let series = chart.draw_series(lines(&smoothed, gaps, TRAIN.stroke_width(2 * scale)))?;
        series.label("training").legend(sample(TRAIN, scale));
        chart.draw_series(dots(&smoothed, TRAIN, scale))?;
    }
    if !losses.validation.is_empty() {
        let series = chart.draw_series(lines(&losses.validation, &[], VALIDATION.stroke_width(2 * scale)))?;
        series.label("validation").legend(sample(VALIDATION, scale));
        chart.draw_series(dots(&losses.validation, VALIDATION, scale))?;
    }
    if !losses.not_finite.is_empty() {
        let cross = |&step: &f64| Cross::new((step, y.high), 4 * scale, NOT_FINITE.stroke_width(2 * scale));
        chart.draw_series(losses.not_finite.iter().map(cross))?.label("not finite").legend(sample(NOT_FINITE, scale));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(text(15 * scale))
        .background_style(WHITE.mix(0.85))
        .border_style(GRID.stroke_width(scale))
        .margin(8 * scale)
        .legend_area_size(30 * scale)
        .draw()
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&TEXT)
}

/// What stands for a series in the legend.
fn sample(color: RGBColor, scale: u32) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new(vec![(x, y), (x + 18 * scale as i32, y)], color.stroke_width(2 * scale))
}

/// Lines through points, none of them over a step in `gaps`.
fn lines(points: &[(f64, f64)], gaps: &[f64], style: ShapeStyle) -> Vec<PathElement<(f64, f64)>> {
    let before = |&(step, _): &(f64, f64)| gaps.partition_point(|&gap| gap < step);
    points.chunk_by(|a, b| before(a) == before(b)).map(|part| PathElement::new(thinned(part), style)).collect()
}

/// Points that are few enough to be seen as such.
fn dots(points: &[(f64, f64)], color: RGBColor, scale: u32) -> impl Iterator<Item = Circle<(f64, f64), u32>> {
    let few = if points.len() <= DOTS { points } else { &[] };
    few.iter().map(move |&point| Circle::new(point, 3 * scale, color.filled()))
}

/// The least and the largest of each part of a long curve, in their order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * PARTS {
        return points.to_vec();
    }
    let ends = |part: &[(f64, f64)]| {
        let by_loss = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends: Vec<_> =
            part.iter().min_by(by_loss).into_iter().chain(part.iter().max_by(by_loss)).copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    points.chunks(points.len().div_ceil(PARTS)).flat_map(ends).collect()
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (begin, end): (i32, i32)) -> i32 {
        (f64::from(begin) + self.place(*value) * f64::from(end - begin)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        self.ticks(hint.bold_points())
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{run, training, validation};
    use super::*;

    /// With `CURVES=FOLDER`, the curves are left there to be looked at.
    fn drawn(name: &str, records: &[Record]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::env::var_os("CURVES").map_or(folder.path().to_owned(), Into::into);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.png"));
        write_curve(records, &path).unwrap();
        let image = image::open(&path).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), SIZE);
        std::fs::write(path.with_extension("txt"), super::super::plot_text(records, 80, 16)).unwrap();
        let path = path.with_extension("svg");
        write_curve(records, &path).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_run_is_drawn() {
        let svg = drawn("run", &run(2000, 3.2, 0.6));
        for text in ["step", "loss", "training", "validation", "2000"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.contains("font-family=\"sans-serif\"") && svg.len() < 400_000, "{}", svg.len());
    }

    #[test]
    fn any_records_are_drawn() {
        let range: Vec<_> = (1..=300).map(|step| training(step, 80.0 * (-0.03 * step as f32).exp())).collect();
        drawn("wide", &range);
        drawn("none", &[]);
        drawn("one", &[training(1, 2.0)]);
        drawn("three", &[training(1, 2.0), training(2, 1.0), validation(2, 1.2), training(3, 0.9)]);
        drawn("validation", &[validation(100, 2.0), validation(200, 1.5)]);
        let mut gaps = run(300, 3.0, 1.0);
        gaps.splice(100..140, (101..141).map(|step| training(step, f32::NAN)));
        assert!(drawn("gaps", &gaps).contains("not finite"));
        assert!(!drawn("nothing", &[training(1, f32::NAN)]).contains("NaN"));
    }

    #[test]
    fn a_long_run_is_thinned_but_keeps_its_peaks() {
        let mut records = run(100_000, 3.0, 0.5);
        let peak = records.iter_mut().find(|record| record.step() == 45_455).unwrap();
        *peak = training(45_455, 9.0);
        let losses = Losses::of(&records);
        let thin = thinned(&losses.train);
        assert!(thin.len() <= 2 * PARTS && thin.iter().any(|point| point.1 == 9.0));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        let error = write_curve(&[], Path::new("curve.jpg")).unwrap_err().to_string();
        assert_eq!(error, "curve.jpg is neither a .png nor a .svg file, which a curve can be");
    }
}
