//! Arguments of `phi3v lora`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use phi3v::adapter::{FineTuneType, Format};
use regex::Regex;

use crate::commands::args::{ImageOptionArgs, ModelArgs, OutputArgs, above_zero, bytes, from_zero, share_below_one};

/// Arguments of `phi3v lora`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct LoraArgs {
    #[command(subcommand)]
    pub(super) command: Option<LoraCommand>,
    #[command(flatten)]
    pub(super) train: TrainArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum LoraCommand {
    /// Tell how well a model, with or without adapters, answers the rows of a file
    Test(Box<TestArgs>),
    /// Make a model folder of a model and its adapters
    Fuse(Box<FuseArgs>),
    /// Write an adapter as another program wants it
    Export(ExportArgs),
}

/// What is learnt
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct DataArgs {
    /// The most positions of a row, images included; longer rows are bad ones, nothing is cut off
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(super) max_seq_length: usize,
    /// Learn only answers, not prompts
    #[arg(long, value_name = "true|false", action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub(super) mask_prompt: bool,
    /// Go on without the rows that are bad
    #[arg(long)]
    pub(super) skip_bad: bool,
    /// The most rows that are read at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) batch_size: u16,
    #[command(flatten)]
    pub(super) image_options: ImageOptionArgs,
}

/// Arguments of training
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// What to learn: a file of JSON lines or Parquet, or a folder with train.jsonl and, if there are such, valid.jsonl and test.jsonl
    ///
    /// Rows are {"messages": [{"role": "user", "content": "..."}, ...], "images": ["cat.jpg"]}, where content is a text,
    /// with <|image_1|> for the first image, or a list of parts; {"prompt": "...", "completion": "...", "image": "..."};
    /// {"question": "...", "answer": "...", "image": "..."}; or {"text": "..."}. Paths of images start from the file's
    /// folder. All rows are checked before anything is learnt.
    #[arg(long, value_name = "FILE|FOLDER", required = true)]
    pub(super) data: Option<PathBuf>,
    /// Where the adapter and all about the run are written
    #[arg(short = 'o', long, value_name = "FOLDER", default_value = "adapters")]
    pub(super) adapter_path: PathBuf,
    /// Go on with the run in that folder, as if it had not ended
    #[arg(long, conflicts_with = "force")]
    pub(super) resume: bool,
    /// Begin anew where that folder holds a run
    #[arg(long)]
    pub(super) force: bool,
    /// Check everything, tell what would be trained and what memory that takes, and end
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print one JSON object about the run in the end
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    // Groups with a heading come last: it holds for all that follows.
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) rows: DataArgs,
    #[command(flatten)]
    pub(super) splits: SplitArgs,
    #[command(flatten)]
    pub(super) method: MethodArgs,
    #[command(flatten)]
    pub(super) steps: StepsArgs,
    #[command(flatten)]
    pub(super) shown: ShownArgs,
}

/// What is learnt, continued
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct SplitArgs {
    /// Hold this share of the rows out for validation, where there is no valid.jsonl
    #[arg(long, value_name = "SHARE", value_parser = share_below_one)]
    pub(super) val_split: Option<f32>,
    /// Fill batches with as many rows as fit into so many positions, in place of --batch-size
    #[arg(long, value_name = "POSITIONS")]
    pub(super) pack: Option<usize>,
    /// Learn each row once more for each of these shares, with that share of the question hidden and the loss divided by
    /// 10^(10 · share), as Phi-3-Vision-MLX does it
    #[arg(long, value_name = "SHARES", value_delimiter = ',', value_parser = from_zero)]
    pub(super) mask_ratios: Vec<f32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FineTuneArg {
    /// Low-rank matrices beside the model's own
    Lora,
    /// The same, and a magnitude for each row
    Dora,
    /// The model's own tensors, which must not be quantized
    Full,
}

impl From<FineTuneArg> for FineTuneType {
    fn from(arg: FineTuneArg) -> Self {
        match arg {
            FineTuneArg::Lora => Self::Lora,
            FineTuneArg::Dora => Self::Dora,
            FineTuneArg::Full => Self::Full,
        }
    }
}

/// What is trained
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub(super) struct MethodArgs {
    /// What changes
    #[arg(long, value_name = "TYPE", default_value = "lora")]
    pub(super) fine_tune_type: FineTuneArg,
    /// How many numbers the changes of a matrix go through
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(i32).range(1..=4096))]
    pub(super) rank: i32,
    /// Changes are multiplied with ALPHA / rank [default: twice the rank]
    #[arg(long, value_name = "ALPHA", value_parser = above_zero)]
    pub(super) alpha: Option<f32>,
    /// Multiply with ALPHA / √rank
    #[arg(long)]
    pub(super) rslora: bool,
    /// The share of the inputs of changes that is left out at random
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share_below_one)]
    pub(super) dropout: f32,
    /// Change only the last N layers of the language model
    #[arg(long, value_name = "N|all", default_value = "all", value_parser = num_layers)]
    pub(super) num_layers: NumLayers,
    /// Change only those modules of the language model whose path this is found in, such as self_attn [default: attention
    /// and MLPs; with --fine-tune-type full all]
    #[arg(long, value_name = "REGEX")]
    pub(super) target: Option<Regex>,
    /// Also change what makes images' features the language model's
    #[arg(long)]
    pub(super) train_projector: bool,
    /// Also change the vision tower
    #[arg(long)]
    pub(super) train_vision: bool,
    /// Of all that would change leave what this is found in as it is, such as patch_embedding
    #[arg(long, value_name = "REGEX")]
    pub(super) freeze: Option<Regex>,
}

/// The last layers, or all.
#[derive(Debug, Clone, Copy)]
pub(super) struct NumLayers(pub(super) Option<usize>);

fn num_layers(text: &str) -> Result<NumLayers, String> {
    match text {
        // -1 is how mlx-lm says it.
        "all" | "-1" => Ok(NumLayers(None)),
        _ => match text.parse() {
            Ok(n @ 1..=4096) => Ok(NumLayers(Some(n))),
            _ => Err("a number from 1 or all is expected".into()),
        },
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum OptimizerArg {
    /// Adam with decoupled weight decay
    Adamw,
    /// Gradient descent with momentum
    Sgd,
    /// Adam's kind with little memory
    Adafactor,
    /// Signs of momentum
    Lion,
    /// Orthogonalized momentum, in steps as large as AdamW's
    Muon,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ScheduleArg {
    /// The same rate after the warm-up
    Constant,
    /// Down along a line
    Linear,
    /// Down along half a cosine
    Cosine,
}

/// How it is trained
#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub(super) struct StepsArgs {
    /// How often each row is learnt
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) epochs: u32,
    /// Steps, in place of epochs
    #[arg(long, value_name = "N", conflicts_with = "epochs", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) iters: Option<u32>,
    /// Batches whose gradients make up a step
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) grad_accumulation_steps: u16,
    /// What makes steps of gradients
    #[arg(long, value_name = "NAME", default_value = "adamw")]
    pub(super) optimizer: OptimizerArg,
    /// The learning rate after the warm-up [default: 1e-4, or 1e-5 with --fine-tune-type full]
    #[arg(long, value_name = "RATE", value_parser = above_zero)]
    pub(super) learning_rate: Option<f32>,
    /// How the learning rate goes on
    #[arg(long, value_name = "NAME", default_value = "cosine")]
    pub(super) lr_schedule: ScheduleArg,
    /// Steps in which the learning rate grows [default: a twentieth of all, up to 100]
    #[arg(long, value_name = "N")]
    pub(super) warmup_steps: Option<usize>,
    /// What the learning rate goes down to
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = from_zero)]
    pub(super) min_learning_rate: f32,
    /// How fast weights shrink by themselves: by this times the learning rate each step
    #[arg(long, value_name = "X", default_value_t = 0.01, value_parser = from_zero)]
    pub(super) weight_decay: f32,
    /// Shorten gradients that are longer than this; 0 leaves all as they are
    #[arg(long, value_name = "NORM", default_value_t = 1.0, value_parser = from_zero)]
    pub(super) max_grad_norm: f32,
    /// Keep only what enters the layers and compute each twice: a third slower, with a fraction of the memory
    #[arg(long)]
    pub(super) grad_checkpoint: bool,
    /// Where the random numbers start
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,
    /// Memory that may be used in all, in bytes [default: what is free]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(super) memory_limit: Option<usize>,
}

/// What is shown and kept
#[derive(Debug, Args)]
#[command(next_help_heading = "Reports")]
pub(super) struct ShownArgs {
    /// Steps from a line in metrics.jsonl to the next
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) steps_per_report: u32,
    /// Steps from a look at the held-out rows and the samples to the next [default: an epoch]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) steps_per_eval: Option<u32>,
    /// Steps from a file that --resume goes on from to the next
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) save_every: u32,
    /// End when the held-out rows were not predicted better so many times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) patience: Option<u32>,
    /// Show what the model says to this at the same steps; repeat it for several
    #[arg(long, value_name = "TEXT")]
    pub(super) sample_prompt: Vec<String>,
    /// Images for the prompts above
    #[arg(long, value_name = "IMAGE", requires = "sample_prompt")]
    pub(super) sample_image: Vec<String>,
    /// Draw the losses in the terminal in the end
    #[arg(long)]
    pub(super) plot: bool,
}

/// Arguments of `phi3v lora test`
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The rows, as for training: a file, or a folder with test.jsonl
    #[arg(long, value_name = "FILE|FOLDER")]
    pub(super) data: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) rows: DataArgs,
}

/// Arguments of `phi3v lora fuse`
#[derive(Debug, Args)]
pub(super) struct FuseArgs {
    /// Where the model goes
    #[arg(short = 'o', long, value_name = "FOLDER", default_value = "fused_model")]
    pub(super) save_path: PathBuf,
    /// Replace a model folder that is there
    #[arg(long)]
    pub(super) force: bool,
    /// Make a quantized model's matrices floats; without it, changed matrices are quantized again as they were
    #[arg(long)]
    pub(super) dequantize: bool,
    /// Compare the new model's predictions with those of the model with its adapters
    #[arg(long)]
    pub(super) verify: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) model: ModelArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FormatArg {
    /// Hugging Face's PEFT
    Peft,
    /// mlx-lm, which is also what phi3v writes
    MlxLm,
    /// mlx-vlm
    MlxVlm,
}

impl From<FormatArg> for Format {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Peft => Self::Peft,
            FormatArg::MlxLm => Self::MlxLm,
            FormatArg::MlxVlm => Self::MlxVlm,
        }
    }
}

/// Arguments of `phi3v lora export`
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The adapter: a folder as phi3v, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT write it
    #[arg(long, value_name = "FOLDER")]
    pub(super) adapter: PathBuf,
    /// Who is to read it
    #[arg(long, value_name = "NAME")]
    pub(super) format: FormatArg,
    /// Where it goes
    #[arg(short = 'o', long, value_name = "FOLDER")]
    pub(super) save_path: PathBuf,
    /// Name the model that it belongs to, for programs that look for it
    #[arg(long, value_name = "FOLDER|ID")]
    pub(super) base_model: Option<String>,
    /// Replace an adapter that is there
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}
