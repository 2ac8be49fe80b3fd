//! Fine-tuning: from rows of examples to an adapter.

pub mod batch;
pub mod clip;
pub mod curve;
pub mod evaluate;
pub mod gradient;
pub mod load;
pub mod metrics;
pub mod optimizer;
pub mod plan;
pub mod schedule;
pub mod state;
pub mod trainer;
