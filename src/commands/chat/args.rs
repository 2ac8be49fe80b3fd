//! The arguments of `phi3v chat`.

use std::path::PathBuf;

use clap::Args;

use crate::commands::args::{EngineArgs, ImageOptionArgs, ModelArgs, OutputArgs, SamplingArgs};

/// Arguments of `phi3v chat`
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// What the model should know beforehand: the system message
    #[arg(short, long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// The most tokens of an answer
    #[arg(short = 'n', long, value_name = "N", default_value = "2048", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_tokens: u64,
    /// A text that ends an answer and is not part of it; repeat it for several
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) stop: Vec<String>,
    /// Where the lines typed in a terminal are kept [default: phi3v/history in the folder for programs' state]
    ///
    /// That folder is XDG_STATE_HOME or ~/.local/state, on macOS ~/Library/Application Support.
    #[arg(long, value_name = "FILE", conflicts_with = "no_history")]
    pub(super) history: Option<PathBuf>,
    /// Keep no lines, and know none from earlier
    #[arg(long)]
    pub(super) no_history: bool,
    /// No colours and no thumbnails in the terminal; so does the variable NO_COLOR
    #[arg(long)]
    pub(super) no_color: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    // Groups with a heading come last: it holds for all that follows.
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) images: ChatImageArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
}

/// Images for the first question and how images are processed
#[derive(Debug, Args)]
#[command(next_help_heading = "Images")]
pub(super) struct ChatImageArgs {
    /// An image for the first question: a file, an http(s) address or a data: address
    ///
    /// Repeat it for several. /image attaches images to later questions.
    #[arg(short, long = "image", value_name = "IMAGE")]
    pub(super) images: Vec<String>,
    #[command(flatten)]
    pub(super) options: ImageOptionArgs,
}
