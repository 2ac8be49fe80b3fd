//! All integration tests in one binary. They need nothing outside this repository.
#![allow(clippy::unwrap_used)]

mod adapter;
mod batch;
mod bench;
mod chat;
mod checkpoint;
mod cli;
mod common;
mod constrain;
mod convert;
mod demo;
mod docs;
mod engine;
mod eval;
mod forms;
mod gemma2;
mod gguf;
mod golden;
mod hub;
mod jsonl;
mod layout;
mod loopback;
mod lora;
mod parquet;
mod qwen2_vl;
mod train_data;
mod upload;
