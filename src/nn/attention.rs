//! Scaled dot-product attention and the reshapes around it.

use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::arange;
use mlx_rs::{Array, Dtype};

/// Which keys a query sees.
pub enum Mask {
    /// All of them.
    Full,
    /// Those at its own position and before; the last query stands at the last key.
    Causal,
    /// `[queries, keys]`, true where seen.
    Window(Array),
}

impl Mask {
    /// For `new` queries after `past` cached positions: causal, and of the earlier positions only the last
    /// `sliding_window` (the query's own included) where the sequence is longer than that.
    pub fn causal(past: i32, new: i32, sliding_window: Option<i32>) -> Result<Self> {
        let total = past + new;
        let Some(window) = sliding_window.filter(|&window| window < total) else { return Ok(Self::Causal) };
        let queries = arange::<_, i32>(past, total, None)?.reshape(&[new, 1])?;
        let keys = arange::<_, i32>(None, total, None)?;
        let seen = keys.le(&queries)?.logical_and(keys.gt(&queries.subtract(Array::from_int(window))?)?)?;
        Ok(Self::Window(seen.as_dtype(Dtype::Bool)?))
    }
}

/// `softmax(scale · queries · keysᵀ) · values` (Vaswani et al. 2017, equation 1) per head.
///
/// Queries `[batch, heads, new, head_dim]`, keys and values `[batch, kv_heads, total, head_dim]`, where every
/// `heads / kv_heads` consecutive query heads share one key head.
pub fn attention(queries: &Array, keys: &Array, values: &Array, scale: f32, mask: &Mask) -> Result<Array> {
    let mask = match mask {
        Mask::Full => None,
        Mask::Causal => Some(ScaledDotProductAttentionMask::Causal),
        Mask::Window(seen) => Some(ScaledDotProductAttentionMask::Array(seen)),
    };
    scaled_dot_product_attention(queries, keys, values, scale, mask, None)
}

/// `[batch, n, heads · head_dim] -> [batch, heads, n, head_dim]`
pub fn split_heads(x: &Array, heads: i32) -> Result<Array> {
    x.reshape(&[x.dim(0), x.dim(1), heads, -1])?.transpose_axes(&[0, 2, 1, 3])
}

/// `[batch, heads, n, head_dim] -> [batch, n, heads · head_dim]`
pub fn merge_heads(x: &Array) -> Result<Array> {
    let [batch, _, n, _] = x.shape() else { unreachable!("attention has four axes") };
    x.transpose_axes(&[0, 2, 1, 3])?.reshape(&[*batch, *n, -1])
}
