//! Checkpoints on disk and on the hub: finding the folder, reading its configuration, taking its tensors.

pub mod config;
pub mod hub;
pub mod weights;

pub use config::ModelFiles;
pub use weights::{Scope, Weights};
