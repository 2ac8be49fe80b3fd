//! A model that is ready to be trained.

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Context, Result};
use mlx_rs::Dtype;

use super::plan::Plan;
use crate::adapter::Adapter;
use crate::checkpoint::low_rank::{Attached, Dropout};
use crate::checkpoint::{ModelFiles, Param, Weights};
use crate::engine::{Engine, EngineOptions};
use crate::models;
use crate::processor::Processor;

/// A model with what is trained of it.
pub struct Loaded {
    /// The model, which can be asked while it is trained.
    pub engine: Engine,
    /// The tensors that are trained, by name.
    pub params: BTreeMap<String, Param>,
    /// The adapter that they belong to.
    pub adapter: Adapter,
    /// Of its inputs.
    pub dropout: Option<Rc<Dropout>>,
}

/// Loads a model for a plan. `weights` are its tensors, with adapters that stay as they are. With `options`, answers to
/// prompts can be asked for while it is trained.
pub fn load(
    files: &ModelFiles,
    processor: Processor,
    weights: Weights,
    plan: Plan,
    dropout: f32,
    options: EngineOptions,
) -> Result<Loaded> {
    let dropout = (dropout > 0.0).then(|| Rc::new(Dropout::new(dropout)));
    let adapter = Rc::new(plan.adapter);
    // Of whole tensors it is the model's own that are changed.
    let weights = match adapter.modules.is_empty() {
        true => weights,
        false => weights.attach(Attached { adapter: adapter.clone(), share: 1.0, dropout: dropout.clone() }),
    };
    let (model, mut parts) = models::build_with_parts(files, weights)?;
    let mut params = BTreeMap::new();
    for (name, _) in plan.tensors {
        let param = parts.params.remove(&name).with_context(|| format!("the model has no {name} to train"))?;
        params.insert(name, param);
    }
    let engine = Engine::new(model, processor, files, options)?;
    Ok(Loaded { engine, params, adapter: Rc::unwrap_or_clone(adapter), dropout })
}

/// The type in which a model of this type of numbers computes while it is trained. 16-bit floats without bfloat16's range
/// lose small gradients.
pub fn training_dtype(dtype: Dtype) -> Dtype {
    if dtype == Dtype::Float16 { Dtype::Bfloat16 } else { dtype }
}
