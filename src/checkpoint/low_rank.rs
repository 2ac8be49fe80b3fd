//! Low-rank changes of linear maps: LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024), as a checkpoint's weights take them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Result, bail, ensure};
use mlx_rs::ops::{rsqrt, select};
use mlx_rs::{Array, Dtype, random};
use sha2::{Digest, Sha256};

/// A low-rank change of one linear map: y += scale · B(Ax), or DoRA's. All arrays are float32, laid out as torch's.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, input]`
    pub a: Array,
    /// `[output, rank]`
    pub b: Array,
    /// What the product is multiplied by: the α / rank of those who train with α.
    pub scale: f32,
    /// DoRA's m, the lengths of the rows of the weight, `[output]`; an empty one until the weight is loaded.
    pub magnitude: Option<Array>,
}

impl LowRank {
    /// Columns of B.
    pub fn rank(&self) -> i32 {
        self.b.shape().last().copied().unwrap_or_default()
    }

    /// scale · B · A, `[output, input]`, float32.
    pub fn delta(&self) -> Result<Array> {
        Ok(self.b.matmul(&self.a)?.multiply(Array::from_f32(self.scale))?)
    }

    /// The weight that does what `weight` does together with this change, both `[output, input]`; float32.
    ///
    /// W + delta, and of DoRA m / ‖W + delta‖ · (W + delta) (Liu et al. 2024, equation 5).
    ///
    /// # Errors
    /// When the weight is of another shape.
    pub fn merged(&self, weight: &Array) -> Result<Array> {
        let delta = self.delta()?;
        ensure!(
            weight.shape() == delta.shape(),
            "a change of a weight {:?} does not fit one of the shape {:?}",
            delta.shape(),
            weight.shape()
        );
        let changed = weight.as_dtype(Dtype::Float32)?.add(delta)?;
        let Some(magnitude) = &self.magnitude else { return Ok(changed) };
        let inverse = inverse_lengths(&changed.square()?.sum_axis(1, true)?)?;
        Ok(changed.multiply(magnitude.reshape(&[-1, 1])?.multiply(inverse)?)?)
    }

    /// That the shapes are those of one map.
    pub(crate) fn check(&self) -> Result<()> {
        let (a, b) = (self.a.shape(), self.b.shape());
        let &[rank, _] = a else { bail!("A is of the shape {a:?}; two axes are expected") };
        let &[output, columns] = b else { bail!("B is of the shape {b:?}; two axes are expected") };
        ensure!(rank == columns, "A is of rank {rank}, B of rank {columns}");
        ensure!(!a.contains(&0) && !b.contains(&0), "A {a:?} and B {b:?} are empty");
        if let Some(magnitude) = self.magnitude.as_ref().map(Array::shape) {
            ensure!(magnitude == [output], "the magnitude is of the shape {magnitude:?}; [{output}] is expected");
        }
        ensure!(self.scale.is_finite(), "the scale is {}", self.scale);
        Ok(())
    }
}

/// One over the lengths of rows whose squares these are, for DoRA; 0 of a row of zeros, which has no direction and stays one.
pub(crate) fn inverse_lengths(squares: &Array) -> mlx_rs::error::Result<Array> {
    let zero = Array::from_f32(0.0);
    select(squares.gt(&zero)?, rsqrt(squares)?, zero)
}

/// What a configuration says that is worth keeping.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct About {
    /// The model that was fine-tuned: a repository's name or a folder.
    pub base_model: Option<String>,
    /// The share of inputs that were dropped in training.
    pub dropout: f32,
    /// How many of the last layers were fine-tuned; less than one for all.
    pub num_layers: Option<i64>,
}

/// What fine-tuning changed of a model.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// By the path of the linear map: `model.layers.0.self_attn.qkv_proj`.
    pub modules: BTreeMap<String, LowRank>,
    /// Whole tensors in the place of the model's, by their names in the checkpoint and in the type in which they are
    /// stored: of full fine-tuning, or PEFT's `modules_to_save`. Convolutions have the axes of the program that wrote
    /// them: PEFT's as torch has them, the others' as MLX.
    pub tensors: BTreeMap<String, Array>,
    /// How it was made.
    pub about: About,
}

/// An adapter that a model is to have.
#[derive(Clone)]
pub struct Attached {
    /// What it changes.
    pub adapter: Rc<Adapter>,
    /// How much of its changes are added: 1 for all.
    pub share: f32,
    /// What becomes of the inputs of its maps while it is trained.
    pub dropout: Option<Rc<Dropout>>,
}

/// Sets a share of a map's inputs to zero, others every time, while a model is trained.
#[derive(Debug)]
pub struct Dropout {
    share: f32,
    /// Where the random numbers start; none leaves inputs as they are.
    seed: Cell<Option<u64>>,
}

impl Dropout {
    /// Off, until a seed is set.
    pub fn new(share: f32) -> Self {
        Self { share, seed: Cell::new(None) }
    }

    /// With the same seed the same inputs are dropped, also when a layer is computed a second time.
    pub fn set_seed(&self, seed: Option<u64>) {
        self.seed.set(seed);
    }

    /// `x` of the map at `path`.
    pub(crate) fn apply(&self, x: &Array, path: &str) -> mlx_rs::error::Result<Array> {
        let Some(seed) = self.seed.get().filter(|_| self.share > 0.0) else { return Ok(x.clone()) };
        let key = random::key(seed_of(seed, path))?;
        let kept = random::bernoulli(&Array::from_f32(1.0 - self.share), x.shape(), &key)?;
        x.multiply(kept.as_dtype(x.dtype())?)?.multiply(Array::from_f32(1.0 / (1.0 - self.share)))
    }
}

/// Another seed for everything that is known by another name.
pub fn seed_of(seed: u64, name: &str) -> u64 {
    let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
    u64::from_le_bytes(hash[..8].try_into().expect("a hash has more bytes"))
}
