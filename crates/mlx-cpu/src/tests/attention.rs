use mlx_rs::{Array, Dtype};

use super::*;
use crate::Mask;
use crate::attention::attention_at;

/// Attention in float64.
fn exact(q: &Array, k: &Array, v: &Array, scale: f64, mask: Mask, padding: Option<&[bool]>) -> Vec<f64> {
    let (&[batch, heads, n, head_dim], &[_, kv_heads, total, _]) = (q.shape(), k.shape()) else { unreachable!() };
    let [batch, heads, n, head_dim, kv_heads, total] = [batch, heads, n, head_dim, kv_heads, total].map(|n| n as usize);
    let (q, k, v) = (to_f64(q), to_f64(k), to_f64(v));
    let mut y = vec![0.0; q.len()];
    for b in 0..batch {
        for h in 0..heads {
            let kv = (b * kv_heads + h / (heads / kv_heads)) * total;
            for i in 0..n {
                let last = total - n + i;
                let seen = |j: usize| {
                    (padding.is_none_or(|padding| padding[b * total + j]))
                        && match mask {
                            Mask::Full => true,
                            Mask::Causal => j <= last,
                            Mask::Window(window) => j <= last && j + window > last,
                        }
                };
                let q = &q[((b * heads + h) * n + i) * head_dim..][..head_dim];
                let scores: Vec<f64> = (0..total)
                    .map(|j| match seen(j) {
                        true => scale * q.iter().zip(&k[(kv + j) * head_dim..]).map(|(q, k)| q * k).sum::<f64>(),
                        false => f64::NEG_INFINITY,
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let p: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f64 = p.iter().sum();
                let to = &mut y[((b * n + i) * heads + h) * head_dim..][..head_dim];
                for (j, p) in p.iter().enumerate().filter(|_| sum > 0.0) {
                    to.iter_mut().zip(&v[(kv + j) * head_dim..]).for_each(|(to, v)| *to += p / sum * v);
                }
            }
        }
    }
    y
}

#[test]
fn all_masks_and_sizes() {
    for level in levels() {
        for dtype in FLOATS {
            for (heads, kv_heads, n, total, head_dim) in [
                (4, 2, 1, 70, 64),
                (4, 2, 3, 70, 96),
                (2, 2, 40, 40, 80),
                (3, 1, 33, 201, 128),
                (2, 1, 5, 5, 256),
                (1, 1, 300, 300, 24),
            ] {
                let q = random(&[2, heads, n, head_dim], dtype);
                let (k, v) =
                    (random(&[2, kv_heads, total, head_dim], dtype), random(&[2, kv_heads, total, head_dim], dtype));
                let scale = 1.0 / (head_dim as f32).sqrt();
                for mask in [Mask::Full, Mask::Causal, Mask::Window(17)] {
                    let what = (level, dtype, heads, kv_heads, n, total, head_dim, mask);
                    let got = attention_at(level, &q, &k, &v, scale, mask, None).unwrap();
                    assert_near(&got, &exact(&q, &k, &v, f64::from(scale), mask, None), &what);
                }
            }
        }
    }
}

#[test]
fn padding_and_queries_that_see_nothing() {
    let (n, total) = (6, 60);
    // The second row's first keys are padding, up to beyond what its first queries see.
    let padding: Vec<bool> = (0..2 * total).map(|i| i % 7 > 0 && !(total..total + 57).contains(&i)).collect();
    let array = Array::from_slice(&padding, &[2, total]);
    for level in levels() {
        for dtype in FLOATS {
            for n in [1, n] {
                let q = random(&[2, 2, n, 32], dtype);
                let (k, v) = (random(&[2, 2, 60, 32], dtype), random(&[2, 2, 60, 32], dtype));
                let got = attention_at(level, &q, &k, &v, 0.2, Mask::Causal, Some(&array)).unwrap();
                let exact = exact(&q, &k, &v, f64::from(0.2_f32), Mask::Causal, Some(&padding));
                assert_near(&got, &exact, &(level, dtype, n));
                assert!(to_f64(&got).iter().all(|x| x.is_finite()));
            }
        }
    }
}

/// In float32, queries computed together and one by one, and keys with or without others after them, agree to the bit.
#[test]
fn float32_results_do_not_depend_on_company() {
    let [q, k, v] = [0; 3].map(|_| random(&[1, 2, 230, 48], Dtype::Float32));
    use mlx_rs::ops::indexing::IndexOp;
    for level in levels() {
        let whole = attention_at(level, &q, &k, &v, 0.3, Mask::Causal, None).unwrap();
        let mut parts = Vec::new();
        for (start, end) in [(0, 1), (1, 100), (100, 229), (229, 230)] {
            let q = q.index((.., .., start..end, ..));
            let (k, v) = (k.index((.., .., ..end, ..)), v.index((.., .., ..end, ..)));
            parts.push(attention_at(level, &q, &k, &v, 0.3, Mask::Causal, None).unwrap());
        }
        let parts = mlx_rs::ops::concatenate(&parts, 1).unwrap();
        assert_eq!(to_f64(&whole), to_f64(&parts), "{level}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    /// Shapes that nobody thought of.
    #[test]
    fn random_shapes(
        kv_heads in 1..3_i32,
        group in 1..4_i32,
        n in 1..70_i32,
        past in 0..150_i32,
        head_dim in proptest::sample::select(vec![16, 64, 72, 80, 96, 128, 256]),
        dtype in proptest::sample::select(FLOATS.to_vec()),
        mask in proptest::sample::select(vec![Mask::Full, Mask::Causal, Mask::Window(1), Mask::Window(40)]),
    ) {
        let q = random(&[1, kv_heads * group, n, head_dim], dtype);
        let [k, v] = [0; 2].map(|_| random(&[1, kv_heads, past + n, head_dim], dtype));
        let exact = exact(&q, &k, &v, 0.1_f32.into(), mask, None);
        for level in levels() {
            let y = attention_at(level, &q, &k, &v, 0.1, mask, None).unwrap();
            assert_near(&y, &exact, &(level, kv_heads, group, n, past, head_dim, dtype, mask));
        }
    }
}
