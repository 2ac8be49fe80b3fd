//! The layers that models are made of. Here alone it is known how a weight is stored and which kernel runs.

mod activation;
mod attention;
mod embedding;
mod linear;
mod lora;
mod norm;
mod rope;
mod split;
mod weight;

pub use activation::{add, geglu, gelu, quick_gelu, swiglu};
pub use attention::{Mask, Scores, attention, split_heads};
pub(crate) use attention::{merge_heads, probabilities};
pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::{LayerNorm, RmsNorm};
pub use rope::{Position, Rope, RopeConfig, RopeFactors};
pub use split::split;
