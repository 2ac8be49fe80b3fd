//! The subcommands: each turns its arguments into settings, calls the library, and prints.

mod args;
mod bad_rows;
mod bench;
mod chat;
mod convert;
mod docs;
mod eval;
pub(crate) mod flags;
mod generate;
mod lora;
mod session;
mod stream;
mod text;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Run Phi-3.5-vision and its family on MLX
#[derive(Debug, Parser)]
#[command(name = "phi3v", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted (what was produced stands).")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer a question, about images or without
    Generate(Box<generate::GenerateArgs>),
    /// Talk with the model, about images or without
    Chat(Box<chat::ChatArgs>),
    /// Teach a model by examples, with images or without
    Lora(Box<lora::LoraArgs>),
    /// Tell how good a model is on data of your own, and whether another one is better
    Eval(eval::EvalArgs),
    /// Make a model folder in MLX's layout, quantized or not
    Convert(convert::ConvertArgs),
    /// Quantize a model folder
    Quantize(convert::QuantizeArgs),
    /// Measure how fast a model is on this machine; of a published one, its shape is enough
    ///
    /// Shares are of what the machine is measured to do at its best, and of the work of the language model alone: of compute
    /// in prefill, of the memory's bandwidth in decode.
    Bench(Box<bench::BenchArgs>),
    /// Check a model, stage by stage, against recordings of the reference
    Verify(verify::VerifyArgs),
    /// Print the completion script for a shell
    Completions(docs::CompletionsArgs),
    /// Write the man pages into a folder
    Man(docs::ManArgs),
}

/// Runs the command; the exit code when it did not fail.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Generate(args) => generate::run(*args),
        Command::Chat(args) => chat::run(*args),
        Command::Lora(args) => lora::run(*args),
        Command::Eval(args) => eval::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Quantize(args) => convert::quantize(args),
        Command::Bench(args) => bench::run(*args),
        Command::Verify(args) => verify::run(args),
        Command::Completions(args) => docs::completions(&args),
        Command::Man(args) => docs::man(&args),
    }
}
