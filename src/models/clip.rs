//! CLIP's vision tower (Radford et al. 2021), ViT-L/14 at 336 pixels in the published checkpoints.
//! Reference: transformers, modeling_clip.py, CLIPVisionTransformer.

use anyhow::{Context, Result, anyhow, bail, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{broadcast_to, concatenate};
use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint::{Param, Scope};
use crate::nn::{Embedding, LayerNorm, Linear, Mask, add, attention, quick_gelu, split_heads};
use crate::processor::TILE;

/// Phi-3-vision's `img_processor`, as far as the tower goes. Published checkpoints leave the tower's measures to the
/// code; `vision_config` says them where they differ.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    /// Which hidden state is the feature: 0 is the first layer's input, -1 the last layer's output.
    #[serde(default = "penultimate")]
    layer_idx: i32,
    #[serde(default)]
    vision_config: VisionConfig,
}

/// What the tensors do not show.
#[derive(Debug, Clone, Default, Deserialize)]
struct VisionConfig {
    num_attention_heads: Option<i32>,
    layer_norm_eps: Option<f32>,
    hidden_act: Option<String>,
}

fn penultimate() -> i32 {
    -2
}

/// The tower's measures.
struct Shape {
    hidden_size: i32,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_positions: i32,
    patch_size: i32,
    layers: usize,
    eps: f32,
}

impl Shape {
    /// Width, depth and patch size as the tensors show them. A head is 64 wide unless the configuration says otherwise.
    fn of(c: &VisionConfig, w: &Scope) -> Result<Self> {
        let shape = |name: &str, axes: usize| {
            let shape = w.shape(name).ok_or_else(|| anyhow!("the vision tower has no tensor {name}"))?;
            ensure!(shape.len() == axes, "the vision tower's {name} has the shape {shape:?}");
            Ok(shape)
        };
        let patches = shape("embeddings.patch_embedding.weight", 4)?; // [hidden, patch, patch, channels]
        let hidden_size = patches[0];
        if let Some(act) = c.hidden_act.as_deref().filter(|&act| act != "quick_gelu") {
            bail!("vision_config.hidden_act: {act:?} is not supported, only quick_gelu");
        }
        let num_attention_heads = c.num_attention_heads.unwrap_or(hidden_size / 64);
        ensure!(
            num_attention_heads > 0 && hidden_size % num_attention_heads == 0,
            "vision_config.num_attention_heads: {num_attention_heads} heads do not divide a width of {hidden_size}"
        );
        let (patch_size, num_positions) = (patches[1], shape("embeddings.position_embedding.weight", 2)?[0]);
        let side = TILE as i32;
        ensure!(
            patch_size > 0 && side % (2 * patch_size) == 0 && (side / patch_size).pow(2) + 1 == num_positions,
            "the vision tower has {num_positions} positions and patches of {patch_size}, which do not fit tiles of {side}"
        );
        Ok(Self {
            hidden_size,
            intermediate_size: shape("encoder.layers.0.mlp.fc1.bias", 1)?[0],
            num_attention_heads,
            num_positions,
            patch_size,
            layers: (0..).take_while(|i| w.shape(&format!("encoder.layers.{i}.layer_norm1.weight")).is_some()).count(),
            eps: c.layer_norm_eps.unwrap_or(1e-5),
        })
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
    fn load(w: &Scope, s: &Shape) -> Self {
        let linear = |name| Linear::load_with_bias(&w.pp(name), s.hidden_size, s.hidden_size);
        Self {
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            out_proj: linear("out_proj"),
            heads: s.num_attention_heads,
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        let queries = split_heads(&self.q_proj.forward(x)?, self.heads)?; // [tiles, heads, positions, head_dim]
        let keys = split_heads(&self.k_proj.forward(x)?, self.heads)?;
        let values = split_heads(&self.v_proj.forward(x)?, self.heads)?;
        let scale = (queries.dim(-1) as f32).powf(-0.5);
        self.out_proj.forward(&attention(&queries, &keys, &values, scale, Mask::Full)?)
    }
}

struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn load(w: &Scope, s: &Shape) -> Self {
        Self {
            fc1: Linear::load_with_bias(&w.pp("fc1"), s.hidden_size, s.intermediate_size),
            fc2: Linear::load_with_bias(&w.pp("fc2"), s.intermediate_size, s.hidden_size),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.fc2.forward(&quick_gelu(&self.fc1.forward(x)?)?)
    }
}

struct Block {
    layer_norm1: LayerNorm,
    self_attn: Attention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn load(w: &Scope, s: &Shape) -> Self {
        Self {
            layer_norm1: LayerNorm::load(&w.pp("layer_norm1"), s.hidden_size, s.eps),
            self_attn: Attention::load(&w.pp("self_attn"), s),
            layer_norm2: LayerNorm::load(&w.pp("layer_norm2"), s.hidden_size, s.eps),
            mlp: Mlp::load(&w.pp("mlp"), s),
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
    layers: Vec<Block>,
    patch_size: i32,
}

impl Clip {
    /// The tower at `w`. Layers behind the feature, and the norm after them, are left where they are.
    pub(super) fn load(c: &Config, w: &Scope) -> Result<Self> {
        let s = Shape::of(&c.vision_config, w)?;
        // Hidden states are one more than layers.
        let used = usize::try_from(if c.layer_idx < 0 { c.layer_idx + s.layers as i32 + 1 } else { c.layer_idx });
        let used = used.ok().filter(|&used| used <= s.layers);
        let used = used.ok_or_else(|| anyhow!("img_processor.layer_idx: {} of {} layers", c.layer_idx, s.layers))?;

        let (embeddings, layers) = (w.pp("embeddings"), w.pp("encoder.layers"));
        (used..s.layers).for_each(|i| layers.pp(i).skip());
        w.pp("post_layernorm").skip();
        Ok(Self {
            patch_embedding: Linear::load_patches(
                &embeddings.pp("patch_embedding"),
                &[s.hidden_size, s.patch_size, s.patch_size, 3],
            )?,
            class_embedding: embeddings.param("class_embedding", &[s.hidden_size]),
            position_embedding: Embedding::load(&embeddings.pp("position_embedding"), s.num_positions, s.hidden_size),
            pre_layrnorm: LayerNorm::load(&w.pp("pre_layrnorm"), s.hidden_size, s.eps),
            layers: (0..used).map(|i| Block::load(&layers.pp(i), &s)).collect(),
            patch_size: s.patch_size,
        })
    }

    /// The features' width.
    pub(super) fn hidden_size(&self) -> i32 {
        self.class_embedding.get().dim(0)
    }

    /// Patches in a line of a tile, and such lines.
    pub(super) fn grid(&self) -> i32 {
        TILE as i32 / self.patch_size
    }

    /// `[tiles, side, side, 3] -> [tiles, patches, hidden_size]`
    pub(super) fn forward(&self, pixels: &Array) -> Result<Array, Exception> {
        let (tiles, patch, grid) = (pixels.dim(0), self.patch_size, self.grid());
        let patches = pixels
            .as_dtype(self.patch_embedding.dtype())?
            .reshape(&[tiles, grid, patch, grid, patch, 3])?
            .transpose_axes(&[0, 1, 3, 2, 4, 5])?
            .reshape(&[tiles, grid * grid, patch * patch * 3])?;
        let patches = self.patch_embedding.forward(&patches)?;
        let class = broadcast_to(&*self.class_embedding.get(), &[tiles, 1, self.hidden_size()])?;
        let x = concatenate(&[class, patches], 1)?.add(self.position_embedding.table()?)?;
        let mut x = self.pre_layrnorm.forward(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        x.try_index((.., 1.., ..)) // without the class
    }
}

/// The vision tower's measures, in `img_processor.vision_config` of `config.json`: CLIP-L's where published checkpoints
/// leave them to the code.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct Tower {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) patch_size: usize,
}

impl Default for Tower {
    fn default() -> Self {
        Self { hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 24, patch_size: 14 }
    }
}

impl Tower {
    /// Positions of a tile: its patches and the class.
    pub(crate) fn num_positions(&self) -> usize {
        (TILE as usize / self.patch_size).pow(2) + 1
    }

    /// By a whole `config.json`.
    pub(crate) fn of(config: &Value) -> Result<Self> {
        let tower = config.pointer("/img_processor/vision_config").map(Self::deserialize).transpose();
        let tower = tower.context("config.json: img_processor.vision_config")?.unwrap_or_default();
        ensure!(
            (1..=TILE as usize / 2).contains(&tower.patch_size),
            "config.json: img_processor.vision_config.patch_size: {} does not fit tiles of {TILE}",
            tower.patch_size
        );
        Ok(tower)
    }
}
