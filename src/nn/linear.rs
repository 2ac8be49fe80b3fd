//! Linear maps and embedding tables, over plain or quantized weights.

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{IndexOp, TryIndexOp};
use mlx_rs::ops::{addmm, dequantize, matmul, quantized_matmul};
use mlx_rs::{Array, Dtype};

use crate::checkpoint::Scope;

/// A matrix `[output, input]` as the checkpoint stores it.
enum Weight {
    Plain(Array),
    /// MLX's affine format: `weight` packs `32 / bits` values into a u32, `scales` and `biases` are
    /// `[output, input / group_size]`.
    Quantized {
        weight: Array,
        scales: Array,
        biases: Array,
        group_size: i32,
        bits: i32,
    },
}

impl Weight {
    fn load(w: &Scope, input: i32, output: i32) -> Self {
        match w.quantized() {
            None => Self::Plain(w.get("weight", &[output, input])),
            Some(rule) => {
                let (group_size, bits) = (rule.group_size, rule.bits);
                // Not input · (32 / bits): 3, 5 and 6 bits do not divide 32. Nonsense in the config makes a shape that
                // no tensor has, and is reported as such.
                let packed = [output, (i64::from(input) * i64::from(bits) / 32) as i32];
                let grouped = [output, input.checked_div(group_size).unwrap_or(0)];
                Self::Quantized {
                    weight: w.get("weight", &packed),
                    scales: w.get("scales", &grouped),
                    biases: w.get("biases", &grouped),
                    group_size,
                    bits,
                }
            }
        }
    }

    /// `x · weightᵀ` for `x` `[.., input]`.
    fn apply(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Plain(weight) => matmul(x, weight.t()),
            Self::Quantized { weight, scales, biases, group_size, bits } => {
                quantized_matmul(x, weight, scales, biases, true, *group_size, *bits)
            }
        }
    }

    /// The rows that `ids` names, `[.., input]`.
    fn rows(&self, ids: &Array) -> Result<Array> {
        match self {
            Self::Plain(weight) => weight.try_index(ids),
            Self::Quantized { weight, scales, biases, group_size, bits } => {
                dequantize(weight.try_index(ids)?, scales.try_index(ids)?, &biases.try_index(ids)?, *group_size, *bits)
            }
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::Plain(weight) => weight.dtype(),
            Self::Quantized { scales, .. } => scales.dtype(),
        }
    }
}

/// `y = x · weightᵀ + bias`.
pub struct Linear {
    weight: Weight,
    bias: Option<Array>,
}

impl Linear {
    /// A map without bias.
    pub fn load(w: &Scope, input: i32, output: i32) -> Self {
        Self { weight: Weight::load(w, input, output), bias: None }
    }

    /// A map with bias.
    pub fn load_with_bias(w: &Scope, input: i32, output: i32) -> Self {
        Self { bias: Some(w.get("bias", &[output])), ..Self::load(w, input, output) }
    }

    /// With a bias where the checkpoint has one.
    pub fn load_with_optional_bias(w: &Scope, input: i32, output: i32) -> Self {
        if w.shape("bias").is_some() { Self::load_with_bias(w, input, output) } else { Self::load(w, input, output) }
    }

    /// A map whose matrix `[output, ..]` is a tensor of more axes, which are flattened: a convolution whose patches do
    /// not overlap.
    pub fn load_patches(w: &Scope, shape: &[i32]) -> Result<Self> {
        let weight = w.get("weight", shape).reshape(&[shape[0], -1])?;
        Ok(Self { weight: Weight::Plain(weight), bias: None })
    }

    /// `[.., input] -> [.., output]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        match (&self.weight, &self.bias) {
            (Weight::Plain(weight), Some(bias)) => addmm(bias, x, weight.t(), 1.0, 1.0),
            (weight, Some(bias)) => weight.apply(x)?.add(bias),
            (weight, None) => weight.apply(x),
        }
    }

    /// The type it computes in.
    pub fn dtype(&self) -> Dtype {
        self.weight.dtype()
    }
}

/// A table of vectors, one per token id.
pub struct Embedding {
    weight: Weight,
    vocab_size: i32,
}

impl Embedding {
    /// A table `[vocab_size, hidden_size]`.
    pub fn load(w: &Scope, vocab_size: i32, hidden_size: i32) -> Self {
        Self { weight: Weight::load(w, hidden_size, vocab_size), vocab_size }
    }

    /// `[n] ids -> [1, n, hidden_size]`
    ///
    /// # Errors
    /// When an id lies outside the table, as happens with another model's tokenizer.
    pub fn forward(&self, ids: &[u32]) -> Result<Array> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.vocab_size as u32) {
            let what = format!("token id {id} is outside the model's vocabulary of {}", self.vocab_size);
            return Err(mlx_rs::error::Exception::custom(what));
        }
        let ids = Array::from_slice(ids, &[ids.len() as i32]);
        Ok(self.weight.rows(&ids)?.index(mlx_rs::ops::indexing::NewAxis))
    }

    /// The table as the map to logits, `[.., hidden_size] -> [.., vocab_size]`, for models that tie the two.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        self.weight.apply(x)
    }
}
