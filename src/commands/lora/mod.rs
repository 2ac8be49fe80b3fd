//! `phi3v lora`: fine-tuning, and what is done with its adapters.

mod args;
mod export;
mod fuse;
mod report;
mod rows;
mod settings;
mod test;
mod train;

use std::process::ExitCode;

use anyhow::Result;

pub(crate) use args::LoraArgs;
use args::LoraCommand;

pub(super) fn run(args: LoraArgs) -> Result<ExitCode> {
    match args.command {
        None => train::run(args.train),
        Some(LoraCommand::Test(args)) => test::run(*args),
        Some(LoraCommand::Fuse(args)) => fuse::run(*args),
        Some(LoraCommand::Export(args)) => export::run(args),
    }
}
