//! Linear maps over plain and packed matrices.

mod batch;
mod dense;
mod experts;
mod format;
mod gemm;
mod gemv;
mod integers;
pub(crate) mod tile;

use std::ffi::CStr;

use mlx_quantized::{Mode, Packed};
use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use crate::element::{Element, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::view::{SharedMut, View, ViewMut};
pub use experts::expert_linear;
#[cfg(test)]
pub(crate) use experts::expert_linear_at;
pub(crate) use format::{AffineRow, AffineRows, E2M1, E4M3, Format, Matrix, Packed as PackedView, convert, pack};
use gemm::Outer;
pub(crate) use gemm::{Direction, Floats};

/// A matrix `[output, input]`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// As floats.
    Dense(&'a Array),
    /// In packed form.
    Packed(&'a Packed),
}

impl<'a> Weight<'a> {
    pub(crate) fn arrays(self) -> Vec<&'a Array> {
        match self {
            Self::Dense(weight) => vec![weight],
            Self::Packed(p) => [&p.weight, &p.scales].into_iter().chain(&p.biases).collect(),
        }
    }

    pub(crate) fn format(self) -> Format {
        match self {
            Self::Dense(_) => Format::Dense,
            Self::Packed(p) => {
                Format::Packed { mode: p.mode, bits: p.bits as usize, group_size: p.group_size as usize }
            }
        }
    }

    /// Outputs and inputs, if the arrays fit one another and are one matrix.
    pub(crate) fn shape(self) -> Option<(i32, i32)> {
        let ([], outputs, inputs) = self.shapes()? else { return None };
        Some((outputs, inputs))
    }

    /// The axes before the matrices', outputs and inputs, if the arrays fit one another and are not empty.
    pub(crate) fn shapes(self) -> Option<(&'a [i32], i32, i32)> {
        let shapes = match self {
            Self::Dense(weight) => {
                let [outer @ .., outputs, inputs] = weight.shape() else { return None };
                is_float(weight.dtype()).then_some((outer, *outputs, *inputs))
            }
            Self::Packed(p) => {
                let [outer @ .., outputs, words] = p.weight.shape() else { return None };
                let [scales_outer @ .., rows, groups] = p.scales.shape() else { return None };
                let inputs = groups * p.group_size;
                let fits = p.weight.dtype() == Dtype::Uint32
                    && (outer, outputs) == (scales_outer, rows)
                    && i64::from(inputs) * i64::from(p.bits) == 32 * i64::from(*words)
                    && p.biases.is_some() == p.mode.has_biases()
                    && p.biases
                        .as_ref()
                        .is_none_or(|biases| biases.shape() == p.scales.shape() && is_float(biases.dtype()));
                (fits && known(p)).then_some((outer, *outputs, inputs))
            }
        };
        shapes.filter(|(_, outputs, inputs)| *outputs > 0 && *inputs > 0)
    }
}

/// The forms that MLX defines.
pub(crate) fn is_form(mode: Mode, group_size: i32, bits: i32) -> bool {
    match mode {
        Mode::Affine => matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) && matches!(group_size, 32 | 64 | 128),
        Mode::Mxfp4 => (group_size, bits) == (32, 4),
        Mode::Nvfp4 => (group_size, bits) == (16, 4),
        Mode::Mxfp8 => (group_size, bits) == (32, 8),
    }
}

fn known(p: &Packed) -> bool {
    let scales = p.scales.dtype();
    let fits = if p.mode.has_biases() { is_float(scales) } else { scales == Dtype::Uint8 };
    fits && is_form(p.mode, p.group_size, p.bits)
}

/// Types of numbers of rows that int32 holds, but for those that no table has.
pub(crate) fn is_index(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Int32 | Dtype::Uint32)
}

pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float32 | Dtype::Bfloat16 | Dtype::Float16)
}

/// `y = x · weightᵀ + bias` for `x` `[.., input]`, of the type of `x`; `bias` `[output]`.
///
/// Sums are in float32. In float32 a row's result does not depend on how many rows there are, not in a bit; with 16-bit
/// `x`, the matrix is read in one way for one row, in another for some and in a third for many, and results may differ by
/// float32's rounding before they are rounded to 16 bits.
///
/// Differentiable with respect to `x`, to `bias`, and to a dense weight, which may be of another type than `x`; there is no
/// gradient with respect to a packed one.
///
/// # Errors
/// When shapes or types do not fit.
pub fn linear(x: &Array, weight: Weight, bias: Option<&Array>) -> Result<Array> {
    linear_at(current_level()?, x, weight, bias)
}

pub(crate) fn linear_at(level: Level, x: &Array, weight: Weight, bias: Option<&Array>) -> Result<Array> {
    let misfit = || {
        let shapes: Vec<_> = weight.arrays().into_iter().map(|array| (array.shape(), array.dtype())).collect();
        let bias = bias.map(|bias| (bias.shape(), bias.dtype()));
        let x = (x.shape(), x.dtype());
        Exception::custom(format!("a linear map of {shapes:?} with bias {bias:?} does not take {x:?}"))
    };
    let (outputs, inputs) = weight.shape().ok_or_else(misfit)?;
    let biased = bias.is_none_or(|bias| bias.shape() == [outputs] && is_float(bias.dtype()));
    if !is_float(x.dtype()) || x.shape().last() != Some(&inputs) || !biased {
        return Err(misfit());
    }
    let mut shape = x.shape().to_vec();
    shape[x.ndim() - 1] = outputs;
    let kernel = Linear { format: weight.format(), level };
    let inputs: Vec<&Array> = std::iter::once(x).chain(weight.arrays()).chain(bias).collect();
    ffi::apply_one(kernel, &inputs, &shape, x.dtype())
}

pub(crate) fn current_level() -> Result<Level> {
    Level::current().map_err(Exception::custom)
}

struct Linear {
    format: Format,
    level: Level,
}

/// `y = x · weightᵀ + bias`; `weight` are the arrays of one matrix.
fn product<T: Element>(
    level: Level,
    format: Format,
    weight: &[View],
    x: &View,
    bias: Option<&[f32]>,
    y: &SharedMut<T>,
) {
    let outputs = weight[0].dim(0);
    let weight = Matrix::new(format, weight);
    let (rows, len) = (x.num_rows(), x.last());
    // In float32 everything goes the same way, so that results agree to the bit.
    if T::DTYPE != Dtype::Float32 {
        let few = rows <= gemv::MOST_VECTORS;
        match &weight {
            Matrix::Packed(packed) if gemv::supports(format) && batch::pays(level, rows, outputs) => {
                return batch::multiply(level, packed, &x.rows::<T>(), (rows, len, outputs), bias, y);
            }
            Matrix::Packed(packed) if gemv::supports(format) && few => {
                return gemv::multiply(level, packed, &x.rows::<T>(), (rows, len, outputs), bias, y);
            }
            Matrix::Packed(packed) if gemv::supports(format) && integers::pays(level) => {
                let operands = integers::Integers { level, x: &x.rows::<T>(), weight: packed, len };
                return gemm::multiply(&operands, rows, outputs, bias, y);
            }
            Matrix::Packed(_) => {}
            _ if few => return dense::multiply(level, &weight, &x.rows::<T>(), (rows, len, outputs), bias, y),
            _ => {}
        }
    }
    let x = Matrix::dense(x);
    Floats::new(level, T::DTYPE, &x, &weight, Direction::RowsAreOutputs, len).multiply(rows, outputs, bias, y);
}

impl Kernel for Linear {
    const NAME: &'static CStr = c"linear";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let y = &mut outputs[0];
        let (weight, bias) = inputs[1..].split_at(self.format.num_arrays());
        let bias = bias.first().map(to_f32);
        with_element!(y.dtype(), T => {
            product::<T>(self.level, self.format, weight, &inputs[0], bias.as_deref(), &y.shared());
        });
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let weight: Vec<&Array> = inputs[1..=self.format.num_arrays()].iter().collect();
        let kernel = Transposed { format: self.format, level: self.level };
        let arrays: Vec<&Array> = std::iter::once(&cotangents[0]).chain(weight).collect();
        let mut gradients = vec![None; inputs.len()];
        gradients[0] = Some(ffi::apply_one(kernel, &arrays, inputs[0].shape(), inputs[0].dtype())?);
        if self.format == Format::Dense {
            let (shape, dtype) = (inputs[1].shape(), inputs[1].dtype());
            gradients[1] = Some(ffi::apply_one(OfWeight(self.level), &[&cotangents[0], &inputs[0]], shape, dtype)?);
        }
        if let Some(bias) = inputs.get(1 + self.format.num_arrays()) {
            gradients[inputs.len() - 1] = Some(sum_of_rows(&cotangents[0], bias)?);
        }
        Ok(gradients)
    }
}

/// The sum of the rows of `x` `[.., n]`, in float32 and then of the type of `like`, `[n]`.
fn sum_of_rows(x: &Array, like: &Array) -> Result<Array> {
    let rows: i32 = x.shape().iter().rev().skip(1).product();
    let sum = x.as_dtype(Dtype::Float32)?.reshape(&[rows, like.dim(0)])?.sum_axis(0, false)?;
    sum.as_dtype(like.dtype())
}

/// The gradient with respect to a dense weight: the sum over all rows of the outer products of the gradient with respect
/// to the result, the first input, and `x`, the second.
struct OfWeight(Level);

impl Kernel for OfWeight {
    const NAME: &'static CStr = c"linear_weight_gradient";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let ([gradient, x], y) = (inputs, &mut outputs[0]) else { unreachable!("two inputs") };
        let (rows, columns, len) = (gradient.last(), x.last(), x.num_rows());
        let (left, right) = (Matrix::dense(gradient), Matrix::dense(x));
        with_element!(y.dtype(), T => {
            let y = y.shared::<T>();
            if len == 0 {
                // SAFETY: nobody else writes here.
                return unsafe { y.slice(0, rows * columns) }.fill(T::ZERO);
            }
            Outer::new(self.0, x.dtype, &left, &right, len).multiply(rows, columns, &y);
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("linear maps have no second derivative with respect to their weight"))
    }
}

/// `x · weight`: what takes gradients back.
struct Transposed {
    format: Format,
    level: Level,
}

impl Kernel for Transposed {
    const NAME: &'static CStr = c"linear_transposed";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let (x, y) = (&inputs[0], &mut outputs[0]);
        let (rows, outputs) = (x.num_rows(), y.last());
        let (left, weight) = (Matrix::dense(x), Matrix::new(self.format, &inputs[1..]));
        let product = Floats::new(self.level, y.dtype(), &left, &weight, Direction::ColumnsAreOutputs, x.last());
        with_element!(y.dtype(), T => product.multiply(rows, outputs, None, &y.shared::<T>()));
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let kernel = Linear { format: self.format, level: self.level };
        let arrays: Vec<&Array> = cotangents[..1].iter().chain(&inputs[1..]).collect();
        let gradient = ffi::apply_one(kernel, &arrays, inputs[0].shape(), inputs[0].dtype())?;
        Ok(std::iter::once(Some(gradient)).chain(inputs[1..].iter().map(|_| None)).collect())
    }
}

/// A small array as float32.
pub(crate) fn to_f32(view: &View) -> Vec<f32> {
    with_element!(view.dtype, T => view.to_slice::<T>().iter().map(|x| x.to_f32()).collect())
}
