//! One point of a sweep, measured.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use mlx_rs::transforms::eval;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::report::{Machine, Phase, PhaseName, PointReport};
use super::work::Facts;
use super::{OnProgress, Point, Progress, Settings, photo};
use crate::cache::{CacheSettings, ImageKey};
use crate::engine::sampler::{Sampler, Sampling};
use crate::engine::sequence::{self, Input, Part, Sequence};
use crate::memory;
use crate::models::Model;
use crate::processor::images::{self, ImageLimits};

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
    model: &'a Model,
    facts: &'a Facts,
    settings: Settings,
    cache: CacheSettings,
    photo: Option<Vec<u8>>,
    /// The photo as it was measured, by the most tiles that it is cut into and the number of images beside it.
    images: BTreeMap<(Option<u32>, usize), Image>,
}

/// An image that was measured.
#[derive(Clone)]
struct Image {
    input: Input,
    phases: [(PhaseName, Phase); 3],
    peak: usize,
}

/// Seconds of each repetition.
#[derive(Default)]
struct Times {
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

impl<'a> Measuring<'a> {
    pub(super) fn new(model: &'a Model, facts: &'a Facts, settings: Settings) -> Result<Self> {
        let cache = settings.cache(facts)?;
        Ok(Self { model, facts, settings, cache, photo: None, images: BTreeMap::new() })
    }

    fn rounds(&self) -> usize {
        self.settings.warmup + self.settings.repetitions
    }

    pub(super) fn point(&mut self, point: &Point, on_progress: &mut OnProgress) -> Result<Measured> {
        let Point { gen_tokens, batch, images, num_crops, depth, .. } = *point;
        let (n, work) = (point.prompt_len(self.facts)?, &self.facts.work);
        let fresh = images > 0 && !self.images.contains_key(&(num_crops, images));
        let encoded = if fresh { self.rounds() } else { 0 };
        let total = depth + encoded + self.rounds() * batch * (n + gen_tokens);
        let mut done = 0;
        let mut tick = |steps| -> Result<()> {
            done += steps;
            match on_progress(Progress { point, done, total }).is_break() {
                true => Err(Interrupted.into()),
                false => Ok(()),
            }
        };
        let image = (images > 0).then(|| self.image(point, &mut tick)).transpose()?;
        reset_peak()?;
        let rows = (0..batch).map(|row| self.row(row, point, image.as_ref())).collect();
        let times = self.rows(rows, point, &mut tick)?;
        let image_peak = image.as_ref().map_or(0, |image| image.peak);
        let mut phases: BTreeMap<_, _> = image.into_iter().flat_map(|image| image.phases).collect();
        phases.insert(PhaseName::Prefill, Phase::new(batch * n, &times.prefill));
        if gen_tokens > 0 {
            let phase = Phase::new(batch * gen_tokens, &times.decode);
            let per_second_and_row = Some(phase.per_second.median / batch as f64);
            phases.insert(PhaseName::Decode, Phase { per_second_and_row, ..phase });
        }
        let (image_tokens, peak_memory_bytes) = (point.image_tokens(self.facts)?, memory::peak().max(image_peak));
        Ok(Measured {
            report: PointReport { point: *point, image_tokens, peak_memory_bytes, phases },
            prefill_flops: batch as f64 * work.prefill_flops(n, depth),
            decode_bytes: work.decode_bytes(batch, gen_tokens, depth + n, self.cache),
        })
    }

    /// An image from its file to its vectors, measured the first time.
    fn image(&mut self, point: &Point, tick: &mut dyn FnMut(usize) -> Result<()>) -> Result<Image> {
        let key = (point.num_crops, point.images);
        if let Some(known) = self.images.get(&key) {
            return Ok(known.clone());
        }
        let (vision, facts) = (self.model.vision()?, self.facts);
        let (processor, layout) =
            facts.images.as_deref().zip(point.layout(facts)?).context("a model without vision")?;
        let photo = match &mut self.photo {
            Some(photo) => photo,
            none => none.insert(photo::jpeg()?),
        };
        reset_peak()?;
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        let mut input = None;
        for round in 0..self.settings.warmup + self.settings.repetitions {
            let start = Instant::now();
            let image = images::decode(photo, "photo", &ImageLimits::default())?;
            let pixels = processor.pixels(&image, &layout);
            let decoded = start.elapsed();
            let tower = vision.encode(&[&pixels])?;
            eval(&tower)?;
            let encoded = start.elapsed();
            let features = vision.project(&tower, &[&pixels])?.remove(0);
            features.eval()?;
            let projected = start.elapsed();
            if round >= self.settings.warmup {
                let parts = [decoded, encoded - decoded, projected - encoded];
                times.iter_mut().zip(parts).for_each(|(times, part)| times.push(part.as_secs_f64()));
            }
            input = Some(Input::Image { features, key: ImageKey::of(&pixels), extent: layout.extent });
            tick(1)?;
        }
        let [decode, encode, project] = times.map(|times| Phase::new(1, &times));
        let image = Image {
            input: input.context("there are no repetitions")?,
            phases: [(PhaseName::ImageDecode, decode), (PhaseName::Encoder, encode), (PhaseName::Projector, project)],
            peak: memory::peak(),
        };
        self.images.insert(key, image.clone());
        Ok(image)
    }

    /// Random ids that all rows begin with, the images, and random ids of this row.
    fn row(&self, row: usize, point: &Point, image: Option<&Image>) -> Sequence<'a> {
        let ids = |seed: usize, len: usize| {
            let mut random = ChaCha12Rng::seed_from_u64(seed as u64);
            Input::Tokens((0..len).map(|_| random.random_range(0..self.facts.vocab_size)).collect())
        };
        let mut inputs = vec![ids(0, point.depth)];
        inputs.extend(image.into_iter().flat_map(|image| vec![image.input.clone(); point.images]));
        inputs.push(ids(1 + row, point.prompt_tokens));
        Sequence::of(self.model, inputs, self.cache)
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
        }
        Ok(times)
    }
}

/// Forgets buffers of what was measured before, which would count.
fn reset_peak() -> Result<()> {
    mlx_rs::memory::clear_cache()?;
    memory::reset_peak();
    Ok(())
}

/// One step as the engine's batches take it: a pending token of a row, and of prompts what is left of `step_size`, first
/// come, first served. Rows that come to their end get their next token, the best one. Returns the positions computed.
fn step(rows: &mut [Sequence], tokens: &mut [u32], step_size: usize) -> Result<usize> {
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
    if let Some(logits) = sequence::step(&mut parts, &positions)? {
        let mut sampler = Sampler::new(Sampling::default());
        let logits = logits.try_as_slice::<f32>()?.chunks(logits.dim(1) as usize);
        for (at, logits) in ends.into_iter().zip(logits) {
            tokens[at] = sampler.sample(&mut logits.to_vec(), &[], &[]);
        }
    }
    Ok(computed)
}
