//! Scaled dot-product attention, over what was just computed or over caches, and the split into heads before it.

pub use mlx_cpu::{Mask, Scores};
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::{arange, matmul, select, softmax_axis, tanh};
use mlx_rs::{Array, Dtype};

use crate::device::on_cpu;

/// `softmax(scale · queries · keysᵀ) · values` (Vaswani et al. 2017, equation 1) per head, with or without a soft cap, the
/// heads side by side in the result, `[batch, n, heads · head_dim]`.
///
/// Queries `[batch, heads, n, head_dim]`, keys and values `[batch, kv_heads, total, head_dim]`, where every
/// `heads / kv_heads` consecutive query heads share one key head.
pub fn attention(queries: &Array, keys: &Array, values: &Array, scores: Scores, mask: Mask) -> Result<Array> {
    if on_cpu() {
        return mlx_cpu::attention(queries, keys, values, scores, mask);
    }
    if scores.softcap.is_some() {
        return capped_attention(queries, keys, values, scores, mask);
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
    merge_heads(&scaled_dot_product_attention(queries, keys, values, scores.scale, mask, None)?)
}

/// [`attention`] in plain operations: MLX's kernel has no soft cap.
fn capped_attention(queries: &Array, keys: &Array, values: &Array, scores: Scores, mask: Mask) -> Result<Array> {
    let &[batch, heads, n, head_dim] = queries.shape() else { unreachable!("attention has four axes") };
    let rows = queries.reshape(&[batch, keys.dim(1), -1, head_dim])?;
    let products = matmul(&rows, keys.swap_axes(2, 3)?)?; // [batch, kv_heads, rows, total]
    let sums = matmul(probabilities(&products, n, scores, mask)?, values)?;
    merge_heads(&sums.reshape(&[batch, heads, n, head_dim])?)
}

/// The softmax of the masked scores, from the products of queries and keys `[.., rows, total]`, where `rows` is a multiple
/// of `n`; computed in float32 and rounded to the type of the products.
pub(crate) fn probabilities(products: &Array, n: i32, scores: Scores, mask: Mask) -> Result<Array> {
    let total = products.dim(-1);
    let scaled = products.as_dtype(Dtype::Float32)?.multiply(Array::from_f32(scores.scale))?;
    let capped = match scores.softcap {
        Some(cap) => tanh(scaled.divide(Array::from_f32(cap))?)?.multiply(Array::from_f32(cap))?,
        None => scaled,
    };
    let (sinks, window) = match mask {
        Mask::Window { sinks, window } => (sinks.min(i32::MAX as usize) as i32, window.min(i32::MAX as usize) as i32),
        Mask::Full | Mask::Causal => (0, i32::MAX),
    };
    let rows = capped.reshape(&[-1, n, total])?;
    let masked = match mask {
        Mask::Full => rows,
        _ => select(&window_mask(n, total, sinks, window)?, &rows, Array::from_f32(f32::NEG_INFINITY))?,
    };
    softmax_axis(&masked, -1, true)?.as_dtype(products.dtype())?.reshape(products.shape())
}

/// `[n, total]`, true where the query sees the key.
fn window_mask(n: i32, total: i32, sinks: i32, window: i32) -> Result<Array> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::random::normal;
    use mlx_rs::transforms::fallible_vjp;

    use super::*;

    /// What GPUs compute with a soft cap agrees with the CPU's kernel, gradients included.
    #[test]
    fn capped_attention_agrees_with_the_kernel() {
        let scores = Scores { scale: 0.2, softcap: Some(0.8) };
        let window = Mask::Window { sinks: 4, window: 100 };
        for (n, mask) in [(150, Mask::Full), (150, Mask::Causal), (7, Mask::Causal), (150, window)] {
            let random = |shape: &[i32]| normal::<f32>(shape, None, None, None).unwrap();
            let inputs = [random(&[2, 4, n, 32]), random(&[2, 2, 150, 32]), random(&[2, 2, 150, 32])];
            let cotangent = random(&[2, n, 128]);
            let [(kernel, kernel_gradients), (plain, gradients)] = [attention, capped_attention].map(|function| {
                let function = |x: &[Array]| Ok(vec![function(&x[0], &x[1], &x[2], scores, mask)?]);
                fallible_vjp(function, &inputs, std::slice::from_ref(&cotangent)).unwrap()
            });
            for (a, b) in plain.iter().chain(&gradients).zip(kernel.iter().chain(&kernel_gradients)) {
                assert_eq!(a.shape(), b.shape());
                let difference = a.subtract(b).unwrap().abs().unwrap().max(None).unwrap();
                assert!(difference.item_exact::<f32>() < 1e-4, "{n} {mask:?}: {difference}");
            }
        }
    }
}
