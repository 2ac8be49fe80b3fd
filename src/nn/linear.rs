//! Linear maps and embedding tables, over plain or quantized weights.

use mlx_quantized::Packed;
use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{IndexOp, TryIndexOp};
use mlx_rs::ops::{addmm, matmul};
use mlx_rs::{Array, Dtype};

use super::add;
use super::lora::Lora;
use crate::checkpoint::config::QuantizedAs;
use crate::checkpoint::weights::Tap;
use crate::checkpoint::{Param, Scope};
use crate::device::on_cpu;

/// A matrix `[output, input]` as the checkpoint stores it.
pub(super) enum Weight {
    Plain(Param),
    /// With the type of the numbers that come out of it.
    Packed(Packed, Dtype),
}

impl Weight {
    fn load(w: &Scope, input: i32, output: i32) -> Self {
        let Some(QuantizedAs { group_size, bits, mode }) = w.quantized() else {
            return Self::Plain(w.param("weight", &[output, input]));
        };
        // Not input · (32 / bits): 3, 5 and 6 bits do not divide 32. Nonsense in the config makes a shape that no tensor
        // has, and is reported as such.
        let packed = [output, (i64::from(input) * i64::from(bits) / 32) as i32];
        let grouped = [output, input.checked_div(group_size).unwrap_or(0)];
        let scales = w.get("scales", &grouped);
        let dtype = if scales.dtype().is_float() { scales.dtype() } else { w.dtype() };
        let biases = mode.has_biases().then(|| w.get("biases", &grouped));
        Self::Packed(Packed { weight: w.get("weight", &packed), scales, biases, group_size, bits, mode }, dtype)
    }

    /// `x · weightᵀ + bias` for `x` `[.., input]`.
    pub(super) fn apply(&self, x: &Array, bias: Option<&Array>) -> Result<Array> {
        if on_cpu() {
            return match self {
                Self::Plain(weight) => mlx_cpu::linear(x, mlx_cpu::Weight::Dense(&weight.get()), bias),
                Self::Packed(packed, _) => mlx_cpu::linear(x, mlx_cpu::Weight::Packed(packed), bias),
            };
        }
        match (self, bias) {
            (Self::Plain(weight), None) => matmul(x, weight.get().t()),
            (Self::Plain(weight), Some(bias)) => addmm(bias, x, weight.get().t(), 1.0, 1.0),
            (Self::Packed(packed, _), None) => packed.matmul(x),
            (Self::Packed(packed, _), Some(bias)) => packed.matmul(x)?.add(bias),
        }
    }

    /// The rows that `ids` names, `[.., input]`.
    fn rows(&self, ids: &Array) -> Result<Array> {
        match self {
            Self::Plain(weight) if on_cpu() => {
                mlx_cpu::embedding(ids, mlx_cpu::Weight::Dense(&weight.get()), self.dtype())
            }
            Self::Packed(packed, dtype) if on_cpu() => mlx_cpu::embedding(ids, mlx_cpu::Weight::Packed(packed), *dtype),
            Self::Plain(weight) => weight.get().try_index(ids),
            Self::Packed(packed, dtype) => packed.map_rows(|part| part.try_index(ids))?.dequantize(*dtype),
        }
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::Plain(weight) => weight.get().dtype(),
            Self::Packed(_, dtype) => *dtype,
        }
    }

    /// The matrix as floats, of the type that it computes in.
    fn to_floats(&self) -> Result<Array> {
        match self {
            Self::Plain(weight) => Ok(weight.get().clone()),
            Self::Packed(packed, dtype) => packed.dequantize(*dtype),
        }
    }

    pub(super) fn to_float32(&self) -> Result<Array> {
        match self {
            Self::Plain(weight) => weight.get().as_dtype(Dtype::Float32),
            Self::Packed(packed, _) => packed.dequantize(Dtype::Float32),
        }
    }
}

/// `y = x · weightᵀ + bias`.
pub struct Linear {
    weight: Weight,
    bias: Option<Param>,
    tap: Option<Tap>,
    loras: Vec<Lora>,
}

impl Linear {
    /// A map without bias.
    pub fn load(w: &Scope, input: i32, output: i32) -> Self {
        let weight = Weight::load(w, input, output);
        let loras = Lora::load(w, &weight, input, output).unwrap_or_else(|e| {
            w.complain(&e);
            Vec::new()
        });
        Self { weight, bias: None, tap: w.tap(), loras }
    }

    /// A map with bias.
    pub fn load_with_bias(w: &Scope, input: i32, output: i32) -> Self {
        Self { bias: Some(w.param("bias", &[output])), ..Self::load(w, input, output) }
    }

    /// With a bias where the checkpoint has one.
    pub fn load_with_optional_bias(w: &Scope, input: i32, output: i32) -> Self {
        if w.shape("bias").is_some() { Self::load_with_bias(w, input, output) } else { Self::load(w, input, output) }
    }

    /// A map whose matrix `[output, ..]` is a tensor of more axes, which are flattened: a convolution whose patches do
    /// not overlap.
    pub fn load_patches(w: &Scope, shape: &[i32]) -> Result<Self> {
        let weight = w.get("weight", shape).reshape(&[shape[0], -1])?;
        Ok(Self { weight: Weight::Plain(w.register("weight", weight)), bias: None, tap: None, loras: Vec::new() })
    }

    /// `[.., input] -> [.., output]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if let Some(tap) = &self.tap {
            tap.see(x)?;
        }
        let bias = self.bias.as_ref().map(Param::get);
        if self.loras.is_empty() {
            return self.weight.apply(x, bias.as_deref());
        }
        let base = self.weight.apply(x, None)?;
        let mut y = base.clone();
        for lora in &self.loras {
            y = add(&y, &lora.change(x, &base, &self.weight)?)?;
        }
        match bias {
            Some(bias) => y.add(&*bias),
            None => Ok(y),
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
    tap: Option<Tap>,
}

impl Embedding {
    /// A table `[vocab_size, hidden_size]`.
    pub fn load(w: &Scope, vocab_size: i32, hidden_size: i32) -> Self {
        Self { weight: Weight::load(w, hidden_size, vocab_size), vocab_size, tap: w.tap() }
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

    /// All vectors, `[vocab_size, hidden_size]`.
    pub fn table(&self) -> Result<Array> {
        self.weight.to_floats()
    }

    /// The table as the map to logits, `[.., hidden_size] -> [.., vocab_size]`, for models that tie the two.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        if let Some(tap) = &self.tap {
            tap.see(x)?;
        }
        self.weight.apply(x, None)
    }
}
