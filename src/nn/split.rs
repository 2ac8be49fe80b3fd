//! What stands in one line, apart.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::split_at_indices;

/// `x` cut along `axis` into parts of these lengths. Their gradients are joined, where each of a slice's is as large as `x`.
pub fn split(x: &Array, lengths: impl Iterator<Item = i32>, axis: i32) -> Result<Vec<Array>> {
    let ends = lengths.scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    let mut ends: Vec<i32> = ends.collect();
    ends.pop();
    split_at_indices(x, &ends, axis)
}
