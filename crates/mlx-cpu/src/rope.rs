//! Rotary position embedding (Su et al. 2021), with the halves of a head as the pairs' two numbers.

use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use crate::element::{Element, load_part, store_part, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::{convert, current_level, is_float, to_f32};
use crate::pool::parallel;
use crate::simd::{Simd, Work};
use crate::view::{View, ViewMut};

/// Where a token stands on up to three axes: in time, height and width.
pub type Position = [i32; 3];

/// Rotates the first `2 · pairs` numbers of every head of `x` `[batch, heads, n, head_dim]` by the angles
/// `position / wavelengths[pair]`, `wavelengths` `[pairs]` in float32, and multiplies them by `gain`.
///
/// `positions` has one for each of the `n`, the same for all batch rows. `axes` says for each pair which of its axes counts;
/// the first, where it is empty. Angles are in float32. Differentiable with respect to `x`.
///
/// # Errors
/// When shapes or types do not fit.
pub fn rope(x: &Array, wavelengths: &Array, gain: f32, positions: &[Position], axes: &[u8]) -> Result<Array> {
    rope_at(current_level()?, x, wavelengths, gain, positions, axes)
}

pub(crate) fn rope_at(
    level: Level,
    x: &Array,
    wavelengths: &Array,
    gain: f32,
    positions: &[Position],
    axes: &[u8],
) -> Result<Array> {
    let fits = match (x.shape(), wavelengths.shape()) {
        (&[_, _, n, head_dim], &[pairs]) => {
            positions.len() == n as usize
                && 2 * pairs <= head_dim
                && (axes.is_empty() || axes.len() == pairs as usize && axes.iter().all(|&axis| axis < 3))
        }
        _ => false,
    };
    if !fits || !is_float(x.dtype()) || wavelengths.dtype() != Dtype::Float32 {
        let (x, pairs) = ((x.shape(), x.dtype()), wavelengths.shape());
        let count = positions.len();
        return Err(Exception::custom(format!("rotation by {pairs:?} at {count} positions does not take {x:?}")));
    }
    let kernel = Rope { gain, positions: positions.to_vec(), axes: axes.to_vec(), back: false, level };
    ffi::apply_one(kernel, &[x, wavelengths], x.shape(), x.dtype())
}

#[derive(Clone)]
struct Rope {
    gain: f32,
    positions: Vec<Position>,
    /// Of each pair; empty for the first axis.
    axes: Vec<u8>,
    /// Rotates the other way, as gradients are.
    back: bool,
    level: Level,
}

impl Kernel for Rope {
    const NAME: &'static CStr = c"rope";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let (x, y) = (&inputs[0], &mut outputs[0]);
        let (heads, n, head_dim) = (x.dim(1), x.dim(2), x.dim(3));
        // As the reference has it: the inverse in float32, then the product.
        let frequencies: Vec<f32> = to_f32(&inputs[1]).into_iter().map(|wavelength| 1.0 / wavelength).collect();
        with_element!(y.dtype(), T => {
            let (rows, y) = (x.rows::<T>(), y.shared::<T>());
            parallel(x.dim(0) * n, |task| {
                let (batch, index) = (task / n, task % n);
                let axes = self.axes.iter().copied().chain(std::iter::repeat(0));
                let angles = frequencies.iter().zip(axes);
                let angles = angles.map(|(f, axis)| self.positions[index][usize::from(axis)] as f32 * f);
                let cosines: Vec<f32> = angles.clone().map(|angle| self.gain * angle.cos()).collect();
                let gain = if self.back { -self.gain } else { self.gain };
                let sines: Vec<f32> = angles.map(|angle| gain * angle.sin()).collect();
                for head in 0..heads {
                    let row = (batch * heads + head) * n + index;
                    // SAFETY: each row is written by one task.
                    let to = unsafe { y.slice(row * head_dim, head_dim) };
                    self.level.dispatch(Turn { x: rows.get(row), cosines: &cosines, sines: &sines, to });
                }
            });
        });
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let kernel = Self { back: !self.back, ..self.clone() };
        let arrays = [&cotangents[0], &inputs[1]];
        Ok(vec![Some(ffi::apply_one(kernel, &arrays, inputs[0].shape(), inputs[0].dtype())?), None])
    }
}

struct Turn<'a, T> {
    x: &'a [T],
    cosines: &'a [f32],
    sines: &'a [f32],
    to: &'a mut [T],
}

impl<T: Element> Work for Turn<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (pairs, lanes) = (self.cosines.len(), S::LANES);
        let (x, rest) = self.x.split_at(2 * pairs);
        let (to, rest_to) = self.to.split_at_mut(2 * pairs);
        let (a, b) = x.split_at(pairs);
        let (to_a, to_b) = to.split_at_mut(pairs);
        for at in (0..pairs).step_by(lanes) {
            let end = pairs.min(at + lanes);
            let (cos, sin) = (load_part(s, &self.cosines[at..end]), load_part(s, &self.sines[at..end]));
            let (a, b) = (load_part(s, &a[at..end]), load_part(s, &b[at..end]));
            store_part(s, &mut to_a[at..end], s.sub(s.mul(a, cos), s.mul(b, sin)));
            store_part(s, &mut to_b[at..end], s.mul_add(a, sin, s.mul(b, cos)));
        }
        convert(s, rest, rest_to);
    }
}
