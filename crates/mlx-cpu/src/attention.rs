//! Scaled dot-product attention with a running softmax (Dao et al. 2022): the matrix of scores never exists.
//!
//! Scores are computed transposed, keys by queries, so that a query is a lane of a vector: maxima and sums need no
//! shuffles, and the probabilities are already a panel, the form that the product with the values wants.

mod few;
mod gradient;

use std::borrow::Cow;
use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use crate::element::{Element, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::tile::Tiles;
use crate::linear::{Matrix, current_level, is_float};
use crate::pool::{self, parallel};
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work, exp};
use crate::view::{SharedMut, View, ViewMut};

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    Full,
    /// Those at its own position and before; the last query stands at the last key.
    Causal,
    /// Of those, only so many, its own included.
    Window(usize),
}

/// `softmax(scale · queries · keysᵀ) · values` per head, with heads side by side in the result, `[batch, n, heads · head_dim]`.
///
/// Queries are `[batch, heads, n, head_dim]`, keys and values `[batch, kv_heads, total, head_dim]`, where every
/// `heads / kv_heads` consecutive query heads share one key head. Keys that `padding`, booleans `[batch, total]`, marks as false are
/// seen by nobody; a query that sees no key results in zeros. Values must be finite, also those that are not seen.
///
/// Sums are in float32. In float32 a query's result does not depend on the other queries, not in a bit.
///
/// Differentiable with respect to queries, keys and values.
///
/// # Errors
/// When shapes or types do not fit.
pub fn attention(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: Mask,
    padding: Option<&Array>,
) -> Result<Array> {
    attention_at(current_level()?, queries, keys, values, scale, mask, padding)
}

pub(crate) fn attention_at(
    level: Level,
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: Mask,
    padding: Option<&Array>,
) -> Result<Array> {
    let dtype = queries.dtype();
    let is_bool = padding.is_none_or(|padding| padding.dtype() == Dtype::Bool);
    let padding = padding.map(|padding| padding.as_dtype(Dtype::Uint8)).transpose()?;
    let fits = || {
        let &[batch, heads, n, head_dim] = queries.shape() else { return None };
        let &[_, kv_heads, total, _] = keys.shape() else { return None };
        let fits = keys.shape() == [batch, kv_heads, total, head_dim]
            && values.shape() == keys.shape()
            && is_bool
            && kv_heads > 0
            && head_dim > 0
            && heads % kv_heads == 0
            && (mask == Mask::Full || n <= total)
            && is_float(dtype)
            && keys.dtype() == dtype
            && values.dtype() == dtype
            && padding.as_ref().is_none_or(|padding| padding.shape() == [batch, total]);
        fits.then_some([batch, n, heads * head_dim])
    };
    let Some(shape) = fits() else {
        let shapes = [queries, keys, values].map(|array| (array.shape(), array.dtype()));
        let padding = padding.map(|padding| padding.shape().to_vec());
        return Err(Exception::custom(format!(
            "attention ({mask:?}) does not take {shapes:?} with padding {padding:?}"
        )));
    };
    let inputs: Vec<&Array> = [queries, keys, values].into_iter().chain(&padding).collect();
    ffi::apply_one(Attention { scale, mask, level }, &inputs, &shape, dtype)
}

#[derive(Clone, Copy)]
struct Attention {
    scale: f32,
    mask: Mask,
    level: Level,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    kv_heads: usize,
    n: usize,
    total: usize,
    head_dim: usize,
}

impl Sizes {
    fn new(queries: &View, keys: &View) -> Self {
        Self {
            heads: queries.dim(1),
            kv_heads: keys.dim(1),
            n: queries.dim(2),
            total: keys.dim(2),
            head_dim: queries.dim(3),
        }
    }

    /// Query heads per key head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Where the result of a query starts; `head` counts through the batch.
    fn output(self, head: usize, query: usize) -> usize {
        let (batch, head) = (head / self.heads, head % self.heads);
        ((batch * self.n + query) * self.heads + head) * self.head_dim
    }
}

impl Mask {
    /// The keys that query `query` of `n` sees of `total`.
    fn seen(self, query: usize, n: usize, total: usize) -> Range<usize> {
        let end = (total + query + 1).saturating_sub(n);
        match self {
            Self::Full => 0..total,
            Self::Causal => 0..end,
            Self::Window(window) => end.saturating_sub(window)..end,
        }
    }
}

/// Of all batch rows, which keys are no padding; all where there is none.
struct Unpadded<'a>(Option<Cow<'a, [u8]>>);

impl<'a> Unpadded<'a> {
    fn new(inputs: &[View<'a>]) -> Self {
        Self(inputs.get(3).map(|padding| padding.to_slice()))
    }

    /// Of the batch row that a key head is of.
    fn of_head(&self, kv_head: usize, sizes: Sizes) -> Option<&[u8]> {
        let batch = kv_head / sizes.kv_heads;
        self.0.as_ref().map(|all| &all[batch * sizes.total..(batch + 1) * sizes.total])
    }
}

impl Kernel for Attention {
    const NAME: &'static CStr = c"attention";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let sizes = Sizes::new(&inputs[0], &inputs[1]);
        let y = &mut outputs[0];
        with_element!(y.dtype(), T => {
            // In float32 everything goes the same way, so that results agree to the bit.
            if sizes.n <= few::MOST_QUERIES && y.dtype() != Dtype::Float32 {
                few::run::<T>(*self, sizes, inputs, &y.shared());
            } else {
                self.many::<T>(sizes, inputs, &y.shared());
            }
        });
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let arrays: Vec<&Array> = inputs.iter().chain(&cotangents[..1]).collect();
        let outputs: Vec<(&[i32], Dtype)> = inputs[..3].iter().map(|array| (array.shape(), array.dtype())).collect();
        let gradients = ffi::apply(gradient::Gradient(*self), &arrays, &outputs)?;
        Ok(gradients.into_iter().map(Some).chain(inputs[3..].iter().map(|_| None)).collect())
    }
}

/// Left blocks of keys that are scored before the softmax moves on.
const BLOCKS_AT_ONCE: usize = 8;

impl Attention {
    fn many<T: Element>(&self, sizes: Sizes, inputs: &[View], y: &SharedMut<T>) {
        let tiles = Tiles::new(self.level, T::DTYPE);
        let [queries, keys, values] = [0, 1, 2].map(|i| Matrix::dense(&inputs[i]));
        let unpadded = Unpadded::new(inputs);
        let width = tiles.width();
        let kv_heads = inputs[1].dim(0) * sizes.kv_heads;
        let panels = sizes.n.div_ceil(width);
        // With few heads, several tasks share one, and each packs it for itself.
        let parts = (2 * pool::threads()).div_ceil(kv_heads.max(1)).clamp(1, panels.max(1));
        parallel(kv_heads * parts, |task| {
            let (kv_head, part) = (task / parts, task % parts);
            let head = PackedHead::new(tiles, sizes, &keys, &values, kv_head);
            let mut panel = Panel::new(tiles, sizes, self, unpadded.of_head(kv_head, sizes));
            for query_head in kv_head * sizes.group()..(kv_head + 1) * sizes.group() {
                for index in panels * part / parts..panels * (part + 1) / parts {
                    panel.run(&head, &queries, query_head, index * width, y);
                }
            }
        });
    }
}

/// Keys and values of one head as left operands.
struct PackedHead {
    /// Blocks of keys, `[words of head_dim, rows]` each.
    keys: Scratch,
    /// For every `BLOCKS_AT_ONCE` blocks of keys, blocks of columns of their values, `[words of keys, columns]` each.
    values: Scratch,
}

impl PackedHead {
    fn new(tiles: Tiles, sizes: Sizes, keys: &Matrix, values: &Matrix, kv_head: usize) -> Self {
        let Sizes { total, head_dim, .. } = sizes;
        let (rows, words) = (tiles.rows(), tiles.words(head_dim));
        let first = kv_head * total;
        let mut packed =
            Self { keys: Scratch::new(total * words), values: Scratch::new(value_words(tiles, total) * head_dim) };
        for at in (0..total).step_by(rows) {
            let rows = rows.min(total - at);
            tiles.pack_left(keys, first + at, rows, head_dim, &mut packed.keys[at * words..][..rows * words]);
        }
        let at_once = rows * BLOCKS_AT_ONCE;
        for at in (0..total).step_by(at_once) {
            let some = first + at..first + total.min(at + at_once);
            let words = tiles.words(some.len());
            let start = value_words(tiles, at) * head_dim;
            for column in (0..head_dim).step_by(rows) {
                let columns = rows.min(head_dim - column);
                let block = &mut packed.values[start + column * words..][..columns * words];
                tiles.pack_left_columns(values, some.clone(), column, columns, block);
            }
        }
        packed
    }
}

/// Words that the values of the first `keys` keys take per column.
fn value_words(tiles: Tiles, keys: usize) -> usize {
    let at_once = tiles.rows() * BLOCKS_AT_ONCE;
    keys / at_once * tiles.words(at_once) + tiles.words(keys % at_once)
}

/// The work on as many queries of one head as a panel is wide.
struct Panel<'a> {
    tiles: Tiles,
    sizes: Sizes,
    attention: &'a Attention,
    unpadded: Option<&'a [u8]>,
    /// `[words of head_dim, width]`
    queries: Scratch,
    /// `[keys at once, width]`
    scores: Scratch,
    /// `[words of keys at once, width]`
    probabilities: Scratch,
    /// `[head_dim, width]`
    sums: Scratch,
}

impl<'a> Panel<'a> {
    fn new(tiles: Tiles, sizes: Sizes, attention: &'a Attention, unpadded: Option<&'a [u8]>) -> Self {
        let (width, at_once) = (tiles.width(), tiles.rows() * BLOCKS_AT_ONCE);
        Self {
            tiles,
            sizes,
            attention,
            unpadded,
            queries: Scratch::new(tiles.words(sizes.head_dim) * width),
            scores: Scratch::new(at_once * width),
            probabilities: Scratch::new(tiles.words(at_once) * width),
            sums: Scratch::new(sizes.head_dim * width),
        }
    }

    /// Queries `first..` of the head, as far as they go.
    fn run<T: Element>(
        &mut self,
        head: &PackedHead,
        queries: &Matrix,
        query_head: usize,
        first: usize,
        y: &SharedMut<T>,
    ) {
        let Sizes { n, total, head_dim, .. } = self.sizes;
        let (tiles, width, rows) = (self.tiles, self.tiles.width(), self.tiles.rows());
        let (mask, count) = (self.attention.mask, width.min(n - first));
        tiles.pack_rows(queries, query_head * n + first, count, head_dim, &mut self.queries);
        // Lanes without a query do as the last one does.
        let seen: Vec<_> = (0..width).map(|lane| mask.seen(first + lane.min(count - 1), n, total)).collect();
        let bounds = Bounds {
            first: seen.iter().map(|seen| seen.start as f32).collect(),
            last: seen.iter().map(|seen| seen.end as f32 - 1.0).collect(),
        };
        let sums = as_floats(&mut self.sums);
        sums.fill(0.0);
        let mut state = State { largest: [f32::NEG_INFINITY; 32], total: [0.0; 32] };
        let at_once = rows * BLOCKS_AT_ONCE;
        let (start, end) = (seen[0].start / at_once * at_once, seen[width - 1].end);
        for at in (start..end).step_by(at_once) {
            let count = at_once.min(total - at);
            let scores = as_floats(&mut self.scores);
            let words = tiles.words(head_dim);
            for block in (0..count).step_by(rows) {
                let rows = rows.min(count - block);
                let keys = &head.keys[(at + block) * words..][..rows * words];
                tiles.multiply(keys, rows, &self.queries, &mut scores[block * width..], false);
            }
            tiles.level.dispatch(Softmax {
                pairs: tiles.pairs,
                scale: self.attention.scale,
                first_key: at,
                bounds: &bounds,
                unpadded: self.unpadded.map(|unpadded| &unpadded[at..at + count]),
                scores: &mut scores[..count * width],
                probabilities: &mut self.probabilities[..tiles.words(count) * width],
                state: &mut state,
                sums: &mut *sums,
            });
            let words = tiles.words(count);
            let values = &head.values[value_words(tiles, at) * head_dim..];
            for column in (0..head_dim).step_by(rows) {
                let columns = rows.min(head_dim - column);
                let left = &values[column * words..][..columns * words];
                tiles.multiply(left, columns, &self.probabilities, &mut sums[column * width..], true);
            }
        }
        for lane in 0..count {
            // SAFETY: each query has its own part of the result.
            let to = unsafe { y.slice(self.sizes.output(query_head, first + lane), head_dim) };
            let total = state.total[lane];
            let inverse = if total > 0.0 { 1.0 / total } else { 0.0 };
            for (column, to) in to.iter_mut().enumerate() {
                *to = T::from_f32(sums[column * width + lane] * inverse);
            }
        }
    }
}

/// The first and the last key that each query sees.
struct Bounds {
    first: Vec<f32>,
    last: Vec<f32>,
}

/// Of each query, the largest score so far, and the sum of the probabilities relative to it.
struct State {
    largest: [f32; 32],
    total: [f32; 32],
}

/// Scores become probabilities relative to the largest score so far; what was summed before is scaled to match.
struct Softmax<'a> {
    pairs: bool,
    scale: f32,
    first_key: usize,
    bounds: &'a Bounds,
    unpadded: Option<&'a [u8]>,
    scores: &'a mut [f32],
    probabilities: &'a mut [u32],
    state: &'a mut State,
    sums: &'a mut [f32],
}

impl Work for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = 2 * S::LANES;
        let (none, keys) = (s.splat(f32::NEG_INFINITY), self.scores.len() / width);
        let scores = self.scores.as_mut_ptr();
        // SAFETY: scores, sums and probabilities are whole rows of `width`, bounds and state at least one.
        unsafe {
            for half in [0, S::LANES] {
                let (first, last) =
                    (s.load(self.bounds.first.as_ptr().add(half)), s.load(self.bounds.last.as_ptr().add(half)));
                let before = s.load(self.state.largest.as_ptr().add(half));
                let mut largest = before;
                for key in 0..keys {
                    let at = scores.add(key * width + half);
                    let position = s.splat((self.first_key + key) as f32);
                    let mut score = s.mul(s.load(at), s.splat(self.scale));
                    score = s.select_le(position, last, s.select_le(first, position, score, none), none);
                    if self.unpadded.is_some_and(|unpadded| unpadded[key] == 0) {
                        score = none;
                    }
                    s.store(at, score);
                    largest = s.max(largest, score);
                }
                // Where nothing is seen yet, any finite number makes all probabilities 0.
                let finite = s.max(largest, s.splat(f32::MIN));
                let factor = exp(s, s.sub(before, finite));
                let mut total = s.mul(s.load(self.state.total.as_ptr().add(half)), factor);
                for key in 0..keys {
                    let at = scores.add(key * width + half);
                    let probability = exp(s, s.sub(s.load(at), finite));
                    total = s.add(total, probability);
                    s.store(at, probability);
                }
                s.store(self.state.largest.as_mut_ptr().add(half), largest);
                s.store(self.state.total.as_mut_ptr().add(half), total);
                for sums in self.sums.chunks_exact_mut(width) {
                    let at = sums.as_mut_ptr().add(half);
                    s.store(at, s.mul(s.load(at), factor));
                }
            }
        }
        if self.pairs {
            // What is left of the last words are zeros.
            let mut rows = self.scores.chunks_exact(width);
            for to in self.probabilities.chunks_exact_mut(width) {
                let (low, high) = (rows.next().unwrap_or(&ZEROS[..width]), rows.next().unwrap_or(&ZEROS[..width]));
                for (to, (&low, &high)) in to.iter_mut().zip(low.iter().zip(high)) {
                    *to = to_bf16(low) >> 16 | to_bf16(high) & 0xffff_0000;
                }
            }
        } else {
            as_floats(self.probabilities).copy_from_slice(self.scores);
        }
    }
}

static ZEROS: [f32; 32] = [0.0; 32];

/// The bits of a number from 0 to 1, rounded so that the upper 16 are its bfloat16.
#[inline(always)]
fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    bits + 0x7fff + (bits >> 16 & 1)
}
