//! How good a model is, on data of one's own.

pub mod metrics;
pub mod question;
pub mod statistics;
