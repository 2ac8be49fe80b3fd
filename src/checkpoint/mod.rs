//! Checkpoints on disk and on the hub: finding the folder, reading its configuration, taking its tensors, and making
//! another folder of it.

pub mod arrays;
pub mod config;
pub mod demo;
pub mod gguf;
pub mod hub;
pub mod identity;
pub mod json;
pub mod low_rank;
mod param;
pub mod quantization;
pub mod safetensors;
pub mod staging;
mod store;
pub mod weights;

pub use config::ModelFiles;
pub use param::Param;
pub use weights::{Scope, Weights};

/// The file that says which weight file holds which tensor.
const INDEX: &str = "model.safetensors.index.json";
