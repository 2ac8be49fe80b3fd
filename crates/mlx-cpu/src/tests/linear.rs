use mlx_quantized::{Mode, Packed};
use mlx_rs::{Array, Dtype};

use super::*;
use crate::Weight;
use crate::linear::linear_at;

/// `x · weightᵀ + bias` of float64.
fn exact(x: &Array, weight: &Array, bias: Option<&Array>) -> Vec<f64> {
    let (outputs, len) = (weight.dim(0) as usize, weight.dim(1) as usize);
    let (x, w, b) = (to_f64(x), to_f64(weight), bias.map(to_f64));
    let mut y = Vec::new();
    for x in x.chunks(len) {
        for (n, w) in w.chunks(len).enumerate() {
            y.push(x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + b.as_ref().map_or(0.0, |b| b[n]));
        }
    }
    assert_eq!(y.len() % outputs, 0);
    y
}

#[test]
fn dense() {
    for level in levels() {
        for dtype in FLOATS {
            for (rows, len, outputs) in [(1, 64, 32), (3, 5, 7), (13, 100, 33), (37, 31, 70), (500, 48, 16)] {
                let (x, w) = (random(&[rows, len], dtype), random(&[outputs, len], dtype));
                let bias = random(&[outputs], dtype);
                for bias in [None, Some(&bias)] {
                    let y = linear_at(level, &x, Weight::Dense(&w), bias).unwrap();
                    assert_eq!((y.shape(), y.dtype()), (&[rows, outputs][..], dtype));
                    assert_near(&y, &exact(&x, &w, bias), &(level, dtype, rows, len, outputs, bias.is_some()));
                }
            }
        }
    }
}

#[test]
fn packed() {
    let modes = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (Mode::Affine, group, bits)));
    let floating = [(Mode::Mxfp4, 32, 4), (Mode::Nvfp4, 16, 4), (Mode::Mxfp8, 32, 8)];
    for (mode, group_size, bits) in modes.chain(floating) {
        for scales in FLOATS {
            if mode != Mode::Affine && scales != Dtype::Float32 {
                continue;
            }
            let matrix = random(&[45, 3 * 128], scales);
            let packed = Packed::quantize(&matrix, group_size, bits, mode).unwrap();
            let plain = unpacked(&packed);
            for dtype in FLOATS {
                for rows in [1, 2, 3, 4, 5, 14] {
                    let x = random(&[rows, 3 * 128], dtype);
                    let bias = random(&[45], dtype);
                    let y = exact(&x, &plain, Some(&bias));
                    for level in levels() {
                        let what = (level, mode, group_size, bits, scales, dtype, rows);
                        let got = linear_at(level, &x, Weight::Packed(&packed), Some(&bias)).unwrap();
                        assert_near(&got, &y, &what);
                    }
                }
            }
        }
    }
}

/// As many rows as several sequences or drafted tokens have, by matrices whose last rows fill no vector and whose last
/// numbers no cache line; and what a row gives depends on no other row.
#[test]
fn some_rows_of_packed() {
    use mlx_rs::ops::indexing::IndexOp;
    for (bits, group_size, outputs, groups) in [
        (4, 64, 45, 5),
        (4, 32, 17, 7),
        (4, 128, 16, 3),
        (8, 64, 33, 3),
        (8, 32, 19, 5),
        (8, 128, 50, 3),
        (2, 32, 31, 11),
        (2, 64, 16, 37),
        (2, 128, 47, 3),
        (3, 64, 35, 3),
        (6, 32, 21, 3),
        (5, 128, 16, 2),
    ] {
        let matrix = random(&[outputs, groups * group_size], Dtype::Float32);
        for scales in FLOATS {
            let matrix = matrix.as_dtype(scales).unwrap();
            let packed = Packed::quantize(&matrix, group_size, bits, Mode::Affine).unwrap();
            let (plain, bias) = (unpacked(&packed), random(&[outputs], Dtype::Float32));
            for dtype in [Dtype::Bfloat16, Dtype::Float16] {
                let x = random(&[33, groups * group_size], dtype);
                let all = exact(&x, &plain, Some(&bias));
                for level in levels() {
                    let linear = |x: &Array| linear_at(level, x, Weight::Packed(&packed), Some(&bias)).unwrap();
                    let most = if level == Level::Amx { 16 } else { 33 };
                    let whole = to_f64(&linear(&x.index(..most)));
                    for rows in 1..=33 {
                        let y = linear(&x.index(..rows));
                        let what = (level, bits, group_size, scales, dtype, rows);
                        assert_near(&y, &all[..(rows * outputs) as usize], &what);
                        if level >= Level::Avx512Bf16 && (2..=most).contains(&rows) {
                            assert_eq!(to_f64(&y), whole[..(rows * outputs) as usize], "{what:?}");
                        }
                    }
                }
            }
        }
    }
}

/// The same bits from any number of threads, and in float32 also from any number of rows.
#[test]
fn results_do_not_depend_on_threads_or_company() {
    use mlx_rs::ops::indexing::IndexOp;
    let weight = random(&[300, 256], Dtype::Float32);
    let packed = Packed::quantize(&weight, 64, 4, Mode::Affine).unwrap();
    let before = crate::threads();
    for level in levels() {
        for dtype in FLOATS {
            for rows in [1, 3, 50, 1100] {
                let x = random(&[rows, 256], dtype);
                for weight in [Weight::Dense(&weight), Weight::Packed(&packed)] {
                    let with_threads = |threads| {
                        crate::set_threads(threads);
                        to_f64(&linear_at(level, &x, weight, None).unwrap())
                    };
                    let one = with_threads(1);
                    assert!(
                        [2, 3, 7].into_iter().all(|threads| with_threads(threads) == one),
                        "{level} {dtype:?} {rows}"
                    );
                    if dtype == Dtype::Float32 {
                        let last = linear_at(level, &x.index(rows - 1), weight, None).unwrap();
                        assert_eq!(to_f64(&last), one[one.len() - 300..], "{level} {rows}");
                    }
                }
            }
        }
    }
    crate::set_threads(before);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// Shapes that nobody thought of.
    #[test]
    fn random_shapes(
        rows in 1..70_i32,
        len in 1..300_i32,
        outputs in 1..90_i32,
        dtype in proptest::sample::select(FLOATS.to_vec()),
        form in proptest::sample::select(vec![None, Some((2, 32)), Some((4, 64)), Some((5, 32)), Some((8, 128))]),
    ) {
        let len = form.map_or(len, |(_, group_size)| (len / group_size + 1) * group_size);
        let (x, matrix) = (random(&[rows, len], dtype), random(&[outputs, len], dtype));
        let packed = form.map(|(bits, group)| Packed::quantize(&matrix, group, bits, Mode::Affine).unwrap());
        let unpacked = packed.as_ref().map_or(matrix.clone(), unpacked);
        let sums = exact(&x, &unpacked, None);
        // Few sums may happen to be next to nothing, and what rounding did to their terms is not next to nothing then.
        let usual: f64 = exact(&x.square().unwrap(), &unpacked.square().unwrap(), None).iter().sum();
        proptest::prop_assume!(sums.iter().map(|sum| sum * sum).sum::<f64>() > usual / 4.0);
        let weight = packed.as_ref().map_or(Weight::Dense(&matrix), Weight::Packed);
        for level in levels() {
            let y = linear_at(level, &x, weight, None).unwrap();
            assert_near(&y, &sums, &(level, rows, len, outputs, dtype, form));
        }
    }
}

/// What is not a number in one row makes that row's results none, and no others.
#[test]
fn nan_stays_in_its_row() {
    let weight = random(&[40, 128], Dtype::Float32);
    let packed = Packed::quantize(&weight, 64, 4, Mode::Affine).unwrap();
    for level in levels() {
        for dtype in FLOATS {
            for rows in [2, 20] {
                let x: Vec<f32> = (0..rows * 128).map(|i| if i == 130 { f32::NAN } else { i as f32 * 1e-3 }).collect();
                let x = Array::from_slice(&x, &[rows, 128]).as_dtype(dtype).unwrap();
                for weight in [Weight::Dense(&weight), Weight::Packed(&packed)] {
                    let y = to_f64(&linear_at(level, &x, weight, None).unwrap());
                    assert!(y[40..80].iter().all(|y| y.is_nan()), "{level} {dtype:?} {rows}");
                    assert!(y[..40].iter().chain(&y[80..]).all(|y| y.is_finite()), "{level} {dtype:?} {rows}");
                }
            }
        }
    }
}
