//! Gemma 2 (arXiv 2408.00118): Gemma with norms around attention and MLP, soft caps of scores and logits, and attention that
//! alternates between a sliding window and all positions.
//! Reference: transformers, modeling_gemma2.py.

use anyhow::{Result, ensure};
use mlx_rs::Array;
use mlx_rs::error::Exception;
use serde::Deserialize;

use super::causal_lm::{self, CausalLm, HiddenAct, LayerSpec, Step, Style};
use super::gemma::Mlp;
use super::llama::Attention;
use super::{Arch, Model};
use crate::checkpoint::Scope;
use crate::nn::{RmsNorm, Scores, add};

pub(super) const ARCH: Arch = Arch {
    model_types: &["gemma2"],
    load: |files, w| Ok(Model::of_text(load(&files.parse_text()?, &files.parse_text()?, w)?)),
    remap: |files| Ok(files.parse_text::<causal_lm::Config>()?.remap()),
    dims: |files| Ok(files.parse_text::<causal_lm::Config>()?.dims(None)),
    images: None,
    group: causal_lm::group,
    stop_tokens: &["<end_of_turn>"],
};

/// The keys of `config.json` that other decoders do not have.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    /// The scores' scale is the inverse square root of it.
    query_pre_attn_scalar: f32,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    /// Older files have none: their layers alternate, the first with a window.
    layer_types: Option<Vec<LayerType>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    SlidingAttention,
    FullAttention,
}

impl Config {
    fn check(&self, num_hidden_layers: i32) -> Result<()> {
        let factors = [
            ("query_pre_attn_scalar", Some(self.query_pre_attn_scalar)),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ];
        for (key, value) in factors.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            let positive = value.is_finite() && value > 0.0;
            ensure!(positive, "config.json: {key} is {value}, where a positive number is expected");
        }
        if let Some(types) = &self.layer_types {
            let n = types.len();
            ensure!(
                n == num_hidden_layers.max(0) as usize,
                "config.json: layer_types has {n} entries for {num_hidden_layers} layers"
            );
        }
        Ok(())
    }

    fn layer_type(&self, layer: usize) -> LayerType {
        match &self.layer_types {
            Some(types) => types[layer],
            None if layer.is_multiple_of(2) => LayerType::SlidingAttention,
            None => LayerType::FullAttention,
        }
    }
}

fn load(c: &causal_lm::Config, own: &Config, w: &Scope) -> Result<CausalLm<DecoderLayer>> {
    own.check(c.num_hidden_layers)?;
    let mut style = Style::plain(c)?;
    for (at, layer) in style.layers.iter_mut().enumerate() {
        *layer = LayerSpec {
            window: layer.window.filter(|_| own.layer_type(at) == LayerType::SlidingAttention),
            scores: Scores { scale: own.query_pre_attn_scalar.powf(-0.5), softcap: own.attn_logit_softcapping },
            ..*layer
        };
    }
    let style = Style {
        embed_scale: Some((c.hidden_size as f32).sqrt()),
        norm_less_one: true,
        logit_softcap: own.final_logit_softcapping,
        ..style
    };
    CausalLm::load(c, w, style, |w| DecoderLayer::load(w, c))
}

struct DecoderLayer {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    post_feedforward_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn load(w: &Scope, c: &causal_lm::Config) -> Self {
        let norm = |name| RmsNorm::load_less_one(&w.pp(name), c.hidden_size, c.rms_norm_eps);
        Self {
            self_attn: Attention::load(&w.pp("self_attn"), c),
            mlp: Mlp::load(&w.pp("mlp"), c),
            input_layernorm: norm("input_layernorm"),
            post_attention_layernorm: norm("post_attention_layernorm"),
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm"),
            post_feedforward_layernorm: norm("post_feedforward_layernorm"),
        }
    }
}

impl causal_lm::DecoderLayer for DecoderLayer {
    const ACTIVATIONS: &'static [HiddenAct] = &[HiddenAct::GeluPytorchTanh];

    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array, Exception> {
        let attention = self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?;
        let x = add(x, &self.post_attention_layernorm.forward(&attention)?)?;
        let mlp = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&x)?)?;
        add(&x, &self.post_feedforward_layernorm.forward(&mlp)?)
    }
}
