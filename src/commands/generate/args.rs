//! The arguments of `phi3v generate`.

use std::path::PathBuf;

use clap::Args;

use crate::commands::args::{EngineArgs, ImageArgs, ModelArgs, OutputArgs, SamplingArgs};

/// Arguments of `phi3v generate`
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to ask; - reads it from stdin
    #[arg(short, long, value_name = "TEXT", required_unless_present = "input")]
    pub(crate) prompt: Option<String>,
    /// What the model should know beforehand: the system message
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Send the prompt as it is, without the checkpoint's chat template
    #[arg(long, conflicts_with = "system")]
    pub(crate) ignore_chat_template: bool,
    /// The most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_tokens: u64,
    /// A text that ends the answer and is not part of it; repeat it for several
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Print one JSON object with text, token ids, finish reason and timings
    #[arg(long)]
    pub(crate) json: bool,
    /// Tell what the model is given and what happens to it: the rendered prompt, which tokens come from where, what was
    /// known before, longrope's factors, time per phase
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    // Groups with a heading come last: it holds for all that follows.
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) form: FormArgs,
    #[command(flatten)]
    pub(crate) rows: RowsArgs,
}

/// Many prompts, from a file to a file
// That these conflict with --prompt is said for each: clap forgets that a flag requires --input where --prompt forbids it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many prompts")]
pub(crate) struct RowsArgs {
    /// Answer the prompts in this file, a JSON object a line or a row of a Parquet file, in place of --prompt
    ///
    /// {"prompt": "...", "image": "cat.jpg"} or {"messages": [{"role": "user", "content": "..."}]}, with "images" for
    /// several images (paths start from the file's folder; content may be a list of parts, as in OpenAI's API), "system",
    /// "max_tokens", "stop", and the names of the sampling flags with _ for -. The flags hold for rows that say nothing else.
    /// An "id" is copied to the answer, keys that begin with _ are passed over, all others are errors of that row. A row
    /// that fails gets a line with "error", the others are answered.
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with_all = ["prompt", "images", "json", "explain", "choose", "constrain"])]
    pub(crate) input: Option<PathBuf>,
    /// Where the answers go, a JSON object a line in the order of the rows; - for stdout
    ///
    /// Beside it a file with .state at the end of its name tells what it belongs to.
    #[arg(long, value_name = "FILE", requires = "input", conflicts_with = "prompt")]
    pub(crate) output: Option<PathBuf>,
    /// Go on where an earlier run of the same command ended
    ///
    /// With another input, model or flag that changes answers, that is refused. Rows that failed are not tried again.
    #[arg(long, requires = "input", conflicts_with_all = ["force", "prompt"])]
    pub(crate) resume: bool,
    /// Replace the output if it exists
    #[arg(long, requires = "input", conflicts_with = "prompt")]
    pub(crate) force: bool,
    /// The most rows that are answered at once [default: 8]
    #[arg(long, value_name = "N", requires = "input", conflicts_with = "prompt", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_batch_size: Option<u16>,
}

/// Flags that say nothing where an answer is not generated token by token.
const FREE: [&str; 11] = [
    "max_tokens",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "repetition_context_size",
    "presence_penalty",
    "frequency_penalty",
    "seed",
];

/// The form that an answer must have
#[derive(Debug, Args)]
#[command(next_help_heading = "Form of the answer")]
#[group(skip)]
pub(crate) struct FormArgs {
    /// Answer in JSON of this schema; - reads it from stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["regex", "grammar"])]
    pub(crate) json_schema: Option<PathBuf>,
    /// Answer with a text that matches this regular expression as a whole
    #[arg(long, value_name = "REGEX", conflicts_with = "grammar")]
    pub(crate) regex: Option<String>,
    /// Answer in the language of this grammar, in llguidance's variant of Lark; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) grammar: Option<PathBuf>,
    /// Choose one of several answers; repeat it for each
    ///
    /// All are scored in one pass by the probability that the model's answer begins so. --json tells probabilities and the
    /// margin of the best.
    #[arg(long, value_name = "TEXT", conflicts_with_all = FREE, conflicts_with_all = ["json_schema", "regex", "grammar", "early_stop", "draft_model", "prompt_lookup"])]
    pub(crate) choose: Vec<String>,
    /// Come to this phrase within some tokens, where it fits best; repeat it for several, one after the other
    ///
    /// With --choose, the choice follows the last phrase.
    #[arg(long, value_name = "TEXT", conflicts_with_all = FREE, conflicts_with_all = ["json_schema", "regex", "grammar", "early_stop", "draft_model", "prompt_lookup"])]
    pub(crate) constrain: Vec<String>,
    /// The most tokens before each phrase
    #[arg(long, value_name = "N", default_value_t = 100, requires = "constrain")]
    pub(crate) within: usize,
    /// Try the three best tokens before a phrase, not just the best
    #[arg(long, requires = "constrain")]
    pub(crate) beams: bool,
    /// From N tokens on, end where the model could have ended well
    ///
    /// As Phi-3-Vision-MLX does it: at a place that suits an end better than all before, where what was said since the last
    /// such place is less likely than an end was there.
    #[arg(long, value_name = "N")]
    pub(crate) early_stop: Option<usize>,
}
