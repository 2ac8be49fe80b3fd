//! `phi3v eval`: how models are judged.

mod answers;
mod choices;
mod folder;
mod metrics;
mod peers;
mod question;
mod results;
mod statistics;
mod texts;
