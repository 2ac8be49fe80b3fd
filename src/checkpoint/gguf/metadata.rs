//! `config.json` as the metadata of a GGUF file, and the tensors that hold a part of it.
//! Reference: llama.cpp conversion/{base,llama,phi}.py.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::names::Arch;
use super::rope::Llama3;
use crate::checkpoint::config::TokenIds;
use crate::checkpoint::json::parse;

/// Metadata in the file's form, key after key.
#[derive(Default)]
pub(super) struct Metadata {
    pub count: u64,
    pub bytes: Vec<u8>,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        put_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
    }

    pub(super) fn u32(&mut self, key: &str, number: u32) {
        self.key(key, 4);
        self.bytes.extend(number.to_le_bytes());
    }

    pub(super) fn f32(&mut self, key: &str, number: f32) {
        self.key(key, 6);
        self.bytes.extend(number.to_le_bytes());
    }

    pub(super) fn bool(&mut self, key: &str, yes: bool) {
        self.key(key, 7);
        self.bytes.push(yes.into());
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.key(key, 8);
        put_text(&mut self.bytes, text);
    }

    pub(super) fn texts<'a>(&mut self, key: &str, texts: impl ExactSizeIterator<Item = &'a str>) {
        self.list(key, 8, texts.len());
        for text in texts {
            put_text(&mut self.bytes, text);
        }
    }

    pub(super) fn i32s(&mut self, key: &str, numbers: &[i32]) {
        self.list(key, 5, numbers.len());
        self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    pub(super) fn f32s(&mut self, key: &str, numbers: &[f32]) {
        self.list(key, 6, numbers.len());
        self.bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }

    fn list(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }
}

/// A text with its length before it.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The keys of `config.json` that a file holds.
#[derive(Deserialize)]
pub(super) struct Config {
    model_type: String,
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    rms_norm_eps: f32,
    pub vocab_size: u32,
    max_position_embeddings: u32,
    original_max_position_embeddings: Option<u32>,
    sliding_window: Option<u32>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    rope_theta: Option<f64>,
    rope_scaling: Option<Scaling>,
    /// As transformers 5 writes `rope_scaling`.
    rope_parameters: Option<Scaling>,
    partial_rotary_factor: Option<f64>,
    pub bos_token_id: Option<TokenIds>,
    pub eos_token_id: Option<TokenIds>,
    pub pad_token_id: Option<TokenIds>,
}

#[derive(Deserialize)]
struct Scaling {
    rope_type: Option<String>,
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<u32>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    attention_factor: Option<f32>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// Small tensors that the configuration gives rise to: names and values.
pub(super) type Factors = Vec<(&'static str, Vec<f32>)>;

impl Config {
    pub(super) fn read(config: &Value) -> Result<Self> {
        parse(config).context("config.json")
    }

    /// The architecture as which the model is written.
    pub(super) fn arch(&self) -> Result<Arch> {
        match self.model_type.as_str() {
            "llama" | "mistral" => Ok(Arch::Llama),
            "phi3" => Ok(Arch::Phi3),
            "phi3_v" => bail!("phi3_v cannot be written as GGUF: the format has no place for its vision tower"),
            other => bail!("{other} cannot be written as GGUF; llama, mistral and phi3 can"),
        }
    }

    /// Heads of a tensor whose rows llama.cpp pairs otherwise.
    pub(super) fn paired_heads(&self, name: &str) -> Option<i32> {
        let heads = match name {
            _ if self.model_type == "phi3" => return None,
            _ if name.contains(".q_proj.") => self.num_attention_heads,
            _ if name.contains(".k_proj.") => self.num_key_value_heads(),
            _ => return None,
        };
        i32::try_from(heads).ok()
    }

    fn num_key_value_heads(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Writes the model's sizes; the tensors that belong to them.
    pub(super) fn write(&self, metadata: &mut Metadata) -> Result<Factors> {
        let arch = self.arch()?;
        let key = |name: &str| format!("{arch}.{name}");
        ensure!(self.num_attention_heads > 0, "config.json: num_attention_heads is 0");
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads);
        metadata.u32(&key("vocab_size"), self.vocab_size);
        metadata.u32(&key("context_length"), self.max_position_embeddings);
        metadata.u32(&key("embedding_length"), self.hidden_size);
        metadata.u32(&key("feed_forward_length"), self.intermediate_size);
        metadata.u32(&key("block_count"), self.num_hidden_layers);
        metadata.u32(&key("attention.head_count"), self.num_attention_heads);
        metadata.u32(&key("attention.head_count_kv"), self.num_key_value_heads());
        metadata.u32(&key("attention.key_length"), head_dim);
        metadata.u32(&key("attention.value_length"), head_dim);
        metadata.f32(&key("attention.layer_norm_rms_epsilon"), self.rms_norm_eps);
        if let Some(window) = self.sliding_window {
            metadata.u32(&key("attention.sliding_window"), window);
        }
        let scaling = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let theta = self.rope_theta.or(scaling.and_then(|s| s.rope_theta)).unwrap_or(10_000.0);
        let part = self.partial_rotary_factor.or(scaling.and_then(|s| s.partial_rotary_factor)).unwrap_or(1.0);
        let dims = (f64::from(head_dim) * part) as u32;
        metadata.f32(&key("rope.freq_base"), theta as f32);
        metadata.u32(&key("rope.dimension_count"), dims);
        if arch == Arch::Phi3 {
            metadata.u32(&key("rope.scaling.original_context_length"), self.original_context(scaling));
        }
        let Some(scaling) = scaling else { return Ok(Factors::new()) };
        let kind = scaling.rope_type.as_deref().or(scaling.r#type.as_deref()).context("rope_scaling has no type")?;
        match kind {
            "default" => Ok(Factors::new()),
            "linear" => {
                metadata.text(&key("rope.scaling.type"), "linear");
                metadata.f32(&key("rope.scaling.factor"), scaling.factor.context("rope_scaling has no factor")? as f32);
                Ok(Factors::new())
            }
            "llama3" if arch == Arch::Llama => {
                Ok(vec![("rope_freqs.weight", self.llama3(scaling)?.factors(theta, dims as usize))])
            }
            "su" | "longrope" | "yarn" if arch == Arch::Phi3 => {
                metadata.f32(&key("rope.scaling.attn_factor"), self.gain(scaling, kind));
                let factors = |list: &Option<Vec<f32>>| list.clone().context("rope_scaling lacks factors");
                Ok(vec![
                    ("rope_factors_long.weight", factors(&scaling.long_factor)?),
                    ("rope_factors_short.weight", factors(&scaling.short_factor)?),
                ])
            }
            other => bail!("rope_scaling of type {other} cannot be written for {arch}"),
        }
    }

    fn original_context(&self, scaling: Option<&Scaling>) -> u32 {
        let inner = scaling.and_then(|scaling| scaling.original_max_position_embeddings);
        self.original_max_position_embeddings.or(inner).unwrap_or(self.max_position_embeddings)
    }

    fn llama3(&self, scaling: &Scaling) -> Result<Llama3> {
        let required = |name: &str, value: Option<f64>| value.with_context(|| format!("rope_scaling has no {name}"));
        let context = scaling.original_max_position_embeddings.or(self.original_max_position_embeddings);
        Ok(Llama3 {
            factor: required("factor", scaling.factor)?,
            low: required("low_freq_factor", scaling.low_freq_factor)?,
            high: required("high_freq_factor", scaling.high_freq_factor)?,
            context: required("original_max_position_embeddings", context.map(f64::from))?,
        })
    }

    /// What longrope multiplies queries and keys with.
    fn gain(&self, scaling: &Scaling, kind: &str) -> f32 {
        let original = f64::from(self.original_context(Some(scaling)));
        let ratio = (f64::from(self.max_position_embeddings) / original).max(1.0);
        scaling.attention_factor.unwrap_or_else(|| match kind {
            "yarn" => (0.1 * ratio.ln() + 1.0) as f32,
            _ => (1.0 + ratio.ln() / original.ln()).sqrt() as f32,
        })
    }
}
