//! What the text decoders share: tokens in, blocks in a row, logits out.

use std::ops::Range;

use anyhow::{Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use serde::Deserialize;

use super::{Model, Row, Whole};
use crate::cache::{Cache, CacheSettings, CacheShape, SINKS, cached_attention};
use crate::checkpoint::Scope;
use crate::checkpoint::weights::Remap;
use crate::nn::{Embedding, Linear, Mask, RmsNorm, Rope, RopeConfig, RopeFactors, attention, split};

/// The keys of `config.json` that text decoders share.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub hidden_size: i32,
    pub intermediate_size: i32,
    pub num_hidden_layers: i32,
    pub num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    pub rms_norm_eps: f32,
    vocab_size: i32,
    sliding_window: Option<i32>,
    /// Qwen2 says whether the window above is meant; its window would be of some layers only.
    use_sliding_window: Option<bool>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(flatten)]
    rope: RopeConfig,
    hidden_act: HiddenAct,
}

/// The activation of the MLPs; others are refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HiddenAct {
    Silu,
    /// Gemma's first files say so and mean the next.
    Gelu,
    GeluPytorchTanh,
}

impl Config {
    pub(super) fn num_key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub(super) fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or(self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0))
    }

    fn sliding_window(&self) -> Option<usize> {
        let window = usize::try_from(self.sliding_window?).ok()?;
        (window > 0 && self.use_sliding_window != Some(false)).then_some(window)
    }

    pub(super) fn cache_shape(&self) -> CacheShape {
        CacheShape {
            num_hidden_layers: self.num_hidden_layers.max(0) as usize,
            num_key_value_heads: self.num_key_value_heads().max(0) as usize,
            head_dim: self.head_dim().max(0) as usize,
        }
    }

    /// Sizes that no model has are refused here, so that arithmetic with them cannot overflow.
    fn check(&self, activations: &[HiddenAct]) -> Result<()> {
        let act = self.hidden_act;
        ensure!(activations.contains(&act), "config.json: hidden_act is {act:?}, where this model has {activations:?}");
        ensure!(self.use_sliding_window != Some(true), "config.json: use_sliding_window: true is not supported");
        let sizes = [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 24),
            ("vocab_size", self.vocab_size, 1 << 24),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads(), 1 << 12),
            ("head_dim", self.head_dim(), 1 << 12),
        ];
        for (key, size, most) in sizes {
            ensure!((1..=most).contains(&size), "config.json: {key} is {size}, where 1 to {most} is expected");
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads());
        ensure!(
            heads % kv_heads == 0,
            "config.json: num_key_value_heads is {kv_heads}, which does not divide {heads} heads"
        );
        Ok(())
    }
}

/// What the blocks of one forward pass are told, and where they put keys and values. `n` is the number of new positions of
/// all rows, one row after the other.
pub(super) struct Step<'a, 'c> {
    rope: &'a Rope,
    /// New positions of each row, and its factors.
    places: Vec<(Vec<i32>, RopeFactors)>,
    /// What rows remember; none where they are read whole.
    caches: Option<&'a mut [Row<'c>]>,
    mask: Mask,
    layer: usize,
}

impl Step<'_, '_> {
    /// Turns queries or keys `[1, heads, n, head_dim]` of the new positions.
    pub(super) fn rotate(&self, x: &Array) -> Result<Array, Exception> {
        self.rope.forward(x, &self.places)
    }

    /// Lets queries `[1, heads, n, head_dim]` look at keys and values `[1, kv_heads, n, head_dim]` of their rows, which are
    /// appended to what the rows remember: `[1, n, heads · head_dim]`.
    pub(super) fn attend(&mut self, queries: &Array, keys: &Array, values: &Array) -> Result<Array, Exception> {
        let scale = (queries.dim(3) as f32).powf(-0.5);
        let Some(rows) = &mut self.caches else { return self.attend_whole(queries, keys, values, scale) };
        let mut start = 0;
        for row in rows.iter_mut() {
            let range = start..start + row.n as i32;
            let new = |from: &Array| from.try_index((0, .., range.clone(), ..));
            row.cache.append(self.layer, &new(keys)?, &new(values)?)?;
            start = range.end;
        }
        let rows: Vec<_> = rows.iter().map(|row| (row.n, row.cache.blocks(self.layer))).collect();
        cached_attention(queries, &rows, scale, self.mask)
    }

    /// The same where nothing is remembered, and gradients are wanted.
    fn attend_whole(&self, queries: &Array, keys: &Array, values: &Array, scale: f32) -> Result<Array, Exception> {
        if self.places.len() == 1 {
            return attention(queries, keys, values, scale, self.mask);
        }
        // Rows of one length that follow one another are a batch: how many rows, and how long.
        let runs = self.places.chunk_by(|(a, _), (b, _)| a.len() == b.len());
        let runs: Vec<(i32, i32)> = runs.map(|run| (run.len() as i32, run[0].0.len() as i32)).collect();
        let batches = |all: &Array| -> Result<Vec<Array>, Exception> {
            let batches = split(all, runs.iter().map(|(rows, n)| rows * n), 2)?;
            let batch = |(batch, &(rows, n)): (&Array, &(i32, i32))| {
                batch.reshape(&[-1, rows, n, all.dim(3)])?.transpose_axes(&[1, 0, 2, 3])
            };
            batches.iter().zip(&runs).map(batch).collect()
        };
        let (queries, keys, values) = (batches(queries)?, batches(keys)?, batches(values)?);
        let seen = queries.iter().zip(&keys).zip(&values).map(|((queries, keys), values)| {
            let seen = attention(queries, keys, values, scale, self.mask)?;
            seen.reshape(&[1, -1, seen.dim(2)])
        });
        concatenate(&seen.collect::<Result<Vec<_>, _>>()?, 1)
    }
}

/// A decoder layer.
pub(super) trait Block {
    /// The activations that its MLP may have.
    const ACTIVATIONS: &'static [HiddenAct] = &[HiddenAct::Silu];

    /// `[1, n, hidden_size] -> [1, n, hidden_size]`
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array, Exception>;
}

/// A decoder with blocks of one kind.
pub(super) struct CausalLm<B> {
    embed_tokens: Embedding,
    pub layers: Vec<B>,
    pub norm: RmsNorm,
    /// What embeddings are multiplied with.
    pub embed_scale: Option<f32>,
    /// None where the embedding table serves.
    lm_head: Option<Linear>,
    rope: Rope,
    sliding_window: Option<usize>,
    max_position_embeddings: usize,
}

impl<B: Block> CausalLm<B> {
    /// Builds the model at `w`, its layers with `block`.
    pub(super) fn load(c: &Config, w: &Scope, block: impl Fn(&Scope) -> B) -> Result<Self> {
        c.check(B::ACTIVATIONS)?;
        let model = w.pp("model");
        let layers = model.pp("layers");
        Ok(Self {
            embed_tokens: Embedding::load(&model.pp("embed_tokens"), c.vocab_size, c.hidden_size),
            layers: (0..c.num_hidden_layers).map(|i| block(&layers.pp(i))).collect(),
            norm: RmsNorm::load(&model.pp("norm"), c.hidden_size, c.rms_norm_eps),
            lm_head: (!c.tie_word_embeddings).then(|| Linear::load(&w.pp("lm_head"), c.hidden_size, c.vocab_size)),
            rope: Rope::new(&c.rope, c.head_dim())?,
            sliding_window: c.sliding_window(),
            embed_scale: None,
            max_position_embeddings: c.rope.max_position_embeddings,
        })
    }
}

impl<B: Block> CausalLm<B> {
    /// How far positions see back, and how many first ones they see besides, with caches of this size.
    fn window(&self, max_size: Option<usize>) -> (usize, Option<usize>) {
        match (self.sliding_window, max_size) {
            (Some(window), None) => (0, Some(window)),
            (Some(window), Some(size)) if window <= size => (0, Some(window)),
            (_, Some(size)) => (SINKS, Some(size.saturating_sub(SINKS).max(1))),
            (None, None) => (0, None),
        }
    }

    fn pass(&self, layers: Range<usize>, x: &Array, mut step: Step) -> Result<Array, Exception> {
        let mut x = x.clone();
        for (index, layer) in self.layers.iter().enumerate().take(layers.end).skip(layers.start) {
            step.layer = index;
            x = layer.forward(&x, &mut step)?;
        }
        Ok(x)
    }
}

impl<B: Block> Model for CausalLm<B> {
    fn embed_tokens(&self, ids: &[u32]) -> Result<Array, Exception> {
        let x = self.embed_tokens.forward(ids)?;
        match self.embed_scale {
            // Rounded to the type of the embeddings, as the reference does it.
            Some(scale) => x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?),
            None => Ok(x),
        }
    }

    fn new_cache(&self, len: usize, settings: CacheSettings) -> Cache {
        Cache::new(self.layers.len(), self.rope_factors(len), settings)
    }

    fn forward(&self, x: &Array, rows: &mut [Row]) -> Result<Array, Exception> {
        let max_size = rows.first().and_then(|row| row.cache.settings().max_size);
        let (sinks, window) = self.window(max_size);
        let mask = window.map_or(Mask::Causal, |window| Mask::Window { sinks, window });
        let places = rows.iter().map(|row| {
            let start = row.cache.len() as i32;
            ((start..start + row.n as i32).collect(), row.cache.factors)
        });
        let places = places.collect();
        let x =
            self.pass(0..self.layers.len(), x, Step { rope: &self.rope, places, caches: Some(rows), mask, layer: 0 })?;
        for row in rows {
            row.cache.advance(row.n, sinks, window);
        }
        self.norm.forward(&x)
    }

    fn num_layers(&self) -> usize {
        self.layers.len()
    }

    fn read(&self, layers: Range<usize>, x: &Array, rows: &[Whole]) -> Result<Array, Exception> {
        let (sinks, window) = self.window(None);
        // Of positions in a row: where some are left out, a window reaches a little further.
        let mask = window.map_or(Mask::Causal, |window| Mask::Window { sinks, window });
        let places = rows.iter().map(|row| (row.positions.clone(), row.factors)).collect();
        let last = layers.end == self.layers.len();
        let x = self.pass(layers, x, Step { rope: &self.rope, places, caches: None, mask, layer: 0 })?;
        if last { self.norm.forward(&x) } else { Ok(x) }
    }

    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden),
            None => self.embed_tokens.as_linear(hidden),
        }
    }

    fn rope_boundary(&self) -> Option<usize> {
        self.rope.boundary()
    }

    fn max_position_embeddings(&self) -> usize {
        self.max_position_embeddings
    }

    fn sliding_window(&self) -> Option<usize> {
        self.sliding_window
    }
}

impl Config {
    /// Tensors as published, but for tables of rotary frequencies and, where the embedding table serves as the head too, a
    /// copy of it.
    pub(super) fn remap(&self) -> Remap {
        fn untied(name: &str) -> Option<String> {
            (!name.ends_with(".rotary_emb.inv_freq")).then(|| name.to_owned())
        }
        fn tied(name: &str) -> Option<String> {
            untied(name).filter(|name| !name.starts_with("lm_head."))
        }
        Remap { rename: if self.tie_word_embeddings { tied } else { untied }, transpose: |_, _| None }
    }
}
