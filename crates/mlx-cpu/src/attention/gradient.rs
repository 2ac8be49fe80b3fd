//! The gradients of attention, with the probabilities computed anew, a query at a time.
//!
//! With `p` the probabilities of a query and `g` the gradient with respect to its result: `dv_j = p_j · g`,
//! `ds_j = p_j · (g · v_j - Σ_i p_i (g · v_i))`, `dq = scale · Σ_j ds_j k_j`, `dk_j = scale · ds_j · q`.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};

use super::Attention;
use super::few::probabilities;
use super::sequence::Heads;
use crate::element::{Element, load_part, store_part, with_element};
use crate::ffi::Kernel;
use crate::linear::convert;
use crate::pool::parallel;
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work};
use crate::view::{Rows, SharedMut, View, ViewMut};

/// Inputs: those of the attention, and the gradient `[batch, n, heads · head_dim]` with respect to its result.
pub(super) struct Gradient(pub Attention);

impl Kernel for Gradient {
    const NAME: &'static CStr = c"attention_gradient";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let [queries, keys, _, cotangent] = inputs else { unreachable!("four inputs") };
        let heads = Heads { heads: queries.dim(1), kv_heads: keys.dim(1), head_dim: queries.dim(3) };
        let (n, total) = (queries.dim(2), keys.dim(2));
        let [dq, dk, dv] = outputs else { unreachable!("three outputs") };
        with_element!(dq.dtype(), T => {
            let outputs = [dq.shared::<T>(), dk.shared::<T>(), dv.shared::<T>()];
            let rows = [0, 1, 2].map(|i| inputs[i].rows::<T>());
            let cotangent = cotangent.to_slice::<T>();
            parallel(keys.dim(0) * heads.kv_heads, |kv_head| {
                self.0.level.dispatch(Head {
                    attention: self.0,
                    heads,
                    n,
                    total,
                    kv_head,
                    rows: &rows,
                    cotangent: &cotangent,
                    outputs: &outputs,
                });
            });
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("attention has no second derivative"))
    }
}

/// A key head with all its query heads.
struct Head<'a, T: Element> {
    attention: Attention,
    heads: Heads,
    n: usize,
    total: usize,
    /// Counted through the batch, as the query heads are.
    kv_head: usize,
    /// Queries, keys, values.
    rows: &'a [Rows<'a, T>; 3],
    cotangent: &'a [T],
    /// Their gradients.
    outputs: &'a [SharedMut<'a, T>; 3],
}

impl<T: Element> Work for Head<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { heads, n, total, .. } = self;
        let head_dim = heads.head_dim;
        let scale = self.attention.scale;
        let width = head_dim.next_multiple_of(S::LANES);
        let [queries, keys, values] = self.rows;
        let row = |matrix: usize, index: usize| {
            matrix * total * width + index * width..matrix * total * width + (index + 1) * width
        };
        // Gradients of keys and values, then one row each: query, its gradient, the result's gradient.
        let mut scratch = Scratch::new((2 * total + 3) * width + 2 * total.next_multiple_of(S::LANES));
        let (gradients, rest) = as_floats(&mut scratch).split_at_mut(2 * total * width);
        let (vectors, lists) = rest.split_at_mut(3 * width);
        let (all_p, ds) = lists.split_at_mut(total.next_multiple_of(S::LANES));
        gradients.fill(0.0);
        vectors.fill(0.0);
        let (q, rest) = vectors.split_at_mut(width);
        let (dq, g) = rest.split_at_mut(width);
        for head in self.kv_head * heads.group()..(self.kv_head + 1) * heads.group() {
            for query in 0..n {
                let seen = self.attention.mask.seen(query, n, total);
                let (batch, head_in_row) = (head / heads.heads, head % heads.heads);
                let result = ((batch * n + query) * heads.heads + head_in_row) * head_dim;
                convert(s, queries.get(head * n + query), &mut q[..head_dim]);
                convert(s, &self.cotangent[result..][..head_dim], &mut g[..head_dim]);
                dq.fill(0.0);
                let first_row = self.kv_head * total;
                let p = &mut all_p[..seen.len().next_multiple_of(S::LANES)];
                p.fill(f32::NEG_INFINITY);
                for (score, key) in p.iter_mut().zip(seen.keys()) {
                    *score = scale * dot(s, keys.get(first_row + key), q);
                }
                let sum = probabilities(s, p);
                let inverse = if sum > 0.0 { 1.0 / sum } else { 0.0 };
                let mut mean = 0.0;
                for ((p, ds), key) in p.iter_mut().zip(&mut *ds).zip(seen.keys()) {
                    *p *= inverse;
                    *ds = dot(s, values.get(first_row + key), g);
                    if *p != 0.0 {
                        mean += *p * *ds;
                    }
                }
                for ((&p, &ds), key) in p.iter().zip(&*ds).zip(seen.keys()).filter(|((p, _), _)| **p != 0.0) {
                    let ds = scale * p * (ds - mean);
                    add_scaled(s, ds, keys.get(first_row + key), dq);
                    add_scaled(s, ds, q, &mut gradients[row(0, key)]);
                    add_scaled(s, p, g, &mut gradients[row(1, key)]);
                }
                // SAFETY: each query has its own part of the gradient.
                convert(s, &dq[..head_dim], unsafe { self.outputs[0].slice((head * n + query) * head_dim, head_dim) });
            }
        }
        for key in 0..total {
            for (matrix, output) in self.outputs[1..].iter().enumerate() {
                // SAFETY: each key has its own part of the gradient.
                let to = unsafe { output.slice((self.kv_head * total + key) * head_dim, head_dim) };
                convert(s, &gradients[row(matrix, key)][..head_dim], to);
            }
        }
    }
}

/// `a · b`; `b` has zeros up to a whole vector.
#[inline(always)]
fn dot<S: Simd, T: Element>(s: S, a: &[T], b: &[f32]) -> f32 {
    let mut sums = s.splat(0.0);
    for (a, b) in a.chunks(S::LANES).zip(b.chunks_exact(S::LANES)) {
        sums = s.mul_add(load_part(s, a), load_part(s, b), sums);
    }
    s.sum(sums)
}

/// `to += factor · x`; `to` has room up to a whole vector.
#[inline(always)]
fn add_scaled<S: Simd, T: Element>(s: S, factor: f32, x: &[T], to: &mut [f32]) {
    for (x, to) in x.chunks(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
        store_part(s, to, s.mul_add(load_part(s, x), s.splat(factor), load_part(s, to)));
    }
}
