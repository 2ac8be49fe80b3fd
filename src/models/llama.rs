//! Llama 1 to 3, Mistral, which is the same network with a sliding window, and Qwen2, the same with biases.
//! Reference: transformers, modeling_llama.py, modeling_mistral.py and modeling_qwen2.py.

use anyhow::Result;
use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::causal_lm::{self, CausalLm, Config, Step, Style};
use super::{Arch, Model};
use crate::checkpoint::Scope;
use crate::nn::{Linear, RmsNorm, add, split_heads, swiglu};

pub(super) const ARCH: Arch = Arch {
    model_types: &["llama", "mistral", "qwen2"],
    load: |files, w| Ok(Model::of_text(load(&files.parse_text()?, w)?)),
    remap: |files| Ok(files.parse_text::<Config>()?.remap()),
    dims: |files| Ok(files.parse_text::<Config>()?.dims(None)),
    images: None,
    group: causal_lm::group,
    stop_tokens: &[],
};

/// The text model at `w`.
pub(super) fn load(c: &Config, w: &Scope) -> Result<CausalLm<DecoderLayer>> {
    CausalLm::load(c, w, Style::plain(c)?, |w| DecoderLayer::load(w, c))
}

pub(super) struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    num_attention_heads: i32,
    num_key_value_heads: i32,
}

impl Attention {
    pub(super) fn load(w: &Scope, c: &Config) -> Self {
        let (heads, kv_heads, head_dim) = (c.num_attention_heads, c.num_key_value_heads(), c.head_dim());
        let linear = |name, input, output, bias| Linear::load_with_optional_bias(&w.pp(name), input, output, bias);
        Self {
            q_proj: linear("q_proj", c.hidden_size, heads * head_dim, c.qkv_bias()),
            k_proj: linear("k_proj", c.hidden_size, kv_heads * head_dim, c.qkv_bias()),
            v_proj: linear("v_proj", c.hidden_size, kv_heads * head_dim, c.qkv_bias()),
            o_proj: linear("o_proj", heads * head_dim, c.hidden_size, false),
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
        }
    }

    pub(super) fn forward(&self, x: &Array, step: &mut Step) -> Result<Array, Exception> {
        let kv_heads = self.num_key_value_heads;
        let queries = split_heads(&self.q_proj.forward(x)?, self.num_attention_heads)?; // [1, heads, n, head_dim]
        let keys = split_heads(&self.k_proj.forward(x)?, kv_heads)?; // [1, kv_heads, n, head_dim]
        let values = split_heads(&self.v_proj.forward(x)?, kv_heads)?;
        self.o_proj.forward(&step.attend(&step.rotate(&queries)?, &step.rotate(&keys)?, &values)?)
    }
}

struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(w: &Scope, c: &Config) -> Self {
        let linear = |name, input, output| Linear::load_with_optional_bias(&w.pp(name), input, output, false);
        Self {
            gate_proj: linear("gate_proj", c.hidden_size, c.intermediate_size),
            up_proj: linear("up_proj", c.hidden_size, c.intermediate_size),
            down_proj: linear("down_proj", c.intermediate_size, c.hidden_size),
        }
    }

    fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.down_proj.forward(&swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?)
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
