//! How fast a model is on this machine, its phases apart, and how near that is to what the machine can do.
//!
//! A model may be one of a checkpoint, or of random numbers in a published [`shape`]: the time is the same.

pub mod compare;
mod limits;
mod measure;
mod photo;
pub mod random;
pub mod report;
pub mod shape;
mod table;
pub mod work;

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cache::CacheSettings;
use crate::memory::Demand;
use crate::models::Model;
use crate::processor::images::{ImageOption, ImageOptions, Layout, NumCrops};
use measure::{Interrupted, Measured, Measuring};
use report::{AdapterFigures, ModelFigures, Report};
use table::gigabytes;
use work::Facts;

pub use table::count;

/// What is to be measured: all combinations.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Tokens of the prompt, without those of images.
    pub prompt_tokens: Vec<usize>,
    /// Tokens that are generated.
    pub gen_tokens: Vec<usize>,
    /// Rows that are computed together.
    pub batch: Vec<usize>,
    /// Images in the prompt of each row.
    pub images: Vec<usize>,
    /// The most tiles that an image is cut into; empty for the checkpoint's own number, and for models without tiles.
    pub num_crops: Vec<u32>,
    /// Positions that are in the cache before the prompt.
    pub depth: Vec<usize>,
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Tokens of the prompt, without those of images.
    pub prompt_tokens: usize,
    /// Tokens that are generated.
    pub gen_tokens: usize,
    /// Rows that are computed together.
    pub batch: usize,
    /// Images in the prompt of each row.
    pub images: usize,
    /// The most tiles that an image is cut into, where that was given.
    pub num_crops: Option<u32>,
    /// Positions that are in the cache before the prompt.
    pub depth: usize,
}

/// How it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Measurements of each point.
    pub repetitions: usize,
    /// Rounds before, which are not counted.
    pub warmup: usize,
    /// Positions that are computed at once.
    pub prefill_step_size: usize,
    /// Bits of packed keys and values.
    pub kv_bits: Option<i32>,
}

impl Sweep {
    /// With images cut into 4 tiles where nothing else is said and the model has tiles.
    #[must_use]
    pub fn with_defaults(mut self, facts: &Facts) -> Self {
        let has_crops = facts.images.as_deref().is_some_and(|images| images.options().contains(&ImageOption::NumCrops));
        if self.num_crops.is_empty() && has_crops {
            self.num_crops.push(4);
        }
        self
    }

    /// All combinations, each once, the last list's values first.
    pub fn points(&self) -> Vec<Point> {
        let mut points = Vec::new();
        let mut add = |point| {
            if !points.contains(&point) {
                points.push(point);
            }
        };
        for &prompt_tokens in &self.prompt_tokens {
            for &gen_tokens in &self.gen_tokens {
                for &batch in &self.batch {
                    for (images, num_crops) in self.images() {
                        for &depth in &self.depth {
                            add(Point { prompt_tokens, gen_tokens, batch, images, num_crops, depth });
                        }
                    }
                }
            }
        }
        points
    }

    fn images(&self) -> Vec<(usize, Option<u32>)> {
        let cut = |&images: &usize| -> Vec<_> {
            if images == 0 {
                return vec![(0, None)];
            }
            if self.num_crops.is_empty() {
                return vec![(images, None)];
            }
            self.num_crops.iter().map(|&num_crops| (images, Some(num_crops))).collect()
        };
        self.images.iter().flat_map(cut).collect()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "prompt {}, {} generated, batch {}", self.prompt_tokens, self.gen_tokens, self.batch)?;
        if self.images > 0 {
            write!(f, ", images {}", self.images)?;
        }
        if let Some(num_crops) = self.num_crops {
            write!(f, ", crops {num_crops}")?;
        }
        if self.depth > 0 {
            write!(f, ", depth {}", self.depth)?;
        }
        Ok(())
    }
}

impl Point {
    fn image_options(&self) -> ImageOptions {
        ImageOptions { num_crops: self.num_crops.map(NumCrops::Fixed), ..ImageOptions::default() }
    }

    /// The layout of the images; none without images.
    fn layout(&self, facts: &Facts) -> Result<Option<Layout>> {
        if self.images == 0 {
            return Ok(None);
        }
        let images =
            facts.images.as_deref().with_context(|| format!("`images` {}: this model has no vision", self.images))?;
        let options = self.image_options();
        options.check(Some(images))?;
        images.layout((photo::WIDTH, photo::HEIGHT), self.images, &options).map(Some)
    }

    /// Positions that the images take.
    fn image_tokens(&self, facts: &Facts) -> Result<usize> {
        Ok(self.layout(facts)?.map_or(0, |layout| self.images * layout.tokens))
    }

    /// Positions after those that are in the cache already, before the first generated one.
    fn prompt_len(&self, facts: &Facts) -> Result<usize> {
        Ok(self.image_tokens(facts)? + self.prompt_tokens)
    }

    /// An error unless the model, of which nothing is loaded yet, can do it within `available` bytes.
    pub fn check(&self, facts: &Facts, settings: &Settings, available: usize) -> Result<()> {
        ensure!(self.batch > 0 && self.prompt_tokens > 0, "{self}: there is nothing to measure");
        let len = self.depth + self.prompt_len(facts)?;
        let most = facts.max_position_embeddings;
        let positions = len.saturating_add(self.gen_tokens);
        ensure!(positions <= most, "{self}: these are {positions} positions, and the model's context has {most}");
        if let Some(boundary) = facts.rope_boundary {
            ensure!(
                !(len..positions).contains(&boundary),
                "{self}: the answer goes from {len} to {positions} positions, and after {boundary} this model reads all \
                 anew; end before, or begin after that (`prompt_tokens`, `gen_tokens`, `depth`)"
            );
        }
        self.check_memory(facts, settings, available)
    }

    /// Rows share what is in the cache before, but nothing else. Where points are short, looking for the machine's limits
    /// takes more than they.
    fn check_memory(&self, facts: &Facts, settings: &Settings, available: usize) -> Result<()> {
        let demand = Demand {
            prompt_tokens: self.depth + self.prompt_len(facts)?,
            image_tokens: self.image_tokens(facts)?,
            tower_positions: self.layout(facts)?.map_or(0, |layout| layout.tower_positions),
            max_tokens: self.gen_tokens,
            prefill_step_size: settings.prefill_step_size,
            cache: settings.cache(facts)?,
        };
        let of_row = facts.memory.cache(&Demand { prompt_tokens: self.prompt_len(facts)?, ..demand });
        let needed = facts.memory.total(&demand).saturating_add((self.batch - 1).saturating_mul(of_row));
        let needed = needed.max(facts.memory.weights.saturating_add(limits::bytes()));
        ensure!(
            needed <= available,
            "{self}: this takes {} of memory ({} for weights), and {} are free; smaller numbers, `kv_bits` 8 or a model \
             quantized to fewer bits take less",
            gigabytes(needed),
            gigabytes(facts.memory.weights),
            gigabytes(available)
        );
        Ok(())
    }
}

impl Settings {
    /// How keys and values are kept.
    fn cache(&self, facts: &Facts) -> Result<CacheSettings> {
        let shape = facts.memory.dims.cache;
        let packing = self.kv_bits.map(|bits| shape.packing(bits, None, 0)).transpose()?;
        let settings = CacheSettings { max_size: None, packing };
        shape.check(settings)?;
        Ok(settings)
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is measured.
    pub point: &'a Point,
    /// Steps that are done of those for this point: images, positions of prompts, tokens of rows.
    pub done: usize,
    /// All of them.
    pub total: usize,
}

/// Told how far a run is; may break it off.
pub type OnProgress<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// What is known before anything is measured but the machine: a report without points.
pub fn begin(
    name: &str,
    random: bool,
    adapters: Vec<AdapterFigures>,
    facts: &Facts,
    settings: Settings,
) -> Result<Report> {
    let weight_bytes = facts.memory.weights;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").into(),
        machine: limits::measure(facts.dtype)?,
        model: ModelFigures {
            name: name.into(),
            random,
            parameters: facts.parameters,
            weight_bytes,
            bits_per_weight: 8.0 * weight_bytes as f64 / facts.parameters as f64,
            dtype: format!("{:?}", facts.dtype).to_lowercase(),
            quantization: facts.files.quantization()?.map(|quantization| quantization.default),
            adapters,
        },
        settings,
        points: Vec::new(),
    })
}

/// Measures points, which were checked, and puts them into the report, those before an error, too. False if `progress`
/// breaks off.
pub fn run(
    report: &mut Report,
    model: &Model,
    facts: &Facts,
    points: &[Point],
    progress: &mut OnProgress,
) -> Result<bool> {
    let mut found = Vec::new();
    let ended = measure(report, model, facts, points, progress, &mut found);
    report.points.extend(found.into_iter().map(|measured| measured.with_shares(&report.machine)));
    match ended {
        Err(error) if error.is::<Interrupted>() => Ok(false),
        ended => ended.map(|()| true),
    }
}

fn measure(
    report: &mut Report,
    model: &Model,
    facts: &Facts,
    points: &[Point],
    progress: &mut OnProgress,
    found: &mut Vec<Measured>,
) -> Result<()> {
    let mut measuring = Measuring::new(model, facts, report.settings)?;
    let mut looked = Instant::now();
    for point in points {
        found.push(measuring.point(point, progress).with_context(|| point.to_string())?);
        // Machines drift: what it can do is looked for all along.
        if looked.elapsed() > Duration::from_secs(1) {
            limits::improve(&mut report.machine, facts.dtype)?;
            looked = Instant::now();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_are_products_and_crops_count_where_there_are_images() {
        let sweep = Sweep {
            prompt_tokens: vec![1, 2, 1],
            gen_tokens: vec![3],
            batch: vec![1, 4],
            images: vec![0, 1],
            num_crops: vec![4, 16],
            depth: vec![0, 5],
        };
        let points = sweep.points();
        assert_eq!(points.len(), 2 * 2 * 3 * 2);
        assert_eq!(points.iter().filter(|point| point.num_crops.is_none()).count(), 8);
        assert!(points.iter().all(|point| (point.images == 0) == point.num_crops.is_none()));
        let repeated = points.iter().enumerate().any(|(at, point)| points[..at].contains(point));
        assert!(!repeated);
    }
}
