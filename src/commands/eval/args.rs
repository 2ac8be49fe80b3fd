//! Arguments of `phi3v eval`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use phi3v::eval::choose::By;
use phi3v::eval::metrics::AnswerMetric;
use phi3v::eval::task::CaptionMetric;

use crate::commands::args::{EngineArgs, ImageOptionArgs, ModelArgs, OutputArgs};

/// Arguments of `phi3v eval`
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    pub(super) command: EvalCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum EvalCommand {
    /// How well texts are predicted: a file of text, or rows as for lora, with images or without
    Perplexity(Box<PerplexityArgs>),
    /// How far predictions are from another model's, such as the one that was quantized
    Kl(Box<KlArgs>),
    /// How often the right one of several options is chosen: MMLU, ARC, HellaSwag, MMMU and the like
    Choice(Box<ChoiceArgs>),
    /// How often questions are answered rightly, about images or without
    Vqa(Box<VqaArgs>),
    /// How near captions of images are to people's
    Caption(Box<CaptionArgs>),
}

/// What all evaluations have
#[derive(Debug, Args)]
pub(super) struct CommonArgs {
    /// The rows: a file of JSON lines, or a Parquet file as the Hugging Face hub has them
    #[arg(long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// Look only at so many rows: the first, or random ones with --shuffle
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(super) limit: Option<usize>,
    /// Take random rows for --limit
    #[arg(long, requires = "limit")]
    pub(super) shuffle: bool,
    /// Where the random numbers start: of --shuffle, and of the intervals
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Go on without the rows that are bad
    #[arg(long)]
    pub(super) skip_bad: bool,
    /// Write what became of each row: prompt, answer, right answers, scores, a JSON object a line
    ///
    /// Beside it a file with .state at the end of its name tells what it belongs to. With --compare, the other model's rows
    /// are in a file with .other before its ending.
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Go on where an earlier run of the same command ended
    #[arg(long, requires = "output", conflicts_with = "force")]
    pub(super) resume: bool,
    /// Replace the output if it exists
    #[arg(long, requires = "output")]
    pub(super) force: bool,
    /// Compare with a model, an adapter for the same model, or the output of an earlier run (.jsonl), row by row
    #[arg(long, value_name = "FOLDER|ID|FILE")]
    pub(super) compare: Option<String>,
    /// Write a page with the figures and the rows that went wrong, images included
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) output_args: OutputArgs,
    // Groups with a heading come last: it holds for all that follows.
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) image_options: ImageOptionArgs,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a number from 1 is expected".into())
}

/// How texts are read
#[derive(Debug, Args)]
#[command(next_help_heading = "Texts")]
pub(super) struct TextArgs {
    /// Positions of a window of a text file [default: 2048, or the model's context where that is shorter]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(super) window: Option<usize>,
    /// Tokens that each window predicts, with what is before them in the window [default: all but the first]
    ///
    /// A smaller stride gives every token more to go by, and takes longer.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(super) stride: Option<usize>,
    /// The most positions of a row, images included; longer rows are bad ones [default: the model's context]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(super) max_seq_length: Option<usize>,
}

/// Arguments of `phi3v eval perplexity`
#[derive(Debug, Args)]
pub(super) struct PerplexityArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) text: TextArgs,
}

/// Arguments of `phi3v eval kl`
#[derive(Debug, Args)]
pub(super) struct KlArgs {
    /// The model to measure from: a folder, a GGUF file or an id, with the same vocabulary
    #[arg(long, value_name = "FOLDER|ID")]
    pub(super) reference: String,
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) text: TextArgs,
}

/// How questions are asked
#[derive(Debug, Args)]
#[command(next_help_heading = "Questions")]
pub(super) struct AskArgs {
    /// What the model should know beforehand: the system message
    #[arg(short, long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// Send questions as they are, without the checkpoint's chat template
    #[arg(long, conflicts_with = "system")]
    pub(super) ignore_chat_template: bool,
    /// Add this to every question, on a line of its own
    #[arg(long, value_name = "TEXT")]
    pub(super) instruction: Option<String>,
    /// The most tokens of an answer [default: 64]
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least_one)]
    pub(super) max_tokens: Option<usize>,
    /// A text that ends the answer and is not part of it; repeat it for several
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) stop: Vec<String>,
    /// The most questions that are answered at once [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) max_batch_size: Option<u16>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ByArg {
    /// The option whose text is the likeliest answer, for its length
    Likelihood,
    /// The option whose letter is the likeliest answer to the question with all options
    LetterLikelihood,
    /// The option whose letter the model answers
    Letter,
}

impl From<ByArg> for By {
    fn from(arg: ByArg) -> Self {
        match arg {
            ByArg::Likelihood => Self::Likelihood,
            ByArg::LetterLikelihood => Self::LetterLikelihood,
            ByArg::Letter => Self::Letter,
        }
    }
}

/// Arguments of `phi3v eval choice`
#[derive(Debug, Args)]
pub(super) struct ChoiceArgs {
    /// Which option counts as chosen
    #[arg(long, value_name = "WHAT", default_value = "likelihood")]
    pub(super) by: ByArg,
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) ask: AskArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
}

/// Arguments of `phi3v eval vqa`
#[derive(Debug, Args)]
pub(super) struct VqaArgs {
    /// What counts as right: exact, relaxed, vqa, anls, f1, regex; several with commas, the first counts most
    ///
    /// exact: equal but for case, punctuation and articles. relaxed: numbers may be 5 % off (ChartQA). vqa: as many of ten
    /// people answered (VQAv2). anls: by edits (DocVQA). f1: by words (SQuAD). regex: the right answers are expressions to be
    /// found in the answer.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "exact")]
    pub(super) metric: Vec<AnswerMetric>,
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) ask: AskArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum CaptionArg {
    /// Words in a row, as sacrebleu counts them: 0 to 100
    Bleu,
    /// The longest common subsequence, as rouge-score has it: 0 to 1
    RougeL,
    /// Agreement on what is rare elsewhere, as pycocoevalcap has it: 0 to 10
    Cider,
}

impl From<CaptionArg> for CaptionMetric {
    fn from(arg: CaptionArg) -> Self {
        match arg {
            CaptionArg::Bleu => Self::Bleu,
            CaptionArg::RougeL => Self::RougeL,
            CaptionArg::Cider => Self::Cider,
        }
    }
}

/// Arguments of `phi3v eval caption`
#[derive(Debug, Args)]
pub(super) struct CaptionArgs {
    /// What is measured; several with commas, the first counts most
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "cider,bleu,rouge-l")]
    pub(super) metric: Vec<CaptionArg>,
    /// What is asked about images of rows without a prompt
    #[arg(short, long, value_name = "TEXT", default_value = "Provide a one-sentence caption for the picture.")]
    pub(super) prompt: String,
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    pub(super) ask: AskArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
}
