//! The arguments of `phi3v convert` and `phi3v quantize`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use phi3v::checkpoint::gguf::GgufType;
use phi3v::convert::rule::{Mixed, Override};

use crate::commands::args::{CpuArgs, DEFAULT_MODEL, DtypeArg, LongOutputArgs, ModeArg};

/// Arguments of `phi3v convert`
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Folder of a checkpoint, or its id on the Hugging Face hub
    #[arg(
        long,
        visible_alias = "model",
        value_name = "FOLDER|ID",
        default_value = DEFAULT_MODEL
    )]
    pub(super) hf_path: String,
    /// Branch, tag or commit of a hub model
    #[arg(long, value_name = "REV")]
    pub(super) revision: Option<String>,
    /// A GGUF file in place of a checkpoint's folder
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hf_path", "revision"])]
    pub(super) gguf: Option<PathBuf>,
    /// Pack the matrices into few bits
    #[arg(short, long)]
    pub(super) quantize: bool,
    /// Make packed matrices floats again
    #[arg(short, long, conflicts_with = "quantize")]
    pub(super) dequantize: bool,
    /// Publish the new folder on the hub under this id, with the token in HF_TOKEN
    #[arg(long, value_name = "ID")]
    pub(super) upload_repo: Option<String>,
    /// Write a GGUF file for llama.cpp in place of a folder: of phi3, llama and mistral models
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quantize", "dequantize", "upload_repo", "mlx_path", "dtype", "json"])]
    pub(super) export_gguf: Option<PathBuf>,
    /// Numbers of the GGUF file's matrices [default: f16]
    #[arg(long, value_name = "TYPE", requires = "export_gguf")]
    pub(super) gguf_type: Option<GgufTypeArg>,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
}

/// Arguments of `phi3v quantize`
#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// Folder of a checkpoint, in MLX's or Hugging Face's layout, or a GGUF file
    #[arg(short, long, visible_alias = "hf-path", value_name = "FOLDER")]
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
}

/// How the new folder is made
#[derive(Debug, Args)]
pub(super) struct FolderArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    #[command(flatten)]
    pub(super) cpu: CpuArgs,
    #[command(flatten)]
    pub(super) output: LongOutputArgs,
    // Groups with a heading come last: it holds for all that follows.
    #[command(flatten)]
    pub(super) quantization: QuantizationArgs,
}

/// Where the result goes
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    /// The new folder
    #[arg(long, value_name = "FOLDER", default_value = "mlx_model")]
    pub(super) mlx_path: PathBuf,
    /// Replace the folder if it is a model folder
    #[arg(long)]
    pub(super) force: bool,
    /// Type of tensors that are not packed [default: the one that config.json names, or as stored]
    #[arg(long, value_name = "TYPE", default_value = "auto", hide_default_value = true)]
    pub(super) dtype: DtypeArg,
    /// Print one JSON object with sizes and figures
    #[arg(long)]
    pub(super) json: bool,
}

/// Numbers of a GGUF file's matrices
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum GgufTypeArg {
    /// 16-bit floats
    #[value(name = "f16")]
    F16,
    /// 8 bits in groups of 32
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits in groups of 32
    #[value(name = "q4_0")]
    Q4_0,
}

impl From<GgufTypeArg> for GgufType {
    fn from(kind: GgufTypeArg) -> Self {
        match kind {
            GgufTypeArg::F16 => Self::F16,
            GgufTypeArg::Q8_0 => Self::Q8_0,
            GgufTypeArg::Q4_0 => Self::Q4_0,
        }
    }
}

/// How matrices are packed
#[derive(Debug, Args)]
#[command(next_help_heading = "Quantization")]
pub(super) struct QuantizationArgs {
    /// Bits of a weight: 2, 3, 4, 5, 6 or 8 [default: 4, of mxfp8 8]
    #[arg(long, value_name = "N")]
    pub(super) q_bits: Option<i32>,
    /// Consecutive weights that share a scale: 32, 64 or 128 [default: 64, of mxfp4 and mxfp8 32, of nvfp4 16]
    #[arg(long, value_name = "N")]
    pub(super) q_group_size: Option<i32>,
    /// Number format [default: affine]
    #[arg(long, value_name = "MODE")]
    pub(super) q_mode: Option<ModeArg>,
    /// A recipe: few bits for most matrices, more for those whose errors hurt most
    #[arg(long, value_name = "RECIPE", conflicts_with = "q_bits")]
    pub(super) quant_predicate: Option<MixedArg>,
    /// Other bits for modules whose path matches, as 'lm_head=8', 'layers\.[01]\.=6:32' or 'down_proj=none'
    ///
    /// Repeat it for several; of those that match a module the last counts. Paths are those of the checkpoint's tensors,
    /// such as model.layers.0.mlp.down_proj. The format is affine.
    #[arg(long = "q-override", value_name = "REGEX=BITS[:GROUP]|none")]
    pub(super) q_overrides: Vec<Override>,
    /// Pack the part that sees, too
    #[arg(long)]
    pub(super) quantize_vision: bool,
    /// How numbers are rounded: gptq takes minutes, and costs less accuracy [default: rtn]
    #[arg(long, value_name = "METHOD")]
    pub(super) quant_method: Option<MethodArg>,
    /// Bits per weight of the whole model: what each matrix costs in fewer bits is measured, and bits go where they count
    #[arg(long, value_name = "N", conflicts_with_all = ["q_bits", "quant_predicate"])]
    pub(super) target_bpw: Option<f64>,
    /// Text (.txt), an image, or a folder of such, for --quant-method gptq, --target-bpw and --report [default: built in]
    ///
    /// A quarter of it is kept apart for the report.
    #[arg(long, value_name = "FILE|FOLDER")]
    pub(super) calibration: Option<PathBuf>,
    /// Measure how far predictions move, and print it; also written into the new folder, as quantization_report.json
    #[arg(long)]
    pub(super) report: bool,
}

/// How numbers are rounded
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum MethodArg {
    /// Each to the nearest
    Rtn,
    /// So that errors make up for one another on the inputs that a matrix gets (GPTQ)
    Gptq,
}

impl QuantizationArgs {
    /// The first of these flags that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let Self {
            q_bits,
            q_group_size,
            q_mode,
            quant_predicate,
            q_overrides,
            quantize_vision,
            quant_method,
            target_bpw,
            calibration,
            report,
        } = self;
        [
            ("--q-bits", q_bits.is_some()),
            ("--q-group-size", q_group_size.is_some()),
            ("--q-mode", q_mode.is_some()),
            ("--quant-predicate", quant_predicate.is_some()),
            ("--q-override", !q_overrides.is_empty()),
            ("--quantize-vision", *quantize_vision),
            ("--quant-method", quant_method.is_some()),
            ("--target-bpw", target_bpw.is_some()),
            ("--calibration", calibration.is_some()),
            ("--report", *report),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }
}

/// Few bits for most matrices, more for the sensitive ones
#[derive(Debug, Clone, Copy, ValueEnum)]
#[allow(clippy::enum_variant_names)] // the names that mlx-lm has
pub(super) enum MixedArg {
    #[value(name = "mixed_2_6")]
    Mixed2_6,
    #[value(name = "mixed_3_4")]
    Mixed3_4,
    #[value(name = "mixed_3_6")]
    Mixed3_6,
    #[value(name = "mixed_4_6")]
    Mixed4_6,
    #[value(name = "mixed_4_8")]
    Mixed4_8,
}

impl From<MixedArg> for Mixed {
    fn from(recipe: MixedArg) -> Self {
        let (low, high) = match recipe {
            MixedArg::Mixed2_6 => (2, 6),
            MixedArg::Mixed3_4 => (3, 4),
            MixedArg::Mixed3_6 => (3, 6),
            MixedArg::Mixed4_6 => (4, 6),
            MixedArg::Mixed4_8 => (4, 8),
        };
        Self { low, high }
    }
}
