//! `phi3v eval`: how models are judged.

mod metrics;
mod question;
mod statistics;
