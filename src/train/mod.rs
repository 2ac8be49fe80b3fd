//! Fine-tuning: what a step does to the parameters, and what is kept of how it went.

pub mod clip;
pub mod gradient;
pub mod optimizer;
pub mod plan;
pub mod schedule;
pub mod state;
