//! What a gradient does to a parameter: one rule a file, and what all of them share: the state, and how it is kept.
//!
//! All numbers are float32. The rules are those of `torch.optim` and, for Adafactor, of transformers; golden numbers are in
//! `tests/golden/optim`.

mod adafactor;
mod adamw;
mod lion;
mod muon;
mod sgd;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};
use serde::{Deserialize, Serialize};

pub use adafactor::Adafactor;
pub use adamw::AdamW;
pub use lion::Lion;
pub use muon::Muon;
pub use sgd::Sgd;

/// Bytes of parameters that are computed at a time: their intermediate results are gone before the next are made.
const AT_A_TIME: usize = 64 << 20;

/// An optimizer's kind, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Settings {
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Second moments of rows and columns only.
    Adafactor(Adafactor),
    /// The sign of the momentum.
    Lion(Lion),
    /// Momentum made orthogonal.
    Muon(Muon),
}

impl Settings {
    /// What the kind is called, on the command line and in the names of the state's arrays.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AdamW(_) => "adamw",
            Self::Sgd(_) => "sgd",
            Self::Adafactor(_) => "adafactor",
            Self::Lion(_) => "lion",
            Self::Muon(_) => "muon",
        }
    }

    /// Bytes of the state of a parameter.
    pub fn state_bytes(&self, path: &str, shape: &[i32]) -> usize {
        let slots = self.rule().slots(path, shape);
        slots.iter().map(|(_, shape)| shape.iter().map(|&dim| dim as usize).product::<usize>() * size_of::<f32>()).sum()
    }

    fn rule(&self) -> &dyn Rule {
        match self {
            Self::AdamW(rule) => rule,
            Self::Sgd(rule) => rule,
            Self::Adafactor(rule) => rule,
            Self::Lion(rule) => rule,
            Self::Muon(rule) => rule,
        }
    }
}

/// The step that is taken.
#[derive(Debug, Clone, Copy)]
struct At {
    /// 1 for the first one.
    step: u32,
    learning_rate: f64,
}

/// How one parameter is changed.
trait Rule {
    /// An error that names a setting without sense.
    fn check(&self) -> Result<()>;

    /// What is remembered of a parameter of this name and shape from step to step: arrays of zeros in the beginning.
    fn slots(&self, path: &str, shape: &[i32]) -> Vec<(&'static str, Vec<i32>)>;

    /// The parameter after the step. `slots` has the arrays that [`Rule::slots`] names.
    fn update(&self, parameter: &Array, gradient: &Array, slots: &mut [Array], at: At) -> Result<Array, Exception>;
}

/// An optimizer with its state.
pub struct Optimizer {
    settings: Settings,
    parameters: Vec<Parameter>,
    steps: u32,
}

struct Parameter {
    path: String,
    shape: Vec<i32>,
    slots: Vec<Array>,
}

impl Optimizer {
    /// For parameters with these names and shapes, in the order in which [`Optimizer::step`] will be given them.
    ///
    /// # Errors
    /// When a setting makes no sense.
    pub fn new(settings: Settings, parameters: &[(String, Vec<i32>)]) -> Result<Self> {
        settings.rule().check()?;
        let parameter = |(path, shape): &(String, Vec<i32>)| {
            let zeros = settings.rule().slots(path, shape).into_iter().map(|(_, shape)| Array::zeros::<f32>(&shape));
            Ok(Parameter { path: path.clone(), shape: shape.clone(), slots: zeros.collect::<Result<_, Exception>>()? })
        };
        let parameters = parameters.iter().map(parameter).collect::<Result<_>>()?;
        Ok(Self { settings, parameters, steps: 0 })
    }

    /// The kind, with its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Steps that were taken, those before [`Optimizer::restore`] included.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Changes the parameters, float32 as their gradients, and computes all there is to compute.
    ///
    /// # Errors
    /// When the arrays are not those that [`Optimizer::new`] was told of, or cannot be computed. Of the latter parameters and
    /// state are left half changed.
    pub fn step(&mut self, parameters: &mut [Array], gradients: &[Array], learning_rate: f32) -> Result<()> {
        self.check(parameters, "parameter")?;
        self.check(gradients, "gradient")?;
        let step = self.steps.checked_add(1).context("there were too many steps to count")?;
        let at = At { step, learning_rate: learning_rate.into() };
        let rule = self.settings.rule();
        let mut pending = Pending::default();
        for ((own, parameter), gradient) in self.parameters.iter_mut().zip(parameters).zip(gradients) {
            *parameter = rule
                .update(parameter, gradient, &mut own.slots, at)
                .with_context(|| format!("cannot update {}", own.path))?;
            pending.add(std::iter::once(&*parameter).chain(&own.slots))?;
        }
        pending.eval()?;
        self.steps = step;
        Ok(())
    }

    fn check(&self, arrays: &[Array], what: &str) -> Result<()> {
        let (found, expected) = (arrays.len(), self.parameters.len());
        ensure!(found == expected, "the optimizer has {expected} parameters, and was given {found} {what}s");
        for (array, Parameter { path, shape, .. }) in arrays.iter().zip(&self.parameters) {
            check_array(array, shape).with_context(|| format!("the {what} of {path}"))?;
        }
        Ok(())
    }

    /// All that is remembered from step to step: `KIND.SLOT.PATH` float32, and `KIND.step` `[]` uint32.
    pub fn state(&self) -> BTreeMap<String, Array> {
        let arrays = self.parameters.iter().flat_map(|parameter| {
            let slots = self.settings.rule().slots(&parameter.path, &parameter.shape);
            let keys = slots.into_iter().map(|(slot, _)| self.key(slot, &parameter.path));
            keys.zip(parameter.slots.iter().cloned()).collect::<Vec<_>>()
        });
        arrays.chain([(self.step_key(), Array::from_slice(&[self.steps], &[]))]).collect()
    }

    /// Goes on from what [`Optimizer::state`] gave: the next steps are, bit for bit, those that would have followed.
    ///
    /// # Errors
    /// When an array is missing, left over or of another shape, as that of another kind or of other parameters; the
    /// optimizer is as it was then.
    pub fn restore(&mut self, mut state: BTreeMap<String, Array>) -> Result<()> {
        let mut take = |key: String, shape: &[i32], dtype: Dtype| -> Result<Array> {
            let Some(array) = state.remove(&key) else {
                bail!(
                    "the optimizer's state has no {key}; go on with the optimizer and the parameters it was saved with"
                );
            };
            ensure!(
                array.shape() == shape && array.dtype() == dtype,
                "{key} of the optimizer's state is {:?} {:?}, where {dtype:?} {shape:?} is expected",
                array.dtype(),
                array.shape()
            );
            Ok(array)
        };
        let steps = take(self.step_key(), &[], Dtype::Uint32)?;
        let mut restored = Vec::new();
        for Parameter { path, shape, .. } in &self.parameters {
            let slots = self.settings.rule().slots(path, shape).into_iter();
            let slots = slots.map(|(slot, shape)| take(self.key(slot, path), &shape, Dtype::Float32));
            restored.push(slots.collect::<Result<Vec<_>>>()?);
        }
        if let Some(key) = state.keys().next() {
            bail!(
                "{key} of the optimizer's state belongs to no parameter that is trained; go on with those it was saved with"
            );
        }
        // Arrays of a file are read when they are used, which may be when the file has changed.
        mlx_rs::transforms::eval(restored.iter().flatten()).context("cannot read the optimizer's state")?;
        self.steps = steps.try_item_exact().context("cannot read the optimizer's state")?;
        for (parameter, slots) in self.parameters.iter_mut().zip(restored) {
            parameter.slots = slots;
        }
        Ok(())
    }

    fn key(&self, slot: &str, path: &str) -> String {
        format!("{}.{slot}.{path}", self.settings.name())
    }

    fn step_key(&self) -> String {
        format!("{}.step", self.settings.name())
    }
}

/// Arrays that are not computed yet.
#[derive(Default)]
struct Pending {
    arrays: Vec<Array>,
    bytes: usize,
}

impl Pending {
    fn add<'a>(&mut self, arrays: impl Iterator<Item = &'a Array>) -> Result<(), Exception> {
        for array in arrays {
            self.bytes += array.nbytes();
            self.arrays.push(array.clone());
        }
        if self.bytes >= AT_A_TIME { self.eval() } else { Ok(()) }
    }

    fn eval(&mut self) -> Result<(), Exception> {
        self.bytes = 0;
        mlx_rs::transforms::eval(&std::mem::take(&mut self.arrays))
    }
}

fn check_array(array: &Array, shape: &[i32]) -> Result<()> {
    ensure!(array.shape() == shape, "has shape {:?}, where {shape:?} is expected", array.shape());
    ensure!(array.dtype() == Dtype::Float32, "is {:?}, where float32 is expected", array.dtype());
    Ok(())
}

/// `x · by`.
fn scaled(x: &Array, by: f64) -> Result<Array, Exception> {
    x.multiply(Array::from_f32(by as f32))
}

/// `decay · mean + (1 − decay) · x`, the mean over time in which `x` is the newest.
fn moving(mean: &Array, x: &Array, decay: f64) -> Result<Array, Exception> {
    scaled(mean, decay)?.add(scaled(x, 1.0 - decay)?)
}

/// Weight decay apart from the gradient (Loshchilov & Hutter 2019, algorithm 2): `(1 − learning_rate · decay) · parameter`.
fn decayed(parameter: &Array, weight_decay: f64, at: At) -> Result<Array, Exception> {
    if weight_decay == 0.0 { Ok(parameter.clone()) } else { scaled(parameter, 1.0 - at.learning_rate * weight_decay) }
}

/// An error unless `value` lies in `[0, 1)`.
fn check_decay(name: &str, value: f64) -> Result<()> {
    ensure!((0.0..1.0).contains(&value), "{name} is {value}, and must be at least 0 and below 1");
    Ok(())
}

/// An error unless `value` is a number and not negative.
fn check_positive(name: &str, value: f64) -> Result<()> {
    ensure!(value.is_finite() && value >= 0.0, "{name} is {value}, and must be 0 or more");
    Ok(())
}
