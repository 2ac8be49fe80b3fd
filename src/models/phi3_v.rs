//! Phi-3-vision and Phi-3.5-vision: Phi-3 that reads images as CLIP features of 336-pixel tiles.
//! Reference: modeling_phi3_v.py and image_embedding_phi3_v.py, as published with the model.

use anyhow::{Context, Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{broadcast_to, concatenate};
use serde::Deserialize;

use super::clip::{self, Clip};
use super::{Arch, Group, Model, Vision, causal_lm, phi3};
use crate::checkpoint::weights::Remap;
use crate::checkpoint::{ModelFiles, Param, Scope};
use crate::nn::{Linear, gelu, split};
use crate::processor::images::Pixels;
use crate::processor::images::phi3_v::{Phi3VImageProcessor, TILE, TILE_LEN};

pub(super) const ARCH: Arch = Arch {
    model_types: &["phi3_v"],
    load,
    remap: |_| Ok(Remap { rename, transpose }),
    group,
    dims: |files| {
        let c = Config::of(files)?;
        Ok(c.text.dims(Some(c.img_processor.dims())))
    },
    images: Some(|files| {
        let patch_size = Config::of(files)?.img_processor.patch_size();
        Ok(Box::new(Phi3VImageProcessor::new(files, patch_size as usize)?))
    }),
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

fn group(path: &str) -> Option<Group> {
    match path.strip_prefix("model.vision_embed_tokens.") {
        None => causal_lm::group(path),
        // The table of positions is added as it is, and the patch convolution is no plain matrix.
        Some(path) if path.contains(".embeddings.") => Some(Group::PatchEmbedding),
        Some(path) if path.starts_with("img_processor.") => Some(Group::Vision),
        Some(_) => Some(Group::Projector),
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    text: causal_lm::Config,
    embd_layer: EmbdLayer,
    img_processor: clip::Config,
}

impl Config {
    fn of(files: &ModelFiles) -> Result<Self> {
        let c: Self = files.parse()?;
        c.img_processor.check().context("config.json: img_processor")?;
        let size = c.img_processor.image_size();
        ensure!(size == TILE as i32, "config.json: img_processor.vision_config.image_size is {size}, not {TILE}");
        Ok(c)
    }
}

/// The reference knows other values for these keys; no published checkpoint has them, and they are refused.
#[derive(Debug, Clone, Deserialize)]
struct EmbdLayer {
    #[serde(default)]
    hd_transform_order: HdTransformOrder,
    #[serde(rename = "projection_cls")]
    _projection_cls: ProjectionCls,
}

/// Whether the tiles or the whole image come first.
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

/// `vision_embed_tokens`: images to vectors of the text model.
struct ImageEmbedding {
    img_processor: Clip,
    img_projection: [Linear; 2],
    /// Between the tiles and the whole image, `[1, 1, 4 · clip]`.
    glb_gn: Param,
    /// At the end of every row of features, `[1, 1, 1, 4 · clip]`.
    sub_gn: Param,
    order: HdTransformOrder,
}

impl ImageEmbedding {
    fn load(w: &Scope, c: &Config) -> Result<Self> {
        let img_processor = Clip::load(&c.img_processor, &w.pp("img_processor.vision_model"))?;
        let (merged, hidden) = (4 * c.img_processor.hidden_size(), c.text.hidden_size);
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

    /// What the tower sees in an image's tiles, as vectors in the prompt's order: the tiles row by row, the separator, the
    /// whole image, `[1, tokens, 4 · clip]`.
    fn merge(&self, features: &Array, image: &Pixels) -> Result<Array, Exception> {
        let (rows, cols) = image.layout.grid;
        let global = self.merge_tiles(&features.try_index((..1, .., ..))?, 1, 1)?;
        let local = self.merge_tiles(&features.try_index((1.., .., ..))?, rows as i32, cols as i32)?;
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
    fn merge_tiles(&self, features: &Array, rows: i32, cols: i32) -> Result<Array, Exception> {
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

impl Vision for ImageEmbedding {
    /// Of each image `[1 + rows · cols, patches, clip]`: the whole image, and the tiles row by row.
    fn encode(&self, images: &[&Pixels]) -> Result<Vec<Array>, Exception> {
        let values: Vec<&[f32]> = images.iter().map(|image| distinct(image)).collect();
        let counts = values.iter().map(|values| (values.len() / TILE_LEN) as i32);
        let shape = [counts.clone().sum(), TILE as i32, TILE as i32, 3];
        let features = self.img_processor.forward(&Array::from_slice(&values.concat(), &shape))?;
        let features = split(&features, counts, 0)?.into_iter().zip(images);
        let both = |(features, image): (Array, &&Pixels)| match image.layout.grid {
            (1, 1) if features.dim(0) == 1 => concatenate(&[&features, &features], 0),
            _ => Ok(features),
        };
        features.map(both).collect()
    }

    fn project(&self, features: &[Array], images: &[&Pixels]) -> Result<Vec<Array>, Exception> {
        let merged = features.iter().zip(images).map(|(features, image)| self.merge(features, image));
        let merged = merged.collect::<Result<Vec<_>, _>>()?;
        let [first, second] = &self.img_projection;
        let projected = second.forward(&gelu(&first.forward(&concatenate(&merged, 1)?)?)?)?;
        split(&projected, merged.iter().map(|merged| merged.dim(1)), 1)
    }
}

/// The tiles that differ: a sheet of one tile is its own view of the whole, and need be encoded only once.
fn distinct(image: &Pixels) -> &[f32] {
    let (whole, rest) = image.values.split_at(TILE_LEN);
    if whole == rest { whole } else { &image.values }
}

fn load(files: &ModelFiles, w: &Scope) -> Result<Model> {
    let c = Config::of(files)?;
    let vision = ImageEmbedding::load(&w.pp("model.vision_embed_tokens"), &c).context("model.vision_embed_tokens")?;
    Ok(Model { text: Box::new(phi3::load(&c.text, w)?), vision: Some(Box::new(vision)), group })
}
