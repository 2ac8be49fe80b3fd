use half::{bf16, f16};
use mlx_quantized::{Mode, Packed};
use mlx_rs::{Array, Dtype};

use super::*;
use crate::quantize::{dequantize_at, quantize_at};

/// All forms: mode, group size and bits.
fn forms() -> impl Iterator<Item = (Mode, i32, i32)> {
    let affine = [32, 64, 128].into_iter().flat_map(|size| [2, 3, 4, 5, 6, 8].map(|bits| (Mode::Affine, size, bits)));
    affine.chain([(Mode::Mxfp4, 32, 4), (Mode::Nvfp4, 16, 4), (Mode::Mxfp8, 32, 8)])
}

/// Numbers that are not random enough to be easy.
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u32 {
        // Steele, Lea and Flood 2014: SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as u32
    }

    fn below(&mut self, end: u32) -> u32 {
        self.bits() % end
    }

    /// Between -1 and 1.
    fn unit(&mut self) -> f32 {
        self.bits() as i32 as f32 / 2_f32.powi(31)
    }

    /// 16 numbers of one kind, that of `kind`, in the range of `dtype`.
    fn some(&mut self, kind: u32, exponent: i32, dtype: Dtype) -> [f32; 16] {
        let (largest, epsilon) = match dtype {
            Dtype::Float16 => (65504.0, f32::from(f16::EPSILON)),
            Dtype::Bfloat16 => (f32::from(bf16::MAX), f32::from(bf16::EPSILON)),
            _ => (f32::MAX, f32::EPSILON),
        };
        let factor = 2_f64.powi(exponent);
        let scaled = |x: f32| (f64::from(x) * factor) as f32;
        let constant = scaled(self.unit());
        let top = [6.0, 448.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 255.0][self.below(9) as usize];
        std::array::from_fn(|i| {
            let x = match kind {
                0 => self.unit(),
                1 => scaled(self.unit()),
                // Ties between codes.
                2 => scaled((self.below(1025) as f32 - 512.0) / 4.0),
                3 => f32::from_bits(self.bits()),
                4 => constant,
                5 => [constant, -constant, 0.0, -0.0][self.below(4) as usize],
                6 => [0.0, -0.0][self.below(2) as usize],
                // A range, or a largest number, that divides a number of steps, but for some units of the last place.
                7 if i == 0 => scaled(top * (1.0 + epsilon * (self.below(9) as f32 - 4.0))),
                7 => scaled(top * self.unit() / 2.0),
                8 => scaled(1.0 + self.unit() / 64.0),
                _ => unreachable!(),
            };
            if x.is_nan() { 1.0 } else { x.clamp(-largest, largest) }
        })
    }

    /// Rows of groups of all kinds; some have infinities, if `infinite`.
    fn matrix(&mut self, [rows, columns]: [i32; 2], group_size: i32, dtype: Dtype, infinite: bool) -> Array {
        let mut all = Vec::new();
        for _ in 0..rows * columns / group_size {
            let exponents = if dtype == Dtype::Float16 { 40 } else { 290 };
            let (kind, exponent) = (self.below(9), self.below(exponents) as i32 - exponents as i32 * 3 / 5);
            let group = all.len();
            for _ in 0..group_size / 16 {
                all.extend(self.some(kind, exponent, dtype));
            }
            if infinite && self.below(20) == 0 {
                let at = group + self.below(group_size as u32) as usize;
                all[at] = [f32::INFINITY, f32::NEG_INFINITY][self.below(2) as usize];
            }
        }
        Array::from_slice(&all, &[rows, columns]).as_dtype(dtype).unwrap()
    }
}

/// The elements' bits; those of all NaN are the same.
fn bits(array: &Array) -> Vec<u32> {
    let floats = |array: &Array| {
        let all = array.as_dtype(Dtype::Float32).unwrap();
        all.as_slice::<f32>().iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
    };
    match array.dtype() {
        Dtype::Uint32 => array.as_slice::<u32>().to_vec(),
        Dtype::Uint8 => array.as_slice::<u8>().iter().map(|&x| x.into()).collect(),
        _ => floats(array),
    }
}

fn assert_same(ours: &Array, theirs: &Array, what: &dyn std::fmt::Debug) {
    assert_eq!((ours.shape(), ours.dtype()), (theirs.shape(), theirs.dtype()), "{what:?}");
    let (ours, theirs) = (bits(ours), bits(theirs));
    let different = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    assert!(different.is_none(), "{what:?}: {:?}", different.map(|i| (i, ours[i], theirs[i])));
}

/// One matrix of each form and type, at every level.
fn compare(seed: u64, rows: i32, columns: i32) {
    let mut numbers = Numbers(seed);
    for (mode, group_size, bits) in forms() {
        for dtype in FLOATS {
            // MXFP8 makes 0/0 of numbers beside infinity, whose sign depends on the CPU.
            let infinite = mode != Mode::Mxfp8;
            let matrix = numbers.matrix([rows, columns], group_size, dtype, infinite);
            let theirs = Packed::quantize(&matrix, group_size, bits, mode).unwrap();
            let unpacked = FLOATS.map(|to| (to, theirs.dequantize(to).unwrap()));
            for level in levels() {
                let what = (seed, level, mode, group_size, bits, dtype);
                let ours = quantize_at(level, &matrix, group_size, bits, mode).unwrap();
                assert_same(&ours.scales, &theirs.scales, &("scales", what));
                assert_same(&ours.weight, &theirs.weight, &("weight", what));
                assert_eq!(ours.biases.is_some(), theirs.biases.is_some());
                if let (Some(ours), Some(theirs)) = (&ours.biases, &theirs.biases) {
                    assert_same(ours, theirs, &("biases", what));
                }
                for (to, unpacked) in &unpacked {
                    assert_same(&dequantize_at(level, &theirs, *to).unwrap(), unpacked, &("unpacked", what, to));
                }
            }
        }
    }
}

/// More, if one likes: `CASES=1000 cargo test --release -p mlx-cpu packing_is_that_of_mlx`.
#[test]
fn packing_is_that_of_mlx() {
    let cases = std::env::var("CASES").map_or(2, |cases| cases.parse().unwrap());
    for seed in 0..cases {
        compare(seed, 48, 384);
    }
}

#[test]
fn views_and_outer_axes_are_packed_in_order() {
    let matrix = random(&[64, 3, 4], Dtype::Bfloat16).transpose_axes(&[1, 2, 0]).unwrap();
    for (mode, group_size, bits) in [(Mode::Affine, 32, 3), (Mode::Nvfp4, 16, 4)] {
        let (ours, theirs) = (
            crate::quantize(&matrix, group_size, bits, mode).unwrap(),
            Packed::quantize(&matrix, group_size, bits, mode).unwrap(),
        );
        assert_same(&ours.weight, &theirs.weight, &mode);
        assert_same(&ours.scales, &theirs.scales, &mode);
        let unpacked = crate::dequantize(&ours, Dtype::Float16).unwrap();
        assert_same(&unpacked, &theirs.dequantize(Dtype::Float16).unwrap(), &mode);
        let swapped = ours.map_rows(|part| part.swap_axes(0, 1)).unwrap();
        let unpacked = unpacked.swap_axes(0, 1).unwrap().contiguous().unwrap();
        assert_same(&crate::dequantize(&swapped, Dtype::Float16).unwrap(), &unpacked, &mode);
    }
}

#[test]
fn what_is_no_form_is_an_error() {
    let zeros = |shape: &[i32]| Array::zeros::<f32>(shape).unwrap();
    let good = zeros(&[4, 128]);
    for (mode, group_size, bits) in [
        (Mode::Affine, 16, 4),
        (Mode::Affine, 0, 4),
        (Mode::Affine, -32, 4),
        (Mode::Affine, 64, 7),
        (Mode::Affine, 64, 1),
        (Mode::Mxfp4, 16, 4),
        (Mode::Mxfp4, 32, 8),
        (Mode::Nvfp4, 32, 4),
        (Mode::Mxfp8, 32, 4),
    ] {
        assert!(crate::quantize(&good, group_size, bits, mode).is_err(), "{mode:?} {group_size} {bits}");
        // MLX divides by it before it looks.
        if group_size != 0 {
            assert!(Packed::quantize(&good, group_size, bits, mode).is_err(), "{mode:?} {group_size} {bits}");
        }
    }
    for bad in [zeros(&[]), zeros(&[64]), zeros(&[4, 96]), zeros(&[4, 0]), zeros(&[0, 64])] {
        assert!(crate::quantize(&bad, 64, 4, Mode::Affine).is_err(), "{:?}", bad.shape());
    }
    for dtype in [Dtype::Int32, Dtype::Uint8, Dtype::Float64, Dtype::Complex64] {
        assert!(crate::quantize(&good.as_dtype(dtype).unwrap(), 64, 4, Mode::Affine).is_err(), "{dtype:?}");
    }
    let packed = crate::quantize(&good, 64, 4, Mode::Affine).unwrap();
    assert!(crate::dequantize(&packed, Dtype::Int32).is_err());
    let other_biases = packed.biases.as_ref().map(|biases| biases.as_dtype(Dtype::Bfloat16).unwrap());
    for broken in [
        Packed { group_size: 32, ..packed.clone() },
        Packed { bits: 8, ..packed.clone() },
        Packed { mode: Mode::Mxfp4, ..packed.clone() },
        Packed { biases: None, ..packed.clone() },
        Packed { biases: other_biases, ..packed.clone() },
        Packed { weight: packed.weight.as_dtype(Dtype::Int32).unwrap(), ..packed.clone() },
    ] {
        assert!(crate::dequantize(&broken, Dtype::Float32).is_err(), "{broken:?}");
    }
}
