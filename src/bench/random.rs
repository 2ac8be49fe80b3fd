//! Random numbers for the tensors of a shape, made in seconds.

use anyhow::{Result, bail};
use half::bf16;
use mlx_quantized::Mode;
use mlx_rs::{Array, Dtype};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::checkpoint::quantization::QuantizedAs;
use crate::checkpoint::safetensors::TensorSpec;

/// Numbers of a block.
const BLOCK: usize = 4 << 20;

/// One block of random numbers, read from another place for every tensor: nobody can tell, and it is quick.
pub struct RandomNumbers {
    /// Spread evenly, with a standard deviation of 0.02, as models begin with.
    floats: Vec<bf16>,
    /// Packed numbers.
    words: Vec<u32>,
    packing: Option<QuantizedAs>,
}

impl RandomNumbers {
    /// Always the same numbers, for matrices packed like this.
    pub fn new(packing: Option<QuantizedAs>) -> Self {
        let mut random = ChaCha12Rng::seed_from_u64(0);
        let most = 0.02 * 3f32.sqrt();
        let floats = (0..BLOCK).map(|_| bf16::from_f32(random.random_range(-most..most))).collect();
        // Of 8-bit floats one in 128 would be NaN: without the exponent's upper bit they are below 2.
        let mask = if packing.is_some_and(|packing| packing.mode == Mode::Mxfp8) { 0xbfbf_bfbf } else { u32::MAX };
        let words = if packing.is_some() { (0..BLOCK).map(|_| random.next_u32() & mask).collect() } else { Vec::new() };
        Self { floats, words, packing }
    }

    /// A tensor: norms are ones, scales and biases such that packed numbers are as large as plain ones.
    pub fn tensor(&self, spec: &TensorSpec) -> Result<Array> {
        let TensorSpec { name, dtype, shape } = spec;
        let numbers: usize = shape.iter().map(|&dim| dim as usize).product();
        let last = name.rsplit('.').next().unwrap_or_default();
        // Scales of groups, and their biases, which a bias of a map is not.
        let of_groups = matches!(last, "scales" | "biases");
        Ok(match (dtype, self.packing) {
            (Dtype::Uint32, Some(_)) => Array::from_slice(&repeated(&self.words, name, numbers), shape),
            (Dtype::Uint8, Some(packing)) if of_groups => Array::from_slice(&vec![scale(packing.mode); numbers], shape),
            (Dtype::Bfloat16, Some(packing)) if of_groups => {
                let largest = ((1 << packing.bits) - 1) as f32;
                let value = if last == "scales" { 0.06 / largest } else { -0.03 };
                Array::from_slice(&vec![bf16::from_f32(value); numbers], shape)
            }
            (Dtype::Bfloat16, _) if last == "weight" && name.contains("norm") => {
                Array::from_slice(&vec![bf16::ONE; numbers], shape)
            }
            (Dtype::Bfloat16, _) => Array::from_slice(&repeated(&self.floats, name, numbers), shape),
            _ => bail!("{name}: there are no random numbers of type {dtype:?}"),
        })
    }
}

/// The scale of a group of small floats, for values of some hundredths: 2^-7 as E8M0 or E4M3.
fn scale(mode: Mode) -> u8 {
    if mode == Mode::Nvfp4 { 0b0100 } else { 127 - 7 }
}

/// So many numbers of a block, over and over, from a place that depends on the name.
fn repeated<T: Copy>(block: &[T], name: &str, numbers: usize) -> Vec<T> {
    let hash = name.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let mut start = hash % (block.len() / 2);
    let mut values = Vec::with_capacity(numbers);
    while values.len() < numbers {
        let end = block.len().min(start + numbers - values.len());
        values.extend_from_slice(&block[start..end]);
        start = 0;
    }
    values
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_quantized::Packed;

    use super::*;
    use crate::checkpoint::quantization::unpack;

    #[test]
    fn packed_numbers_are_as_large_as_plain_ones() {
        let spec = |name: &str, dtype, shape: &[i32]| TensorSpec { name: name.into(), dtype, shape: shape.to_vec() };
        let deviation = |array: Array| {
            let array = array.as_dtype(Dtype::Float32).unwrap();
            array.square().unwrap().mean(None).unwrap().sqrt().unwrap().item_exact::<f32>()
        };
        let plain = RandomNumbers::new(None).tensor(&spec("a.weight", Dtype::Bfloat16, &[64, 256])).unwrap();
        assert!((deviation(plain) - 0.02).abs() < 0.001);
        for mode in [Mode::Affine, Mode::Mxfp4, Mode::Nvfp4, Mode::Mxfp8] {
            let packing = QuantizedAs::new(mode, None, None).unwrap();
            let QuantizedAs { group_size, bits, .. } = packing;
            let numbers = RandomNumbers::new(Some(packing));
            let of_groups = if mode.has_biases() { Dtype::Bfloat16 } else { Dtype::Uint8 };
            let part = |name, dtype, columns| numbers.tensor(&spec(name, dtype, &[64, columns])).unwrap();
            let packed = Packed {
                weight: part("a.weight", Dtype::Uint32, 256 * bits / 32),
                scales: part("a.scales", of_groups, 256 / group_size),
                biases: mode.has_biases().then(|| part("a.biases", of_groups, 256 / group_size)),
                group_size,
                bits,
                mode,
            };
            let found = deviation(unpack(&packed, Dtype::Float32).unwrap());
            assert!((0.003..0.06).contains(&found), "{mode:?}: {found}");
        }
    }
}
