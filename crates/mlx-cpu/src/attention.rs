//! Scaled dot-product attention, over arrays of keys and values or over caches of them in blocks.

mod cached;
mod few;
mod gradient;
mod many;
mod scores;
mod sequence;
mod slopes;

use std::cmp::Reverse;
use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use crate::element::{Element, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::tile::Tiles;
use crate::linear::{Format, Matrix, current_level, is_float};
use crate::pool::{self, parallel};
use crate::view::{SharedMut, View, ViewMut};
#[cfg(test)]
pub(crate) use cached::cached_attention_at;
pub use cached::{Block, CachedRow, cached_attention};
pub use scores::Scores;
use sequence::{Heads, Sequence, Stored};

/// Which keys a query sees. The last query stands at the last key, the one before it at the key before, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    Full,
    /// Those at its own position and before.
    Causal,
    /// Of those, the first `sinks` and the last `window`, its own included.
    Window {
        /// Attention sinks (Xiao et al. 2023): keys from the first on that stay seen.
        sinks: usize,
        /// Keys up to its own.
        window: usize,
    },
}

/// `softmax(scale · queries · keysᵀ) · values` per head, the [scores](Scores) with or without a soft cap, and the
/// heads side by side in the result, `[batch, n, heads · head_dim]`.
///
/// Queries are `[batch, heads, n, head_dim]`, keys and values `[batch, kv_heads, total, head_dim]`, where every
/// `heads / kv_heads` consecutive query heads share one key head. A query that sees no key results in zeros. Values must be
/// finite, also those that are not seen.
///
/// Sums are in float32. In float32 a query's result does not depend on the other queries, not in a bit.
///
/// Differentiable with respect to queries, keys and values.
///
/// # Errors
/// When shapes or types do not fit, or the soft cap is not positive.
pub fn attention(queries: &Array, keys: &Array, values: &Array, scores: Scores, mask: Mask) -> Result<Array> {
    attention_at(current_level()?, queries, keys, values, scores, mask)
}

pub(crate) fn attention_at(
    level: Level,
    queries: &Array,
    keys: &Array,
    values: &Array,
    scores: Scores,
    mask: Mask,
) -> Result<Array> {
    scores.check()?;
    let dtype = queries.dtype();
    let fits = || {
        let &[batch, heads, n, head_dim] = queries.shape() else { return None };
        let &[_, kv_heads, total, _] = keys.shape() else { return None };
        let fits = keys.shape() == [batch, kv_heads, total, head_dim]
            && values.shape() == keys.shape()
            && kv_heads > 0
            && head_dim > 0
            && heads % kv_heads == 0
            && (mask == Mask::Full || n <= total)
            && is_float(dtype)
            && keys.dtype() == dtype
            && values.dtype() == dtype;
        fits.then_some([batch, n, heads * head_dim])
    };
    let Some(shape) = fits() else {
        let shapes = [queries, keys, values].map(|array| (array.shape(), array.dtype()));
        return Err(Exception::custom(format!("attention ({mask:?}) does not take {shapes:?}")));
    };
    ffi::apply_one(Attention { scores, mask, level }, &[queries, keys, values], &shape, dtype)
}

#[derive(Clone, Copy)]
struct Attention {
    scores: Scores,
    mask: Mask,
    level: Level,
}

/// Keys that are seen: the first `sinks`, and `recent`, which begins there or after.
#[derive(Debug, Clone)]
struct Seen {
    sinks: usize,
    recent: Range<usize>,
}

impl Mask {
    fn sinks(self) -> usize {
        if let Self::Window { sinks, .. } = self { sinks } else { 0 }
    }

    /// The keys that query `query` of `n` sees of `total`.
    fn seen(self, query: usize, n: usize, total: usize) -> Seen {
        let end = (total + query + 1).saturating_sub(n);
        let recent = match self {
            Self::Full => 0..total,
            Self::Causal => 0..end,
            Self::Window { window, .. } => end.saturating_sub(window)..end,
        };
        Seen { sinks: self.sinks().min(recent.start), recent }
    }

    /// The keys that any of `queries` sees, of which there is one at least.
    fn seen_by(self, queries: Range<usize>, n: usize, total: usize) -> Seen {
        let (first, last) = (self.seen(queries.start, n, total), self.seen(queries.end - 1, n, total));
        Seen { sinks: first.sinks, recent: first.recent.start..last.recent.end }
    }
}

impl Seen {
    fn len(&self) -> usize {
        self.sinks + self.recent.len()
    }

    /// The multiples of `size` from which on `size` keys have some that are seen.
    fn steps(&self, size: usize) -> impl Iterator<Item = usize> + use<> {
        let recent = (self.recent.start / size * size).max(self.sinks.next_multiple_of(size));
        (0..self.sinks).step_by(size).chain((recent..self.recent.end).step_by(size))
    }
}

impl Kernel for Attention {
    const NAME: &'static CStr = c"attention";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let [queries, keys, values] = inputs else { unreachable!("three inputs") };
        let heads = Heads { heads: queries.dim(1), kv_heads: keys.dim(1), head_dim: queries.dim(3) };
        let (batch, n, total) = (queries.dim(0), queries.dim(2), keys.dim(2));
        let [keys, values] = [keys, values].map(|all| (0..batch).map(|row| all.part(row)).collect::<Vec<_>>());
        let sequence = |row: usize| Sequence {
            n,
            total,
            first_row: row * heads.heads * n,
            head_rows: n,
            first_position: row * n,
            blocks: vec![Stored {
                len: total,
                keys: (Format::Dense, &keys[row..=row]),
                values: (Format::Dense, &values[row..=row]),
            }],
        };
        self.compute(heads, queries, (0..batch).map(sequence).collect(), &mut outputs[0]);
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let &[batch, heads, n, head_dim] = inputs[0].shape() else { unreachable!("queries have four axes") };
        let gradient = cotangents[0].reshape(&[batch, n, heads, head_dim])?.transpose_axes(&[0, 2, 1, 3])?;
        let arrays: Vec<&Array> = inputs.iter().chain([&gradient]).collect();
        let outputs: Vec<(&[i32], Dtype)> = inputs.iter().map(|array| (array.shape(), array.dtype())).collect();
        let gradients = ffi::apply(gradient::Gradient(*self), &arrays, &outputs)?;
        Ok(gradients.into_iter().map(Some).collect())
    }
}

/// What the tasks of one call have in common.
struct Call<'a, T> {
    attention: Attention,
    heads: Heads,
    /// All queries, a row each.
    queries: Matrix<'a>,
    /// `[positions, heads, head_dim]`
    y: SharedMut<'a, T>,
}

impl Attention {
    fn compute(&self, heads: Heads, queries: &View, mut sequences: Vec<Sequence>, y: &mut ViewMut) {
        sequences.retain(|sequence| sequence.n > 0);
        // So that no thread is left with a long one in the end.
        sequences.sort_by_key(|sequence| Reverse(sequence.n * sequence.total));
        with_element!(y.dtype(), T => {
            let call = Call { attention: *self, heads, queries: Matrix::dense(queries), y: y.shared::<T>() };
            call.run(&sequences);
        });
    }
}

impl<T: Element> Call<'_, T> {
    fn run(&self, sequences: &[Sequence]) {
        let tiles = Tiles::new(self.attention.level, T::DTYPE);
        // In float32 everything goes the same way, so that results agree to the bit.
        let few = |sequence: &Sequence| sequence.n <= few::MOST_QUERIES && T::DTYPE != Dtype::Float32;
        // With few heads, several tasks share one, and each packs it for itself.
        let parts = (2 * pool::threads()).div_ceil((sequences.len() * self.heads.kv_heads).max(1));
        let mut tasks = Vec::new();
        for sequence in sequences {
            let parts = if few(sequence) { 1 } else { parts.clamp(1, many::panels(tiles, sequence)) };
            for kv_head in 0..self.heads.kv_heads {
                tasks.extend((0..parts).map(|part| (sequence, kv_head, part, parts)));
            }
        }
        parallel(tasks.len(), |task| {
            let (sequence, kv_head, part, parts) = tasks[task];
            if few(sequence) {
                return few::run(self, sequence, kv_head);
            }
            let panels = many::panels(tiles, sequence);
            many::run(self, sequence, kv_head, panels * part / parts..panels * (part + 1) / parts);
        });
    }
}
