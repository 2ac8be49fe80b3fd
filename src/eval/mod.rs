//! How good answers are.

pub mod metrics;
