//! The command line: the tree of commands and the groups of arguments that several share.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mlx_quantized::Mode;
use mlx_rs::Dtype;
use phi3v::engine::sampler::Sampling;
use phi3v::processor::images::{ImageLimits, ImageOptions, NumCrops};

/// How much is told
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print only the result, warnings and errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Tell more about what is done, on stderr
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// How much is told, where -q stands for quantizing
#[derive(Debug, Args)]
pub(crate) struct LongOutputArgs {
    /// Print only the result, warnings and errors
    #[arg(long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Tell more about what is done, on stderr
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// The numbers in which a model computes
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DtypeArg {
    /// As the checkpoint has it
    Auto,
    /// 32-bit floats: exact, twice the memory
    Float32,
    /// 16-bit IEEE floats
    Float16,
    /// 16-bit floats with the range of 32-bit ones
    Bfloat16,
}

impl DtypeArg {
    /// The type to cast to; none leaves weights as stored.
    pub(crate) fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Auto => None,
            Self::Float32 => Some(Dtype::Float32),
            Self::Float16 => Some(Dtype::Float16),
            Self::Bfloat16 => Some(Dtype::Bfloat16),
        }
    }
}

/// The model that is used where none is named.
pub(crate) const DEFAULT_MODEL: &str = "microsoft/Phi-3.5-vision-instruct";

/// Which model
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Folder of a checkpoint, a GGUF file, an id on the Hugging Face hub, or demo
    ///
    /// demo is a small model that comes with phi3v and knows a hundred drawn things. A hub model is looked for in the
    /// cache that Python tools use, and fetched into it if need be. The variables HF_HOME, HF_HUB_CACHE, HF_TOKEN,
    /// HF_ENDPOINT and HF_HUB_OFFLINE work as they do there. Without --model it is microsoft/Phi-3.5-vision-instruct,
    /// where that was downloaded before.
    #[arg(short, long, value_name = "FOLDER|ID", env = "PHI3V_MODEL", hide_env_values = true)]
    pub(crate) model: Option<String>,
    /// Branch, tag or commit of a hub model
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// Numbers in which to compute
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub(crate) dtype: DtypeArg,
    /// Use what fine-tuning changed of the model: a folder of phi3v lora, mlx-lm, mlx-vlm, Phi-3-Vision-MLX or PEFT
    ///
    /// Repeat it for several, which add up. With a weight, such as style:0.5, so much of the change is made.
    #[arg(long = "adapter", value_name = "FOLDER[:WEIGHT]", value_parser = adapter)]
    pub(crate) adapters: Vec<AdapterArg>,
    #[command(flatten)]
    pub(crate) cpu: CpuArgs,
}

impl ModelArgs {
    /// What was named, or what is used where nothing was.
    pub(crate) fn name(&self) -> &str {
        self.model.as_deref().unwrap_or(DEFAULT_MODEL)
    }
}

/// An adapter's folder, and how much of its change is made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AdapterArg {
    pub(crate) folder: PathBuf,
    pub(crate) weight: f32,
}

pub(crate) fn adapter(text: &str) -> Result<AdapterArg, String> {
    let split = text.rsplit_once(':').filter(|_| !Path::new(text).exists());
    // A drive's letter is no weight's folder.
    let Some((folder, weight)) = split.filter(|(folder, weight)| !folder.is_empty() && !weight.contains(['/', '\\']))
    else {
        return Ok(AdapterArg { folder: text.into(), weight: 1.0 });
    };
    let weight = finite(weight).map_err(|_| format!("after the colon a weight is expected, such as {folder}:0.5"))?;
    Ok(AdapterArg { folder: folder.into(), weight })
}

/// How much of the CPU
#[derive(Debug, Clone, Args)]
pub(crate) struct CpuArgs {
    /// Threads to compute with, on a CPU [default: one for each physical core]
    ///
    /// Results do not depend on it. The variable PHI3V_CPU names the instructions to use, where it should not be the
    /// best that the CPU has: portable, avx2, avx512, avx512-bf16 or amx.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// Images and how they are processed
#[derive(Debug, Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct ImageArgs {
    /// An image: a file, an http(s) address, a data: address, or - for stdin
    ///
    /// Repeat it for several. Placeholders in the prompt say where they stand, such as <|image_1|> for the first image of
    /// Phi-3.5-vision; without placeholders all images come before the text.
    #[arg(short, long = "image", value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) options: ImageOptionArgs,
}

/// How images are processed
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct ImageOptionArgs {
    /// Maximum number of tiles that an image is cut into, or auto: 16 for one image, 4 each for several shown together
    /// (phi3_v) [default: as the checkpoint says]
    #[arg(long, value_name = "N|auto", value_parser = num_crops)]
    num_crops: Option<NumCrops>,
    /// Minimum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    min_pixels: Option<u64>,
    /// Maximum area in pixels that an image is resized to (qwen2_vl) [default: as the checkpoint says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_pixels: Option<u64>,
    /// Maximum number of pixels of an image file; larger ones are refused
    #[arg(long, value_name = "N", default_value_t = ImageLimits::default().max_pixels)]
    max_image_pixels: u64,
}

impl ImageOptionArgs {
    pub(crate) fn options(&self) -> ImageOptions {
        ImageOptions { num_crops: self.num_crops, min_pixels: self.min_pixels, max_pixels: self.max_pixels }
    }

    pub(crate) fn limits(&self) -> ImageLimits {
        ImageLimits { max_pixels: self.max_image_pixels, ..ImageLimits::default() }
    }
}

pub(crate) fn num_crops(text: &str) -> Result<NumCrops, String> {
    match text {
        "auto" => Ok(NumCrops::Auto),
        _ => match text.parse() {
            Ok(n @ 1..=1024) => Ok(NumCrops::Fixed(n)),
            _ => Err("a number from 1 to 1024 or auto is expected".into()),
        },
    }
}

/// How tokens are chosen
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 always takes the best token; higher is more varied
    #[arg(short, long, visible_alias = "temp", value_name = "T", default_value_t = 0.0, value_parser = from_zero, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Only the K best tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Only the best tokens that together have probability P
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Only tokens at least P times as probable as the best
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share_or_zero, allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Make tokens of the prompt and the answer less likely: logits are divided by this
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = above_zero, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f32,
    /// How many of the last tokens the repetition penalty looks at [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) repetition_context_size: Option<usize>,
    /// Subtract from the logits of tokens already in the answer
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = finite, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Subtract from the logits of tokens, for each time they are in the answer
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = finite, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Where the random numbers start: the same seed gives the same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl From<SamplingArgs> for Sampling {
    fn from(args: SamplingArgs) -> Self {
        let SamplingArgs {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_context_size,
            presence_penalty,
            frequency_penalty,
            seed,
        } = args;
        Self {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_context_size,
            presence_penalty,
            frequency_penalty,
            seed,
        }
    }
}

fn number(text: &str, expected: &str, accepts: impl Fn(f32) -> bool) -> Result<f32, String> {
    let number = text.parse().ok().filter(|&x: &f32| x.is_finite() && accepts(x));
    number.ok_or_else(|| format!("{expected} is expected"))
}

pub(crate) fn finite(text: &str) -> Result<f32, String> {
    number(text, "a number", |_| true)
}

pub(crate) fn from_zero(text: &str) -> Result<f32, String> {
    number(text, "a number from 0", |x| x >= 0.0)
}

pub(crate) fn above_zero(text: &str) -> Result<f32, String> {
    number(text, "a number above 0", |x| x > 0.0)
}

pub(crate) fn share(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and up to 1", |x| x > 0.0 && x <= 1.0)
}

pub(crate) fn share_below_one(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to below 1", |x| (0.0..1.0).contains(&x))
}

pub(crate) fn share_or_zero(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

/// What is kept in memory, and what is guessed ahead
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory and speed")]
pub(crate) struct EngineArgs {
    /// Positions of the prompt per step: smaller takes less memory, the answer stays the same
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) prefill_step_size: u64,
    /// Forget all positions but the first 4 and the latest, so many in all
    #[arg(long, value_name = "N")]
    pub(crate) max_kv_size: Option<usize>,
    /// Pack keys and values in so many bits: 8 or 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(4..=8))]
    pub(crate) kv_bits: Option<i32>,
    /// Consecutive numbers of packed keys and values that share a scale [default: the largest of 64 and 32 that divides the
    /// model's head_dim]
    #[arg(long, value_name = "N", requires = "kv_bits")]
    pub(crate) kv_group_size: Option<i32>,
    /// Leave the keys and values of so many first positions as they are
    #[arg(long, value_name = "N", requires = "kv_bits")]
    pub(crate) quantized_kv_start: Option<usize>,
    /// Memory for the beginnings of prompts that were read before, in bytes; K, M and G stand for thousands, millions and
    /// billions [default: 1G where there are several prompts]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) prefix_cache_bytes: Option<usize>,
    /// Begin with what this file remembers of an earlier prompt, if it exists, and write it in the end
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_cache: Option<PathBuf>,
    /// Keep what the model saw in images in this folder, for other runs
    #[arg(long, value_name = "FOLDER")]
    pub(crate) image_cache: Option<PathBuf>,
    /// The most bytes in that folder
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "2G", requires = "image_cache")]
    pub(crate) image_cache_bytes: usize,
    /// Guess ahead with a smaller model of the same vocabulary: the answer stays the same
    #[arg(long, value_name = "FOLDER|ID")]
    pub(crate) draft_model: Option<String>,
    /// Guess that what was said will be said again: faster where the answer copies from the prompt, and the same
    #[arg(long, conflicts_with = "draft_model")]
    pub(crate) prompt_lookup: bool,
    /// The most tokens to guess at once [default: 3 with a draft model, 10 with prompt lookup]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) num_draft_tokens: Option<u16>,
    /// Memory that may be used in all, in bytes [default: what is free]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) memory_limit: Option<usize>,
}

pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let upper = text.to_ascii_uppercase();
    let number = upper.strip_suffix('B').unwrap_or(&upper);
    let units = [('K', 1e3), ('M', 1e6), ('G', 1e9)];
    let split = units.into_iter().find_map(|(letter, unit)| Some((number.strip_suffix(letter)?, unit)));
    let (number, unit) = split.unwrap_or((number, 1.0));
    let bytes = number.parse::<f64>().ok().map(|number| number * unit).filter(|bytes| (0.0..=1e15).contains(bytes));
    bytes.map(|bytes| bytes as usize).ok_or_else(|| "a number of bytes is expected, such as 500M or 2G".into())
}

/// The number format of packed matrices
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ModeArg {
    /// Integers with a scale and an offset for each group: 2 to 8 bits
    Affine,
    /// OCP's 4-bit floats in groups of 32
    Mxfp4,
    /// NVIDIA's 4-bit floats in groups of 16
    Nvfp4,
    /// OCP's 8-bit floats in groups of 32
    Mxfp8,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Affine => Self::Affine,
            ModeArg::Mxfp4 => Self::Mxfp4,
            ModeArg::Nvfp4 => Self::Nvfp4,
            ModeArg::Mxfp8 => Self::Mxfp8,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use crate::commands::Cli;

    /// Clap checks this in debug builds only.
    #[test]
    fn a_letter_stands_for_one_flag() {
        for command in Cli::command().get_subcommands() {
            let mut letters = BTreeSet::new();
            for letter in command.get_arguments().filter_map(clap::Arg::get_short) {
                assert!(letters.insert(letter), "{}: -{letter}", command.get_name());
            }
        }
    }
}
