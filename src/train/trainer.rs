//! The training loop: batches, steps, validation, and a file from which a run goes on as if it had not ended.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use mlx_rs::Array;
use mlx_rs::transforms::eval;
use serde_json::{Map, Value};

use super::batch::Batches;
use super::clip::clip_grad_norm;
use super::evaluate::evaluate;
use super::gradient::Trained;
use super::metrics::{MetricsFile, Record, Training, Validation};
use super::optimizer::{self, Optimizer};
use super::schedule::Schedule;
use super::state::{self, Progress, Saved};
use crate::adapter::{Adapter, Format};
use crate::checkpoint::Param;
use crate::checkpoint::low_rank::{Dropout, seed_of};
use crate::device::on_cpu;
use crate::engine::{Engine, Request};
use crate::memory;
use crate::processor::Prompt;

/// How a run goes; what is trained, and on what, is told elsewhere.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Steps in all.
    pub steps: usize,
    /// Batches whose gradients make up a step.
    pub grad_accumulation_steps: usize,
    /// Gradients are made shorter that are longer than this.
    pub max_grad_norm: Option<f32>,
    /// Keep only what enters the layers, and compute them twice.
    pub grad_checkpoint: bool,
    /// The optimizer.
    pub optimizer: optimizer::Settings,
    /// Its learning rate.
    pub schedule: Schedule,
    /// Where the random numbers start.
    pub seed: u64,
    /// Steps between two lines about the loss.
    pub steps_per_report: usize,
    /// Steps between two validations.
    pub steps_per_eval: usize,
    /// Steps between two files to go on from.
    pub save_every: usize,
    /// Validations without a better one after which the run ends.
    pub patience: Option<usize>,
    /// What else the run depends on, by name; a run is only gone on with where all of it is the same.
    pub identity: Map<String, Value>,
}

/// What is told while a run goes on.
pub enum Event<'a> {
    /// A batch was read: the step that is being taken, and its tokens.
    Batch {
        /// The step, the first of which is 1.
        step: usize,
        /// Positions of the batch.
        tokens: usize,
    },
    /// So many steps were taken, with these figures since the last such event.
    Report(&'a Training),
    /// So many rows of so many are validated.
    Validating {
        /// Those that are done.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// The held-out rows were looked at; whether it was the best time so far.
    Validated(&'a Validation, bool),
    /// What the model says to a prompt.
    Sample {
        /// The prompt.
        prompt: &'a str,
        /// The answer.
        text: &'a str,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All steps were taken.
    Done,
    /// Validation did not get better any more.
    Stopped,
    /// Somebody broke it off. It can be gone on with.
    Interrupted,
}

/// A run.
pub struct Trainer<'e> {
    engine: &'e Engine,
    settings: Settings,
    trained: Trained<'e>,
    /// The tensors, float32: the model may have them in another type.
    values: Vec<Array>,
    optimizer: Optimizer,
    /// Scales of the adapter, and its other properties; its tensors are the run's.
    adapter: Adapter,
    dropout: Option<Rc<Dropout>>,
    train: Batches<'e>,
    valid: Option<Batches<'e>>,
    samples: Vec<(String, Prompt)>,
    progress: Progress,
    metrics: MetricsFile,
    extra: Map<String, Value>,
    folder: PathBuf,
}

/// The files that a run writes into its folder.
pub const FILES: [&str; 6] =
    [state::FILE, "metrics.jsonl", "adapters.safetensors", "adapter_config.json", "loss.png", "loss.svg"];

/// The file of the run's figures.
pub fn metrics_path(folder: &Path) -> PathBuf {
    folder.join("metrics.jsonl")
}

type OnEvent<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// What a run is made of.
pub struct Run<'e> {
    /// With the model that is trained.
    pub engine: &'e Engine,
    /// The tensors that are trained.
    pub params: BTreeMap<String, Param>,
    /// The adapter that they belong to.
    pub adapter: Adapter,
    /// Of the adapter.
    pub dropout: Option<Rc<Dropout>>,
    /// What is learnt.
    pub train: Batches<'e>,
    /// What is held out.
    pub valid: Option<Batches<'e>>,
    /// Prompts whose answers are shown.
    pub samples: Vec<(String, Prompt)>,
    /// What the adapter's configuration says besides.
    pub extra: Map<String, Value>,
    /// Where everything is written.
    pub folder: &'e Path,
}

impl<'e> Trainer<'e> {
    /// A run that begins, or with `resume` goes on.
    pub fn new(run: Run<'e>, settings: Settings, resume: bool) -> Result<Self> {
        if on_cpu() {
            mlx_cpu::keep_freed_memory();
        }
        let Run { engine, params, adapter, dropout, train, valid, samples, extra, folder } = run;
        let (names, params): (Vec<_>, Vec<_>) = params.into_iter().unzip();
        let values = params.iter().map(|param| param.get().as_dtype(mlx_rs::Dtype::Float32));
        let mut values = values.collect::<Result<Vec<_>, _>>()?;
        let shapes: Vec<(String, Vec<i32>)> =
            names.iter().zip(&values).map(|(name, value)| (name.clone(), value.shape().to_vec())).collect();
        let mut optimizer = Optimizer::new(settings.optimizer.clone(), &shapes)?;
        let mut progress = Progress::default();
        let metrics = if resume {
            let mut saved = Saved::read(folder, &settings.identity)?;
            for (name, value) in names.iter().zip(&mut values) {
                let before = saved.values.remove(name).filter(|before| before.shape() == value.shape());
                *value = before.with_context(|| format!("the run in {} did not train {name}", folder.display()))?;
            }
            optimizer.restore(saved.optimizer)?;
            progress = saved.progress;
            let Progress { step, looked_at, .. } = progress;
            MetricsFile::resume(&metrics_path(folder), |record| match record {
                Record::Training(record) => record.step <= step as u64,
                Record::Validation(record) => looked_at.is_some_and(|looked_at| record.step <= looked_at as u64),
            })?
        } else {
            MetricsFile::create(&metrics_path(folder))?
        };
        eval(&values)?;
        let trained = Trained {
            model: engine.model(),
            params: names.into_iter().zip(params).collect(),
            checkpoint: settings.grad_checkpoint,
        };
        let trainer = Self {
            engine,
            settings,
            trained,
            values,
            optimizer,
            adapter,
            dropout,
            train,
            valid,
            samples,
            progress,
            metrics,
            extra,
            folder: folder.to_owned(),
        };
        trainer.show_values()?;
        Ok(trainer)
    }

    /// Steps that were taken.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Takes the steps that are left. `on_event` may break off at any time; then the run's file is written.
    pub fn run(&mut self, on_event: &mut OnEvent) -> Result<End> {
        let mut clock = Clock::new(self.progress.tokens);
        loop {
            let step = self.progress.step;
            let last = step >= self.settings.steps;
            if self.is_to_be_looked_at(last) {
                let started = Instant::now();
                if !self.validate(on_event)? {
                    self.save()?;
                    return Ok(End::Interrupted);
                }
                self.sample(on_event)?;
                self.progress.looked_at = Some(step);
                clock.since += started.elapsed();
            }
            let stopped = self.settings.patience.is_some_and(|patience| self.progress.waited >= patience);
            if last || stopped {
                self.save()?;
                return Ok(if last { End::Done } else { End::Stopped });
            }
            if step > 0 && step.is_multiple_of(self.settings.save_every) {
                self.save()?;
            }
            let Some(taken) = self.step(on_event)? else {
                self.save()?;
                return Ok(End::Interrupted);
            };
            let step = self.progress.step;
            if step == self.settings.steps || step.is_multiple_of(self.settings.steps_per_report) {
                let report = self.report(&taken, &mut clock);
                let _ = on_event(Event::Report(&report));
                self.metrics.write(&Record::Training(report))?;
            }
        }
    }

    fn is_to_be_looked_at(&self, last: bool) -> bool {
        let step = self.progress.step;
        (last || step > 0 && step.is_multiple_of(self.settings.steps_per_eval)) && self.progress.looked_at != Some(step)
    }

    /// One step; none if it was broken off, and nothing has changed.
    fn step(&mut self, on_event: &mut OnEvent) -> Result<Option<Taken>> {
        let step = self.progress.step + 1;
        let accumulated = self.settings.grad_accumulation_steps;
        let (mut sums, mut loss, mut targets, mut read): (Option<Vec<Array>>, _, _, _) = (None, 0.0, 0, 0);
        for part in 0..accumulated {
            let index = (step - 1) * accumulated + part;
            let batch = self.train.get(index)?;
            let tokens = batch.tokens();
            if on_event(Event::Batch { step, tokens }).is_break() {
                return Ok(None);
            }
            if let Some(dropout) = &self.dropout {
                dropout.set_seed(Some(seed_of(self.settings.seed, &format!("dropout {index}"))));
            }
            let (part, gradients) = self.trained.loss_and_gradients(&batch)?;
            loss += f64::from(part);
            targets += batch.targets.len();
            read += tokens;
            sums = Some(match sums {
                None => gradients,
                Some(sums) => sums.iter().zip(gradients).map(|(sum, new)| sum.add(new)).collect::<Result<_, _>>()?,
            });
            eval(sums.iter().flatten())?;
        }
        if let Some(dropout) = &self.dropout {
            dropout.set_seed(None);
        }
        let mut gradients = sums.context("a step has at least one batch")?;
        let share = Array::from_f32(1.0 / targets.max(1) as f32);
        for gradient in &mut gradients {
            *gradient = gradient.multiply(&share)?;
        }
        let longest = self.settings.max_grad_norm.unwrap_or(f32::INFINITY);
        let grad_norm = clip_grad_norm(&mut gradients, longest)?;
        ensure!(
            grad_norm.is_finite() && loss.is_finite(),
            "step {step}: the loss is {loss} and the gradients' norm {grad_norm}: training has come apart; take a lower \
             `learning_rate`, or more `warmup_steps`"
        );
        let learning_rate = self.settings.schedule.at(step);
        self.optimizer.step(&mut self.values, &gradients, learning_rate)?;
        self.show_values()?;
        mlx_rs::memory::clear_cache()?;
        let progress = &mut self.progress;
        progress.step = step;
        progress.tokens += read as u64;
        progress.unreported.0 += loss;
        progress.unreported.1 += targets as f64;
        Ok(Some(Taken { learning_rate, grad_norm }))
    }

    fn report(&mut self, taken: &Taken, clock: &mut Clock) -> Training {
        let (loss, targets) = std::mem::take(&mut self.progress.unreported);
        let (tokens, seconds) = (self.progress.tokens - clock.tokens, clock.since.elapsed().as_secs_f64());
        *clock = Clock::new(self.progress.tokens);
        self.progress.seconds += seconds;
        Training {
            step: self.progress.step as u64,
            epoch: self.train.epoch_at(self.progress.step * self.settings.grad_accumulation_steps),
            loss: (loss / targets.max(1.0)) as f32,
            learning_rate: taken.learning_rate,
            grad_norm: taken.grad_norm,
            tokens: self.progress.tokens,
            tokens_per_second: (tokens as f64 / seconds.max(1e-9)) as f32,
            seconds: self.progress.seconds,
            peak_memory: memory::peak() as u64,
        }
    }

    /// Looks at the held-out rows; false if it was broken off.
    fn validate(&mut self, on_event: &mut OnEvent) -> Result<bool> {
        let Some(valid) = &mut self.valid else { return Ok(true) };
        let Some(scores) =
            evaluate(&self.trained, valid, &mut |done, total| on_event(Event::Validating { done, total }))?
        else {
            return Ok(false);
        };
        let progress = &mut self.progress;
        let step = progress.step;
        let is_best = progress.best.is_none_or(|(_, best)| scores.loss() < best);
        let validation = Validation {
            step: step as u64,
            val_loss: scores.loss() as f32,
            val_accuracy: Some(scores.token_accuracy() as f32),
            val_exact: Some(scores.exact() as f32),
            val_tokens: Some(scores.targets as u64),
        };
        if is_best {
            progress.best = Some((step, scores.loss()));
            progress.waited = 0;
            self.write_adapter()?;
        } else {
            self.progress.waited += 1;
        }
        let _ = on_event(Event::Validated(&validation, is_best));
        self.metrics.write(&Record::Validation(validation))?;
        Ok(true)
    }

    /// What the model says to the prompts that are to be shown.
    fn sample(&self, on_event: &mut OnEvent) -> Result<()> {
        const MAX_TOKENS: usize = 64;
        for (text, prompt) in &self.samples {
            let generation =
                self.engine.generate(Request::new(prompt.clone(), MAX_TOKENS), |_| ControlFlow::Continue(()))?;
            let _ = on_event(Event::Sample { prompt: text, text: &generation.text });
        }
        Ok(())
    }

    /// Gives the model the tensors' values.
    fn show_values(&self) -> Result<()> {
        for ((_, param), value) in self.trained.params.iter().zip(&self.values) {
            let dtype = param.get().dtype();
            param.replace(value.as_dtype(dtype)?);
        }
        Ok(())
    }

    /// Writes the file to go on from, and without validation the adapter: with it, that of the best time is kept.
    fn save(&mut self) -> Result<()> {
        if self.progress.best.is_none() {
            self.write_adapter()?;
        }
        let names = self.trained.params.iter().map(|(name, _)| name.clone());
        let values = names.zip(self.values.iter().cloned()).collect();
        let saved = Saved { progress: self.progress.clone(), values, optimizer: self.optimizer.state() };
        saved.write(&self.folder, &self.settings.identity)
    }

    fn write_adapter(&mut self) -> Result<()> {
        for ((name, _), value) in self.trained.params.iter().zip(&self.values) {
            put(&mut self.adapter, name, value)?;
        }
        self.adapter.write(&self.folder, Format::MlxLm, &self.extra)
    }
}

/// Puts a tensor's value into its place in the adapter.
fn put(adapter: &mut Adapter, name: &str, value: &Array) -> Result<()> {
    let (path, part) = name.rsplit_once('.').unwrap_or((name, ""));
    match (adapter.modules.get_mut(path), part) {
        (Some(module), "lora_a") => module.a = value.clone(),
        (Some(module), "lora_b") => module.b = value.clone(),
        (Some(module), "m") => module.magnitude = Some(value.clone()),
        _ => {
            let Some(tensor) = adapter.tensors.get_mut(name) else { bail!("{name} is no part of the adapter") };
            // In the shape and the type of the checkpoint's.
            *tensor = value.reshape(tensor.shape())?.as_dtype(tensor.dtype())?;
        }
    }
    Ok(())
}

/// What is told of a step besides its loss.
struct Taken {
    learning_rate: f32,
    grad_norm: f32,
}

/// When the last report was, and how many tokens had been read then.
struct Clock {
    since: Instant,
    tokens: u64,
}

impl Clock {
    fn new(tokens: u64) -> Self {
        Self { since: Instant::now(), tokens }
    }
}
