//! What text decoders share: tokens in, layers one after the other, logits out.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, tanh};
use serde::Deserialize;

use super::{Decoder, Group, ModelDims, Row, VisionDims};
use crate::cache::{Cache, CacheSettings, CacheShape, SINKS, cached_attention};
use crate::checkpoint::Scope;
use crate::checkpoint::weights::Remap;
use crate::nn::{Embedding, Linear, Mask, RmsNorm, Rope, RopeConfig, Scores, attention, split};

/// The keys of `config.json` that text decoders share.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    model_type: String,
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
    pub tie_word_embeddings: bool,
    #[serde(flatten)]
    rope: RopeConfig,
    hidden_act: Option<HiddenAct>,
    /// Gemma's name of the same.
    hidden_activation: Option<HiddenAct>,
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
    /// Whether published checkpoints have biases of queries, keys and values.
    pub(super) fn qkv_bias(&self) -> bool {
        self.model_type.starts_with("qwen2")
    }

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

    /// The sizes of a model with this language part.
    pub(super) fn dims(&self, vision: Option<VisionDims>) -> ModelDims {
        let size = |size: i32| size.max(0) as usize;
        ModelDims {
            hidden_size: size(self.hidden_size),
            intermediate_size: size(self.intermediate_size),
            vocab_size: size(self.vocab_size),
            num_attention_heads: size(self.num_attention_heads),
            max_position_embeddings: self.rope.max_position_embeddings,
            cache: CacheShape {
                num_hidden_layers: size(self.num_hidden_layers),
                num_key_value_heads: size(self.num_key_value_heads()),
                head_dim: size(self.head_dim()),
            },
            vision,
        }
    }

    /// The attention of layers that are all alike.
    pub(super) fn layer(&self) -> LayerSpec {
        LayerSpec { window: self.sliding_window(), rope: 0, scores: Scores::scaled(self.head_dim()) }
    }

    /// Sizes that no model has are refused here, so that arithmetic with them cannot overflow.
    fn check_sizes(&self) -> Result<()> {
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

/// The attention of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerSpec {
    /// How many positions it attends to, its own included; none for all.
    pub window: Option<usize>,
    /// Which of the model's rotary embeddings it has.
    pub rope: usize,
    pub scores: Scores,
}

/// What the layers of one forward pass share, and the KV caches that they append to. `n` is the number of new tokens of all
/// rows, one row after the other.
pub(super) struct Step<'a, 'c> {
    ropes: &'a [Rope],
    rows: &'a mut [Row<'c>],
    /// The layer that is computed.
    layer: usize,
    spec: LayerSpec,
}

impl Step<'_, '_> {
    /// Rotates queries or keys `[1, heads, n, head_dim]` to the positions of their tokens.
    pub(super) fn rotate(&self, x: &Array) -> Result<Array, Exception> {
        let rows: Vec<_> = self.rows.iter().map(|row| (&row.placement.positions[..], row.placement.factors)).collect();
        self.ropes[self.spec.rope].forward(x, &rows)
    }

    /// Attention of queries `[1, heads, n, head_dim]` to keys and values `[1, kv_heads, n, head_dim]` of their rows, which
    /// are appended to the rows' caches: `[1, n, heads · head_dim]`.
    pub(super) fn attend(&mut self, queries: &Array, keys: &Array, values: &Array) -> Result<Array, Exception> {
        let mask = mask(self.spec.window, self.rows.first().and_then(|row| row.cache.as_ref()?.settings().max_size));
        if self.rows.iter().any(|row| row.cache.is_none()) {
            return self.attend_whole(queries, keys, values, mask);
        }
        let mut start = 0;
        for row in self.rows.iter_mut() {
            let range = start..start + row.len() as i32;
            let new = |from: &Array| from.try_index((0, .., range.clone(), ..));
            if let Some(cache) = &mut row.cache {
                cache.append(self.layer, &new(keys)?, &new(values)?)?;
            }
            start = range.end;
        }
        let rows = self.rows.iter().filter_map(|row| Some((row.len(), row.cache.as_ref()?.blocks(self.layer))));
        let rows: Vec<_> = rows.collect();
        cached_attention(queries, &rows, self.spec.scores, mask)
    }

    /// The same without caches, differentiable.
    fn attend_whole(&self, queries: &Array, keys: &Array, values: &Array, mask: Mask) -> Result<Array, Exception> {
        let scores = self.spec.scores;
        if self.rows.len() == 1 {
            return attention(queries, keys, values, scores, mask);
        }
        // Rows of one length that follow one another are a batch: how many rows, and how long.
        let runs = self.rows.chunk_by(|a, b| a.len() == b.len());
        let runs: Vec<(i32, i32)> = runs.map(|run| (run.len() as i32, run[0].len() as i32)).collect();
        let batches = |all: &Array| -> Result<Vec<Array>, Exception> {
            let batches = split(all, runs.iter().map(|(rows, n)| rows * n), 2)?;
            let batch = |(batch, &(rows, n)): (&Array, &(i32, i32))| {
                batch.reshape(&[-1, rows, n, all.dim(3)])?.transpose_axes(&[1, 0, 2, 3])
            };
            batches.iter().zip(&runs).map(batch).collect()
        };
        let (queries, keys, values) = (batches(queries)?, batches(keys)?, batches(values)?);
        let outputs = queries.iter().zip(&keys).zip(&values).map(|((queries, keys), values)| {
            let output = attention(queries, keys, values, scores, mask)?;
            output.reshape(&[1, -1, output.dim(2)])
        });
        concatenate(&outputs.collect::<Result<Vec<_>, _>>()?, 1)
    }
}

/// The attention sinks and the window of a layer, with caches of at most `max_size` positions.
fn sinks_and_window(window: Option<usize>, max_size: Option<usize>) -> (usize, Option<usize>) {
    match (window, max_size) {
        (Some(window), None) => (0, Some(window)),
        (Some(window), Some(size)) if window <= size => (0, Some(window)),
        (_, Some(size)) => (SINKS, Some(size.saturating_sub(SINKS).max(1))),
        (None, None) => (0, None),
    }
}

fn mask(window: Option<usize>, max_size: Option<usize>) -> Mask {
    match sinks_and_window(window, max_size) {
        (sinks, Some(window)) => Mask::Window { sinks, window },
        (_, None) => Mask::Causal,
    }
}

/// A decoder layer.
pub(super) trait DecoderLayer {
    /// The activations that its MLP may have.
    const ACTIVATIONS: &'static [HiddenAct] = &[HiddenAct::Silu];

    /// `[1, n, hidden_size] -> [1, n, hidden_size]`
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array, Exception>;
}

/// What distinguishes decoders around their layers.
pub(super) struct Style {
    /// What embeddings are multiplied by.
    pub embed_scale: Option<f32>,
    /// Whether the weight of the last norm is stored less one.
    pub norm_less_one: bool,
    /// Logits become `softcap · tanh(logit / softcap)`.
    pub logit_softcap: Option<f32>,
    /// The attention of each layer.
    pub layers: Vec<LayerSpec>,
    /// The rotary embeddings that layers name.
    pub ropes: Vec<Rope>,
}

impl Style {
    /// Plain: all layers alike.
    pub(super) fn plain(c: &Config) -> Result<Self> {
        c.check_sizes()?;
        Ok(Self {
            embed_scale: None,
            norm_less_one: false,
            logit_softcap: None,
            layers: vec![c.layer(); c.num_hidden_layers.max(0) as usize],
            ropes: vec![Rope::new(&c.rope, c.head_dim())?],
        })
    }
}

/// A decoder with layers of one kind.
pub(super) struct CausalLm<L> {
    embed_tokens: Embedding,
    layers: Vec<L>,
    norm: RmsNorm,
    /// None where the embedding table serves.
    lm_head: Option<Linear>,
    style: Style,
    max_position_embeddings: usize,
}

impl<L: DecoderLayer> CausalLm<L> {
    /// Builds the model at `w`, its layers with `layer`.
    pub(super) fn load(c: &Config, w: &Scope, style: Style, layer: impl Fn(&Scope) -> L) -> Result<Self> {
        let act = c.hidden_activation.or(c.hidden_act).context("config.json: hidden_act is missing")?;
        let known = L::ACTIVATIONS;
        ensure!(known.contains(&act), "config.json: hidden_act is {act:?}, where this model has {known:?}");
        ensure!(c.use_sliding_window != Some(true), "config.json: use_sliding_window: true is not supported");
        let model = w.pp("model");
        let (layers, norm) = (model.pp("layers"), model.pp("norm"));
        Ok(Self {
            embed_tokens: Embedding::load(&model.pp("embed_tokens"), c.vocab_size, c.hidden_size),
            layers: (0..c.num_hidden_layers).map(|i| layer(&layers.pp(i))).collect(),
            norm: match style.norm_less_one {
                true => RmsNorm::load_less_one(&norm, c.hidden_size, c.rms_norm_eps),
                false => RmsNorm::load(&norm, c.hidden_size, c.rms_norm_eps),
            },
            lm_head: (!c.tie_word_embeddings).then(|| Linear::load(&w.pp("lm_head"), c.hidden_size, c.vocab_size)),
            style,
            max_position_embeddings: c.rope.max_position_embeddings,
        })
    }
}

impl<L: DecoderLayer> Decoder for CausalLm<L> {
    fn embed_tokens(&self, ids: &[u32]) -> Result<Array, Exception> {
        let x = self.embed_tokens.forward(ids)?;
        match self.style.embed_scale {
            // Rounded to the type of the embeddings, as the reference does it.
            Some(scale) => x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?),
            None => Ok(x),
        }
    }

    fn new_cache(&self, len: usize, settings: CacheSettings) -> Cache {
        Cache::new(self.layers.len(), self.rope_factors(len), settings)
    }

    fn num_layers(&self) -> usize {
        self.layers.len()
    }

    fn forward(&self, layers: Range<usize>, x: &Array, rows: &mut [Row]) -> Result<Array, Exception> {
        let mut x = x.clone();
        let Style { ropes, layers: specs, .. } = &self.style;
        let last = layers.end == self.layers.len();
        for layer in layers {
            let mut step = Step { ropes, rows, layer, spec: specs[layer] };
            x = self.layers[layer].forward(&x, &mut step)?;
        }
        for row in rows {
            let n = row.len();
            let Some(cache) = &mut row.cache else { continue };
            let max_size = cache.settings().max_size;
            cache.advance(n, |layer| sinks_and_window(specs[layer].window, max_size));
        }
        if last { self.norm.forward(&x) } else { Ok(x) }
    }

    fn logits(&self, hidden: &Array) -> Result<Array, Exception> {
        let logits = match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.embed_tokens.as_linear(hidden)?,
        };
        match self.style.logit_softcap {
            Some(cap) => {
                let cap = Array::from_f32(cap).as_dtype(logits.dtype())?;
                tanh(logits.divide(&cap)?)?.multiply(&cap)
            }
            None => Ok(logits),
        }
    }

    fn rope_boundary(&self) -> Option<usize> {
        self.style.ropes.iter().find_map(Rope::boundary)
    }

    fn max_position_embeddings(&self) -> usize {
        self.max_position_embeddings
    }

    fn windows(&self) -> Vec<Option<usize>> {
        self.style.layers.iter().map(|spec| spec.window).collect()
    }
}

/// The part that a path belongs to in models whose language part has no prefix.
pub(super) fn group(path: &str) -> Option<Group> {
    let below = |place: &str| path.strip_prefix(place).filter(|rest| rest.is_empty() || rest.starts_with('.'));
    if let Some(rest) = path.strip_prefix("model.layers.") {
        return rest.split('.').next()?.parse().ok().map(Group::Layer);
    }
    if below("model.embed_tokens").is_some() {
        return Some(Group::Embedding);
    }
    if below("model.norm").is_some() {
        return Some(Group::FinalNorm);
    }
    below("lm_head").map(|_| Group::Head)
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
