//! Phi-3.5-vision and its family on MLX: the library behind the `phi3v` command.
//!
//! A prompt's way: [`processor`] makes ids and tiles of a conversation and its images, a [`models`] graph built from
//! [`checkpoint`] tensors out of [`nn`] layers turns them into logits, [`engine`] runs the loop and makes text of it.
//! Nothing here prints or ends the process.

pub mod adapter;
pub mod bench;
pub mod cache;
pub mod checkpoint;
pub mod convert;
pub mod dataset;
pub mod device;
pub mod engine;
pub mod eval;
mod http;
pub mod memory;
pub mod models;
pub mod nn;
mod parallel;
pub mod processor;
pub mod rows;
mod text;
pub mod train;
pub mod verify;

/// An error with its causes, in one line.
pub fn one_line(error: &anyhow::Error) -> String {
    let message = format!("{error:#}");
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
