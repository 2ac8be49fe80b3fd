//! Arguments of `phi3v bench`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use phi3v::bench::Sweep;
use phi3v::checkpoint::quantization::QuantizedAs;

use crate::commands::args::{ModeArg, ModelArgs, OutputArgs, bytes};

/// Arguments of `phi3v bench`
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A published model's shape, filled with random numbers: as fast as the model, and nothing is downloaded
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "revision", "adapters"], required_unless_present_any = ["model", "list_shapes"])]
    pub(super) shape: Option<String>,
    /// List the shapes there are, and end
    #[arg(long, exclusive = true)]
    pub(super) list_shapes: bool,
    #[command(flatten)]
    pub(super) sweep: SweepArgs,
    /// Measurements of each combination
    #[arg(short, long, value_name = "N", default_value = "3", value_parser = from_one)]
    pub(super) repetitions: usize,
    /// Rounds before them that do not count
    #[arg(long, value_name = "N", default_value = "1", value_parser = from_zero)]
    pub(super) warmup: usize,
    /// Print the report as one JSON object
    #[arg(long, conflicts_with = "markdown")]
    pub(super) json: bool,
    /// Print the report as a Markdown table
    #[arg(long)]
    pub(super) markdown: bool,
    /// Write the report as JSON to this file, too
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Tell how speeds changed since this report of the same machine and model was written
    #[arg(long, value_name = "FILE")]
    pub(super) compare: Option<PathBuf>,
    /// Fail where a phase lost more of its median speed than this, and no repetition was as fast as the slowest then
    #[arg(long, value_name = "PERCENT", requires = "compare", value_parser = percent)]
    pub(super) max_regression: Option<f64>,
    #[command(flatten)]
    pub(super) verbosity: OutputArgs,
    // Groups with a heading come last: it holds for all that follows.
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) packing: PackingArgs,
    #[command(flatten)]
    pub(super) memory: MemoryArgs,
}

/// What is measured: all combinations of these lists
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// Tokens of the prompt, besides those of images; several, separated by commas, as in all that follow
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "512", value_parser = from_one)]
    prompt_tokens: Vec<usize>,
    /// Tokens to generate; 0 for none
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "64", value_parser = from_zero)]
    gen_tokens: Vec<usize>,
    /// Rows that are computed together; they share the positions of --depth
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = from_one)]
    batch: Vec<usize>,
    /// Images in the prompt, photos of 3 megapixels
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "0", value_parser = from_zero)]
    images: Vec<usize>,
    /// Maximum number of tiles that an image is cut into (phi3_v) [default: 4]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    num_crops: Vec<u32>,
    /// Positions that are in the cache before the prompt
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "0", value_parser = from_zero)]
    depth: Vec<usize>,
}

impl SweepArgs {
    pub(super) fn sweep(self) -> Result<Sweep> {
        let Self { prompt_tokens, gen_tokens, batch, images, num_crops, depth } = self;
        let has_images = images.iter().any(|&images| images > 0);
        ensure!(has_images || num_crops.is_empty(), "--num-crops: there are no images to cut (--images)");
        Ok(Sweep { prompt_tokens, gen_tokens, batch, images, num_crops, depth })
    }
}

/// How a shape's matrices are packed
// That these conflict with --model is said, too: clap forgets that a flag requires --shape where --model forbids it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quantization of a shape")]
pub(super) struct PackingArgs {
    /// Bits of a weight: 2, 3, 4, 5, 6 or 8 [default: 16, or as the next two want it]
    #[arg(long, value_name = "N", requires = "shape", conflicts_with = "model")]
    q_bits: Option<i32>,
    /// Consecutive weights that share a scale: 32, 64 or 128 [default: 64, of mxfp4 and mxfp8 32, of nvfp4 16]
    #[arg(long, value_name = "N", requires = "shape", conflicts_with = "model")]
    q_group_size: Option<i32>,
    /// Number format [default: affine]
    #[arg(long, value_name = "MODE", requires = "shape", conflicts_with = "model")]
    q_mode: Option<ModeArg>,
}

impl PackingArgs {
    /// None where nothing is said.
    pub(super) fn packing(&self) -> Result<Option<QuantizedAs>> {
        if self.q_bits.is_none() && self.q_group_size.is_none() && self.q_mode.is_none() {
            return Ok(None);
        }
        let mode = self.q_mode.unwrap_or(ModeArg::Affine).into();
        QuantizedAs::new(mode, self.q_bits, self.q_group_size).map(Some)
    }
}

/// What is kept in memory
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory and speed")]
pub(super) struct MemoryArgs {
    /// Positions of prompts per step
    #[arg(long, value_name = "N", default_value = "512", value_parser = from_one)]
    pub(super) prefill_step_size: usize,
    /// Pack keys and values in so many bits: 8 or 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(4..=8))]
    pub(super) kv_bits: Option<i32>,
    /// Memory that may be used in all, in bytes [default: what is free]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(super) memory_limit: Option<usize>,
}

/// More than any context, and far from overflowing.
const MOST: usize = 1 << 24;

fn number(text: &str, least: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=MOST).contains(number));
    number.ok_or_else(|| format!("a number from {least} to {MOST} is expected"))
}

fn from_zero(text: &str) -> Result<usize, String> {
    number(text, 0)
}

fn from_one(text: &str) -> Result<usize, String> {
    number(text, 1)
}

/// A share of 1, given in hundredths with or without a sign.
fn percent(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).trim_end().parse().ok();
    let percent = percent.filter(|percent: &f64| (0.0..100.0).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| "a number from 0 to below 100 is expected, such as 10%".into())
}
