//! Phi-3 and Phi-3.5 mini: a Llama-like decoder with fused projections and longrope.
//! Reference: transformers, modeling_phi3.py.

use anyhow::Result;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::split_equal;

use super::causal_lm::{self, CausalLm, Config, Step, Style};
use super::{Arch, Model};
use crate::checkpoint::Scope;
use crate::nn::{Linear, RmsNorm, add, split, split_heads, swiglu};

pub(super) const ARCH: Arch = Arch {
    model_types: &["phi3"],
    load: |files, w| Ok(Model::of_text(load(&files.parse_text()?, w)?)),
    remap: |files| Ok(files.parse_text::<Config>()?.remap()),
    dims: |files| Ok(files.parse_text::<Config>()?.dims(None)),
    images: None,
    group: causal_lm::group,
    stop_tokens: STOP_TOKENS,
};

/// Phi-3's chat format ends answers with these; published files often name only `</s>`.
pub(super) const STOP_TOKENS: &[&str] = &["<|end|>", "<|endoftext|>"];

/// The text model at `w`.
pub(super) fn load(c: &Config, w: &Scope) -> Result<CausalLm<DecoderLayer>> {
    CausalLm::load(c, w, Style::plain(c)?, |w| DecoderLayer::load(w, c))
}

struct Attention {
    qkv_proj: Linear,
    o_proj: Linear,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: i32,
}

impl Attention {
    fn load(w: &Scope, c: &Config) -> Self {
        let (heads, kv_heads, head_dim) = (c.num_attention_heads, c.num_key_value_heads(), c.head_dim());
        Self {
            qkv_proj: Linear::load(&w.pp("qkv_proj"), c.hidden_size, (heads + 2 * kv_heads) * head_dim),
            o_proj: Linear::load(&w.pp("o_proj"), heads * head_dim, c.hidden_size),
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
        }
    }

    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array, Exception> {
        let (heads, kv_heads, head_dim) = (self.num_attention_heads, self.num_key_value_heads, self.head_dim);
        let qkv = self.qkv_proj.forward(x)?; // [1, n, (heads + 2 · kv_heads) · head_dim]
        let parts = split(&qkv, [heads, kv_heads, kv_heads].map(|heads| heads * head_dim).into_iter(), -1)?;
        let queries = step.rotate(&split_heads(&parts[0], heads)?)?; // [1, heads, n, head_dim]
        let keys = step.rotate(&split_heads(&parts[1], kv_heads)?)?; // [1, kv_heads, n, head_dim]
        let values = split_heads(&parts[2], kv_heads)?;
        self.o_proj.forward(&step.attend(&queries, &keys, &values)?)
    }
}

struct Mlp {
    gate_up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(w: &Scope, c: &Config) -> Self {
        Self {
            gate_up_proj: Linear::load(&w.pp("gate_up_proj"), c.hidden_size, 2 * c.intermediate_size),
            down_proj: Linear::load(&w.pp("down_proj"), c.intermediate_size, c.hidden_size),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        let gate_up = split_equal(self.gate_up_proj.forward(x)?, 2, -1)?; // twice [1, n, intermediate_size]
        self.down_proj.forward(&swiglu(&gate_up[0], &gate_up[1])?)
    }
}

pub(super) struct DecoderLayer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn load(w: &Scope, c: &Config) -> Self {
        let norm = |name| RmsNorm::load(&w.pp(name), c.hidden_size, c.rms_norm_eps);
        Self {
            self_attn: Attention::load(&w.pp("self_attn"), c),
            mlp: Mlp::load(&w.pp("mlp"), c),
            input_layernorm: norm("input_layernorm"),
            post_attention_layernorm: norm("post_attention_layernorm"),
        }
    }
}

impl causal_lm::DecoderLayer for DecoderLayer {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array, Exception> {
        let x = add(x, &self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?)?;
        add(&x, &self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?)
    }
}
