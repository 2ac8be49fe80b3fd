//! Phi-3-vision and Phi-3.5-vision: Phi-3 that reads pictures as CLIP features of 336-pixel tiles.
//! Reference: modeling_phi3_v.py and image_embedding_phi3_v.py, as published with the model.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{broadcast_to, concatenate};
use serde::Deserialize;

use super::causal_lm::{self, CausalLm};
use super::clip::{self, Clip};
use super::{Arch, Model, Row, Whole, phi3};
use crate::cache::{Cache, CacheSettings};
use crate::checkpoint::quantization::Role;
use crate::checkpoint::weights::Remap;
use crate::checkpoint::{ModelFiles, Param, Scope};
use crate::nn::{Linear, gelu, split};
use crate::processor::images::phi3_v::PreprocessorConfig;
use crate::processor::{TILE, TILE_LEN, Tiles};

pub(super) const ARCH: Arch = Arch {
    model_types: &["phi3_v"],
    load: |files, w| Ok(Box::new(Phi3V::load(files, w)?)),
    remap: |_| Ok(Remap { rename, transpose }),
    role,
    cache_shape: |files| Ok(files.parse::<Config>()?.text.cache_shape()),
    has_vision: true,
    stop_tokens: phi3::STOP_TOKENS,
};

/// Tensors as published, but for tables of position numbers and the other name of the embedding table.
fn rename(name: &str) -> Option<String> {
    match name {
        _ if name.ends_with("position_ids") => None,
        "model.vision_embed_tokens.wte.weight" => Some("model.embed_tokens.weight".into()),
        _ => Some(name.to_owned()),
    }
}

/// The patch convolution: PyTorch's `[out, channels, height, width]` to MLX's `[out, height, width, channels]`, unless it
/// is that already.
fn transpose(name: &str, shape: &[i32]) -> Option<&'static [i32]> {
    match shape {
        [_, 3, height, width] if name.ends_with("patch_embedding.weight") && height == width => Some(&[0, 2, 3, 1]),
        _ => None,
    }
}

/// The table of positions is added as it is, and the patch convolution is no plain matrix.
fn role(path: &str) -> Role {
    match path.strip_prefix("model.vision_embed_tokens.") {
        None => Role::Text,
        Some(path) if path.contains(".embeddings.") => Role::Fixed,
        Some(_) => Role::Vision,
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    text: causal_lm::Config,
    embd_layer: EmbdLayer,
    img_processor: clip::Config,
}

/// The reference knows other values for these keys; no published checkpoint has them, and they are refused.
#[derive(Debug, Clone, Deserialize)]
struct EmbdLayer {
    #[serde(default)]
    hd_transform_order: HdTransformOrder,
    #[serde(rename = "projection_cls")]
    _projection_cls: ProjectionCls,
}

/// Whether the tiles or the whole picture come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HdTransformOrder {
    SubGlb,
    #[default]
    GlbSub,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProjectionCls {
    Mlp,
}

/// `vision_embed_tokens`: pictures to vectors of the text model.
struct ImageEmbedding {
    img_processor: Clip,
    img_projection: [Linear; 2],
    /// Between the tiles and the whole picture, `[1, 1, 4 · clip]`.
    glb_gn: Param,
    /// At the end of every row of features, `[1, 1, 1, 4 · clip]`.
    sub_gn: Param,
    order: HdTransformOrder,
}

impl ImageEmbedding {
    fn load(w: &Scope, c: &Config) -> Result<Self> {
        let img_processor = Clip::load(&c.img_processor, &w.pp("img_processor.vision_model"))?;
        let (merged, hidden) = (4 * img_processor.hidden_size(), c.text.hidden_size);
        let projection = w.pp("img_projection");
        Ok(Self {
            img_projection: [
                Linear::load_with_bias(&projection.pp(0), merged, hidden),
                Linear::load_with_bias(&projection.pp(2), hidden, hidden),
            ],
            glb_gn: w.param("glb_GN", &[1, 1, merged]),
            sub_gn: w.param("sub_GN", &[1, 1, 1, merged]),
            img_processor,
            order: c.embd_layer.hd_transform_order,
        })
    }

    /// Of each picture `[1 + rows · cols, patches, clip]`: the whole picture, and the tiles row by row.
    fn see(&self, pictures: &[&Tiles]) -> Result<Vec<Array>, Exception> {
        let pixels: Vec<&[f32]> = pictures.iter().map(|tiles| tiles.distinct()).collect();
        let counts = pixels.iter().map(|pixels| (pixels.len() / TILE_LEN) as i32);
        let shape = [counts.clone().sum(), TILE as i32, TILE as i32, 3];
        let seen = self.img_processor.forward(&Array::from_slice(&pixels.concat(), &shape))?;
        let seen = split(&seen, counts, 0)?.into_iter().zip(pictures);
        let both = |(seen, tiles): (Array, &&Tiles)| match tiles.rows * tiles.cols == seen.dim(0) as usize {
            true => concatenate(&[&seen, &seen], 0),
            false => Ok(seen),
        };
        seen.map(both).collect()
    }

    /// Of each of these `[1, image_tokens, hidden_size]`.
    fn project(&self, seen: &[Array], pictures: &[&Tiles]) -> Result<Vec<Array>, Exception> {
        let merged = seen.iter().zip(pictures).map(|(features, tiles)| self.merged(features, tiles));
        let merged = merged.collect::<Result<Vec<_>, _>>()?;
        let [first, second] = &self.img_projection;
        let projected = second.forward(&gelu(&first.forward(&concatenate(&merged, 1)?)?)?)?;
        split(&projected, merged.iter().map(|merged| merged.dim(1)), 1)
    }

    /// What the tower sees in a picture's tiles, as vectors in the prompt's order: the tiles row by row, the separator, the
    /// whole picture, `[1, image_tokens, 4 · clip]`.
    fn merged(&self, features: &Array, tiles: &Tiles) -> Result<Array, Exception> {
        let (rows, cols) = (tiles.rows as i32, tiles.cols as i32);
        let global = self.rows_of(&features.try_index((..1, .., ..))?, 1, 1)?;
        let local = self.rows_of(&features.try_index((1.., .., ..))?, rows, cols)?;
        let between = self.glb_gn.get().reshape(&[1, -1])?;
        let parts = match self.order {
            HdTransformOrder::SubGlb => [&local, &between, &global],
            HdTransformOrder::GlbSub => [&global, &between, &local],
        };
        concatenate(&parts, 0)?.reshape(&[1, -1, between.dim(1)])
    }

    /// Features of `rows · cols` tiles, `[rows · cols, side², clip]`, as lines of one large grid in which every 2 × 2
    /// square is one vector and every line ends with the separator:
    /// `[(rows · side / 2) · (cols · side / 2 + 1), 4 · clip]`.
    /// image_embedding_phi3_v.py, reshape_hd_patches_2x2merge and add_image_newline
    fn rows_of(&self, features: &Array, rows: i32, cols: i32) -> Result<Array, Exception> {
        let [_, patches, clip] = *features.shape() else { unreachable!("features have three axes") };
        let half = patches.isqrt() / 2;
        let grid = features
            .reshape(&[rows, cols, half, 2, half, 2, clip])?
            .transpose_axes(&[0, 2, 1, 4, 3, 5, 6])?
            .reshape(&[rows * half, cols * half, 4 * clip])?;
        let line_ends = broadcast_to(self.sub_gn.get().reshape(&[1, 1, -1])?, &[rows * half, 1, 4 * clip])?;
        concatenate(&[grid, line_ends], 1)?.reshape(&[-1, 4 * clip])
    }
}

struct Phi3V {
    text: CausalLm<phi3::Block>,
    vision_embed_tokens: ImageEmbedding,
}

impl Phi3V {
    fn load(files: &ModelFiles, w: &Scope) -> Result<Self> {
        let c: Config = files.parse()?;
        let vision_embed_tokens =
            ImageEmbedding::load(&w.pp("model.vision_embed_tokens"), &c).context("model.vision_embed_tokens")?;
        let line = vision_embed_tokens.img_processor.grid() as usize / 2;
        if let Some(told) = PreprocessorConfig::of(files)?.map(|preprocessor| preprocessor.line) {
            ensure!(
                told == line,
                "preprocessor_config.json: num_img_tokens is {}, but the vision tower makes {} of a tile",
                told * told,
                line * line
            );
        }
        Ok(Self { text: phi3::load(&c.text, w)?, vision_embed_tokens })
    }
}

impl Model for Phi3V {
    fn embed_tokens(&self, ids: &[u32]) -> Result<Array, Exception> {
        self.text.embed_tokens(ids)
    }

    fn image_features(&self, pictures: &[&Tiles]) -> Result<Vec<Array>, Exception> {
        self.vision_embed_tokens.see(pictures)
    }

    fn project_images(&self, seen: &[Array], pictures: &[&Tiles]) -> Result<Vec<Array>, Exception> {
        self.vision_embed_tokens.project(seen, pictures)
    }

    fn new_cache(&self, len: usize, settings: CacheSettings) -> Cache {
        self.text.new_cache(len, settings)
    }

    fn forward(&self, x: &Array, rows: &mut [Row]) -> Result<Array, Exception> {
        self.text.forward(x, rows)
    }

    fn num_layers(&self) -> usize {
        self.text.num_layers()
    }

    fn read(&self, layers: Range<usize>, x: &Array, rows: &[Whole]) -> Result<Array, Exception> {
        self.text.read(layers, x, rows)
    }

    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        self.text.logits(hidden)
    }

    fn rope_boundary(&self) -> Option<usize> {
        self.text.rope_boundary()
    }

    fn max_position_embeddings(&self) -> usize {
        self.text.max_position_embeddings()
    }

    fn sliding_window(&self) -> Option<usize> {
        self.text.sliding_window()
    }
}
