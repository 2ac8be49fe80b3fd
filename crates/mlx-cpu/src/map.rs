//! Element by element: activations and sums.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};

use crate::element::{Element, load_part, store_part, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::{current_level, is_float};
use crate::pool::parallel;
use crate::simd::{Simd, Work, exp};
use crate::view::{Rows, View, ViewMut};

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)` (Elfwing, Uchibe and Doya 2017).
    Silu,
    /// `x · Φ(x)` with the exact distribution function (Hendrycks and Gimpel 2016, equation 1).
    Gelu,
    /// The approximation of `Gelu` with a hyperbolic tangent (ibid., section 2).
    GeluTanh,
    /// `x · sigmoid(1.702 · x)` (ibid.).
    QuickGelu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    /// The activation.
    One(Activation),
    /// The activation of the first, times the second.
    Gated(Activation),
    /// The derivative of the activation at the first, times the second.
    Derivative(Activation),
    /// The sum of the first and the second.
    Add,
    /// The derivative of the activation at the first, times the second and the third.
    GatedDerivative(Activation),
}

/// The activation of every element, `[..] -> [..]`, computed in float32. Differentiable.
pub fn activation(kind: Activation, x: &Array) -> Result<Array> {
    map(current_level()?, Map::One(kind), &[x])
}

/// `activation(gate) · up`, computed in float32: the inner part of gated MLPs (Shazeer 2020). Differentiable.
pub fn gated(kind: Activation, gate: &Array, up: &Array) -> Result<Array> {
    map(current_level()?, Map::Gated(kind), &[gate, up])
}

/// `a + b` for arrays of the same shape and type. Differentiable.
pub fn add(a: &Array, b: &Array) -> Result<Array> {
    map(current_level()?, Map::Add, &[a, b])
}

pub(crate) fn map(level: Level, map: Map, inputs: &[&Array]) -> Result<Array> {
    let (shape, dtype) = (inputs[0].shape(), inputs[0].dtype());
    if !is_float(dtype) || inputs.iter().any(|array| array.shape() != shape || array.dtype() != dtype) {
        let inputs: Vec<_> = inputs.iter().map(|array| (array.shape(), array.dtype())).collect();
        return Err(Exception::custom(format!("{map:?} does not take {inputs:?}")));
    }
    ffi::apply_one(Elementwise { map, level }, inputs, shape, dtype)
}

struct Elementwise {
    map: Map,
    level: Level,
}

impl Kernel for Elementwise {
    const NAME: &'static CStr = c"elementwise";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let y = &mut outputs[0];
        with_element!(y.dtype(), T => {
            let rows: Vec<Rows<T>> = inputs.iter().map(View::rows).collect();
            let (len, y) = (inputs[0].last(), y.shared::<T>());
            for_rows(inputs[0].num_rows(), len, |row| {
                // SAFETY: each row is written by one task.
                let to = unsafe { y.slice(row * len, len) };
                let [a, b, c] = [0, 1, 2].map(|input| rows[input.min(rows.len() - 1)].get(row));
                self.level.dispatch(MapRow { map: self.map, a, b, c, to });
            });
        });
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let gradient = &cotangents[0];
        Ok(match self.map {
            Map::One(kind) => vec![Some(map(self.level, Map::Derivative(kind), &[&inputs[0], gradient])?)],
            Map::Gated(kind) => {
                let [gate, up] = inputs else { unreachable!("two inputs") };
                let of_gate = map(self.level, Map::GatedDerivative(kind), &[gate, up, gradient])?;
                vec![Some(of_gate), Some(map(self.level, Map::Gated(kind), &[gate, gradient])?)]
            }
            Map::Add => vec![Some(gradient.clone()), Some(gradient.clone())],
            Map::Derivative(_) | Map::GatedDerivative(_) => {
                return Err(Exception::custom("activations have no second derivative"));
            }
        })
    }
}

/// Calls `work` for every row, with enough of them to a task that it is worth one.
pub(crate) fn for_rows(rows: usize, len: usize, work: impl Fn(usize) + Sync) {
    const ELEMENTS_PER_TASK: usize = 1 << 14;
    let rows_per_task = (ELEMENTS_PER_TASK / len.max(1)).max(1);
    parallel(rows.div_ceil(rows_per_task), |task| {
        (task * rows_per_task..rows.min((task + 1) * rows_per_task)).for_each(&work);
    });
}

struct MapRow<'a, T> {
    map: Map,
    a: &'a [T],
    /// The last input where there is none at this place; so `c`.
    b: &'a [T],
    c: &'a [T],
    to: &'a mut [T],
}

impl<T: Element> Work for MapRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let lanes = S::LANES;
        let inputs = self.a.chunks(lanes).zip(self.b.chunks(lanes)).zip(self.c.chunks(lanes));
        for (((a, b), c), to) in inputs.zip(self.to.chunks_mut(lanes)) {
            let (a, b) = (load_part(s, a), load_part(s, b));
            let y = match self.map {
                Map::One(kind) => value(s, kind, a),
                Map::Gated(kind) => s.mul(value(s, kind, a), b),
                Map::Derivative(kind) => s.mul(slope(s, kind, a), b),
                Map::Add => s.add(a, b),
                Map::GatedDerivative(kind) => s.mul(slope(s, kind, a), s.mul(b, load_part(s, c))),
            };
            store_part(s, to, y);
        }
    }
}

#[inline(always)]
fn value<S: Simd>(s: S, kind: Activation, x: S::F) -> S::F {
    let gate = match kind {
        Activation::Silu => sigmoid(s, x),
        Activation::QuickGelu => sigmoid(s, s.mul(s.splat(1.702), x)),
        Activation::Gelu => normal_distribution(s, x),
        // (1 + tanh(u)) / 2 = sigmoid(2 u)
        Activation::GeluTanh => sigmoid(s, s.mul(s.splat(2.0), tanh_argument(s, x))),
    };
    s.mul(x, gate)
}

#[inline(always)]
fn slope<S: Simd>(s: S, kind: Activation, x: S::F) -> S::F {
    match kind {
        Activation::Silu => slope_of_gated(s, x, x, s.splat(1.0)),
        Activation::QuickGelu => slope_of_gated(s, x, s.mul(s.splat(1.702), x), s.splat(1.702)),
        Activation::GeluTanh => {
            // Beyond, it is a straight line, and the cubic term would overflow.
            let x = s.min(s.splat(20.0), s.max(s.splat(-20.0), x));
            let slope = s.mul_add(s.mul(x, x), s.splat(6.0 * CUBIC * SQRT_2_OVER_PI), s.splat(2.0 * SQRT_2_OVER_PI));
            slope_of_gated(s, x, s.mul(s.splat(2.0), tanh_argument(s, x)), slope)
        }
        Activation::Gelu => {
            let density = exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
            s.mul_add(s.mul(x, density), s.splat(0.5 * SQRT_2_OVER_PI), normal_distribution(s, x))
        }
    }
}

/// `(x · sigmoid(u))' = g + x · g · (1 - g) · u'` with `g = sigmoid(u)`.
#[inline(always)]
fn slope_of_gated<S: Simd>(s: S, x: S::F, u: S::F, slope_of_u: S::F) -> S::F {
    let (g, one) = (sigmoid(s, u), s.splat(1.0));
    s.mul(g, s.mul_add(s.mul(x, slope_of_u), s.sub(one, g), one))
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
/// The cubic term of GELU's approximation.
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn tanh_argument<S: Simd>(s: S, x: S::F) -> S::F {
    let cubic = s.mul_add(s.mul(x, x), s.splat(CUBIC * SQRT_2_OVER_PI), s.splat(SQRT_2_OVER_PI));
    s.mul(x, cubic)
}

#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `Φ(x)`, by the error function of libm: only projectors need it.
#[inline(always)]
fn normal_distribution<S: Simd>(s: S, x: S::F) -> S::F {
    let mut lanes = [0.0; 16];
    // SAFETY: no set has more than 16 lanes.
    unsafe { s.store(lanes.as_mut_ptr(), x) };
    for x in &mut lanes[..S::LANES] {
        *x = 0.5 * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
    // SAFETY: as above.
    unsafe { s.load(lanes.as_ptr()) }
}
