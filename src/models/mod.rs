//! The architectures: one file each, and the table that finds them by `model_type`.

mod causal_lm;
mod clip;
mod gemma;
mod gemma2;
mod llama;
mod phi3;
mod phi3_v;
mod qwen2_vl;

use std::ops::Range;

use anyhow::{Context, Result, bail};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::cache::{Cache, CacheSettings, CacheShape};
use crate::checkpoint::safetensors::TensorSpec;
use crate::checkpoint::weights::{Parts, Remap};
use crate::checkpoint::{ModelFiles, Scope, Weights};
use crate::nn::{Position, RopeFactors};
use crate::processor::Processor;
use crate::processor::images::{ImageProcessor, Pixels};

/// Makes the image processor of a checkpoint.
pub type MakeImageProcessor = fn(&ModelFiles) -> Result<Box<dyn ImageProcessor>>;

/// An architecture: how its checkpoints are read and what they need around them.
pub struct Arch {
    /// The values of `config.json`'s `model_type` that it answers to.
    pub model_types: &'static [&'static str],
    /// Builds the model from its tensors.
    pub load: fn(&ModelFiles, &Scope) -> Result<Model>,
    /// How published tensors become MLX's.
    pub remap: fn(&ModelFiles) -> Result<Remap>,
    /// The part of the model that a module or tensor belongs to, by its path.
    pub group: GroupOf,
    /// Its sizes.
    pub dims: fn(&ModelFiles) -> Result<ModelDims>,
    /// Makes the image processor of a checkpoint; none for architectures without vision.
    pub images: Option<MakeImageProcessor>,
    /// Tokens that end an answer although the checkpoint's files may not say so.
    pub stop_tokens: &'static [&'static str],
}

/// The part of a model that a module or tensor of this path belongs to; none of a path that the model does not have.
pub type GroupOf = fn(&str) -> Option<Group>;

/// A part of a model: it decides whether a matrix is quantized, and where a gradient comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The embedding table of tokens, which may serve as the map to logits, too.
    Embedding,
    /// A decoder layer.
    Layer(usize),
    /// The norm after the last layer.
    FinalNorm,
    /// The map to logits.
    Head,
    /// A layer of the vision tower.
    Vision,
    /// What makes vectors of patches: not a matrix that a quantized product or lookup could replace.
    PatchEmbedding,
    /// What makes vectors of the language part of the tower's features.
    Projector,
}

impl Group {
    /// The group of `path`, or an error that names it.
    pub fn of(group: GroupOf, path: &str) -> Result<Self> {
        group(path).with_context(|| format!("{path} belongs to no part of this model"))
    }

    /// Whether it is of the language part.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Embedding | Self::Layer(_) | Self::FinalNorm | Self::Head)
    }
}

/// All architectures, one line each.
const ARCHS: &[Arch] = &[phi3_v::ARCH, phi3::ARCH, llama::ARCH, gemma::ARCH, gemma2::ARCH, qwen2_vl::ARCH];

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

/// The sizes of a model, for what must be known before it is loaded.
#[derive(Debug, Clone, Copy)]
pub struct ModelDims {
    /// The width of hidden states.
    pub hidden_size: usize,
    /// The width of MLPs; of a mixture of experts, of all experts that a token takes.
    pub intermediate_size: usize,
    /// How many tokens have a logit.
    pub vocab_size: usize,
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// What its caches hold.
    pub cache: CacheShape,
    /// Of its vision tower.
    pub vision: Option<VisionDims>,
}

/// The sizes of a vision tower.
#[derive(Debug, Clone, Copy)]
pub struct VisionDims {
    /// The width of hidden states.
    pub hidden_size: usize,
    /// The width of MLPs.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Numbers of a patch as it enters the tower.
    pub patch_len: usize,
}

/// The processor of a checkpoint: its tokenizer, chat template and, of a vision model, image processor.
pub fn processor(files: &ModelFiles) -> Result<Processor> {
    let images = Arch::of(files)?.images.map(|images| images(files)).transpose()?;
    Processor::new(files, images)
}

/// New tokens of a sequence in a ragged batch.
pub struct Row<'c> {
    /// Where they stand.
    pub placement: Placement,
    /// The sequence's KV cache, to which they are appended. None where the whole sequence is read at once and nothing is
    /// kept, as in training; then the result is differentiable.
    pub cache: Option<&'c mut Cache>,
}

impl Row<'_> {
    /// A whole sequence, of which nothing is kept.
    pub fn whole(placement: &Placement) -> Self {
        Self { placement: placement.clone(), cache: None }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.placement.positions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where tokens stand.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The position of each; in training, some may be left out.
    pub positions: Vec<Position>,
    /// With which factors they are rotated.
    pub factors: RopeFactors,
}

/// The language part of a model, as the engine sees it.
pub trait Decoder {
    /// Ids to vectors: `[n] -> [1, n, hidden_size]`.
    fn embed_tokens(&self, ids: &[u32]) -> Result<Array, Exception>;

    /// An empty cache for a sequence of `len` positions.
    fn new_cache(&self, len: usize, settings: CacheSettings) -> Cache;

    /// How many layers it has.
    fn num_layers(&self) -> usize;

    /// `x` `[1, n of all rows, hidden_size]`, one row after the other, after some of the layers, the last of which is
    /// followed by the last norm. Rows have caches of the same settings or none; with caches, all layers are computed.
    fn forward(&self, layers: Range<usize>, x: &Array, rows: &mut [Row]) -> Result<Array, Exception>;

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

    /// How many positions each layer attends to, its own included; none for all.
    fn windows(&self) -> Vec<Option<usize>>;
}

/// The vision part of a model: a tower that encodes images, and a projector to vectors of the language part.
pub trait Vision {
    /// Encodes images, those given together as one batch; of each the tower's features, in a shape of its own.
    fn encode(&self, images: &[&Pixels]) -> Result<Vec<Array>, Exception>;

    /// Projects the features of images to the vectors that stand for each in the prompt: `[1, tokens, hidden_size]`.
    fn project(&self, features: &[Array], images: &[&Pixels]) -> Result<Vec<Array>, Exception>;
}

/// A language model, optionally multimodal.
pub struct Model {
    /// Its language part.
    pub text: Box<dyn Decoder>,
    /// Its vision part.
    pub vision: Option<Box<dyn Vision>>,
    /// The part that a tensor belongs to.
    pub group: GroupOf,
}

impl Model {
    /// A model without vision.
    pub(crate) fn of_text(text: impl Decoder + 'static) -> Self {
        Self { text: Box::new(text), vision: None, group: causal_lm::group }
    }

    /// The vision part of a model that has one.
    pub fn vision(&self) -> Result<&dyn Vision, Exception> {
        self.vision.as_deref().ok_or_else(|| Exception::custom("this model has no vision"))
    }

    /// The vectors that stand for an image in the prompt, `[1, tokens, hidden_size]`.
    pub fn encode_image(&self, image: &Pixels) -> Result<Array, Exception> {
        let vision = self.vision()?;
        Ok(vision.project(&vision.encode(&[image])?, &[image])?.remove(0))
    }
}

/// Loads a checkpoint folder's model. Floating-point weights are cast to `dtype`, or left as stored.
/// `progress` is told the bytes read so far and in all.
pub fn load(files: &ModelFiles, dtype: Option<Dtype>, progress: impl Fn(u64, u64) + 'static) -> Result<Model> {
    build(files, weights(files, dtype)?.on_progress(progress))
}

/// What the checkpoint's model is made of, with zeros in place of all values: nothing but headers is read.
pub fn parts(files: &ModelFiles) -> Result<Parts> {
    Ok(build_with_parts(files, weights(files, None)?.skeleton())?.1)
}

/// The tensors that the model of this configuration takes, in bfloat16; there need not be a checkpoint.
pub fn tensors(files: &ModelFiles) -> Result<Vec<TensorSpec>> {
    let weights = Weights::listing(files)?;
    (Arch::of(files)?.load)(files, &weights.root())?;
    Ok(weights.listed())
}

/// A checkpoint's tensors, as [`build`] wants them.
pub fn weights(files: &ModelFiles, dtype: Option<Dtype>) -> Result<Weights> {
    Weights::open(files, (Arch::of(files)?.remap)(files)?, dtype)
}

/// The model of these tensors.
pub fn build(files: &ModelFiles, weights: Weights) -> Result<Model> {
    Ok(build_with_parts(files, weights)?.0)
}

/// The model of these tensors, and what can be changed of it.
pub fn build_with_parts(files: &ModelFiles, weights: Weights) -> Result<(Model, Parts)> {
    let model = (Arch::of(files)?.load)(files, &weights.root())?;
    Ok((model, weights.finish()?))
}
