//! A matrix, plain or quantized: here alone it is known which kernel multiplies it.

use mlx_quantized::Packed;
use mlx_rs::error::Result;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{addmm, matmul};
use mlx_rs::{Array, Dtype};

use crate::checkpoint::quantization::QuantizedAs;
use crate::checkpoint::{Param, Scope};
use crate::device::on_cpu;

/// A matrix `[output, input]` as the checkpoint stores it.
pub(super) enum Weight {
    Plain(Param),
    /// With the type of the numbers that come out of it.
    Packed(Packed, Dtype),
}

impl Weight {
    pub(super) fn load(w: &Scope, input: i32, output: i32) -> Self {
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
    pub(super) fn rows(&self, ids: &Array) -> Result<Array> {
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
    pub(super) fn to_floats(&self) -> Result<Array> {
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
