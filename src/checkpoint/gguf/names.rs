//! The architectures that GGUF files are read from and written to, and what each calls its tensors.

use std::fmt;

use anyhow::{Result, bail};

/// An architecture. GGUF's `llama` is Mistral, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arch {
    Llama,
    Phi3,
    Qwen2,
    Gemma,
}

/// Tensors outside the blocks: GGUF's name, then Hugging Face's.
const OUTER: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of block N, which is `blk.N` and `model.layers.N`.
const INNER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_down", "mlp.down_proj"),
];

const SEPARATE: &[(&str, &str)] = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
];

const FUSED: &[(&str, &str)] = &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")];

impl Arch {
    const ALL: [Self; 4] = [Self::Llama, Self::Phi3, Self::Qwen2, Self::Gemma];

    /// The architecture that `general.architecture` names.
    pub(super) fn named(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|arch| arch.name() == name) {
            Some(arch) => Ok(arch),
            None => {
                let known = Self::ALL.map(Self::name).join(", ");
                bail!("its architecture {name:?} is not supported; supported are {known}")
            }
        }
    }

    /// What GGUF calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Phi3 => "phi3",
            Self::Qwen2 => "qwen2",
            Self::Gemma => "gemma",
        }
    }

    fn inner(self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        INNER.iter().chain(if self == Self::Phi3 { FUSED } else { SEPARATE })
    }

    /// `blk.3.attn_q.weight` as `model.layers.3.self_attn.q_proj.weight`; none for names that the architecture has not.
    pub(super) fn to_hf(self, name: &str) -> Option<String> {
        self.translate(name, "blk.", "model.layers.", |&(gguf, hf)| (gguf, hf))
    }

    /// The other way.
    pub(super) fn to_gguf(self, name: &str) -> Option<String> {
        self.translate(name, "model.layers.", "blk.", |&(gguf, hf)| (hf, gguf))
    }

    fn translate(
        self,
        name: &str,
        from: &str,
        to: &str,
        pair: fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
    ) -> Option<String> {
        let (module, kind) = name.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
        if let Some((number, module)) = module.strip_prefix(from).and_then(|rest| rest.split_once('.')) {
            let layer: u32 = number.parse().ok().filter(|layer: &u32| layer.to_string() == number)?;
            let (_, found) = self.inner().map(pair).find(|(known, _)| *known == module)?;
            return Some(format!("{to}{layer}.{found}.{kind}"));
        }
        let (_, found) = OUTER.iter().map(pair).find(|(known, _)| *known == module)?;
        Some(format!("{found}.{kind}"))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}
