//! Scaled dot-product attention, over what was just computed or over caches, and the split into heads before it.

pub use mlx_cpu::Mask;
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::arange;
use mlx_rs::{Array, Dtype};

use crate::device::on_cpu;

/// `softmax(scale · queries · keysᵀ) · values` (Vaswani et al. 2017, equation 1) per head, with the heads side by side
/// in the result, `[batch, n, heads · head_dim]`.
///
/// Queries `[batch, heads, n, head_dim]`, keys and values `[batch, kv_heads, total, head_dim]`, where every
/// `heads / kv_heads` consecutive query heads share one key head.
pub fn attention(queries: &Array, keys: &Array, values: &Array, scale: f32, mask: Mask) -> Result<Array> {
    if on_cpu() {
        return mlx_cpu::attention(queries, keys, values, scale, mask);
    }
    let (n, total) = (queries.dim(2), keys.dim(2));
    let seen = match mask {
        Mask::Window { sinks, window } if sinks.saturating_add(window) < total as usize => {
            Some(window_mask(n, total, sinks as i32, window as i32)?)
        }
        _ => None,
    };
    let mask = match (mask, &seen) {
        (Mask::Full, _) => None,
        (_, Some(seen)) => Some(ScaledDotProductAttentionMask::Array(seen)),
        _ => Some(ScaledDotProductAttentionMask::Causal),
    };
    merge_heads(&scaled_dot_product_attention(queries, keys, values, scale, mask, None)?)
}

/// `[n, total]`, true where the query sees the key.
pub(crate) fn window_mask(n: i32, total: i32, sinks: i32, window: i32) -> Result<Array> {
    let queries = arange::<_, i32>(total - n, total, None)?.reshape(&[n, 1])?;
    let keys = arange::<_, i32>(None, total, None)?;
    // Not queries - window, which may overflow.
    let recent = queries.subtract(&keys)?.lt(Array::from_int(window))?;
    let kept = recent.logical_or(keys.lt(Array::from_int(sinks))?)?;
    keys.le(&queries)?.logical_and(kept)?.as_dtype(Dtype::Bool)
}

/// `[batch, n, heads · head_dim] -> [batch, heads, n, head_dim]`
pub fn split_heads(x: &Array, heads: i32) -> Result<Array> {
    x.reshape(&[x.dim(0), x.dim(1), heads, -1])?.transpose_axes(&[0, 2, 1, 3])
}

/// `[batch, heads, n, head_dim] -> [batch, n, heads · head_dim]`
pub(crate) fn merge_heads(x: &Array) -> Result<Array> {
    let [batch, _, n, _] = x.shape() else { unreachable!("attention has four axes") };
    x.transpose_axes(&[0, 2, 1, 3])?.reshape(&[*batch, *n, -1])
}
