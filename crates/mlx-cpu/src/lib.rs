//! CPU kernels for transformers, as MLX operations.
//!
//! MLX's own CPU backend computes 16-bit and packed matrices with scalar code and rounds sums to 16 bits. These
//! operations take and give [`mlx_rs::Array`], lazy and differentiable as MLX's own, and run on all cores with the CPU's
//! best instructions, with sums in float32. Results do not depend on the number of threads.

#![deny(unsafe_op_in_unsafe_fn)]

mod amx;
mod attention;
mod blas;
mod element;
mod ffi;
mod heap;
mod level;
mod linear;
mod map;
mod norm;
mod peak;
mod pool;
mod quantize;
mod rope;
mod scratch;
mod simd;
mod view;
mod vocab;

#[cfg(test)]
mod tests;

pub use attention::{Block, CachedRow, Mask, Scores, attention, cached_attention};
pub use heap::keep_freed_memory;
pub use level::{Level, VARIABLE};
pub use linear::{Weight, expert_linear, linear};
pub use map::{Activation, activation, add, gated};
pub use norm::{layer_norm, rms_norm};
pub use peak::Memory;
pub use pool::{set_threads, threads};
pub use quantize::{dequantize, quantize};
pub use rope::{Position, rope};
pub use vocab::{argmax, embedding, top_k};
