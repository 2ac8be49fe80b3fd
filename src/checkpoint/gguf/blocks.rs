//! What the blocks of packed formats hold, to the bit as ggml's reference and its Python package `gguf` (quants.py) unpack
//! them.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::format::{Format, on_all_cores};

/// A type to unpack to.
pub(super) trait Number: Copy + Send {
    fn store(values: &[f32], out: &mut [Self]);
}

impl Number for f32 {
    fn store(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }
}

impl Number for f16 {
    fn store(values: &[f32], out: &mut [Self]) {
        out.convert_from_f32_slice(values);
    }
}

/// Unpacks whole blocks of a packed format, on all cores. `out` is as long as the blocks have values.
pub(super) fn dequantize<N: Number>(format: Format, bytes: &[u8], out: &mut [N]) {
    let (values, size) = format.block();
    debug_assert_eq!(bytes.len() / size * values, out.len());
    on_all_cores((bytes, size), (out, values), |bytes, out| unpack(format, bytes, out));
}

fn unpack<N: Number>(format: Format, bytes: &[u8], out: &mut [N]) {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("not packed"),
        Format::Q4_0 => each(bytes, out, q4_0),
        Format::Q4_1 => each(bytes, out, q4_1),
        Format::Q5_0 => each(bytes, out, q5_0),
        Format::Q5_1 => each(bytes, out, q5_1),
        Format::Q8_0 => each(bytes, out, q8_0),
        Format::Q2K => each(bytes, out, q2_k),
        Format::Q3K => each(bytes, out, q3_k),
        Format::Q4K => each(bytes, out, q4_k),
        Format::Q5K => each(bytes, out, q5_k),
        Format::Q6K => each(bytes, out, q6_k),
    }
}

#[inline(always)]
fn each<const BYTES: usize, const VALUES: usize, N: Number>(
    bytes: &[u8],
    out: &mut [N],
    block: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let mut values = [0.0; VALUES];
    for (bytes, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<VALUES>().0) {
        block(bytes, &mut values);
        N::store(&values, out);
    }
}

/// The float16 at byte `at`.
#[inline(always)]
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

// Per format: the fields of a block in their order, then what value i is.

/// scale, 16 bytes of two values: value i is the low half of byte i, value 16 + i its high half
#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    for i in 0..16 {
        let byte = block[2 + i];
        out[i] = scale * f32::from((byte & 15) as i8 - 8);
        out[16 + i] = scale * f32::from((byte >> 4) as i8 - 8);
    }
}

/// scale, minimum, values as in Q4_0
#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, min) = (half(block, 0), half(block, 2));
    for i in 0..16 {
        let byte = block[4 + i];
        out[i] = scale * f32::from(byte & 15) + min;
        out[16 + i] = scale * f32::from(byte >> 4) + min;
    }
}

/// The five-bit values of a block: their fifth bits are `block[at..at + 4]`, the others follow as in Q4_0.
#[inline(always)]
fn five_bits(block: &[u8], at: usize, mut put: impl FnMut(usize, u8)) {
    let high = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    for i in 0..16 {
        let byte = block[at + 4 + i];
        put(i, (byte & 15) | ((high >> i) as u8 & 1) << 4);
        put(16 + i, (byte >> 4) | ((high >> (16 + i)) as u8 & 1) << 4);
    }
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    five_bits(block, 2, |i, value| out[i] = scale * f32::from(value as i8 - 16));
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, min) = (half(block, 0), half(block, 2));
    five_bits(block, 4, |i, value| out[i] = scale * f32::from(value) + min);
}

/// scale, 32 signed bytes
#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half(block, 0);
    for i in 0..32 {
        out[i] = f32::from(block[2 + i] as i8) * scale;
    }
}

/// 16 bytes of a four-bit scale and a four-bit minimum, 64 bytes of four values, scale of the scales, scale of the minima:
/// groups of 16 values; value 128 h + 32 s + i is at bit 2 s of byte 32 h + i
#[inline(always)]
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, min) = (half(block, 80), half(block, 82));
    for group in 0..16 {
        let (first, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        let scale = scale * f32::from(block[group] & 15);
        let min = min * f32::from(block[group] >> 4);
        for i in 0..16 {
            out[16 * group + i] = scale * f32::from(block[16 + first + i] >> shift & 3) - min;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of the other two (as in Q2_K), 12 bytes of six-bit scales, scale of the scales:
/// groups of 16 values; the third bit of value 32 b + i is bit b of byte i, and means that 4 is not taken off
#[inline(always)]
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let all = half(block, 108);
    let scales = &block[96..108];
    for group in 0..16 {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = all * f32::from((low | high << 4) as i8 - 32);
        let (first, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        for i in 0..16 {
            let third = block[group % 2 * 16 + i] >> (group / 2) & 1;
            let value = (block[32 + first + i] >> shift & 3) as i8 - 4 * (1 - third as i8);
            out[16 * group + i] = scale * f32::from(value);
        }
    }
}

/// Scale and minimum of group `k` of 8, six bits each in 12 bytes: groups 0 to 3 in the low bits of bytes 0 to 7, the
/// others in bytes 8 to 11 with their upper two bits on top of bytes 0 to 7.
#[inline(always)]
fn six_bits(packed: &[u8], k: usize) -> (f32, f32) {
    let (scale, min) = if k < 4 {
        (packed[k] & 63, packed[k + 4] & 63)
    } else {
        (packed[k + 4] & 15 | packed[k - 4] >> 2 & 48, packed[k + 4] >> 4 | packed[k] >> 2 & 48)
    };
    (f32::from(scale), f32::from(min))
}

/// scale of the scales, scale of the minima, 12 bytes of both, 128 bytes of two values: groups of 32 values, two in the
/// low and high halves of 32 bytes
#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (all, all_min) = (half(block, 0), half(block, 2));
    for group in 0..8 {
        let (scale, min) = six_bits(&block[4..16], group);
        let (scale, min) = (all * scale, all_min * min);
        for i in 0..32 {
            let value = block[16 + group / 2 * 32 + i] >> (group % 2 * 4) & 15;
            out[32 * group + i] = scale * f32::from(value) - min;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the values: that of value i of group k is bit k of byte i
#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (all, all_min) = (half(block, 0), half(block, 2));
    for group in 0..8 {
        let (scale, min) = six_bits(&block[4..16], group);
        let (scale, min) = (all * scale, all_min * min);
        for i in 0..32 {
            let value = block[48 + group / 2 * 32 + i] >> (group % 2 * 4) & 15;
            let fifth = block[16 + i] >> group & 1;
            out[32 * group + i] = scale * f32::from(value | fifth << 4) - min;
        }
    }
}

/// 128 bytes of low four bits, 64 bytes of upper two bits, 16 signed scales, scale of the scales: groups of 16 values;
/// value 128 h + 64 n + j has its low bits at bit 4 n of byte 64 h + j, value 128 h + 32 s + i its upper ones at bit 2 s
/// of byte 32 h + i
#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let all = half(block, 208);
    for group in 0..16 {
        let scale = all * f32::from(block[192 + group] as i8);
        let (part, half_part) = (group / 8, group % 8);
        for i in 0..16 {
            let low = block[64 * part + half_part % 4 * 16 + i] >> (half_part / 4 * 4) & 15;
            let high = block[128 + 32 * part + group % 2 * 16 + i] >> (half_part / 2 * 2) & 3;
            out[16 * group + i] = scale * f32::from((low | high << 4) as i8 - 32);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::checkpoint::gguf::container::Container;
    use crate::checkpoint::gguf::names::Arch;

    /// The recordings are of the Python package gguf.
    #[test]
    fn blocks_hold_what_the_reference_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf");
        let file = Container::open(&folder.join("blocks.gguf")).unwrap();
        let expected: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("blocks.json")).unwrap()).unwrap();
        let mut packed = 0;
        for tensor in file.tensors() {
            let expected = &expected[Arch::Llama.to_hf(&tensor.name).unwrap()];
            if tensor.format.block().0 == 1 || expected.is_null() {
                continue;
            }
            let mut values = vec![0f32; tensor.shape.iter().product::<i32>() as usize];
            dequantize(tensor.format, &file.map().bytes()[tensor.bytes.clone()], &mut values);
            for (&value, expected) in values.iter().zip(expected["first"].as_array().unwrap()) {
                assert_eq!(value, expected.as_f64().unwrap() as f32, "{:?}", tensor.format);
            }
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, expected["sha256"].as_str().unwrap(), "{:?}", tensor.format);
            packed += 1;
        }
        assert_eq!(packed, 10);
    }
}
