//! One point of a sweep, measured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use mlx_rs::transforms::eval;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::photo;
use super::report::{Machine, Phase, PhaseName, PointReport};
use super::work::Facts;
use super::{OnProgress, Point, Progress, Settings};
use crate::cache::{CacheSettings, FeatureStore};
use crate::engine::sampler::{Sampler, Sampling};
use crate::engine::sequence::{Part, Sequence, forward, logits};
use crate::memory;
use crate::models::Model;
use crate::processor::image_source::{self, ImageLimits};
use crate::processor::{Prompt, Segment, Tiles};

/// Somebody broke off.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A point with its work: shares wait for what the machine is found to be able to do.
pub(super) struct Measured {
    report: PointReport,
    prefill_flops: f64,
    decode_bytes: f64,
}

impl Measured {
    pub(super) fn with_shares(mut self, machine: &Machine) -> PointReport {
        let work = [
            (PhaseName::Prefill, self.prefill_flops, machine.flops_per_second),
            (PhaseName::Decode, self.decode_bytes, machine.bytes_per_second),
        ];
        for (name, work, limit) in work {
            if let Some(phase) = self.report.phases.get_mut(&name) {
                phase.share = Some(work / phase.seconds.median / limit);
            }
        }
        self.report
    }
}

/// What is needed all along.
pub(super) struct Measuring<'a> {
    model: &'a dyn Model,
    facts: &'a Facts,
    settings: Settings,
    cache: CacheSettings,
    /// Vectors of the photo, in all cuts so far.
    features: FeatureStore,
    photo: Option<Vec<u8>>,
}

/// Seconds of each repetition.
#[derive(Default)]
struct Times {
    prefill: Vec<f64>,
    decode: Vec<f64>,
    /// Positions that a decoded token looks back on, on average.
    positions: f64,
}

impl<'a> Measuring<'a> {
    pub(super) fn new(model: &'a dyn Model, facts: &'a Facts, settings: Settings) -> Result<Self> {
        let cache = settings.cache(facts)?;
        Ok(Self { model, facts, settings, cache, features: FeatureStore::new(usize::MAX), photo: None })
    }

    fn rounds(&self) -> usize {
        self.settings.warmup + self.settings.repetitions
    }

    pub(super) fn point(&mut self, point: &Point, on_progress: &mut OnProgress) -> Result<Measured> {
        let Point { gen_tokens, batch, images, num_crops, depth, .. } = *point;
        let (n, work) = (point.prompt_len()?, self.facts.work);
        let pictures = if num_crops.is_some() { self.rounds() } else { 0 };
        let total = depth + pictures + self.rounds() * batch * (n + gen_tokens);
        let mut done = 0;
        let mut tick = |steps| -> Result<()> {
            done += steps;
            match on_progress(Progress { point, done, total }).is_break() {
                true => Err(Interrupted.into()),
                false => Ok(()),
            }
        };
        memory::reset_peak();
        let mut phases = BTreeMap::new();
        let tiles = match num_crops {
            Some(num_crops) => vec![self.pictures(num_crops, &mut phases, &mut tick)?; images],
            None => Vec::new(),
        };
        let mut rows = Vec::new();
        for row in 0..batch {
            let prompt = self.prompt(row, point, &tiles);
            rows.push(Sequence::with(self.model, &prompt, self.cache, &mut self.features)?);
        }
        drop(tiles);
        let times = self.rows(rows, point, &mut tick)?;
        phases.insert(PhaseName::Prefill, Phase::new(batch * n, &times.prefill));
        if gen_tokens > 0 {
            let phase = Phase::new(batch * gen_tokens, &times.decode);
            let per_second_and_row = Some(phase.per_second.median / batch as f64);
            phases.insert(PhaseName::Decode, Phase { per_second_and_row, ..phase });
        }
        let (image_tokens, peak_memory_bytes) = (point.image_tokens()?, memory::peak());
        Ok(Measured {
            report: PointReport { point: *point, image_tokens, peak_memory_bytes, phases },
            prefill_flops: batch as f64 * work.prefill_flops(n, depth),
            decode_bytes: gen_tokens as f64 * work.step_bytes(batch, times.positions, self.cache),
        })
    }

    /// Measures what becomes of one picture, and returns its tiles. The first time is a warm-up.
    fn pictures(
        &mut self,
        num_crops: u32,
        phases: &mut BTreeMap<PhaseName, Phase>,
        tick: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Tiles> {
        let config = self.facts.files.preprocessor.as_ref().context("a model without vision")?;
        let photo = match &mut self.photo {
            Some(photo) => photo,
            none => none.insert(photo::jpeg()?),
        };
        let cut = || -> Result<Tiles> {
            let image = image_source::decode(photo, "photo", &ImageLimits::default())?;
            Tiles::cut(&image, num_crops, config.image_mean, config.image_std)
        };
        let tiles = cut()?;
        self.features.encode(self.model, &tiles)?;
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..self.settings.warmup + self.settings.repetitions {
            let start = Instant::now();
            cut()?;
            let decoded = start.elapsed();
            let features = self.model.image_features(&tiles)?;
            features.eval()?;
            let encoded = start.elapsed();
            self.model.project_image(&features, &tiles)?.eval()?;
            let projected = start.elapsed();
            if round >= self.settings.warmup {
                let parts = [decoded, encoded - decoded, projected - encoded];
                times.iter_mut().zip(parts).for_each(|(times, part)| times.push(part.as_secs_f64()));
            }
            tick(1)?;
        }
        mlx_rs::memory::clear_cache()?;
        let names = [PhaseName::ImageDecode, PhaseName::Encoder, PhaseName::Projector];
        phases.extend(names.into_iter().zip(times).map(|(name, times)| (name, Phase::new(1, &times))));
        Ok(tiles)
    }

    /// Random ids that all rows begin with, the pictures, and random ids of this row.
    fn prompt(&self, row: usize, point: &Point, tiles: &[Tiles]) -> Prompt {
        let ids = |seed: usize, len: usize| -> Segment {
            let mut random = ChaCha12Rng::seed_from_u64(seed as u64);
            Segment::Text((0..len).map(|_| random.random_range(0..self.facts.vocab_size)).collect())
        };
        let mut segments = vec![ids(0, point.depth)];
        segments.extend((0..tiles.len()).map(Segment::Image));
        segments.push(ids(1 + row, point.prompt_tokens));
        Prompt { text: String::new(), segments, images: tiles.to_vec() }
    }

    /// Reads rows of which `depth` positions are known already, and generates.
    fn rows(
        &self,
        mut fresh: Vec<Sequence>,
        point: &Point,
        tick: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Times> {
        let Point { gen_tokens, depth, .. } = *point;
        let Settings { warmup, prefill_step_size: step_size, .. } = self.settings;
        while fresh[0].cache.len() < depth {
            let before = fresh[0].cache.len();
            fresh[0].prefill_to(depth.min(before + step_size), step_size)?;
            tick(fresh[0].cache.len() - before)?;
        }
        let mut times = Times::default();
        for round in 0..self.rounds() {
            let mut rows = fresh.clone();
            for row in rows.iter_mut().filter(|_| depth > 0) {
                row.cache = fresh[0].cache.fork(depth);
            }
            let mut tokens = vec![0; rows.len()];
            let start = Instant::now();
            while rows.iter().any(|row| row.pending() > 0) {
                tick(step(&mut rows, &mut tokens, step_size)?)?;
            }
            let prefill = start.elapsed();
            let kept = rows[0].cache.kept();
            let start = Instant::now();
            for _ in 0..gen_tokens {
                rows.iter_mut().zip(&tokens).for_each(|(row, &token)| {
                    row.push(token);
                });
                tick(step(&mut rows, &mut tokens, step_size)?)?;
            }
            let decode = start.elapsed();
            if round >= warmup {
                times.prefill.push(prefill.as_secs_f64());
                times.decode.push(decode.as_secs_f64());
            }
            times.positions = (kept + 1 + rows[0].cache.kept()) as f64 / 2.0;
        }
        Ok(times)
    }
}

/// One step as the engine's batches take it: a pending token of a row, and of prompts what is left of `step_size`, first
/// come, first served. Rows that come to their end get their next token, the best one. Returns the positions computed.
fn step(rows: &mut [Sequence], tokens: &mut [u32], step_size: usize) -> Result<usize> {
    let model = rows.first().context("there are no rows")?.model();
    let (mut left, mut computed) = (step_size.max(1), 0);
    let (mut parts, mut ends, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for (at, sequence) in rows.iter_mut().enumerate() {
        let pending = sequence.pending();
        let n = if pending == 1 { 1 } else { pending.min(left) };
        left -= if pending == 1 { 0 } else { n };
        computed += n;
        if n > 0 && n == pending {
            ends.push(at);
            positions.push(computed - 1);
        }
        if n > 0 {
            parts.push(Part { sequence, n, proposed: &[] });
        }
    }
    let hidden = forward(&mut parts)?;
    let logits = if ends.is_empty() { None } else { Some(logits(model, &hidden, &positions)?) };
    drop(hidden);
    eval(rows.iter().flat_map(|row| row.cache.arrays()).chain(&logits))?;
    if computed > 64 {
        // Buffers of a chunk's size are of no use to the next step, which is smaller.
        mlx_rs::memory::clear_cache()?;
    }
    if let Some(logits) = &logits {
        let mut sampler = Sampler::new(Sampling::default());
        let logits = logits.try_as_slice::<f32>()?.chunks(logits.dim(1) as usize);
        for (at, logits) in ends.into_iter().zip(logits) {
            tokens[at] = sampler.sample(&mut logits.to_vec(), &[], &[]);
        }
    }
    Ok(computed)
}
