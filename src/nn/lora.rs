//! Low-rank changes of a linear map: LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024).

use std::rc::Rc;

use mlx_rs::error::Result;
use mlx_rs::ops::{matmul, sum_axis};
use mlx_rs::{Array, Dtype, stop_gradient};

use crate::checkpoint::low_rank::{Attached, Dropout, LowRank, inverse_lengths};
use crate::checkpoint::{Param, Scope};
use crate::nn::weight::Weight;

/// What one adapter does to a linear map.
pub(super) struct Lora {
    /// `[rank, input]`
    a: Weight,
    /// `[output, rank]`
    b: Weight,
    scale: f32,
    magnitude: Option<Magnitude>,
    /// How much of it is added.
    share: f32,
    dropout: Option<Rc<Dropout>>,
    path: String,
}

/// DoRA's part.
struct Magnitude {
    /// `[output]`
    m: Param,
    /// Squares of the norms of the matrix's rows, `[output]`.
    squares: Array,
}

impl Lora {
    /// What adapters do to the map at `w`.
    pub(super) fn load(w: &Scope, weight: &Weight, input: i32, output: i32) -> Result<Vec<Self>> {
        let of = |(low_rank, attached): (LowRank, Attached)| {
            let LowRank { a, b, scale, magnitude } = low_rank;
            let magnitude = magnitude.map(|m| -> Result<_> {
                let matrix = weight.to_float32()?;
                let squares = sum_axis(matrix.square()?, 1, false)?;
                // At once, so that no more than one matrix is unpacked at a time.
                squares.eval()?;
                let m = if m.size() == 0 { squares.sqrt()? } else { m };
                Ok(Magnitude { m: w.register("m", m), squares })
            });
            Ok(Self {
                a: Weight::Plain(w.register("lora_a", a)),
                b: Weight::Plain(w.register("lora_b", b)),
                scale,
                magnitude: magnitude.transpose()?,
                share: attached.share,
                dropout: attached.dropout,
                path: w.path().to_owned(),
            })
        };
        w.low_ranks(output, input).into_iter().map(of).collect()
    }

    /// What is added to `base`, which is `x · weightᵀ`; computed in the type of the adapter.
    pub(super) fn change(&self, x: &Array, base: &Array, weight: &Weight) -> Result<Array> {
        let x = x.as_dtype(self.a.dtype())?;
        let x = match &self.dropout {
            Some(dropout) => dropout.apply(&x, &self.path)?,
            None => x,
        };
        let narrow = self.a.apply(&x, None)?.multiply(Array::from_f32(self.scale * self.share))?;
        let change = self.b.apply(&narrow, None)?;
        let change = match &self.magnitude {
            None => change,
            Some(magnitude) => {
                let gain = magnitude.gain(&self.a, &self.b, self.scale, weight)?;
                let less_one = gain.subtract(Array::from_f32(1.0))?.multiply(Array::from_f32(self.share))?;
                change.multiply(gain)?.add(base.as_dtype(Dtype::Float32)?.multiply(less_one)?)?
            }
        };
        change.as_dtype(base.dtype())
    }
}

impl Magnitude {
    /// `m / ‖W + scale · B A‖` by rows, `[output]` (Liu et al. 2024, equation 5). The norm counts as a constant (section
    /// 4.3). It is made of products with few rows, so that a packed matrix stays packed:
    /// `‖w + s b A‖² = ‖w‖² + 2 s b · (A w) + s² b A Aᵀ bᵀ`.
    fn gain(&self, a: &Weight, b: &Weight, scale: f32, weight: &Weight) -> Result<Array> {
        let (a, b) = (a.to_float32()?, b.to_float32()?);
        let of_weight = weight.apply(&a.as_dtype(weight.dtype())?, None)?.as_dtype(Dtype::Float32)?.t(); // [output, rank]
        let of_itself = matmul(&b, matmul(&a, a.t())?)?; // [output, rank]
        let crossed = of_weight.multiply(Array::from_f32(2.0 * scale))?;
        let sums = crossed.add(of_itself.multiply(Array::from_f32(scale * scale))?)?.multiply(&b)?;
        let squares = self.squares.add(sum_axis(sums, 1, false)?)?;
        self.m.get().multiply(stop_gradient(inverse_lengths(&squares)?)?)
    }
}
