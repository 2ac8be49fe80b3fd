//! Caches as named arrays.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mlx_quantized::{Mode, Packed};
use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;
use serde::{Deserialize, Serialize};

use super::block::{Block, Stored};
use super::{Cache, CacheSettings, LayerCache};
use crate::nn::RopeFactors;

/// What the arrays do not say.
#[derive(Serialize, Deserialize)]
pub(super) struct Description {
    settings: CacheSettings,
    layers: usize,
    len: usize,
    shortest: usize,
    /// Of each layer, positions of each block, and whether they are packed.
    blocks: Vec<(usize, bool)>,
}

impl Cache {
    pub(super) fn describe(&self) -> Description {
        let blocks = self.layers.first().map_or(&[][..], |layer| &layer.blocks);
        Description {
            settings: self.settings,
            layers: self.layers.len(),
            len: self.len,
            shortest: self.shortest,
            blocks: blocks.iter().map(|block| (block.len(), block.is_packed())).collect(),
        }
    }

    /// The positions that count, under names that [`Cache::restore`] knows.
    pub(super) fn named_arrays(&self) -> Result<BTreeMap<String, Array>> {
        let mut arrays = BTreeMap::new();
        for (layer, LayerCache { blocks }) in self.layers.iter().enumerate() {
            for (index, block) in blocks.iter().enumerate() {
                for (what, stored) in [("keys", &block.keys), ("values", &block.values)] {
                    for (part, array) in stored.arrays().enumerate() {
                        let used = array.try_index((.., ..block.len() as i32, ..))?;
                        arrays.insert(name(layer, index, what, part), used);
                    }
                }
            }
        }
        Ok(arrays)
    }

    /// A cache of these arrays.
    ///
    /// # Errors
    /// When something is missing, or when it was made with other settings.
    pub(super) fn restore(
        description: &Description,
        factors: RopeFactors,
        settings: CacheSettings,
        arrays: &mut BTreeMap<String, Array>,
    ) -> Result<Self> {
        let Description { settings: made_with, layers, len, shortest, ref blocks } = *description;
        ensure!(
            made_with == settings,
            "it was made with other `max_kv_size`, `kv_bits`, `kv_group_size` or `quantized_kv_start`; \
             give the same, or delete it"
        );
        ensure!(layers <= 1 << 12 && blocks.len() <= 1 << 20, "it is damaged: {layers} layers are named");
        let mut stored = |layer, index, what, len: usize, packed: bool| -> Result<Stored> {
            let mut part = |part| -> Result<Array> {
                let name = name(layer, index, what, part);
                let array = arrays.remove(&name).with_context(|| format!("it is damaged: {name} is missing"))?;
                let fits = array.ndim() == 3 && array.dim(1) as usize == len;
                ensure!(fits, "it is damaged: {name} has shape {:?}, with {len} positions", array.shape());
                Ok(array)
            };
            Ok(match settings.packing.filter(|_| packed) {
                None => Stored::Plain(part(0)?),
                Some(packing) => Stored::Packed(Packed {
                    weight: part(0)?,
                    scales: part(1)?,
                    biases: Some(part(2)?),
                    group_size: packing.group_size,
                    bits: packing.bits,
                    mode: Mode::Affine,
                }),
            })
        };
        let mut cache = Self { layers: Vec::new(), factors, settings, len, shortest };
        for layer in 0..layers {
            let mut restored = LayerCache::default();
            for (index, &(len, packed)) in blocks.iter().enumerate() {
                let keys = stored(layer, index, "keys", len, packed)?;
                let values = stored(layer, index, "values", len, packed)?;
                restored.blocks.push(Block::restored(keys, values, len));
            }
            cache.layers.push(restored);
        }
        Ok(cache)
    }
}

fn name(layer: usize, block: usize, what: &str, part: usize) -> String {
    format!("layers.{layer}.blocks.{block}.{what}.{part}")
}
