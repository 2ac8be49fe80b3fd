//! Rotary position embedding (Su et al. 2021) and the scalings that the supported models publish.

use anyhow::{Result, bail, ensure};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, split_at_indices};
use mlx_rs::{Array, Dtype, fast};
use serde::Deserialize;

use crate::device::on_cpu;

/// Where a token stands in time, height and width. Text, and models without such axes, have three equal numbers.
pub use mlx_cpu::Position;

/// Which of the two factor sets of longrope turned a sequence's keys: short up to the boundary
/// (`original_max_position_embeddings`), long for every position once the sequence is longer. Other models have one set,
/// called short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeFactors {
    /// `short_factor`
    Short,
    /// `long_factor`
    Long,
}

/// The keys of `config.json` that decide on the rotation.
#[derive(Debug, Clone, Deserialize)]
pub struct RopeConfig {
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeScaling>,
    /// As transformers 5 writes `rope_scaling`, with `rope_theta` and `partial_rotary_factor` in it.
    rope_parameters: Option<RopeScaling>,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
struct RopeScaling {
    // Both spellings occur, sometimes side by side.
    rope_type: Option<RopeType>,
    r#type: Option<RopeType>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    attention_factor: Option<f32>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    /// Of multimodal rotary embeddings: how many pairs, from the first, take the position in time, in height and in width.
    mrope_section: Option<[usize; 3]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RopeType {
    Default,
    /// Qwen2-VL's name for the default with sections.
    Mrope,
    Linear,
    Llama3,
    /// An early name of longrope.
    Su,
    Longrope,
    /// Phi-3's variant of YaRN: longrope's factors with another attention factor.
    Yarn,
}

/// The rotation of queries and keys.
pub struct Rope {
    /// Elements of a head that are turned, from the first.
    dims: i32,
    /// Wavelength of each pair over 2π, `[dims / 2]`.
    short: Array,
    long: Option<Array>,
    /// What rotated elements are multiplied by.
    gain: f32,
    boundary: Option<usize>,
    /// For each pair the axis of positions that counts; empty for the first.
    axes: Vec<u8>,
}

impl Rope {
    /// The rotation that the configuration asks for.
    pub fn new(config: &RopeConfig, head_dim: i32) -> Result<Self> {
        let scaling = config.rope_scaling.as_ref().or(config.rope_parameters.as_ref());
        let theta = config.rope_theta.or(scaling.and_then(|s| s.rope_theta)).unwrap_or(10_000.0);
        let part = config.partial_rotary_factor.or(scaling.and_then(|s| s.partial_rotary_factor)).unwrap_or(1.0);
        let dims = (f64::from(head_dim) * part) as i32;
        ensure!(theta > 0.0, "rope_theta is {theta}, where a number above 0 is expected");
        ensure!(
            dims > 0 && dims <= head_dim && dims % 2 == 0,
            "partial_rotary_factor: {part} of a head of {head_dim} is not an even number of elements"
        );
        let base: Vec<f64> = (0..dims / 2).map(|pair| theta.powf(f64::from(2 * pair) / f64::from(dims))).collect();
        let plain = |wavelengths: &[f64]| Self {
            dims,
            short: row(wavelengths.iter().map(|&w| w as f32)),
            long: None,
            gain: 1.0,
            boundary: None,
            axes: Vec::new(),
        };
        let Some(scaling) = scaling else { return Ok(plain(&base)) };
        if let Some(sections) = scaling.mrope_section {
            let pairs: usize = sections.iter().sum();
            ensure!(pairs == base.len(), "rope_scaling: mrope_section {sections:?} is not of {} pairs", base.len());
            let axes = sections.iter().zip(0..).flat_map(|(&pairs, axis)| vec![axis; pairs]).collect();
            return Ok(Self { axes, ..plain(&base) });
        }
        match scaling.rope_type.or(scaling.r#type) {
            None => bail!("rope_scaling: it has no type"),
            Some(RopeType::Default) => Ok(plain(&base)),
            Some(RopeType::Mrope) => bail!("rope_scaling: mrope_section is missing"),
            Some(RopeType::Linear) => {
                let factor = required("factor", scaling.factor)?;
                Ok(plain(&base.iter().map(|w| w * factor).collect::<Vec<_>>()))
            }
            Some(RopeType::Llama3) => Ok(plain(&llama3(&base, config, scaling)?)),
            Some(kind @ (RopeType::Su | RopeType::Longrope | RopeType::Yarn)) => longrope(&base, config, scaling, kind),
        }
    }

    /// The rotation of patches in a vision tower by their row and column, each of which rotates half of a head.
    /// modeling_qwen2_vl.py, VisionRotaryEmbedding
    pub fn of_patches(head_dim: i32) -> Self {
        let (dims, quarter) = (head_dim, (head_dim / 4) as usize);
        let base = (0..quarter).map(|pair| 10_000_f64.powf(4.0 * pair as f64 / f64::from(dims)) as f32);
        let wavelengths: Vec<f32> = base.clone().chain(base).collect();
        let axes = [vec![1; quarter], vec![2; quarter]].concat();
        Self { dims, short: row(wavelengths.into_iter()), long: None, gain: 1.0, boundary: None, axes }
    }

    /// Sequences longer than this take the long factors; none where there is only one set.
    pub fn boundary(&self) -> Option<usize> {
        self.boundary
    }

    /// Rotates `x` `[1, heads, n of all rows, head_dim]` to the positions of each row's tokens, by the row's factors.
    pub fn forward(&self, x: &Array, rows: &[(&[Position], RopeFactors)]) -> mlx_rs::error::Result<Array> {
        let mut parts: Vec<Array> = Vec::new();
        let mut start = 0;
        for run in rows.chunk_by(|a, b| a.1 == b.1) {
            let positions: Vec<Position> = run.iter().flat_map(|(positions, _)| *positions).copied().collect();
            let end = start + positions.len() as i32;
            let x = if run.len() == rows.len() { x.clone() } else { x.try_index((.., .., start..end, ..))? };
            parts.push(self.rotate(&x, &positions, run[0].1)?);
            start = end;
        }
        if parts.len() == 1 { Ok(parts.remove(0)) } else { concatenate(&parts, 2) }
    }

    fn rotate(&self, x: &Array, positions: &[Position], factors: RopeFactors) -> mlx_rs::error::Result<Array> {
        let wavelengths = match (factors, &self.long) {
            (RopeFactors::Long, Some(long)) => long,
            _ => &self.short,
        };
        if on_cpu() {
            return mlx_cpu::rope(x, wavelengths, self.gain, positions, &self.axes);
        }
        let gain = row((0..x.dim(3)).map(|i| if i < self.dims { self.gain } else { 1.0 })).as_dtype(x.dtype())?;
        let scaled = if self.gain == 1.0 { x.clone() } else { x.multiply(gain)? };
        if !self.axes.is_empty() && positions.iter().any(|[t, h, w]| t != h || t != w) {
            return rotate_by_axes(&scaled, wavelengths, positions, &self.axes);
        }
        // MLX counts on from one position.
        let mut parts = Vec::new();
        let mut start = 0;
        for run in positions.chunk_by(|a, b| a[0] + 1 == b[0]) {
            let end = start + run.len() as i32;
            let part = scaled.try_index((.., .., start..end, ..))?;
            parts.push(fast::rope(&part, self.dims, false, None, 1.0, run[0][0], wavelengths)?);
            start = end;
        }
        concatenate(&parts, 2)
    }
}

/// The rotation in MLX's plain operations, where pairs take positions on different axes; angles in float32.
fn rotate_by_axes(x: &Array, wavelengths: &Array, positions: &[Position], axes: &[u8]) -> mlx_rs::error::Result<Array> {
    let pairs = axes.len() as i32;
    let at: Vec<f32> =
        positions.iter().flat_map(|position| axes.iter().map(|&axis| position[usize::from(axis)] as f32)).collect();
    let angles = Array::from_slice(&at, &[positions.len() as i32, pairs]).divide(wavelengths)?; // [n, pairs]
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let parts = split_at_indices(x.as_dtype(Dtype::Float32)?, &[pairs, 2 * pairs], -1)?;
    let first = parts[0].multiply(&cos)?.subtract(parts[1].multiply(&sin)?)?;
    let second = parts[1].multiply(&cos)?.add(parts[0].multiply(&sin)?)?;
    concatenate(&[&first, &second, &parts[2]], -1)?.as_dtype(x.dtype())
}

/// LongRoPE (Ding et al. 2024) as Phi-3 has it: a wavelength factor per pair, and queries and keys scaled by the same
/// gain below and above the boundary.
fn longrope(base: &[f64], config: &RopeConfig, scaling: &RopeScaling, kind: RopeType) -> Result<Rope> {
    let boundary = config.original_max_position_embeddings.or(scaling.original_max_position_embeddings);
    let boundary = required("original_max_position_embeddings", boundary)?;
    ensure!(boundary > 1, "original_max_position_embeddings is {boundary}, where more than 1 is expected");
    let wavelengths = |name: &str, factors: &Option<Vec<f32>>| -> Result<Array> {
        let factors = required(name, factors.as_ref())?;
        ensure!(
            factors.len() == base.len(),
            "rope_scaling: {name} has {} numbers where {} are needed",
            factors.len(),
            base.len()
        );
        // In float32 from here on, as the reference computes it.
        Ok(row(base.iter().zip(factors).map(|(&w, factor)| factor * w as f32)))
    };
    let ratio = config.max_position_embeddings as f64 / boundary as f64;
    let gain = match (scaling.attention_factor, kind) {
        (Some(factor), _) => factor,
        _ if ratio <= 1.0 => 1.0,
        // modeling_phi3_v.py, Phi3YarnScaledRotaryEmbedding and Phi3SuScaledRotaryEmbedding
        (None, RopeType::Yarn) => (0.1 * ratio.ln() + 1.0) as f32,
        (None, _) => (1.0 + ratio.ln() / (boundary as f64).ln()).sqrt() as f32,
    };
    let dims = 2 * base.len() as i32;
    Ok(Rope {
        dims,
        short: wavelengths("short_factor", &scaling.short_factor)?,
        long: Some(wavelengths("long_factor", &scaling.long_factor)?),
        gain,
        boundary: Some(boundary),
        axes: Vec::new(),
    })
}

/// Llama 3.1's scaling: long wavelengths stretched by `factor`, short ones kept, a blend between.
/// transformers modeling_rope_utils.py, _compute_llama3_parameters
fn llama3(base: &[f64], config: &RopeConfig, scaling: &RopeScaling) -> Result<Vec<f64>> {
    let factor = required("factor", scaling.factor)?;
    let low = required("low_freq_factor", scaling.low_freq_factor)?;
    let high = required("high_freq_factor", scaling.high_freq_factor)?;
    let context = scaling.original_max_position_embeddings.or(config.original_max_position_embeddings);
    let context = required("original_max_position_embeddings", context)? as f64;
    ensure!(high != low, "rope_scaling: low_freq_factor and high_freq_factor are both {low}");
    Ok(base
        .iter()
        .map(|&w| {
            let turns = context / (2.0 * std::f64::consts::PI * w);
            if turns > high {
                w
            } else if turns < low {
                w * factor
            } else {
                let smooth = (turns - low) / (high - low);
                w / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect())
}

fn required<T>(name: &str, value: Option<T>) -> Result<T> {
    match value {
        Some(value) => Ok(value),
        None => bail!("rope_scaling: {name} is missing"),
    }
}

fn row(values: impl ExactSizeIterator<Item = f32>) -> Array {
    let len = values.len() as i32;
    Array::from_iter(values, &[len])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::random::normal;

    use super::*;

    /// What is for GPUs agrees with the CPU's kernel.
    #[test]
    fn plain_operations_rotate_as_the_kernel_does() {
        let rope = Rope::of_patches(16);
        let positions = [[0, 3, 1], [0, 0, 7], [5, 5, 5]];
        let x = normal::<f32>(&[1, 2, 3, 16], None, None, None).unwrap();
        let generic = rotate_by_axes(&x, &rope.short, &positions, &rope.axes).unwrap();
        let kernel = rope.forward(&x, &[(&positions[..], RopeFactors::Short)]).unwrap();
        let difference = generic.subtract(&kernel).unwrap().abs().unwrap().max(None).unwrap();
        assert!(difference.item_exact::<f32>() < 1e-5, "{difference}");
    }
}
