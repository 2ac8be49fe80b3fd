//! Gemma: Llama's attention, norms whose weights are stored less one, gated MLPs with GELU, and scaled embeddings.
//! Reference: transformers, modeling_gemma.py.

use anyhow::Result;
use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::causal_lm::{self, CausalLm, Config, HiddenAct, Step, Style};
use super::llama::Attention;
use super::{Arch, Model};
use crate::checkpoint::Scope;
use crate::nn::{Linear, RmsNorm, add, geglu};

pub(super) const ARCH: Arch = Arch {
    model_types: &["gemma"],
    load: |files, w| Ok(Model::of_text(load(&files.parse_text()?, w)?)),
    remap: |files| Ok(files.parse_text::<Config>()?.remap()),
    dims: |files| Ok(files.parse_text::<Config>()?.dims(None)),
    images: None,
    group: causal_lm::group,
    stop_tokens: &["<end_of_turn>"],
};

fn load(c: &Config, w: &Scope) -> Result<CausalLm<DecoderLayer>> {
    let style = Style { embed_scale: Some((c.hidden_size as f32).sqrt()), norm_less_one: true, ..Style::plain(c)? };
    CausalLm::load(c, w, style, |w| DecoderLayer::load(w, c))
}

pub(super) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    pub(super) fn load(w: &Scope, c: &Config) -> Self {
        Self {
            gate_proj: Linear::load(&w.pp("gate_proj"), c.hidden_size, c.intermediate_size),
            up_proj: Linear::load(&w.pp("up_proj"), c.hidden_size, c.intermediate_size),
            down_proj: Linear::load(&w.pp("down_proj"), c.intermediate_size, c.hidden_size),
        }
    }

    pub(super) fn forward(&self, x: &Array) -> Result<Array, Exception> {
        self.down_proj.forward(&geglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?)
    }
}

struct DecoderLayer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn load(w: &Scope, c: &Config) -> Self {
        let norm = |name| RmsNorm::load_less_one(&w.pp(name), c.hidden_size, c.rms_norm_eps);
        Self {
            self_attn: Attention::load(&w.pp("self_attn"), c),
            mlp: Mlp::load(&w.pp("mlp"), c),
            input_layernorm: norm("input_layernorm"),
            post_attention_layernorm: norm("post_attention_layernorm"),
        }
    }
}

impl causal_lm::DecoderLayer for DecoderLayer {
    const ACTIVATIONS: &'static [HiddenAct] = &[HiddenAct::Gelu, HiddenAct::GeluPytorchTanh];

    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array, Exception> {
        let x = add(x, &self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?)?;
        add(&x, &self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?)
    }
}
