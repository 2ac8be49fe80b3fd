//! How matrices are quantized: the number formats, and `config.json`'s `quantization`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mlx_quantized::{Mode, Packed};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json::parse;
use crate::device::on_cpu;

/// How one module's weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantizedAs {
    /// Consecutive weights of a row that share a scale.
    pub group_size: i32,
    /// Bits of one weight.
    pub bits: i32,
    /// The number format.
    #[serde(with = "ModeName", default = "affine")]
    pub mode: Mode,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Mode", rename_all = "lowercase")]
enum ModeName {
    Affine,
    Mxfp4,
    Nvfp4,
    Mxfp8,
}

fn affine() -> Mode {
    Mode::Affine
}

/// `config.json`'s `quantization`: the rule and its exceptions by module path.
#[derive(Debug, Clone)]
pub struct Quantization {
    /// How modules are packed that are not named below.
    pub default: QuantizedAs,
    /// Modules packed otherwise.
    pub overrides: BTreeMap<String, QuantizedAs>,
}

impl Quantization {
    pub(super) fn parse(value: &Value) -> Result<Self> {
        let fields = value.as_object().ok_or_else(|| anyhow!("an object is expected, not {value}"))?;
        if let Some(method) = fields.get("quant_method") {
            bail!("quantized by {method}, which is not MLX's format; use the unquantized checkpoint");
        }
        let default = parse::<QuantizedAs>(value)?.check()?;
        let mut overrides = BTreeMap::new();
        // `false` stands for a module left as it was; that it has no scales says so already.
        for (path, value) in fields.iter().filter(|(_, value)| value.is_object()) {
            let mut merged = json!({ "group_size": default.group_size, "bits": default.bits });
            merged.as_object_mut().expect("made as an object").extend(value.as_object().cloned().unwrap_or_default());
            let packing = parse::<QuantizedAs>(&merged).and_then(QuantizedAs::check).with_context(|| path.clone())?;
            overrides.insert(path.clone(), packing);
        }
        Ok(Self { default, overrides })
    }

    /// As `config.json` has it.
    pub fn to_value(&self) -> Value {
        let mut value = json!(self.default);
        let fields = value.as_object_mut().expect("a struct is an object");
        fields.extend(self.overrides.iter().map(|(path, packing)| (path.clone(), json!(packing))));
        value
    }

    /// How the module at `path` is packed, given that it is.
    pub fn of(&self, path: &str) -> QuantizedAs {
        self.overrides.get(path).copied().unwrap_or(self.default)
    }
}

impl QuantizedAs {
    /// The numbers of a mode where nothing else is said, as in mlx-lm.
    ///
    /// # Errors
    /// When MLX does not have the mode with these numbers.
    pub fn new(mode: Mode, bits: Option<i32>, group_size: Option<i32>) -> Result<Self> {
        let (default_group_size, default_bits) = match mode {
            Mode::Affine => (64, 4),
            Mode::Mxfp4 => (32, 4),
            Mode::Nvfp4 => (16, 4),
            Mode::Mxfp8 => (32, 8),
        };
        let (bits, group_size) = (bits.unwrap_or(default_bits), group_size.unwrap_or(default_group_size));
        if mode == Mode::Affine {
            ensure!([2, 3, 4, 5, 6, 8].contains(&bits), "{bits} bits: affine quantization has 2, 3, 4, 5, 6 and 8");
            ensure!([32, 64, 128].contains(&group_size), "groups of {group_size}: MLX has groups of 32, 64 and 128");
        } else {
            let only = (default_bits, default_group_size);
            ensure!(
                (bits, group_size) == only,
                "{mode:?} has {} bits in groups of {} and nothing else",
                only.0,
                only.1
            );
        }
        Ok(Self { group_size, bits, mode })
    }

    /// Whether rows of so many numbers fall into whole groups.
    pub fn divides(&self, input: i32) -> bool {
        input > 0 && input % self.group_size == 0
    }

    /// Whether MLX has this mode with these numbers.
    pub(crate) fn check(self) -> Result<Self> {
        Self::new(self.mode, Some(self.bits), Some(self.group_size))
    }
}

/// Packs a matrix of floats `[output, input]`.
pub fn pack(matrix: &Array, packing: QuantizedAs) -> Result<Packed, Exception> {
    let QuantizedAs { group_size, bits, mode } = packing;
    if on_cpu() {
        return mlx_cpu::quantize(matrix, group_size, bits, mode);
    }
    Packed::quantize(matrix, group_size, bits, mode)
}

/// The matrix `[output, input]` as floats.
pub fn unpack(packed: &Packed, dtype: Dtype) -> Result<Array, Exception> {
    if on_cpu() { mlx_cpu::dequantize(packed, dtype) } else { packed.dequantize(dtype) }
}
