//! Fine-tuning: what a step does to the parameters, and what is kept of how it went.

pub mod clip;
pub mod optimizer;
pub mod schedule;
