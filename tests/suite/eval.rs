//! How models are judged.

mod metrics;
