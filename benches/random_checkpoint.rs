//! Makes a checkpoint with random weights in the layout in which Microsoft publishes Phi-3.5: for measuring speed and
//! memory at full size, where the real weights are not at hand.
//!
//! ```text
//! cargo run --release --example random_checkpoint -- --shape phi3.5-vision --tokenizer tests/golden/phi3v-tiny OUT
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::{Map, Value, json};

#[derive(Parser)]
struct Args {
    /// The model to imitate
    #[arg(long, value_enum)]
    shape: Shape,
    /// Decoder layers, where not all are wanted
    #[arg(long, default_value_t = 32)]
    num_hidden_layers: usize,
    /// Bits of the decoder's matrices in MLX's affine form, in groups of 64; plain bfloat16 where not given
    #[arg(long, value_parser = ["2", "3", "4", "5", "6", "8"])]
    q_bits: Option<String>,
    /// Folder whose tokenizer and processor files are copied
    #[arg(long)]
    tokenizer: PathBuf,
    /// Where to write; must not exist
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Shape {
    #[value(name = "phi3.5-vision")]
    Vision,
    #[value(name = "phi3.5-mini")]
    Mini,
}

const HIDDEN: usize = 3072;
const INTERMEDIATE: usize = 8192;
const VOCAB: usize = 32064;
const CLIP: usize = 1024;
const CLIP_INTERMEDIATE: usize = 4096;
/// As the published checkpoints are split.
const SHARD_BYTES: u64 = 5_000_000_000;

fn main() -> Result<()> {
    let args = Args::parse();
    fs::create_dir(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for entry in fs::read_dir(&args.tokenizer)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let wanted = name.ends_with(".json") && !name.contains("safetensors") && !name.contains("golden");
        if wanted && name != "config.json" {
            fs::copy(&path, args.out.join(name))?;
        }
    }
    let mut tensors = decoder(args.num_hidden_layers);
    if let Some(bits) = args.q_bits() {
        tensors = tensors.into_iter().flat_map(|tensor| packed(tensor, bits)).collect();
    }
    if args.shape == Shape::Vision {
        tensors.extend(vision());
    }
    fs::write(args.out.join("config.json"), serde_json::to_string_pretty(&config(&args))?)?;
    let largest = args.q_bits().map_or(1, |bits| (1 << bits) - 1) as f32;
    write_shards(&args.out, &tensors, largest)
}

impl Args {
    fn q_bits(&self) -> Option<usize> {
        self.q_bits.as_ref().and_then(|bits| bits.parse().ok())
    }
}

type Tensor = (String, Vec<usize>);

const GROUP_SIZE: usize = 64;

/// A matrix as MLX packs it; other tensors as they are.
fn packed((name, shape): Tensor, bits: usize) -> Vec<Tensor> {
    let (Some(module), &[rows, columns]) = (name.strip_suffix(".weight"), &shape[..]) else {
        return vec![(name, shape)];
    };
    let grouped = vec![rows, columns / GROUP_SIZE];
    vec![
        (format!("{name}{PACKED}"), vec![rows, columns * bits / 32]),
        (format!("{module}.scales"), grouped.clone()),
        (format!("{module}.biases"), grouped),
    ]
}

/// Marks names of packed tensors; not written.
const PACKED: &str = "#u32";

fn decoder(layers: usize) -> Vec<Tensor> {
    let mut tensors = vec![("model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN])];
    for i in 0..layers {
        let shapes: [(&str, Vec<usize>); 6] = [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.qkv_proj", vec![3 * HIDDEN, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_up_proj", vec![2 * INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ];
        tensors.extend(shapes.map(|(name, shape)| (format!("model.layers.{i}.{name}.weight"), shape)));
    }
    tensors.push(("model.norm.weight".into(), vec![HIDDEN]));
    tensors.push(("lm_head.weight".into(), vec![VOCAB, HIDDEN]));
    tensors
}

fn vision() -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut add =
        |name: String, shape: &[usize]| tensors.push((format!("model.vision_embed_tokens.{name}"), shape.to_vec()));
    add("glb_GN".into(), &[1, 1, 4 * CLIP]);
    add("sub_GN".into(), &[1, 1, 1, 4 * CLIP]);
    for (i, input) in [(0, 4 * CLIP), (2, HIDDEN)] {
        add(format!("img_projection.{i}.weight"), &[HIDDEN, input]);
        add(format!("img_projection.{i}.bias"), &[HIDDEN]);
    }
    let tower = "img_processor.vision_model";
    add(format!("{tower}.embeddings.class_embedding"), &[CLIP]);
    add(format!("{tower}.embeddings.patch_embedding.weight"), &[CLIP, 3, 14, 14]);
    add(format!("{tower}.embeddings.position_embedding.weight"), &[577, CLIP]);
    let mut pair = |name: String, shape: &[usize]| {
        add(format!("{tower}.{name}.weight"), shape);
        add(format!("{tower}.{name}.bias"), &shape[..1]);
    };
    pair("pre_layrnorm".into(), &[CLIP]);
    pair("post_layernorm".into(), &[CLIP]);
    for i in 0..24 {
        let layer = format!("encoder.layers.{i}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            pair(format!("{layer}.self_attn.{name}"), &[CLIP, CLIP]);
        }
        pair(format!("{layer}.mlp.fc1"), &[CLIP_INTERMEDIATE, CLIP]);
        pair(format!("{layer}.mlp.fc2"), &[CLIP, CLIP_INTERMEDIATE]);
        pair(format!("{layer}.layer_norm1"), &[CLIP]);
        pair(format!("{layer}.layer_norm2"), &[CLIP]);
    }
    tensors
}

fn config(args: &Args) -> Value {
    let factors = |most: f64| (0..48).map(|i| 1.0 + (most - 1.0) * f64::from(i) / 47.0).collect::<Vec<_>>();
    let mut config = json!({
        "model_type": "phi3", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": args.num_hidden_layers, "num_attention_heads": 32, "num_key_value_heads": 32,
        "vocab_size": VOCAB, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "sliding_window": 262_144,
        "rope_scaling": { "type": "su", "short_factor": factors(2.8), "long_factor": factors(64.0) },
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    });
    if args.shape == Shape::Vision {
        config["model_type"] = "phi3_v".into();
        config["embd_layer"] = json!({
            "embedding_cls": "image", "hd_transform_order": "sub_glb", "projection_cls": "mlp",
            "use_hd_transform": true, "with_learnable_separator": true,
        });
        config["img_processor"] = json!({
            "name": "clip_vision_model", "model_name": "openai/clip-vit-large-patch14-336",
            "image_dim_out": CLIP, "num_img_tokens": 144,
        });
    }
    if let Some(bits) = args.q_bits() {
        config["quantization"] = json!({ "group_size": GROUP_SIZE, "bits": bits, "mode": "affine" });
    }
    config
}

fn bytes((name, shape): &Tensor) -> u64 {
    let size = if name.ends_with(PACKED) { 4 } else { 2 };
    size * shape.iter().product::<usize>() as u64
}

fn write_shards(out: &Path, tensors: &[Tensor], largest: f32) -> Result<()> {
    let mut shards: Vec<Vec<&Tensor>> = vec![Vec::new()];
    let mut size = 0;
    for tensor in tensors {
        if size + bytes(tensor) > SHARD_BYTES {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes(tensor);
        shards.last_mut().expect("never empty").push(tensor);
    }
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write_shard(&out.join(&name), shard, largest)?;
        weight_map.extend(shard.iter().map(|(tensor, _)| (tensor.replace(PACKED, ""), name.clone().into())));
    }
    let total: u64 = tensors.iter().map(bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    fs::write(out.join("model.safetensors.index.json"), serde_json::to_string_pretty(&index)?)?;
    Ok(())
}

/// `largest` is the largest packed number.
fn write_shard(path: &Path, tensors: &[&Tensor], largest: f32) -> Result<()> {
    let mut header = Map::new();
    let mut offset = 0;
    for tensor @ (name, shape) in tensors {
        let end = offset + bytes(tensor);
        let dtype = if name.ends_with(PACKED) { "U32" } else { "BF16" };
        header
            .insert(name.replace(PACKED, ""), json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    // One block of random numbers, read from another place for every tensor: nobody can tell, and it is quick.
    let mut random = ChaCha12Rng::seed_from_u64(0);
    let spread = 0.02 * 3f32.sqrt();
    let block: Vec<u8> =
        (0..8 << 20).flat_map(|_| bf16::from_f32(random.random_range(-spread..spread)).to_le_bytes()).collect();
    let ones = bf16::ONE.to_le_bytes().repeat(HIDDEN);

    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for tensor @ (name, _) in tensors {
        let mut left = bytes(tensor) as usize;
        if name.contains("norm.weight") || name.contains("layrnorm.weight") {
            file.write_all(&ones[..left])?;
            continue;
        }
        // Packed numbers are spread evenly from -0.03 to 0.03.
        let constant = match name.rsplit('.').next() {
            Some("scales") => Some(0.06 / largest),
            Some("biases") => Some(-0.03),
            _ => None,
        };
        if let Some(constant) = constant {
            file.write_all(&bf16::from_f32(constant).to_le_bytes().repeat(left / 2))?;
            continue;
        }
        let mut start = 2 * random.random_range(0..block.len() / 4);
        while left > 0 {
            let part = &block[start..block.len().min(start + left)];
            file.write_all(part)?;
            left -= part.len();
            start = 0;
        }
    }
    file.flush()?;
    Ok(())
}
