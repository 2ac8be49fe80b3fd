//! How good a model is, on data of one's own.
//!
//! Rows of a file are checked and become [`passage::Passage`]s to predict, [`ask::Asked`] questions to answer or
//! [`choose::Posed`] ones with options. A model makes a [`record::Record`] of each, and a [`task::Task`] knows the figures
//! that records add up to: [`summary::Summary`].

pub mod ask;
pub mod choose;
mod lines;
pub mod metrics;
pub mod page;
pub mod passage;
pub mod question;
pub mod read;
pub mod record;
pub mod statistics;
pub mod summary;
pub mod task;
