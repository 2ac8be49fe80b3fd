//! Writes a checkpoint with random weights in the shape and layout of a published one: for measuring speed and memory at
//! full size, where the real weights are not at hand. `phi3v bench --list-shapes` names the shapes.
//!
//! ```text
//! cargo run --release --example random_checkpoint -- --shape phi-3.5-vision --tokenizer tests/golden/phi3v-tiny OUT
//! ```

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use mlx_quantized::Mode;
use phi3v::bench::random::RandomNumbers;
use phi3v::bench::shape::Shape;
use phi3v::checkpoint::quantization::QuantizedAs;
use phi3v::checkpoint::safetensors::Shards;

#[derive(Parser)]
struct Args {
    /// The model to imitate
    #[arg(long)]
    shape: String,
    /// Decoder layers, where not all are wanted
    #[arg(long)]
    num_hidden_layers: Option<usize>,
    /// Bits of the decoder's matrices in MLX's affine form, in groups of 64; plain bfloat16 where not given
    #[arg(long)]
    q_bits: Option<i32>,
    /// Folder whose tokenizer and processor files are copied
    #[arg(long)]
    tokenizer: PathBuf,
    /// Where to write; must not exist
    out: PathBuf,
}

/// As the published checkpoints are split.
const SHARD_BYTES: u64 = 5_000_000_000;

fn main() -> Result<()> {
    let args = Args::parse();
    let packing = args.q_bits.map(|bits| QuantizedAs::new(Mode::Affine, Some(bits), None)).transpose()?;
    let mut shape = Shape::find(&args.shape, args.num_hidden_layers)?;
    if let Some(packing) = packing {
        shape = shape.quantized(packing)?.0;
    }
    fs::create_dir(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for entry in fs::read_dir(&args.tokenizer)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let wanted = name.ends_with(".json") && !name.contains("safetensors") && !name.contains("golden");
        if wanted && name != "config.json" {
            fs::copy(&path, args.out.join(name))?;
        }
    }
    let mut config = shape.files.config.clone();
    (config["bos_token_id"], config["eos_token_id"]) = (1.into(), 2.into());
    fs::write(args.out.join("config.json"), serde_json::to_string_pretty(&config)?)?;

    // Readers of MLX's own format expect MLX's order of axes, too.
    let format = if packing.is_some() { "mlx" } else { "pt" };
    let numbers = RandomNumbers::new(packing);
    let mut shards = Shards::create(&args.out, format, &shape.tensors, SHARD_BYTES)?;
    for spec in &shape.tensors {
        shards.write(&spec.name, &numbers.tensor(spec)?)?;
    }
    shards.finish(&args.out, shape.parameters)
}
