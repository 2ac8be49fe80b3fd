//! Published models by name: their `config.json`, and the tensors that it stands for.

use std::cell::LazyCell;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value, json};

use super::random::RandomNumbers;
use crate::checkpoint::config::{GenerationConfig, TokenizerConfig};
use crate::checkpoint::quantization::QuantizedAs;
use crate::checkpoint::safetensors::TensorSpec;
use crate::checkpoint::{ModelFiles, Weights};
use crate::convert::pass::{Conversion, Settings};
use crate::convert::rule::Rule;
use crate::models::{self, Arch};

/// As published, but for longrope's factors, which no speed depends on.
const SHAPES: &str = include_str!("shapes.json");

/// A published model without its numbers: in MLX's layout, in bfloat16.
pub struct Shape {
    /// What it is called here.
    pub name: String,
    /// Its configuration; there are no other files.
    pub files: ModelFiles,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Its tensors.
    pub tensors: Vec<TensorSpec>,
}

impl Shape {
    /// All names.
    pub fn names() -> Vec<String> {
        table().keys().cloned().collect()
    }

    /// The shape of this name, with another number of decoder layers if one is given.
    pub fn find(name: &str, num_hidden_layers: Option<usize>) -> Result<Self> {
        let mut config = table().remove(name).with_context(|| {
            format!("`shape` {name}: there is no such shape; there are {}", Self::names().join(", "))
        })?;
        if let Some(layers) = num_hidden_layers {
            config["num_hidden_layers"] = layers.into();
        }
        fill_rope_factors(&mut config);
        let files = ModelFiles {
            folder: PathBuf::from(name),
            gguf: None,
            config,
            generation: GenerationConfig::default(),
            preprocessor: Some(json!({})),
            tokenizer: TokenizerConfig::default(),
        };
        let tensors = models::tensors(&files)?;
        let parameters = tensors.iter().map(|spec| spec.bytes() / 2).sum();
        Ok(Self { name: name.to_owned(), files, parameters, tensors })
    }

    /// The same as `phi3v quantize` would make it, and what it would warn of.
    pub fn quantized(self, packing: QuantizedAs) -> Result<(Self, Vec<String>)> {
        let weights = self.weights(None, |_| bail!("nothing is read"))?;
        let settings = Settings { rule: Some(Rule::uniform(packing)), ..Settings::default() };
        let conversion = Conversion::new(&self.files, &weights, &settings)?;
        let (config, tensors) = (conversion.config()?, conversion.outputs().cloned().collect());
        let files = ModelFiles { config, ..self.files.clone() };
        let warnings = conversion.warnings();
        Ok((Self { files, tensors, ..self }, warnings))
    }

    /// Random numbers of its tensors.
    pub fn random_weights(&self, dtype: Option<Dtype>) -> Result<Weights> {
        let packing = self.files.quantization()?.map(|quantization| quantization.default);
        let numbers = LazyCell::new(move || RandomNumbers::new(packing));
        self.weights(dtype, move |spec| numbers.tensor(spec))
    }

    /// Tensors that `make` makes.
    pub(super) fn weights(
        &self,
        dtype: Option<Dtype>,
        make: impl Fn(&TensorSpec) -> Result<Array> + 'static,
    ) -> Result<Weights> {
        let remap = (Arch::of(&self.files)?.remap)(&self.files)?;
        Weights::made(&self.files, remap, dtype, self.tensors.clone(), make)
    }
}

fn table() -> Map<String, Value> {
    serde_json::from_str(SHAPES).expect("it is part of the program")
}

/// Rising factors for every pair of a head's numbers, where longrope wants such.
fn fill_rope_factors(config: &mut Value) {
    let size = |key: &str| config[key].as_u64().unwrap_or(1);
    let pairs = size("hidden_size") / size("num_attention_heads") / 2;
    let factors = |most: f64| -> Vec<f64> {
        (0..pairs).map(|i| 1.0 + (most - 1.0) * i as f64 / (pairs - 1).max(1) as f64).collect()
    };
    if config["rope_scaling"]["type"].is_string() {
        config["rope_scaling"]["short_factor"] = factors(2.8).into();
        config["rope_scaling"]["long_factor"] = factors(64.0).into();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_quantized::Mode;

    use super::*;

    #[test]
    fn shapes_have_the_parameters_that_their_makers_count() {
        let millions = [
            ("phi-3.5-vision", 4147),
            ("phi-3.5-mini", 3821),
            ("phi-3-medium", 13960),
            ("llama-3.2-1b", 1236),
            ("llama-3.2-3b", 3213),
            ("llama-3.1-8b", 8030),
            ("mistral-7b", 7248),
            ("qwen2.5-0.5b", 494),
            ("qwen2.5-7b", 7616),
            ("gemma-2b", 2506),
            ("smollm2-1.7b", 1711),
            ("smollm2-135m", 135),
        ];
        assert_eq!(millions.len() + 1, Shape::names().len());
        for (name, expected) in millions {
            let parameters = Shape::find(name, None).unwrap().parameters;
            assert_eq!((parameters + 500_000) / 1_000_000, expected, "{name}");
        }
    }

    /// What is missing, left over or of another shape would be an error.
    #[test]
    fn shapes_are_those_of_the_models_plain_and_packed() {
        for name in Shape::names() {
            let plain = Shape::find(&name, Some(2)).unwrap();
            let packed = Shape::find(&name, Some(2)).unwrap();
            let packed = packed.quantized(QuantizedAs::new(Mode::Affine, None, Some(32)).unwrap()).unwrap().0;
            assert!(packed.tensors.iter().any(|spec| spec.name == "model.layers.1.mlp.down_proj.scales"), "{name}");
            for shape in [plain, packed] {
                let weights = shape.weights(None, |_| unreachable!("nothing is read")).unwrap();
                models::build(&shape.files, weights.skeleton()).unwrap();
            }
        }
    }

    #[test]
    fn unknown_names_are_told_the_known_ones() {
        let error = Shape::find("phi-4", None).err().unwrap().to_string();
        assert!(error.contains("`shape` phi-4") && error.contains("phi-3.5-vision, phi-3.5-mini"), "{error}");
    }
}
