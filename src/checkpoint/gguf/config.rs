//! `config.json` of the model in a GGUF file.

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::container::Container;
use super::format::Format;
use super::names::Arch;
use super::rope::Llama3;

/// The configuration. Sizes are those that the metadata names, the vocabulary is as large as the embedding table.
pub(super) fn config(file: &Container, arch: Arch) -> Result<Value> {
    let key = |name: &str| format!("{arch}.{name}");
    let count = |name: &str| file.count(&key(name));
    let optional = |name: &str| file.unsigned(&key(name));
    ensure!(optional("expert_count")?.unwrap_or(0) == 0, "it is a mixture of experts, which is not supported");
    let (hidden, heads) = (count("embedding_length")?, count("attention.head_count")?);
    ensure!(heads > 0, "{} is 0", key("attention.head_count"));
    let kv_heads = optional("attention.head_count_kv")?.unwrap_or(heads as u64);
    let head_dim = optional("attention.key_length")?.unwrap_or((hidden / heads) as u64);
    let value_dim = optional("attention.value_length")?.unwrap_or((hidden / heads) as u64);
    ensure!(head_dim == value_dim, "keys of {head_dim} and values of {value_dim} elements are not supported");
    let table = file.tensor("token_embd.weight").context("it has no token_embd.weight")?;
    let window = optional("attention.sliding_window")?.filter(|&window| window > 0);
    let (model_type, class) = match arch {
        Arch::Llama if window.is_some() => ("mistral", "MistralForCausalLM"),
        Arch::Llama => ("llama", "LlamaForCausalLM"),
        Arch::Phi3 => ("phi3", "Phi3ForCausalLM"),
        Arch::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Arch::Gemma => ("gemma", "GemmaForCausalLM"),
    };
    let activation = if arch == Arch::Gemma { "gelu_pytorch_tanh" } else { "silu" };
    let epsilon = key("attention.layer_norm_rms_epsilon");
    let epsilon = file.float(&epsilon)?.with_context(|| format!("it has no {epsilon}"))?;
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": count("feed_forward_length")?,
        "num_hidden_layers": count("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": activation,
        "vocab_size": table.shape[0],
        "max_position_embeddings": count("context_length")?,
        "rms_norm_eps": decimal(epsilon as f32),
        "tie_word_embeddings": file.tensor("output.weight").is_none(),
        "torch_dtype": dtype(file),
    });
    let fields = config.as_object_mut().expect("made as an object");
    if head_dim != (hidden / heads) as u64 || arch == Arch::Gemma {
        fields.insert("head_dim".into(), head_dim.into());
    }
    if arch == Arch::Gemma {
        // transformers reads this one, and the other only where this is absent.
        fields.insert("hidden_activation".into(), activation.into());
    }
    if let Some(window) = window {
        fields.insert("sliding_window".into(), window.into());
    }
    rotation(file, arch, head_dim, fields)?;
    for name in ["bos", "eos"] {
        if let Some(id) = file.unsigned(&format!("tokenizer.ggml.{name}_token_id"))? {
            fields.insert(format!("{name}_token_id"), id.into());
        }
    }
    Ok(config)
}

/// What concerns the rotation of queries and keys.
fn rotation(file: &Container, arch: Arch, head_dim: u64, fields: &mut Map<String, Value>) -> Result<()> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    let theta = decimal(file.float(&key("freq_base"))?.unwrap_or(10_000.0) as f32);
    fields.insert("rope_theta".into(), theta.into());
    let dims = file.unsigned(&key("dimension_count"))?.unwrap_or(head_dim);
    if dims != head_dim {
        ensure!(arch == Arch::Phi3 && dims < head_dim, "{} is {dims} of {head_dim}", key("dimension_count"));
        let part = dims as f64 / head_dim as f64;
        // The product is cut to a whole number by those who read it.
        let short = ((part * head_dim as f64) as u64) < dims;
        fields.insert("partial_rotary_factor".into(), if short { part.next_up() } else { part }.into());
    }
    let context = fields["max_position_embeddings"].as_f64().unwrap_or_default();
    let original = file.unsigned(&key("scaling.original_context_length"))?;
    if arch == Arch::Phi3 {
        let original = original.unwrap_or(context as u64);
        fields.insert("original_max_position_embeddings".into(), original.into());
    }
    let old = file.float(&key("scale_linear"))?;
    let factor = file.float(&key("scaling.factor"))?.or(old).filter(|&factor| factor != 0.0 && factor != 1.0);
    let scaling = match file.text(&key("scaling.type"))? {
        _ if file.tensor("rope_factors_long.weight").is_some() => {
            ensure!(arch == Arch::Phi3, "longrope is supported for phi3 only");
            longrope(file, &key("scaling.attn_factor"), context, original)?
        }
        _ if file.tensor("rope_freqs.weight").is_some() => {
            ensure!(factor.is_none(), "its wavelengths are scaled twice, which is not supported");
            Llama3::of(&floats(file, "rope_freqs.weight")?, theta)?.map_or(Value::Null, Llama3::json)
        }
        None | Some("none" | "linear" | "longrope") => match factor {
            Some(factor) => json!({ "type": "linear", "factor": decimal(factor as f32) }),
            None => Value::Null,
        },
        Some(other) => bail!("{} is {other:?}; supported are none, linear and longrope", key("scaling.type")),
    };
    fields.insert("rope_scaling".into(), scaling);
    Ok(())
}

/// LongRoPE. Which of its formulas gave the gain, [`crate::nn::Rope`] knows by the type.
fn longrope(file: &Container, gain_key: &str, context: f64, original: Option<u64>) -> Result<Value> {
    let original = original.context("it has factors of longrope, but no original_context_length")? as f64;
    let factors = |name: &str| -> Result<Vec<f64>> {
        Ok(floats(file, &format!("rope_factors_{name}.weight"))?.into_iter().map(decimal).collect())
    };
    let mut scaling = json!({
        "type": "longrope",
        "short_factor": factors("short")?,
        "long_factor": factors("long")?,
    });
    let ratio = (context / original).max(1.0);
    let near = |gain: f64, formula: f64| (gain - formula).abs() < 1e-4;
    match file.float(gain_key)? {
        None => (),
        Some(gain) if near(gain, (1.0 + ratio.ln() / original.ln()).sqrt()) => (),
        Some(gain) if near(gain, 0.1 * ratio.ln() + 1.0) => scaling["type"] = "yarn".into(),
        Some(gain) => scaling["attention_factor"] = decimal(gain as f32).into(),
    }
    Ok(scaling)
}

/// A small tensor's values.
fn floats(file: &Container, name: &str) -> Result<Vec<f32>> {
    let tensor = file.tensor(name).with_context(|| format!("it has no {name}"))?;
    let bytes = &file.map().bytes()[tensor.bytes.clone()];
    Ok(match tensor.format {
        Format::F32 => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
        Format::F16 => bytes.as_chunks().0.iter().map(|&two| f16::from_le_bytes(two).to_f32()).collect(),
        Format::Bf16 => bytes.as_chunks().0.iter().map(|&two| bf16::from_le_bytes(two).to_f32()).collect(),
        other => bail!("{name} is of type {}, which is not supported here", other.name()),
    })
}

/// The number that was rounded to this float32: 0.00001 and not 0.000009999999747378752.
fn decimal(rounded: f32) -> f64 {
    rounded.to_string().parse().unwrap_or(f64::from(rounded))
}

/// The type of all matrices, if it is one; float16 is what packed ones are read as.
fn dtype(file: &Container) -> &'static str {
    let all = |format| file.tensors().iter().all(|tensor| tensor.shape.len() < 2 || tensor.format == format);
    if all(Format::F32) {
        "float32"
    } else if all(Format::Bf16) {
        "bfloat16"
    } else {
        "float16"
    }
}
