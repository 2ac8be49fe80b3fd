//! A page for people: the figures, and the rows that went wrong with their images, all in one file.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::RgbImage;
use image::imageops::{FilterType, resize};
use minijinja::Environment;
use serde_json::{Value, json};

use super::lines::shown;
use super::record::Record;
use super::summary::{Compared, Summary};
use super::task::Task;
use crate::processor::images::{self, ImageLimits, ImageSource};

const TEMPLATE: &str = include_str!("page.html");

/// The most rows on a page.
const MOST_ROWS: usize = 200;

/// Rows that are shown where none is simply wrong.
const WORST_ROWS: usize = 20;

/// The longer side of an image on the page, in pixels.
const IMAGE_SIZE: u32 = 440;

/// What a page shows.
pub struct Page<'a> {
    /// What was evaluated.
    pub task: &'a Task,
    /// The figures.
    pub summary: &'a Summary,
    /// What they are of.
    pub records: &'a [Record],
    /// The other model's, where there is one.
    pub others: &'a [Record],
    /// The rows' images.
    pub images: &'a BTreeMap<u64, Vec<ImageSource>>,
    /// How large images may be.
    pub limits: ImageLimits,
}

impl Page<'_> {
    /// The page as HTML.
    pub fn render(&self) -> Result<String> {
        let Summary { task, model, rows, figures, groups, positions, comparison, failed } = self.summary;
        let (heading, worst) = self.worst();
        let figure = |(name, value): (&str, String)| json!({ "name": name, "value": value });
        let figures: Vec<Value> = figures.iter().map(|of| figure((of.name, shown(of)))).collect();
        let group = |group: &super::summary::Group| json!({ "name": group.name, "value": shown(&group.figure), "rows": group.figure.rows });
        let ranges = positions.iter().flat_map(|positions| &positions.ranges).map(|range| {
            json!({
                "positions": format!("{} to {}", range.from, range.to - 1), "tokens": range.tokens,
                "kl": format!("{:.5}", range.kl), "same": format!("{:.1} %", 100.0 * range.same),
            })
        });
        let (sentences, other) = match comparison {
            Some(Compared { sentences, model, .. }) => (&sentences[..], &**model),
            None => (&[][..], ""),
        };
        let mut environment = Environment::new();
        environment.add_template("page.html", TEMPLATE).context("the page's template")?;
        let page = environment.get_template("page.html")?.render(minijinja::value::Serde(json!({
            "title": format!("{model}: {task}"),
            "rows": rows,
            "failed": failed,
            "figures": figures,
            "sentences": sentences,
            "other": other,
            "heading": heading,
            "groups": groups.iter().map(group).collect::<Vec<_>>(),
            "ranges": ranges.collect::<Vec<_>>(),
            "images": worst.iter().any(|record| !record.images.is_empty()),
            "answers": worst.iter().any(|record| record.answer.is_some()),
            "other_answers": self.others.iter().any(|record| record.answer.is_some()),
            "cases": worst.into_iter().map(|record| self.case(record)).collect::<Vec<_>>(),
        })))?;
        Ok(page)
    }

    /// What the last part of the page is called, and its rows.
    fn worst(&self) -> (String, Vec<&Record>) {
        let mut records: Vec<&Record> = self.records.iter().collect();
        if let Task::Choice(_) | Task::Vqa(_) = self.task {
            records.retain(|record| self.task.quality(record) < 1.0);
            let all = records.len();
            records.sort_by(|a, b| self.task.quality(a).total_cmp(&self.task.quality(b)));
            records.truncate(MOST_ROWS);
            let shown = if all > MOST_ROWS { format!(", of which {MOST_ROWS} are shown") } else { String::new() };
            return (format!("Not wholly right: {all} of {} rows{shown}", self.records.len()), records);
        }
        records.sort_by(|a, b| self.task.quality(a).total_cmp(&self.task.quality(b)));
        records.truncate(WORST_ROWS);
        (format!("The worst {}", records.len()), records)
    }

    fn case(&self, record: &Record) -> Value {
        let score = |(name, score): (&String, &f64)| json!({ "name": name, "value": format!("{score:.3}") });
        let options = record.options.iter().map(|option| format!("\n· {option}"));
        let other = self.others.iter().find(|other| other.row == record.row);
        let images = self.images.get(&record.row).map_or(&[][..], |images| images);
        json!({
            "row": record.row,
            "prompt": record.prompt.clone() + &options.collect::<String>(),
            "images": images.iter().filter_map(|source| self.image(source)).collect::<Vec<_>>(),
            "answer": record.answer.as_ref().or(record.error.as_ref()),
            "references": record.references,
            "other": other.and_then(|other| other.answer.clone()),
            "scores": record.scores.iter().map(score).collect::<Vec<_>>(),
        })
    }

    /// A small copy as a `data:` address; none of an image that is gone.
    fn image(&self, source: &ImageSource) -> Option<String> {
        let image = images::load(source, &self.limits).ok()?;
        let (width, height) = image.dimensions();
        let scale = f64::from(IMAGE_SIZE) / f64::from(width.max(height));
        let side = |len: u32| ((f64::from(len) * scale).round() as u32).max(1);
        let small = if scale < 1.0 { resize(&image, side(width), side(height), FilterType::Triangle) } else { image };
        Some(format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(jpeg(&small)?)))
    }
}

fn jpeg(image: &RgbImage) -> Option<Vec<u8>> {
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(image.width() as usize, image.height() as usize);
    compress.set_quality(80.0);
    let mut started = compress.start_compress(Vec::new()).ok()?;
    started.write_scanlines(image.as_raw()).ok()?;
    started.finish().ok()
}
