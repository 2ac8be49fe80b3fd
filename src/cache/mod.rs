//! Keys and values of the positions a model has seen.
//!
//! They lie in blocks, so that a cache grows without moving what is in it, and so that sequences with the same beginning
//! share it: an array is a counted reference, and a block that two caches hold is copied when one of them writes to it.

mod attend;
mod block;
mod image_key;
mod prefix;
mod saved;

use anyhow::{Context, ensure};
use mlx_rs::Array;
use mlx_rs::error::Result;
use serde::{Deserialize, Serialize};

pub use attend::cached_attention;
pub use block::Block;
pub use image_key::ImageKey;
pub use prefix::{PrefixStore, Unit};
use saved::Description;

use crate::nn::RopeFactors;

/// Positions of a block.
pub const BLOCK: usize = 256;

/// The first positions are kept, as attention leans on them (Xiao et al. 2023, "attention sinks"); as many as mlx-lm keeps.
pub const SINKS: usize = 4;

/// So many positions can always be taken back, also from a cache that forgets.
pub const ROLLBACK: usize = 64;

/// What is kept, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheSettings {
    /// The most positions that a position looks back on: the first [`SINKS`] and the latest before it.
    pub max_size: Option<usize>,
    /// How keys and values are packed; as computed if none.
    pub packing: Option<KvPacking>,
}

/// How keys and values are packed: affine, each head's vector in groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvPacking {
    /// Bits of a number, 4 or 8.
    pub bits: i32,
    /// Consecutive numbers that share a scale; divides `head_dim`.
    pub group_size: i32,
    /// Positions before this one stay as computed.
    pub start: usize,
}

/// What a model's caches hold for each position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Vectors for keys, and as many for values.
    pub num_key_value_heads: usize,
    /// Numbers of a vector.
    pub head_dim: usize,
}

impl CacheShape {
    /// Bytes that a sequence of `len` positions takes, where a number takes `item_size` bytes and so many positions are
    /// computed at once.
    pub fn bytes(&self, len: usize, settings: CacheSettings, item_size: usize, step_size: usize) -> usize {
        // The first block stays for the sake of a few positions, and others are forgotten late.
        let kept = settings
            .max_size
            .map_or(len, |size| len.min(size.saturating_add(step_size).saturating_add(ROLLBACK + 2 * BLOCK)));
        let plain = settings.packing.map_or(kept, |packing| packing.start.min(kept));
        plain.next_multiple_of(BLOCK) * self.position_bytes(None, item_size)
            + (kept - plain).next_multiple_of(BLOCK) * self.position_bytes(settings.packing, item_size)
    }

    /// Bytes of one position's keys and values in all layers, where a number that is not packed takes `item_size` bytes.
    pub fn position_bytes(&self, packing: Option<KvPacking>, item_size: usize) -> usize {
        let numbers = 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim;
        packing.map_or(numbers * item_size, |KvPacking { bits, group_size, .. }| {
            numbers * bits as usize / 8 + 2 * item_size * numbers / group_size as usize
        })
    }

    /// The largest group of packed keys and values that divides `head_dim`, if any does.
    pub fn group_size(&self) -> Option<i32> {
        [64, 32].into_iter().find(|&size| self.head_dim.is_multiple_of(size as usize))
    }

    /// Packs keys and values in so many bits, in the largest groups that fit unless a size is given, from `start` on.
    pub fn packing(&self, bits: i32, group_size: Option<i32>, start: usize) -> anyhow::Result<KvPacking> {
        let group_size = group_size.or_else(|| self.group_size()).with_context(|| {
            format!("`kv_bits`: this model's head_dim, {}, has no groups of 32 or 64", self.head_dim)
        })?;
        Ok(KvPacking { bits, group_size, start })
    }

    /// An error unless keys and values can be packed like this.
    pub fn check(&self, settings: CacheSettings) -> anyhow::Result<()> {
        if let Some(KvPacking { bits, group_size, .. }) = settings.packing {
            ensure!([4, 8].contains(&bits), "`kv_bits` {bits}: 4 or 8 is expected");
            ensure!(
                [32, 64, 128].contains(&group_size) && self.head_dim.is_multiple_of(group_size as usize),
                "`kv_group_size` {group_size}: 32, 64 or 128 is expected, and a divisor of this model's head_dim, {}",
                self.head_dim
            );
        }
        if let Some(size) = settings.max_size {
            ensure!(size > SINKS, "`max_kv_size` {size}: more than {SINKS} is expected, as the first {SINKS} are kept");
        }
        Ok(())
    }
}

/// What a model remembers of one sequence.
#[derive(Clone)]
pub struct Cache {
    /// One per decoder layer.
    layers: Vec<LayerCache>,
    /// The rotary factors with which the keys were turned; all keys of a cache share them.
    pub factors: RopeFactors,
    settings: CacheSettings,
    len: usize,
    /// What was forgotten allows no shorter sequence than this.
    shortest: usize,
}

/// Keys and values of one layer.
#[derive(Clone, Default)]
struct LayerCache {
    blocks: Vec<Block>,
}

impl Cache {
    /// An empty cache.
    pub fn new(num_layers: usize, factors: RopeFactors, settings: CacheSettings) -> Self {
        Self { layers: vec![LayerCache::default(); num_layers], factors, settings, len: 0, shortest: 0 }
    }

    /// Positions of the sequence that were seen, forgotten ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is kept, and in which form.
    pub fn settings(&self) -> CacheSettings {
        self.settings
    }

    /// The arrays behind the cache, for evaluating them.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(|layer| &layer.blocks).flat_map(Block::arrays)
    }

    /// Bytes behind the cache.
    pub fn bytes(&self) -> usize {
        self.arrays().map(Array::nbytes).sum()
    }

    /// The blocks of layer `layer` in order.
    pub(crate) fn blocks(&self, layer: usize) -> &[Block] {
        &self.layers[layer].blocks
    }

    /// Whether the cache can be shortened to `len` positions.
    pub fn can_truncate(&self, len: usize) -> bool {
        len <= self.len && (len == self.len || len >= self.shortest)
    }

    /// Takes positions back until there are `len`, which [`Cache::can_truncate`] must allow.
    pub fn truncate(&mut self, len: usize) {
        debug_assert!(self.can_truncate(len));
        for layer in &mut self.layers {
            let mut surplus = self.len - len;
            while let Some(last) = layer.blocks.last_mut() {
                if surplus < last.len() {
                    last.shorten(surplus);
                    break;
                }
                surplus -= last.len();
                layer.blocks.pop();
            }
        }
        self.len = len;
    }

    /// Makes room in layer `layer` for `keys` and `values` `[num_key_value_heads, n, head_dim]` and puts them there; the
    /// positions count when all layers have theirs and [`Cache::advance`] is called.
    pub(crate) fn append(&mut self, layer: usize, keys: &Array, values: &Array) -> Result<()> {
        let n = keys.dim(1) as usize;
        let blocks = &mut self.layers[layer].blocks;
        let packed_from = self.settings.packing.map_or(usize::MAX, |packing| packing.start);
        let mut done = 0;
        while done < n {
            let position = self.len + done;
            let packing = self.settings.packing.filter(|_| position >= packed_from);
            let (left, limit) = (n - done, if packing.is_some() { usize::MAX } else { packed_from - position });
            let most = left.min(limit);
            done += match blocks.last_mut().filter(|block| block.takes(packing.is_some())) {
                Some(block) => block.push(keys, values, done, most)?,
                None => {
                    let mut block = Block::new(keys, values, packing)?;
                    let pushed = block.push(keys, values, done, most)?;
                    blocks.push(block);
                    pushed
                }
            };
        }
        Ok(())
    }

    /// `n` positions were appended to all layers. Where a layer attends to a window and to some first positions
    /// (`sinks_and_window`), blocks outside of both are dropped.
    pub(crate) fn advance(&mut self, n: usize, sinks_and_window: impl Fn(usize) -> (usize, Option<usize>)) {
        self.len += n;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let (sinks, Some(window)) = sinks_and_window(index) else { continue };
            let mut stored: usize = layer.blocks.iter().map(Block::len).sum();
            let mut at = 0;
            let mut start = 0;
            while at < layer.blocks.len() {
                let len = layer.blocks[at].len();
                // The next position attends to no more than `window` stored ones, itself included.
                if start >= sinks && start + len + window + ROLLBACK <= stored {
                    layer.blocks.remove(at);
                    stored -= len;
                    self.shortest = self.len - ROLLBACK;
                } else {
                    start += len;
                    at += 1;
                }
            }
        }
    }

    /// The first `len` positions, which [`Cache::can_truncate`] must allow, as a cache that goes its own way: it shares
    /// them with this one, and neither copies them.
    pub fn fork(&self, len: usize) -> Self {
        let mut fork = self.clone();
        fork.truncate(len);
        for block in fork.layers.iter_mut().filter_map(|layer| layer.blocks.last_mut()) {
            block.close();
        }
        fork
    }
}
