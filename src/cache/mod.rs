//! Keys and values of the positions a model has seen, per layer.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};

use crate::nn::RopeFactors;

/// Positions by which the storage grows.
const BLOCK: i32 = 256;

/// What a model remembers of one sequence.
pub struct Cache {
    /// One per decoder layer.
    pub layers: Vec<LayerCache>,
    /// The rotary factors with which the keys were turned; all keys of a cache share them.
    pub factors: RopeFactors,
}

impl Cache {
    /// An empty cache.
    pub fn new(num_layers: usize, factors: RopeFactors) -> Self {
        Self { layers: (0..num_layers).map(|_| LayerCache::default()).collect(), factors }
    }

    /// Positions in the cache.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len as usize)
    }

    /// Whether no position is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The arrays behind the cache, for evaluating them.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().filter_map(|layer| layer.stored.as_ref()).flat_map(|(keys, values)| [keys, values])
    }
}

/// Keys and values of one layer, `[batch, num_key_value_heads, capacity, head_dim]`, of which `len` positions count.
#[derive(Default)]
pub struct LayerCache {
    stored: Option<(Array, Array)>,
    len: i32,
}

impl LayerCache {
    /// Positions in the cache.
    pub fn len(&self) -> i32 {
        self.len
    }

    /// Whether no position is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends keys and values `[batch, num_key_value_heads, new, head_dim]` and returns those of all positions.
    pub fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let end = self.len + keys.dim(2);
        let (mut all_keys, mut all_values) = match self.stored.take() {
            Some((k, v)) => (grown(k, end)?, grown(v, end)?),
            None => (storage(keys, end)?, storage(values, end)?),
        };
        all_keys.try_index_mut((.., .., self.len..end, ..), keys)?;
        all_values.try_index_mut((.., .., self.len..end, ..), values)?;
        let used = (all_keys.try_index((.., .., ..end, ..))?, all_values.try_index((.., .., ..end, ..))?);
        self.stored = Some((all_keys, all_values));
        self.len = end;
        Ok(used)
    }
}

/// Room for `len` positions of arrays like `like`, in whole blocks.
fn storage(like: &Array, len: i32) -> Result<Array> {
    let [batch, heads, _, head_dim] = like.shape() else { unreachable!("keys and values have four axes") };
    let capacity = (len + BLOCK - 1) / BLOCK * BLOCK;
    mlx_rs::ops::zeros_dtype(&[*batch, *heads, capacity, *head_dim], like.dtype())
}

/// `stored` with room for `len` positions.
fn grown(stored: Array, len: i32) -> Result<Array> {
    let missing = len - stored.dim(2);
    if missing <= 0 {
        return Ok(stored);
    }
    let more = storage(&stored, missing)?;
    concatenate(&[stored, more], 2)
}
