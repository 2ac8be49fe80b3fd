//! CLIP's vision tower (Radford et al. 2021), ViT-L/14 at 336 pixels in the published checkpoints.
//! Reference: transformers, modeling_clip.py, CLIPVisionTransformer.

use anyhow::{Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{broadcast_to, concatenate};
use serde::Deserialize;

use super::VisionDims;
use crate::checkpoint::{Param, Scope};
use crate::nn::{Embedding, LayerNorm, Linear, Mask, Scores, add, attention, quick_gelu, split_heads};

/// The tower's side of `config.json`'s `img_processor`. Published checkpoints leave the tower's sizes to the code, which are
/// those of ViT-L/14 at 336 pixels; `vision_config` has them where they differ.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    /// Which hidden state is the feature: 0 is the first layer's input, -1 the last layer's output.
    #[serde(default = "penultimate")]
    layer_idx: i32,
    #[serde(default)]
    vision_config: VisionConfig,
}

fn penultimate() -> i32 {
    -2
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct VisionConfig {
    hidden_size: i32,
    intermediate_size: i32,
    num_hidden_layers: i32,
    /// A head is 64 wide unless something else is said.
    num_attention_heads: Option<i32>,
    patch_size: i32,
    image_size: i32,
    layer_norm_eps: f32,
    hidden_act: String,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: None,
            patch_size: 14,
            image_size: 336,
            layer_norm_eps: 1e-5,
            hidden_act: "quick_gelu".into(),
        }
    }
}

impl Config {
    /// An error unless the sizes make sense together.
    pub(super) fn check(&self) -> Result<()> {
        let c = &self.vision_config;
        let sizes = [
            ("hidden_size", c.hidden_size, 1 << 20),
            ("intermediate_size", c.intermediate_size, 1 << 24),
            ("num_hidden_layers", c.num_hidden_layers, 1 << 12),
            ("image_size", c.image_size, 1 << 14),
            ("patch_size", c.patch_size, c.image_size / 2),
        ];
        for (key, size, most) in sizes {
            ensure!((1..=most).contains(&size), "vision_config.{key} is {size}, where 1 to {most} is expected");
        }
        ensure!(
            c.image_size % (2 * c.patch_size) == 0,
            "vision_config: patches of {} pixels do not divide a tile of {}",
            c.patch_size,
            c.image_size
        );
        let heads = self.num_attention_heads();
        ensure!(
            heads > 0 && c.hidden_size % heads == 0,
            "vision_config.num_attention_heads: {heads} heads do not divide a width of {}",
            c.hidden_size
        );
        ensure!(
            c.hidden_act == "quick_gelu",
            "vision_config.hidden_act: {:?} is not supported, only quick_gelu",
            c.hidden_act
        );
        Ok(())
    }

    fn num_attention_heads(&self) -> i32 {
        self.vision_config.num_attention_heads.unwrap_or(self.vision_config.hidden_size / 64)
    }

    /// How many layers come before the feature.
    fn used_layers(&self) -> Result<i32> {
        let layers = self.vision_config.num_hidden_layers;
        // Hidden states are one more than layers.
        let used = if self.layer_idx < 0 { self.layer_idx + layers + 1 } else { self.layer_idx };
        ensure!((0..=layers).contains(&used), "img_processor.layer_idx: {} of {layers} layers", self.layer_idx);
        Ok(used)
    }

    /// The features' width.
    pub(super) fn hidden_size(&self) -> i32 {
        self.vision_config.hidden_size
    }

    /// Pixels on a side of an image.
    pub(super) fn image_size(&self) -> i32 {
        self.vision_config.image_size
    }

    /// Pixels on a side of a patch.
    pub(super) fn patch_size(&self) -> i32 {
        self.vision_config.patch_size
    }

    /// Patches on a side of an image.
    fn patches_per_side(&self) -> i32 {
        self.vision_config.image_size / self.vision_config.patch_size
    }

    /// Its sizes.
    pub(super) fn dims(&self) -> VisionDims {
        let c = &self.vision_config;
        VisionDims {
            hidden_size: c.hidden_size as usize,
            intermediate_size: c.intermediate_size as usize,
            num_hidden_layers: c.num_hidden_layers as usize,
            patch_len: 3 * (c.patch_size as usize).pow(2),
        }
    }
}

struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: i32,
}

impl Attention {
    fn load(w: &Scope, c: &Config) -> Self {
        let linear = |name| Linear::load_with_bias(&w.pp(name), c.hidden_size(), c.hidden_size());
        Self {
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            out_proj: linear("out_proj"),
            heads: c.num_attention_heads(),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        let queries = split_heads(&self.q_proj.forward(x)?, self.heads)?; // [tiles, heads, positions, head_dim]
        let keys = split_heads(&self.k_proj.forward(x)?, self.heads)?;
        let values = split_heads(&self.v_proj.forward(x)?, self.heads)?;
        let scores = Scores::scaled(queries.dim(-1));
        self.out_proj.forward(&attention(&queries, &keys, &values, scores, Mask::Full)?)
    }
}

struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn load(w: &Scope, c: &Config) -> Self {
        Self {
            fc1: Linear::load_with_bias(&w.pp("fc1"), c.hidden_size(), c.vision_config.intermediate_size),
            fc2: Linear::load_with_bias(&w.pp("fc2"), c.vision_config.intermediate_size, c.hidden_size()),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.fc2.forward(&quick_gelu(&self.fc1.forward(x)?)?)
    }
}

struct EncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: Attention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
}

impl EncoderLayer {
    fn load(w: &Scope, c: &Config) -> Self {
        Self {
            layer_norm1: LayerNorm::load(&w.pp("layer_norm1"), c.hidden_size(), c.vision_config.layer_norm_eps),
            self_attn: Attention::load(&w.pp("self_attn"), c),
            layer_norm2: LayerNorm::load(&w.pp("layer_norm2"), c.hidden_size(), c.vision_config.layer_norm_eps),
            mlp: Mlp::load(&w.pp("mlp"), c),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        let x = add(x, &self.self_attn.forward(&self.layer_norm1.forward(x)?)?)?;
        add(&x, &self.mlp.forward(&self.layer_norm2.forward(&x)?)?)
    }
}

/// The tower up to the layer whose output is the feature.
pub(super) struct Clip {
    patch_embedding: Linear,
    class_embedding: Param,
    position_embedding: Embedding,
    pre_layrnorm: LayerNorm,
    layers: Vec<EncoderLayer>,
    patch_size: i32,
    patches_per_side: i32,
}

impl Clip {
    /// The tower at `w`. Layers behind the feature, and the norm after them, are left where they are.
    pub(super) fn load(c: &Config, w: &Scope) -> Result<Self> {
        let used = c.used_layers()?;
        let (hidden_size, patch_size, per_side) = (c.hidden_size(), c.patch_size(), c.patches_per_side());
        let (embeddings, layers) = (w.pp("embeddings"), w.pp("encoder.layers"));
        (used..c.vision_config.num_hidden_layers).for_each(|i| layers.pp(i).unused(|w| EncoderLayer::load(w, c)));
        let eps = c.vision_config.layer_norm_eps;
        w.pp("post_layernorm").unused(|w| LayerNorm::load(w, hidden_size, eps));
        let patches = [hidden_size, patch_size, patch_size, 3];
        let positions = per_side.pow(2) + 1;
        Ok(Self {
            patch_embedding: Linear::load_patches(&embeddings.pp("patch_embedding"), &patches)?,
            class_embedding: embeddings.param("class_embedding", &[hidden_size]),
            position_embedding: Embedding::load(&embeddings.pp("position_embedding"), positions, hidden_size),
            pre_layrnorm: LayerNorm::load(&w.pp("pre_layrnorm"), hidden_size, eps),
            layers: (0..used).map(|i| EncoderLayer::load(&layers.pp(i), c)).collect(),
            patch_size,
            patches_per_side: per_side,
        })
    }

    /// `[tiles, side, side, 3] -> [tiles, patches, hidden_size]`
    pub(super) fn forward(&self, pixels: &Array) -> Result<Array, Exception> {
        let (tiles, patch, grid) = (pixels.dim(0), self.patch_size, self.patches_per_side);
        let patches = pixels
            .as_dtype(self.patch_embedding.dtype())?
            .reshape(&[tiles, grid, patch, grid, patch, 3])?
            .transpose_axes(&[0, 1, 3, 2, 4, 5])?
            .reshape(&[tiles, grid * grid, patch * patch * 3])?;
        let patches = self.patch_embedding.forward(&patches)?;
        let class = broadcast_to(&*self.class_embedding.get(), &[tiles, 1, patches.dim(2)])?;
        let x = concatenate(&[class, patches], 1)?.add(self.position_embedding.table()?)?;
        let mut x = self.pre_layrnorm.forward(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        x.try_index((.., 1.., ..)) // without the class
    }
}
