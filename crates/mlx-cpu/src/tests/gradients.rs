//! Gradients against those that MLX derives from plain float32 operations.

use mlx_quantized::{Mode, Packed};
use mlx_rs::error::Result;
use mlx_rs::ops::{concatenate, cos, erf, rsqrt, select, sigmoid, sin, softmax_axis, tanh};
use mlx_rs::transforms::fallible_vjp;
use mlx_rs::{Array, Dtype};

use super::*;
use crate::attention::attention_at;
use crate::linear::linear_at;
use crate::map::{Map, map};
use crate::norm::norm;
use crate::rope::{Position, rope_at};
use crate::vocab::embedding_at;
use crate::{Activation, Mask, Weight};

type Function<'a> = &'a dyn Fn(&[Array]) -> Result<Array>;

fn gradients(function: Function, inputs: &[Array], cotangent: &Array) -> Vec<Array> {
    let function = |inputs: &[Array]| Ok(vec![function(inputs)?]);
    fallible_vjp(function, inputs, std::slice::from_ref(cotangent)).unwrap().1
}

/// Gradients of `ours` at every level and type against those of `plain` in float32.
fn compare(name: &str, shapes: &[&[i32]], ours: &dyn Fn(Level, &[Array]) -> Result<Array>, plain: Function) {
    for dtype in FLOATS {
        let inputs: Vec<Array> = shapes.iter().map(|shape| random(shape, dtype)).collect();
        compare_at(name, &inputs, ours, plain);
    }
}

/// [`compare`] where the first input and the others may be of different types: the result is of the first's.
fn compare_mixed(name: &str, shapes: &[&[i32]], ours: &dyn Fn(Level, &[Array]) -> Result<Array>, plain: Function) {
    for (first, others) in FLOATS.into_iter().flat_map(|first| FLOATS.map(|others| (first, others))) {
        let dtype = |i| if i == 0 { first } else { others };
        let inputs: Vec<Array> = shapes.iter().enumerate().map(|(i, shape)| random(shape, dtype(i))).collect();
        compare_at(name, &inputs, ours, plain);
    }
}

fn compare_at(name: &str, inputs: &[Array], ours: &dyn Fn(Level, &[Array]) -> Result<Array>, plain: Function) {
    let exact_inputs: Vec<Array> = inputs.iter().map(|input| input.as_dtype(Dtype::Float32).unwrap()).collect();
    let exact_result = plain(&exact_inputs).unwrap();
    let cotangent = random(exact_result.shape(), inputs[0].dtype());
    let exact = gradients(plain, &exact_inputs, &cotangent.as_dtype(Dtype::Float32).unwrap());
    let types: Vec<Dtype> = inputs.iter().map(Array::dtype).collect();
    for level in levels() {
        let result = ours(level, inputs).unwrap();
        assert_eq!(result.dtype(), types[0]);
        assert_near(&result, &to_f64(&exact_result), &(name, level, &types));
        let got = gradients(&|inputs| ours(level, inputs), inputs, &cotangent);
        for (i, (got, exact)) in got.iter().zip(&exact).enumerate() {
            assert_eq!((got.shape(), got.dtype()), (inputs[i].shape(), types[i]));
            assert_near(got, &to_f64(exact), &(name, level, &types, i));
        }
    }
}

#[test]
fn of_linear_maps() {
    let (weight, bias) = (random(&[50, 128], Dtype::Float32), random(&[50], Dtype::Float32));
    let dense = |inputs: &[Array]| inputs[0].matmul(weight.t())?.add(&bias);
    for shape in [[1, 128], [21, 128]] {
        compare("dense", &[&shape], &|level, x| linear_at(level, &x[0], Weight::Dense(&weight), Some(&bias)), &dense);
    }
    let all = |x: &[Array]| x[0].matmul(x[1].t())?.add(&x[2]);
    for (rows, outputs, inputs) in [([1, 1], 50, 128), ([3, 7], 50, 37), ([1, 70], 8, 96), ([2, 60], 129, 5)] {
        let shapes: [&[i32]; 3] = [&[rows[0], rows[1], inputs], &[outputs, inputs], &[outputs]];
        let ours = |level, x: &[Array]| linear_at(level, &x[0], Weight::Dense(&x[1]), Some(&x[2]));
        compare_mixed("with respect to all", &shapes, &ours, &all);
    }
    for (mode, bits, group_size) in [(Mode::Affine, 4, 64), (Mode::Affine, 3, 32), (Mode::Mxfp8, 8, 32)] {
        let packed = Packed::quantize(&weight, group_size, bits, mode).unwrap();
        let plain = packed.dequantize(Dtype::Float32).unwrap();
        compare("packed", &[&[2, 7, 128]], &|level, x| linear_at(level, &x[0], Weight::Packed(&packed), None), &|x| {
            x[0].matmul(plain.t())
        });
        let shapes: [&[i32]; 2] = [&[2, 7, 128], &[50]];
        let ours = |level, x: &[Array]| linear_at(level, &x[0], Weight::Packed(&packed), Some(&x[1]));
        compare("with respect to the bias", &shapes, &ours, &|x| x[0].matmul(plain.t())?.add(&x[1]));
    }
    // Views of other arrays, and no rows at all.
    let (x, weight) = (random(&[64, 21], Dtype::Bfloat16), random(&[30, 64], Dtype::Bfloat16));
    let turned = |x: &[Array]| Ok([x[0].t(), x[1].contiguous()?]);
    let ours =
        |level, x: &[Array]| turned(x).and_then(|[x, weight]| linear_at(level, &x, Weight::Dense(&weight), None));
    compare_at("turned", &[x, weight.clone()], &ours, &|x| x[0].t().matmul(x[1].t()));
    for level in levels() {
        let nothing = [random(&[0, 64], Dtype::Bfloat16), weight.clone(), random(&[30], Dtype::Float32)];
        let ours = |x: &[Array]| linear_at(level, &x[0], Weight::Dense(&x[1]), Some(&x[2]));
        let got = gradients(&ours, &nothing, &random(&[0, 30], Dtype::Bfloat16));
        assert_eq!(got[0].shape(), [0, 64]);
        assert!(got[1..].iter().all(|gradient| to_f64(gradient).iter().all(|x| *x == 0.0)));
    }
}

/// Sums over all rows, in 16 bits as well, at a size where 16-bit sums would be far off.
#[test]
fn of_weights_over_many_rows() {
    let all = |x: &[Array]| x[0].matmul(x[1].t())?.add(&x[2]);
    let shapes: [&[i32]; 3] = [&[1500, 24], &[40, 24], &[40]];
    let ours = |level, x: &[Array]| linear_at(level, &x[0], Weight::Dense(&x[1]), Some(&x[2]));
    compare_mixed("linear", &shapes, &ours, &all);
    let shapes: [&[i32]; 3] = [&[2, 301, 24], &[24], &[24]];
    compare_mixed("layer", &shapes, &|level, x| norm(level, &x[0], &x[1], Some(&x[2]), 1e-3), &|x| {
        layer_norm(&x[0])?.multiply(&x[1])?.add(&x[2])
    });
}

#[test]
fn of_embeddings() {
    let ids = Array::from_slice(&[3_i32, 19, 0, 3, 20, 3, -1, 7], &[2, 4]);
    let (table, results) = ([20, 37], [Dtype::Float32, Dtype::Bfloat16]);
    // What is no row is one of zeros, and has no gradient.
    let clipped = Array::from_slice(&[3_i32, 19, 0, 3, 20, 3, 20, 7], &[2, 4]);
    let plain = |x: &[Array]| {
        let zeros = Array::zeros::<f32>(&[1, 37])?;
        concatenate(&[x[0].clone(), zeros], 0)?.take_axis(&clipped, 0)
    };
    for (dtype, result) in FLOATS.into_iter().flat_map(|dtype| results.map(|result| (dtype, result))) {
        let table = [random(&table, dtype)];
        let cotangent = random(&[2, 4, 37], result);
        let exact_table = [table[0].as_dtype(Dtype::Float32).unwrap()];
        let exact = gradients(&plain, &exact_table, &cotangent.as_dtype(Dtype::Float32).unwrap());
        for level in levels() {
            let ours = |x: &[Array]| embedding_at(level, &ids, Weight::Dense(&x[0]), result);
            let got = gradients(&ours, &table, &cotangent);
            assert_eq!((got[0].shape(), got[0].dtype()), (table[0].shape(), dtype));
            assert_near(&got[0], &to_f64(&exact[0]), &(level, dtype, result));
        }
    }
}

#[test]
fn of_attention() {
    let scale = 0.25;
    for (mask, n, total, [kv_heads, group, head_dim]) in [
        (Mask::Full, 5, 9, [2, 2, 20]),
        (Mask::Causal, 9, 9, [2, 2, 20]),
        (Mask::Window { sinks: 2, window: 3 }, 6, 11, [2, 2, 20]),
        // Several panels of queries, and keys of more than the softmax takes at once.
        (Mask::Full, 70, 131, [1, 3, 16]),
        (Mask::Causal, 300, 300, [1, 2, 33]),
        (Mask::Causal, 65, 230, [2, 1, 96]),
        (Mask::Window { sinks: 3, window: 40 }, 200, 310, [1, 2, 16]),
        (Mask::Window { sinks: 0, window: 1 }, 40, 40, [1, 1, 8]),
    ] {
        let seen: Vec<bool> = (0..n * total)
            .map(|i| (i / total + total - n, i % total))
            .map(|(query, key)| match mask {
                Mask::Full => true,
                Mask::Causal => key <= query,
                Mask::Window { sinks, window } => key <= query && (key < sinks as i32 || key + window as i32 > query),
            })
            .collect();
        let seen = Array::from_slice(&seen, &[n, total]);
        let plain = |inputs: &[Array], softcap: Option<f32>| {
            let repeat = |x: &Array| mlx_rs::ops::repeat_axis::<f32>(x.clone(), group, 1);
            let scores = inputs[0].matmul(repeat(&inputs[1])?.transpose_axes(&[0, 1, 3, 2])?)?;
            let scores = scores.multiply(Array::from_f32(scale))?;
            let scores = match softcap.map(Array::from_f32) {
                Some(cap) => tanh(scores.divide(&cap)?)?.multiply(cap)?,
                None => scores,
            };
            let scores = select(&seen, scores, Array::from_f32(-1e30))?;
            let mixed = softmax_axis(&scores, -1, None)?.matmul(repeat(&inputs[2])?)?;
            mixed.transpose_axes(&[0, 2, 1, 3])?.reshape(&[2, n, -1])
        };
        let (queries, keys) = ([2, kv_heads * group, n, head_dim], [2, kv_heads, total, head_dim]);
        for softcap in [None, Some(0.8)] {
            let scores = Scores { scale, softcap };
            let ours = |level, x: &[Array]| attention_at(level, &x[0], &x[1], &x[2], scores, mask);
            compare("attention", &[&queries, &keys, &keys], &ours, &|x| plain(x, softcap));
        }
    }
}

#[test]
fn of_norms() {
    for shape in [[3, 70], [130, 5]] {
        let one: [i32; 1] = [shape[1]];
        compare_mixed("rms", &[&shape, &one], &|level, x| norm(level, &x[0], &x[1], None, 1e-3), &|x| {
            rms_norm(&x[0])?.multiply(&x[1])
        });
        let ours = |level, x: &[Array]| norm(level, &x[0], &x[1], Some(&x[2]), 1e-3);
        compare_mixed("layer", &[&shape, &one, &one], &ours, &|x| layer_norm(&x[0])?.multiply(&x[1])?.add(&x[2]));
    }
}

fn rms_norm(x: &Array) -> Result<Array> {
    x.multiply(rsqrt(&x.square()?.mean_axis(-1, true)?.add(Array::from_f32(1e-3))?)?)
}

fn layer_norm(x: &Array) -> Result<Array> {
    rms_norm(&x.subtract(x.mean_axis(-1, true)?)?)
}

fn rotated(x: &Array, wavelengths: &Array, gain: f32, positions: &[Position], axes: &[u8]) -> Result<Array> {
    let (n, pairs) = (x.dim(2), wavelengths.dim(0));
    let axis = |pair: i32| usize::from(axes.get(pair as usize).copied().unwrap_or(0));
    let at: Vec<f32> = (0..n * pairs).map(|i| positions[(i / pairs) as usize][axis(i % pairs)] as f32).collect();
    let angles = Array::from_slice(&at, &[n, pairs]).divide(wavelengths)?;
    let (cos, sin) = (cos(&angles)?.multiply(Array::from_f32(gain))?, sin(&angles)?.multiply(Array::from_f32(gain))?);
    let parts = mlx_rs::ops::split_at_indices(x, &[pairs, 2 * pairs], -1)?;
    let first = parts[0].multiply(&cos)?.subtract(parts[1].multiply(&sin)?)?;
    let second = parts[1].multiply(&cos)?.add(parts[0].multiply(&sin)?)?;
    concatenate(&[first, second, parts[2].clone()], -1)
}

#[test]
fn rotation_and_its_gradient() {
    let wavelengths = Array::from_slice(&[1.0_f32, 3.0, 10.0, 50.0, 200.0], &[5]);
    let along = |first: [i32; 4]| first.map(|position| [position; 3]);
    // One after the other, sequences side by side, and tokens in rows and columns.
    let grid = [[7, 7, 7], [8, 8, 8], [8, 8, 9], [8, 9, 8]];
    for (positions, axes) in [
        (along([0, 1, 2, 3]), &[][..]),
        (along([41, 42, 43, 44]), &[]),
        (along([7, 2, 3, 4]), &[]),
        (grid, &[0, 1, 1, 2, 2]),
        (grid, &[1, 2, 0, 1, 2]),
    ] {
        let plain = |x: &[Array]| rotated(&x[0], &wavelengths, 1.2, &positions, axes);
        let kernel = |level, x: &Array| rope_at(level, x, &wavelengths, 1.2, &positions, axes);
        compare("rope", &[&[2, 3, 4, 12]], &|level, x| kernel(level, &x[0]), &plain);
        let x = random(&[2, 3, 4, 12], Dtype::Float32);
        let exact = to_f64(&rotated(&x, &wavelengths, 1.2, &positions, axes).unwrap());
        for level in levels() {
            assert_near(&kernel(level, &x).unwrap(), &exact, &(level, positions, axes));
        }
    }
}

fn plain(kind: Activation, x: &Array) -> Result<Array> {
    let number = Array::from_f32;
    match kind {
        Activation::Silu => x.multiply(sigmoid(x)?),
        Activation::QuickGelu => x.multiply(sigmoid(x.multiply(number(1.702))?)?),
        Activation::Gelu => {
            let phi = erf(x.multiply(number(0.5_f32.sqrt()))?)?.add(number(1.0))?;
            x.multiply(phi)?.multiply(number(0.5))
        }
        Activation::GeluTanh => {
            let cubic = x.add(x.square()?.multiply(x)?.multiply(number(0.044_715))?)?;
            let tanh = tanh(cubic.multiply(number((2.0 / std::f32::consts::PI).sqrt()))?)?.add(number(1.0))?;
            x.multiply(tanh)?.multiply(number(0.5))
        }
    }
}

#[test]
fn activations_and_their_gradients() {
    for kind in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
        let name = format!("{kind:?}");
        compare(&name, &[&[3, 37]], &|level, x| map(level, Map::One(kind), &[&x[0]]), &|x| plain(kind, &x[0]));
        let gated = |x: &[Array]| plain(kind, &x[0])?.multiply(&x[1]);
        compare(&name, &[&[3, 37], &[3, 37]], &|level, x| map(level, Map::Gated(kind), &[&x[0], &x[1]]), &gated);
        for dtype in FLOATS {
            let x = random(&[5, 100], dtype).multiply(Array::from_f32(4.0).as_dtype(dtype).unwrap()).unwrap();
            let exact = to_f64(&plain(kind, &x.as_dtype(Dtype::Float32).unwrap()).unwrap());
            for level in levels() {
                assert_near(&map(level, Map::One(kind), &[&x]).unwrap(), &exact, &(level, kind, dtype));
            }
        }
    }
    let add = |x: &[Array]| x[0].add(&x[1]);
    compare("add", &[&[3, 37], &[3, 37]], &|level, x| map(level, Map::Add, &[&x[0], &x[1]]), &add);
}

/// The same bits from any number of threads.
#[test]
fn gradients_do_not_depend_on_threads() {
    let before = crate::threads();
    let ids = Array::from_iter((0..200).map(|i| i * 7 % 12), &[200]);
    for (level, dtype) in levels().flat_map(|level| FLOATS.map(|dtype| (level, dtype))) {
        let attend = |x: &[Array]| attention_at(level, &x[0], &x[1], &x[2], uncapped(0.2), Mask::Causal);
        let map = |x: &[Array]| linear_at(level, &x[0], Weight::Dense(&x[1]), Some(&x[2]));
        let normal = |x: &[Array]| norm(level, &x[0], &x[1], Some(&x[2]), 1e-3);
        let embed = |x: &[Array]| embedding_at(level, &ids, Weight::Dense(&x[0]), dtype);
        // A function, and the shapes of its inputs and of its result.
        type Case<'a> = (Function<'a>, &'a [&'a [i32]], &'a [i32]);
        let cases: [Case; 5] = [
            (&attend, &[&[1, 4, 100, 24], &[1, 2, 100, 24], &[1, 2, 100, 24]], &[1, 100, 96]),
            (&map, &[&[300, 140], &[150, 140], &[150]], &[300, 150]),
            (&map, &[&[100, 8], &[300, 8], &[300]], &[100, 300]),
            (&normal, &[&[300, 40], &[40], &[40]], &[300, 40]),
            (&embed, &[&[12, 40]], &[200, 40]),
        ];
        for (case, (function, shapes, result)) in cases.into_iter().enumerate() {
            let inputs: Vec<Array> = shapes.iter().map(|shape| random(shape, dtype)).collect();
            let cotangent = random(result, dtype);
            let with_threads = |threads| {
                crate::set_threads(threads);
                gradients(function, &inputs, &cotangent).iter().map(to_f64).collect::<Vec<_>>()
            };
            let one = with_threads(1);
            assert!([2, 5].into_iter().all(|threads| with_threads(threads) == one), "{level} {dtype:?} {case}");
        }
    }
    crate::set_threads(before);
}
