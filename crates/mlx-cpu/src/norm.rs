//! Normalisation over the last axis.

use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use crate::element::{Element, load_part, store_part, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::{current_level, is_float, to_f32};
use crate::map::for_rows;
use crate::pool::parallel;
use crate::simd::{Simd, Work};
use crate::view::{SharedMut, View, ViewMut};

/// `x / sqrt(mean(x²) + eps) · weight` (Zhang and Sennrich 2019, equation 4) for `x` `[.., size]` and `weight` `[size]`,
/// computed in float32. Differentiable with respect to `x` and `weight`.
pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    norm(current_level()?, x, weight, None, eps)
}

/// `(x - mean(x)) / sqrt(var(x) + eps) · weight + bias` (Ba, Kiros and Hinton 2016, equation 4) for `x` `[.., size]`,
/// `weight` and `bias` `[size]`, computed in float32. Differentiable with respect to all three.
pub fn layer_norm(x: &Array, weight: &Array, bias: &Array, eps: f32) -> Result<Array> {
    norm(current_level()?, x, weight, Some(bias), eps)
}

pub(crate) fn norm(level: Level, x: &Array, weight: &Array, bias: Option<&Array>, eps: f32) -> Result<Array> {
    let size = x.shape().last().copied();
    let fits = |array: &Array| array.shape().len() == 1 && size == Some(array.dim(0)) && is_float(array.dtype());
    if !is_float(x.dtype()) || !fits(weight) || !bias.is_none_or(fits) {
        let (x, weight) = ((x.shape(), x.dtype()), (weight.shape(), weight.dtype()));
        return Err(Exception::custom(format!("a norm with weight {weight:?} does not take {x:?}")));
    }
    let inputs: Vec<&Array> = [x, weight].into_iter().chain(bias).collect();
    ffi::apply_one(Norm { eps, level, centred: bias.is_some() }, &inputs, x.shape(), x.dtype())
}

#[derive(Clone, Copy)]
struct Norm {
    eps: f32,
    level: Level,
    /// The mean is taken away first.
    centred: bool,
}

impl Kernel for Norm {
    const NAME: &'static CStr = c"norm";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let y = &mut outputs[0];
        let (weight, bias) = (to_f32(&inputs[1]), inputs.get(2).map(to_f32));
        with_element!(y.dtype(), T => {
            let (rows, len, y) = (inputs[0].rows::<T>(), inputs[0].last(), y.shared::<T>());
            for_rows(inputs[0].num_rows(), len, |row| {
                // SAFETY: each row is written by one task.
                let to = unsafe { y.slice(row * len, len) };
                let (x, bias) = (rows.get(row), bias.as_deref());
                self.level.dispatch(Row { norm: *self, x, weight: &weight, bias, gradient: None, to });
            });
        });
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let gradient = ffi::apply_one(Gradient(*self), &[x, weight, &cotangents[0]], x.shape(), x.dtype())?;
        let outputs: Vec<(&[i32], Dtype)> = inputs[1..].iter().map(|array| (array.shape(), array.dtype())).collect();
        let others = ffi::apply(OfWeight(*self), &[x, &cotangents[0]], &outputs)?;
        Ok(std::iter::once(gradient).chain(others).map(Some).collect())
    }
}

/// Inputs: `x`, the weight, and the gradient with respect to the result.
struct Gradient(Norm);

impl Kernel for Gradient {
    const NAME: &'static CStr = c"norm_gradient";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let y = &mut outputs[0];
        let weight = to_f32(&inputs[1]);
        with_element!(y.dtype(), T => {
            let (rows, gradients, len) = (inputs[0].rows::<T>(), inputs[2].rows::<T>(), inputs[0].last());
            let y = y.shared::<T>();
            for_rows(inputs[0].num_rows(), len, |row| {
                // SAFETY: each row is written by one task.
                let to = unsafe { y.slice(row * len, len) };
                let (x, gradient) = (rows.get(row), Some(gradients.get(row)));
                self.0.level.dispatch(Row { norm: self.0, x, weight: &weight, bias: None, gradient, to });
            });
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("norms have no second derivative"))
    }
}

/// The gradients with respect to the weight and, where there is one, the bias. Inputs: `x`, and the gradient with respect
/// to the result.
struct OfWeight(Norm);

/// Rows that are summed up before they are added to others: the same whatever the number of threads, so that the sum is.
const ROWS_PER_SUM: usize = 64;

impl Kernel for OfWeight {
    const NAME: &'static CStr = c"norm_weight_gradient";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let [x, gradient] = inputs else { unreachable!("two inputs") };
        let (rows, len) = (x.num_rows(), x.last());
        let mut sums = vec![0.0; rows.div_ceil(ROWS_PER_SUM).max(1) * 2 * len];
        let shared = SharedMut::new(&mut sums);
        with_element!(x.dtype, T => {
            let (all, gradients) = (x.rows::<T>(), gradient.rows::<T>());
            parallel(rows.div_ceil(ROWS_PER_SUM), |task| {
                // SAFETY: each task has its own sums.
                let (of_weight, of_bias) = unsafe { shared.slice(task * 2 * len, 2 * len) }.split_at_mut(len);
                for row in task * ROWS_PER_SUM..rows.min((task + 1) * ROWS_PER_SUM) {
                    let (x, gradient) = (all.get(row), gradients.get(row));
                    self.0.level.dispatch(AddRow { norm: self.0, x, gradient, of_weight, of_bias });
                }
            });
        });
        let (total, rest) = sums.split_at_mut(2 * len);
        for part in rest.chunks_exact(2 * len) {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
        for (output, total) in outputs.iter_mut().zip(total.chunks_exact(len)) {
            with_element!(output.dtype(), T => {
                let output = output.shared::<T>();
                // SAFETY: nobody else writes here.
                let to = unsafe { output.slice(0, len) };
                to.iter_mut().zip(total).for_each(|(to, total)| *to = T::from_f32(*total));
            });
        }
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("norms have no second derivative"))
    }
}

/// Adds a row's part.
struct AddRow<'a, T> {
    norm: Norm,
    x: &'a [T],
    gradient: &'a [T],
    of_weight: &'a mut [f32],
    of_bias: &'a mut [f32],
}

impl<T: Element> Work for AddRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mean, inverse) = mean_and_inverse(s, self.norm, self.x);
        let (mean, factor) = (s.splat(mean), s.splat(inverse));
        let lanes = S::LANES;
        let sums = self.of_weight.chunks_mut(lanes).zip(self.of_bias.chunks_mut(lanes));
        for ((x, gradient), (of_weight, of_bias)) in self.x.chunks(lanes).zip(self.gradient.chunks(lanes)).zip(sums) {
            let gradient = load_part(s, gradient);
            store_part(s, of_weight, s.mul_add(gradient, normal(s, x, mean, factor), load_part(s, of_weight)));
            store_part(s, of_bias, s.add(gradient, load_part(s, of_bias)));
        }
    }
}

struct Row<'a, T> {
    norm: Norm,
    x: &'a [T],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    gradient: Option<&'a [T]>,
    to: &'a mut [T],
}

impl<T: Element> Work for Row<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { norm, x, weight, bias, gradient, to } = self;
        let lanes = S::LANES;
        let count = x.len() as f32;
        let (mean, inverse) = mean_and_inverse(s, norm, x);
        let (mean, factor) = (s.splat(mean), s.splat(inverse));
        let Some(gradient) = gradient else {
            for (i, (x, to)) in x.chunks(lanes).zip(to.chunks_mut(lanes)).enumerate() {
                let weight = load_part(s, &weight[i * lanes..]);
                let bias = if let Some(bias) = bias { load_part(s, &bias[i * lanes..]) } else { s.splat(0.0) };
                store_part(s, to, s.mul_add(normal(s, x, mean, factor), weight, bias));
            }
            return;
        };
        // With n = normal(x) and g = gradient · weight: dx = (g - mean(g) - n · mean(g · n)) / σ, without mean(g) if the
        // mean of x was not taken away.
        let (mut products, mut sum) = (s.splat(0.0), s.splat(0.0));
        for (i, (x, gradient)) in x.chunks(lanes).zip(gradient.chunks(lanes)).enumerate() {
            let g = weighted(s, gradient, &weight[i * lanes..]);
            products = s.mul_add(g, normal(s, x, mean, factor), products);
            sum = s.add(sum, g);
        }
        let along = s.splat(s.sum(products) / count);
        let mean_gradient = s.splat(if norm.centred { s.sum(sum) / count } else { 0.0 });
        for (i, ((x, gradient), to)) in
            x.chunks(lanes).zip(gradient.chunks(lanes)).zip(to.chunks_mut(lanes)).enumerate()
        {
            let g = s.sub(
                s.sub(weighted(s, gradient, &weight[i * lanes..]), mean_gradient),
                s.mul(normal(s, x, mean, factor), along),
            );
            store_part(s, to, s.mul(g, factor));
        }
    }
}

/// The mean of `x`, or 0 where it is not taken away, and one over what the rest is divided by.
#[inline(always)]
fn mean_and_inverse<S: Simd, T: Element>(s: S, norm: Norm, x: &[T]) -> (f32, f32) {
    let (lanes, count) = (S::LANES, x.len() as f32);
    let mut mean = 0.0;
    if norm.centred {
        let mut sum = s.splat(0.0);
        for x in x.chunks(lanes) {
            sum = s.add(sum, load_part(s, x));
        }
        mean = s.sum(sum) / count;
    }
    let mut sum = s.splat(0.0);
    let (whole, part) = x.split_at(x.len() / lanes * lanes);
    for x in whole.chunks_exact(lanes) {
        let x = s.sub(load_part(s, x), s.splat(mean));
        sum = s.mul_add(x, x, sum);
    }
    let squares = s.sum(sum) + part.iter().map(|x| (x.to_f32() - mean) * (x.to_f32() - mean)).sum::<f32>();
    (mean, 1.0 / (squares / count + norm.eps).sqrt())
}

#[inline(always)]
fn normal<S: Simd, T: Element>(s: S, x: &[T], mean: S::F, factor: S::F) -> S::F {
    s.mul(s.sub(load_part(s, x), mean), factor)
}

#[inline(always)]
fn weighted<S: Simd, T: Element>(s: S, gradient: &[T], weight: &[f32]) -> S::F {
    s.mul(load_part(s, gradient), load_part(s, weight))
}
