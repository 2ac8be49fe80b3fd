//! The architectures: one file each, and the table that finds them by `model_type`.

mod causal_lm;
pub(crate) mod clip;
mod gemma;
mod llama;
mod phi3;
mod phi3_v;

use std::ops::Range;

use anyhow::{Result, bail};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::cache::{Cache, CacheSettings, CacheShape};
use crate::checkpoint::quantization::Role;
use crate::checkpoint::weights::{Parts, Remap};
use crate::checkpoint::{ModelFiles, Scope, Weights};
use crate::nn::RopeFactors;
use crate::processor::Tiles;

/// An architecture: how its checkpoints are read and what they need around them.
pub struct Arch {
    /// The values of `config.json`'s `model_type` that it answers to.
    pub model_types: &'static [&'static str],
    /// Builds the model from its tensors.
    pub load: fn(&ModelFiles, &Scope) -> Result<Box<dyn Model>>,
    /// How published tensors become MLX's.
    pub remap: fn(&ModelFiles) -> Result<Remap>,
    /// What the matrix of the module at this path is for, when a checkpoint is quantized.
    pub role: fn(&str) -> Role,
    /// What its caches hold.
    pub cache_shape: fn(&ModelFiles) -> Result<CacheShape>,
    /// Whether prompts can hold pictures, as `<|image_N|>`.
    pub has_vision: bool,
    /// Tokens that end an answer although the checkpoint's files may not say so.
    pub stop_tokens: &'static [&'static str],
}

/// All architectures, one line each.
const ARCHS: &[Arch] = &[phi3_v::ARCH, phi3::ARCH, llama::ARCH, gemma::ARCH];

impl Arch {
    /// The architecture of a checkpoint.
    pub fn of(files: &ModelFiles) -> Result<&'static Self> {
        let model_type = files.model_type()?;
        match ARCHS.iter().find(|arch| arch.model_types.contains(&model_type)) {
            Some(arch) => Ok(arch),
            None => {
                let known: Vec<&str> = ARCHS.iter().flat_map(|arch| arch.model_types).copied().collect();
                bail!(
                    "{}: model_type {model_type:?} is not supported; supported are {}",
                    files.folder.display(),
                    known.join(", ")
                )
            }
        }
    }
}

/// A sequence in a ragged batch.
pub struct Row<'c> {
    /// What the model remembers of it.
    pub cache: &'c mut Cache,
    /// Its new positions.
    pub n: usize,
}

/// A sequence that is read from its beginning to its end at once, and not remembered: how training reads.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Where its tokens stand: 0, 1, 2, …, unless some are left out.
    pub positions: Vec<i32>,
    /// Of its rotation.
    pub factors: RopeFactors,
}

/// A language model, with or without eyes, as the engine sees it.
pub trait Model {
    /// Ids to vectors: `[n] -> [1, n, hidden_size]`.
    fn embed_tokens(&self, ids: &[u32]) -> Result<Array, Exception>;

    /// What the vision tower sees in the tiles of pictures, looked at together; of each `[1 + rows · cols, patches, clip]`.
    fn image_features(&self, _pictures: &[&Tiles]) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("this model has no vision"))
    }

    /// The vectors that stand for each picture in the prompt, of what the tower sees in its tiles:
    /// `[1, image_tokens, hidden_size]`.
    fn project_images(&self, _seen: &[Array], _pictures: &[&Tiles]) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("this model has no vision"))
    }

    /// Both, one after the other.
    fn encode_image(&self, tiles: &Tiles) -> Result<Array, Exception> {
        Ok(self.project_images(&self.image_features(&[tiles])?, &[tiles])?.remove(0))
    }

    /// An empty cache for a sequence of `len` positions.
    fn new_cache(&self, len: usize, settings: CacheSettings) -> Cache;

    /// Appends to each row its part of `x` `[1, n of all rows, hidden_size]`, one after the other; the last hidden states,
    /// `[1, n of all rows, hidden_size]`. The rows' caches have the same settings.
    fn forward(&self, x: &Array, rows: &mut [Row]) -> Result<Array, Exception>;

    /// How many layers it has.
    fn num_layers(&self) -> usize;

    /// `x` `[1, n of all rows, hidden_size]` after some of the layers, the last of which is followed by the last norm; as
    /// [`forward`](Self::forward) without caches, and differentiable.
    fn read(&self, layers: Range<usize>, x: &Array, rows: &[Whole]) -> Result<Array, Exception>;

    /// Hidden states to logits: `[.., hidden_size] -> [.., vocab_size]`.
    fn logits(&self, hidden: &Array) -> Result<Array, Exception>;

    /// Sequences longer than this take longrope's long factors: `original_max_position_embeddings`. None for models with
    /// one set of factors.
    fn rope_boundary(&self) -> Option<usize>;

    /// The factors for a sequence of `len` positions.
    fn rope_factors(&self, len: usize) -> RopeFactors {
        if self.rope_boundary().is_some_and(|boundary| len > boundary) { RopeFactors::Long } else { RopeFactors::Short }
    }

    /// The longest sequence.
    fn max_position_embeddings(&self) -> usize;

    /// How many positions one looks back on, itself included, where not on all.
    fn sliding_window(&self) -> Option<usize>;
}

/// Loads a checkpoint folder's model. Floating-point weights are cast to `dtype`, or left as stored.
/// `progress` is told the bytes read so far and in all.
pub fn load(files: &ModelFiles, dtype: Option<Dtype>, progress: impl Fn(u64, u64) + 'static) -> Result<Box<dyn Model>> {
    build(files, weights(files, dtype)?.on_progress(progress))
}

/// What the checkpoint's model is made of, with zeros in place of all values: nothing but headers is read.
pub fn parts(files: &ModelFiles) -> Result<Parts> {
    Ok(build_with_parts(files, weights(files, None)?.skeleton())?.1)
}

/// A checkpoint's tensors, as [`build`] wants them.
pub fn weights(files: &ModelFiles, dtype: Option<Dtype>) -> Result<Weights> {
    Weights::open(files, (Arch::of(files)?.remap)(files)?, dtype)
}

/// The model of these tensors.
pub fn build(files: &ModelFiles, weights: Weights) -> Result<Box<dyn Model>> {
    Ok(build_with_parts(files, weights)?.0)
}

/// The model of these tensors, and what can be changed of it.
pub fn build_with_parts(files: &ModelFiles, weights: Weights) -> Result<(Box<dyn Model>, Parts)> {
    let model = (Arch::of(files)?.load)(files, &weights.root())?;
    Ok((model, weights.finish()?))
}
