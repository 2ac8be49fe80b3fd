use mlx_quantized::{Mode, Packed};
use mlx_rs::ops::indexing::IndexOp;
use mlx_rs::{Array, Dtype};

use super::*;
use crate::element::{load_part, store_part};
use crate::linear::expert_linear_at;
use crate::norm::norm;
use crate::simd::{Simd, Work, tanh};
use crate::vocab::embedding_at;
use crate::{Weight, argmax, top_k};

#[test]
fn norms() {
    for dtype in FLOATS {
        for size in [1, 5, 16, 96, 1000] {
            let (x, weight, bias) = (random(&[3, size], dtype), random(&[size], dtype), random(&[size], dtype));
            let (w, b) = (to_f64(&weight), to_f64(&bias));
            let exact = |centred: bool| -> Vec<f64> {
                let rows = to_f64(&x);
                let rows = rows.chunks(size as usize).flat_map(|x| {
                    let n = x.len() as f64;
                    let mean = if centred { x.iter().sum::<f64>() / n } else { 0.0 };
                    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                    let y = x.iter().zip(w.iter().zip(&b));
                    y.map(move |(x, (w, b))| (x - mean) / (variance + 1e-5).sqrt() * w + if centred { *b } else { 0.0 })
                        .collect::<Vec<_>>()
                });
                rows.collect()
            };
            for level in levels() {
                assert_near(
                    &norm(level, &x, &weight, None, 1e-5).unwrap(),
                    &exact(false),
                    &("rms", level, dtype, size),
                );
                let layer = norm(level, &x, &weight, Some(&bias), 1e-5).unwrap();
                assert_near(&layer, &exact(true), &("layer", level, dtype, size));
            }
        }
    }
}

#[test]
fn embeddings() {
    let table = random(&[20, 128], Dtype::Bfloat16);
    let packed = Packed::quantize(&table, 64, 4, Mode::Affine).unwrap();
    let ids = Array::from_slice(&[3_u32, 19, 0, 3, 20, 7], &[2, 3]);
    for level in levels() {
        for (weight, table) in [(Weight::Dense(&table), &table), (Weight::Packed(&packed), &unpacked(&packed))] {
            let rows = embedding_at(level, &ids, weight, Dtype::Bfloat16).unwrap();
            assert_eq!(rows.shape(), [2, 3, 128]);
            let mut exact: Vec<f64> = [3, 19, 0, 3].into_iter().flat_map(|row| to_f64(&table.index(row))).collect();
            exact.extend([0.0; 128]); // there is no row 20
            exact.extend(to_f64(&table.index(7)));
            assert_near(&rows, &exact, &level);
        }
    }
}

#[test]
fn largest_entries() {
    let x = Array::from_slice(&[1.0_f32, 5.0, f32::NAN, 5.0, -1.0, f32::NEG_INFINITY, 2.0, 0.0], &[2, 4]);
    assert_eq!(argmax(&x).unwrap().as_slice::<u32>(), [1, 2]);
    let (values, indices) = top_k(&x, 3).unwrap();
    assert_eq!(indices.as_slice::<u32>(), [1, 3, 0, 2, 3, 0]);
    assert_eq!(values.as_slice::<f32>(), [5.0, 5.0, 1.0, 2.0, 0.0, -1.0]);
    let long = random(&[1, 32064], Dtype::Bfloat16);
    let (values, _) = top_k(&long, 50).unwrap();
    let mut sorted = to_f64(&long);
    sorted.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(to_f64(&values), sorted[..50]);
    assert!(top_k(&x, 5).is_err() && top_k(&x, 0).is_err());
}

#[test]
fn experts() {
    let (rows, k) = (9, 2);
    let weights = random(&[4, 24, 64], Dtype::Float32);
    let packed = Packed::quantize(&weights.reshape(&[96, 64]).unwrap(), 32, 4, Mode::Affine).unwrap();
    let packed = packed.map_rows(|part| part.reshape(&[4, 24, -1])).unwrap();
    let plain = packed.dequantize(Dtype::Float32).unwrap();
    // One expert has no rows, one choice is none.
    let choices: Vec<i32> = (0..rows * k).map(|i| if i == 5 { 9 } else { [0, 1, 3][i as usize % 3] }).collect();
    let ids = Array::from_slice(&choices, &[rows, k]);
    for dtype in FLOATS {
        let x = random(&[rows, 64], dtype);
        for (weight, plain) in [(Weight::Dense(&weights), &weights), (Weight::Packed(&packed), &plain)] {
            let rows = to_f64(&x);
            let exact: Vec<f64> = choices
                .iter()
                .enumerate()
                .flat_map(|(i, &expert)| {
                    let x = &rows[i / k as usize * 64..][..64];
                    let dot = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                    if expert > 3 { vec![0.0; 24] } else { to_f64(&plain.index(expert)).chunks(64).map(dot).collect() }
                })
                .collect();
            for level in levels() {
                assert_near(&expert_linear_at(level, &x, weight, &ids).unwrap(), &exact, &(level, dtype));
            }
        }
    }
}

/// MLX's own float32 products go through this crate's `cblas_sgemm`.
#[test]
#[cfg(target_os = "linux")]
fn blas() {
    let (a, b) = (random(&[21, 33], Dtype::Float32), random(&[33, 40], Dtype::Float32));
    let (x, y) = (to_f64(&a), to_f64(&b));
    let exact: Vec<f64> =
        (0..21 * 40).map(|i| (0..33).map(|k| x[i / 40 * 33 + k] * y[k * 40 + i % 40]).sum()).collect();
    let transposed = |array: &Array| array.t().contiguous().unwrap().t();
    for a in [a.clone(), transposed(&a)] {
        for b in [b.clone(), transposed(&b)] {
            assert_near(&a.matmul(&b).unwrap(), &exact, &(a.strides(), b.strides()));
        }
    }
    let c = random(&[21, 40], Dtype::Float32);
    let sum: Vec<f64> = exact.iter().zip(to_f64(&c)).map(|(x, c)| 2.0 * x + 0.5 * c).collect();
    assert_near(&mlx_rs::ops::addmm(&c, &a, &b, 2.0, 0.5).unwrap(), &sum, &"addmm");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let zeros = |shape: &[i32]| Array::zeros::<f32>(shape).unwrap();
    let weight = zeros(&[4, 8]);
    assert!(crate::linear(&zeros(&[2, 7]), Weight::Dense(&weight), None).is_err());
    assert!(crate::linear(&zeros(&[2, 8]), Weight::Dense(&weight), Some(&zeros(&[5]))).is_err());
    assert!(crate::linear(&Array::from_int(3), Weight::Dense(&weight), None).is_err());
    assert!(crate::rms_norm(&zeros(&[2, 7]), &zeros(&[8]), 0.0).is_err());
    assert!(crate::add(&zeros(&[2]), &zeros(&[3])).is_err());
    assert!(crate::rope(&zeros(&[1, 1, 1, 4]), &zeros(&[3]), 1.0, &[[0; 3]], &[]).is_err());
    assert!(crate::rope(&zeros(&[1, 1, 2, 4]), &zeros(&[2]), 1.0, &[[0; 3]], &[]).is_err());
    let (q, k) = (zeros(&[1, 3, 1, 4]), zeros(&[1, 2, 1, 4]));
    assert!(crate::attention(&q, &k, &k, uncapped(1.0), crate::Mask::Full).is_err());
    assert!(crate::expert_linear(&zeros(&[2, 8]), Weight::Dense(&weight), &Array::from_int(0)).is_err());
    for (x, weight) in [(zeros(&[2, 8]), zeros(&[0, 8])), (zeros(&[2, 0]), zeros(&[4, 0]))] {
        assert!(crate::linear(&x, Weight::Dense(&weight), None).is_err());
    }
    let q = zeros(&[1, 1, 5, 0]);
    assert!(crate::attention(&q, &q, &q, uncapped(1.0), crate::Mask::Full).is_err());
    for softcap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let scores = Scores { scale: 1.0, softcap: Some(softcap) };
        let error = crate::attention(&k, &k, &k, scores, crate::Mask::Full).unwrap_err().to_string();
        assert!(error.contains("soft cap"), "{error}");
        assert!(
            crate::cached_attention(&k, &[], scores, crate::Mask::Full).unwrap_err().to_string().contains("soft cap")
        );
    }
    assert!(crate::embedding(&zeros(&[2]), Weight::Dense(&weight), Dtype::Float32).is_err());
    // Nothing is not an error.
    assert_eq!(crate::linear(&zeros(&[0, 8]), Weight::Dense(&weight), None).unwrap().shape(), [0, 4]);
    crate::linear(&zeros(&[0, 8]), Weight::Dense(&weight), None).unwrap().eval().unwrap();
    let packed = Packed::quantize(&zeros(&[4, 64]), 32, 4, Mode::Affine).unwrap();
    for dtype in FLOATS {
        let nothing = zeros(&[0, 64]).as_dtype(dtype).unwrap();
        crate::linear(&nothing, Weight::Packed(&packed), None).unwrap().eval().unwrap();
    }
}

/// At every level, also where it is no straight line any more; with single vectors and in between.
#[test]
fn hyperbolic_tangents() {
    struct Tanh<'a>(&'a mut [f32]);
    impl Work for Tanh<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.0.chunks_mut(S::LANES) {
                store_part(s, x, tanh(s, load_part(s, x)));
            }
        }
    }
    let mut all: Vec<f32> = (-12_000..12_000).map(|i| i as f32 * 1e-3).collect();
    all.extend((-90..30).map(|exponent| 10_f32.powf(exponent as f32 / 3.0)));
    all.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0]);
    for level in levels() {
        let mut got = [&all[..], &[f32::NAN]].concat();
        level.dispatch(Tanh(&mut got));
        assert!(got.pop().unwrap().is_nan());
        for (x, got) in all.iter().zip(got) {
            let exact = f64::from(*x).tanh();
            let error = (f64::from(got) - exact).abs();
            assert!(error <= 4e-7 * exact.abs() && got.abs() <= 1.0, "{level}: tanh({x}) = {got}, off by {error:.2e}");
        }
    }
}

#[test]
fn nothing_hides_nan_and_tiny_numbers_stay_tiny() {
    let nan = |shape: &[i32], at: i32| {
        let size: i32 = shape.iter().product();
        let all: Vec<f32> = (0..size).map(|i| if i == at { f32::NAN } else { 0.25 }).collect();
        Array::from_slice(&all, shape)
    };
    let packed = Packed::quantize(&random(&[8, 64], Dtype::Float32), 64, 4, Mode::Affine).unwrap();
    let tiny: Vec<f32> = (0..64 * 9).map(|i| if i % 64 == 3 { 1e-36 } else { 0.0 }).collect();
    for level in levels() {
        for dtype in FLOATS {
            for (n, softcap) in [(1, None), (9, None), (1, Some(2.0)), (9, Some(2.0))] {
                let scores = Scores { scale: 1.0, softcap };
                let keys = random(&[1, 1, 9, 16], dtype);
                let query = nan(&[1, 1, n, 16], 3).as_dtype(dtype).unwrap();
                let attend = |q: &Array, k: &Array| {
                    to_f64(&crate::attention::attention_at(level, q, k, &keys, scores, crate::Mask::Full).unwrap())
                };
                assert!(attend(&query, &keys)[..16].iter().all(|y| y.is_nan()), "{level} {dtype:?} {n}");
                let some_keys = nan(&[1, 1, 9, 16], 20).as_dtype(dtype).unwrap();
                let query = random(&[1, 1, n, 16], dtype);
                assert!(attend(&query, &some_keys).iter().all(|y| y.is_nan()), "{level} {dtype:?} {n}");
                let x = Array::from_slice(&tiny[..64 * n as usize], &[n, 64]).as_dtype(dtype).unwrap();
                let y = to_f64(&crate::linear::linear_at(level, &x, Weight::Packed(&packed), None).unwrap());
                assert!(y.iter().all(|y| y.abs() < 1e-30), "{level} {dtype:?} {n}: {y:?}");
            }
        }
    }
}
