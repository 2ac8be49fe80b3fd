//! Qwen2-VL: Qwen2 that reads images of any resolution, whose tokens have positions in time, height and width.
//! Reference: transformers, modeling_qwen2_vl.py; names of tensors as mlx-vlm writes them.

use anyhow::{Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use serde::Deserialize;

use super::causal_lm;
use super::{Arch, Group, Model, Vision, VisionDims, llama};
use crate::checkpoint::weights::Remap;
use crate::checkpoint::{ModelFiles, Scope};
use crate::nn::{LayerNorm, Linear, Mask, Position, Rope, RopeFactors, Scores, add, attention, gelu, quick_gelu};
use crate::nn::{split, split_heads};
use crate::processor::images::Pixels;
use crate::processor::images::qwen2_vl::{Qwen2VlImageProcessor, patches_in_order};

pub(super) const ARCH: Arch = Arch {
    model_types: &["qwen2_vl"],
    load,
    remap: |files| {
        let tied = files.parse_text::<causal_lm::Config>()?.tie_word_embeddings;
        Ok(Remap { rename: if tied { rename_tied } else { rename }, transpose })
    },
    dims: |files| Ok(files.parse_text::<causal_lm::Config>()?.dims(Some(VisionConfig::of(files)?.dims()))),
    images: Some(|files| Ok(Box::new(Qwen2VlImageProcessor::new(files)?))),
    group,
    stop_tokens: &["<|im_end|>"],
};

/// transformers' names, of versions 4 and 5, to those of mlx-vlm.
fn rename(name: &str) -> Option<String> {
    if name.ends_with(".rotary_emb.inv_freq") {
        return None;
    }
    let below = |place: &str| name.strip_prefix(place);
    let tower = below("model.visual.").or_else(|| below("visual."));
    if let Some(rest) = tower {
        return Some(format!("vision_tower.{rest}"));
    }
    if let Some(rest) = below("model.language_model.").or_else(|| below("model.")) {
        return Some(format!("language_model.model.{rest}"));
    }
    Some(below("lm_head.").map_or_else(|| name.to_owned(), |rest| format!("language_model.lm_head.{rest}")))
}

fn rename_tied(name: &str) -> Option<String> {
    rename(name).filter(|name| !name.starts_with("language_model.lm_head."))
}

/// The patch convolution: PyTorch's `[out, channels, frames, height, width]` to MLX's
/// `[out, frames, height, width, channels]`, unless it is that already.
fn transpose(name: &str, shape: &[i32]) -> Option<&'static [i32]> {
    match shape {
        [_, 3, _, height, width] if name.ends_with("patch_embed.proj.weight") && height == width => {
            Some(&[0, 2, 3, 4, 1])
        }
        _ => None,
    }
}

fn group(path: &str) -> Option<Group> {
    if let Some(path) = path.strip_prefix("language_model.") {
        return causal_lm::group(path);
    }
    let path = path.strip_prefix("vision_tower.")?;
    match path.split('.').next()? {
        "patch_embed" => Some(Group::PatchEmbedding),
        "blocks" => Some(Group::Vision),
        "merger" => Some(Group::Projector),
        _ => None,
    }
}

/// `vision_config`; defaults are those of the reference's class.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct VisionConfig {
    depth: i32,
    embed_dim: i32,
    /// The width of the language part.
    hidden_size: i32,
    mlp_ratio: f32,
    num_heads: i32,
    patch_size: i32,
    spatial_merge_size: i32,
    temporal_patch_size: i32,
    hidden_act: String,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            depth: 32,
            embed_dim: 1280,
            hidden_size: 3584,
            mlp_ratio: 4.0,
            num_heads: 16,
            patch_size: 14,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            hidden_act: "quick_gelu".into(),
        }
    }
}

/// Of all norms of the tower.
const EPS: f32 = 1e-6;

impl VisionConfig {
    fn of(files: &ModelFiles) -> Result<Self> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(default)]
            vision_config: VisionConfig,
        }
        let c = files.parse::<Config>()?.vision_config;
        let sizes = [
            ("depth", c.depth, 1 << 12),
            ("embed_dim", c.embed_dim, 1 << 20),
            ("hidden_size", c.hidden_size, 1 << 20),
            ("mlp_ratio", c.mlp_ratio as i32, 1 << 6),
            ("num_heads", c.num_heads, c.embed_dim),
            ("patch_size", c.patch_size, 1 << 10),
            ("spatial_merge_size", c.spatial_merge_size, 1 << 4),
            ("temporal_patch_size", c.temporal_patch_size, 1 << 4),
        ];
        for (key, size, most) in sizes {
            ensure!(
                (1..=most).contains(&size),
                "config.json: vision_config.{key} is {size}, where 1 to {most} is expected"
            );
        }
        ensure!(
            c.embed_dim % (4 * c.num_heads) == 0,
            "config.json: vision_config: {} heads of a width of {} are no multiples of 4",
            c.num_heads,
            c.embed_dim
        );
        let act = &c.hidden_act;
        ensure!(
            act == "quick_gelu",
            "config.json: vision_config.hidden_act: {act:?} is not supported, only quick_gelu"
        );
        Ok(c)
    }

    fn intermediate_size(&self) -> i32 {
        (self.embed_dim as f32 * self.mlp_ratio) as i32
    }

    /// Patches that become one token.
    fn merged(&self) -> i32 {
        self.spatial_merge_size.pow(2)
    }

    fn dims(&self) -> VisionDims {
        VisionDims {
            hidden_size: self.embed_dim as usize,
            intermediate_size: self.intermediate_size() as usize,
            num_hidden_layers: self.depth as usize,
            patch_len: (3 * self.temporal_patch_size * self.patch_size.pow(2)) as usize,
        }
    }
}

fn load(files: &ModelFiles, w: &Scope) -> Result<Model> {
    let text = llama::load(&files.parse_text()?, &w.pp("language_model"))?;
    let vision = VisionTower::load(&VisionConfig::of(files)?, &w.pp("vision_tower"))?;
    Ok(Model { text: Box::new(text), vision: Some(Box::new(vision)), group })
}

/// Where the patches of images stand, image by image.
struct Patches<'a> {
    rope: &'a Rope,
    positions: Vec<Position>,
    /// How many patches each image has.
    counts: Vec<i32>,
}

struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: i32,
}

impl Attention {
    fn load(w: &Scope, c: &VisionConfig) -> Self {
        Self {
            qkv: Linear::load_with_bias(&w.pp("qkv"), c.embed_dim, 3 * c.embed_dim),
            proj: Linear::load_with_bias(&w.pp("proj"), c.embed_dim, c.embed_dim),
            heads: c.num_heads,
        }
    }

    /// Every patch attends to all of its image.
    fn forward(&self, x: &Array, patches: &Patches) -> Result<Array, Exception> {
        let width = x.dim(-1);
        let qkv = split(&self.qkv.forward(x)?, [width; 3].into_iter(), -1)?; // three times [1, patches, embed_dim]
        let rotate = |x: &Array| {
            let x = split_heads(x, self.heads)?; // [1, heads, patches, head_dim]
            patches.rope.forward(&x, &[(&patches.positions[..], RopeFactors::Short)])
        };
        let images = |x: &Array| split(x, patches.counts.iter().copied(), 2);
        let queries = images(&rotate(&qkv[0])?)?;
        let keys = images(&rotate(&qkv[1])?)?;
        let values = images(&split_heads(&qkv[2], self.heads)?)?;
        let scores = Scores::scaled(width / self.heads);
        let outputs = queries.iter().zip(&keys).zip(&values);
        let outputs = outputs.map(|((queries, keys), values)| attention(queries, keys, values, scores, Mask::Full));
        self.proj.forward(&concatenate(&outputs.collect::<Result<Vec<_>, _>>()?, 1)?)
    }
}

struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn load(w: &Scope, c: &VisionConfig) -> Self {
        Self {
            fc1: Linear::load_with_bias(&w.pp("fc1"), c.embed_dim, c.intermediate_size()),
            fc2: Linear::load_with_bias(&w.pp("fc2"), c.intermediate_size(), c.embed_dim),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.fc2.forward(&quick_gelu(&self.fc1.forward(x)?)?)
    }
}

struct EncoderLayer {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl EncoderLayer {
    fn load(w: &Scope, c: &VisionConfig) -> Self {
        Self {
            norm1: LayerNorm::load(&w.pp("norm1"), c.embed_dim, EPS),
            attn: Attention::load(&w.pp("attn"), c),
            norm2: LayerNorm::load(&w.pp("norm2"), c.embed_dim, EPS),
            mlp: Mlp::load(&w.pp("mlp"), c),
        }
    }

    fn forward(&self, x: &Array, patches: &Patches) -> Result<Array, Exception> {
        let x = add(x, &self.attn.forward(&self.norm1.forward(x)?, patches)?)?;
        add(&x, &self.mlp.forward(&self.norm2.forward(&x)?)?)
    }
}

/// Groups of patches to tokens: `[1, patches, embed_dim] -> [1, tokens, hidden_size]`.
struct PatchMerger {
    ln_q: LayerNorm,
    mlp: [Linear; 2],
    merged: i32,
}

impl PatchMerger {
    fn load(w: &Scope, c: &VisionConfig) -> Self {
        let (mlp, width) = (w.pp("mlp"), c.merged() * c.embed_dim);
        Self {
            ln_q: LayerNorm::load(&w.pp("ln_q"), c.embed_dim, EPS),
            mlp: [
                Linear::load_with_bias(&mlp.pp(0), width, width),
                Linear::load_with_bias(&mlp.pp(2), width, c.hidden_size),
            ],
            merged: c.merged(),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        // The patches of a group follow one another.
        let x = self.ln_q.forward(x)?.reshape(&[1, -1, self.merged * x.dim(-1)])?;
        let [first, second] = &self.mlp;
        second.forward(&gelu(&first.forward(&x)?)?)
    }
}

/// `vision_tower`: images to vectors of the language part.
struct VisionTower {
    patch_embed: Linear,
    blocks: Vec<EncoderLayer>,
    merger: PatchMerger,
    rope: Rope,
    spatial_merge_size: i32,
}

impl VisionTower {
    fn load(c: &VisionConfig, w: &Scope) -> Result<Self> {
        let patch = [c.embed_dim, c.temporal_patch_size, c.patch_size, c.patch_size, 3];
        let blocks = w.pp("blocks");
        Ok(Self {
            patch_embed: Linear::load_patches(&w.pp("patch_embed.proj"), &patch)?,
            blocks: (0..c.depth).map(|i| EncoderLayer::load(&blocks.pp(i), c)).collect(),
            merger: PatchMerger::load(&w.pp("merger"), c),
            rope: Rope::of_patches(c.embed_dim / c.num_heads),
            spatial_merge_size: c.spatial_merge_size,
        })
    }
}

impl Vision for VisionTower {
    /// Of each image `[1, patches, embed_dim]`, in the order of the patches.
    fn encode(&self, images: &[&Pixels]) -> Result<Vec<Array>, Exception> {
        let counts: Vec<i32> = images.iter().map(|image| image.layout.tower_positions as i32).collect();
        let merge = self.spatial_merge_size as usize;
        let position = |(row, col)| [0, row as i32, col as i32];
        let positions = images.iter().flat_map(|image| patches_in_order(image.layout.grid, merge).map(position));
        let patches = Patches { rope: &self.rope, positions: positions.collect(), counts };
        let values: Vec<&[f32]> = images.iter().map(|image| &image.values[..]).collect();
        let values = values.concat();
        let values =
            Array::from_slice(&values, &[values.len() as i32]).reshape(&[1, patches.positions.len() as i32, -1])?;
        let mut x = self.patch_embed.forward(&values.as_dtype(self.patch_embed.dtype())?)?;
        for block in &self.blocks {
            x = block.forward(&x, &patches)?;
        }
        split(&x, patches.counts.into_iter(), 1)
    }

    fn project(&self, features: &[Array], images: &[&Pixels]) -> Result<Vec<Array>, Exception> {
        let tokens = self.merger.forward(&concatenate(features, 1)?)?;
        split(&tokens, images.iter().map(|image| image.layout.tokens as i32), 1)
    }
}
