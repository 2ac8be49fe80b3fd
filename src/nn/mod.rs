//! The layers that models are made of. Here alone it is known how a weight is stored and which kernel runs.

mod activation;
mod attention;
mod linear;
mod lora;
mod norm;
mod rope;
mod split;

pub use activation::{add, geglu, gelu, quick_gelu, swiglu};
pub use attention::{Mask, attention, cached_attention, split_heads};
pub use linear::{Embedding, Linear};
pub use lora::{Dropout, seed_of};
pub use norm::{LayerNorm, RmsNorm};
pub use rope::{Rope, RopeConfig, RopeFactors};
pub use split::split;
