//! Weights into GGUF's blocks, to the bit as the Python package `gguf` (quants.py) packs them.

use half::f16;

use super::format::{Format, on_all_cores};

/// Packs whole blocks of weights, on all cores. Formats are those that are written: F32, F16, Q8_0 and Q4_0.
pub(super) fn quantize(format: Format, weights: &[f32]) -> Vec<u8> {
    let (values, size) = format.block();
    debug_assert!(weights.len().is_multiple_of(values));
    let mut packed = vec![0; weights.len() / values * size];
    on_all_cores((weights, values), (&mut packed, size), |weights, out| pack(format, weights, out));
    packed
}

fn pack(format: Format, weights: &[f32], out: &mut [u8]) {
    match format {
        Format::F32 => each(weights, out, |[weight], out: &mut [u8; 4]| *out = weight.to_le_bytes()),
        Format::F16 => each(weights, out, |[weight], out: &mut [u8; 2]| *out = f16::from_f32(*weight).to_le_bytes()),
        Format::Q8_0 => each(weights, out, q8_0),
        Format::Q4_0 => each(weights, out, q4_0),
        other => unreachable!("{} is not written", other.name()),
    }
}

fn each<const VALUES: usize, const BYTES: usize>(
    weights: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; VALUES], &mut [u8; BYTES]),
) {
    for (weights, out) in weights.as_chunks::<VALUES>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        block(weights, out);
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The largest weight becomes 127 or -127.
fn q8_0(weights: &[f32; 32], out: &mut [u8; 34]) {
    let scale = weights.iter().fold(0f32, |most, weight| most.max(weight.abs())) / 127.0;
    let inverse = inverse(scale);
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (weight, out) in weights.iter().zip(&mut out[2..]) {
        *out = (weight * inverse).round() as i8 as u8;
    }
}

/// The largest weight, the first of several, becomes -8.
fn q4_0(weights: &[f32; 32], out: &mut [u8; 18]) {
    let most = weights.iter().fold(0f32, |most, &weight| if weight.abs() > most.abs() { weight } else { most });
    let scale = most / -8.0;
    let inverse = f64::from(inverse(scale));
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    // Rounded to float32 before it is cut, as the reference does.
    let value = |weight: f32| ((f64::from(weight) * inverse + 8.5) as f32 as u8).min(15);
    for (i, out) in out[2..].iter_mut().enumerate() {
        *out = value(weights[i]) | value(weights[16 + i]) << 4;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::gguf::container::Container;

    /// The recordings are of the Python package gguf.
    #[test]
    fn blocks_are_those_of_the_reference() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf");
        let file = Container::open(&folder.join("blocks.gguf")).unwrap();
        let bytes = |name: &str| &file.map().bytes()[file.tensor(name).unwrap().bytes.clone()];
        let plain = bytes("blk.20.ffn_up.weight");
        let weights: Vec<f32> = plain.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
        assert_eq!(quantize(Format::F32, &weights), plain);
        assert_eq!(quantize(Format::Q8_0, &weights), bytes("blk.21.ffn_up.weight"));
        assert_eq!(quantize(Format::Q4_0, &weights), bytes("blk.22.ffn_up.weight"));
    }
}
