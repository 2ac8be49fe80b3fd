//! Kernels at the shapes of Phi-3.5-vision, as shares of what the machine can do at that moment.
//!
//! `cargo bench -p mlx-cpu [-- FILTER]`. Machines are shared and noisy: before and after each kernel, the same threads
//! measure the peak that bounds it. Times are medians.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod peak;

use std::time::Instant;

use mlx_cpu::{Activation, Block, CachedRow, Mask, Scores, Weight};
use mlx_cpu::{
    activation, add, attention, cached_attention, dequantize, embedding, gated, layer_norm, linear, quantize, rms_norm,
    rope,
};
use mlx_quantized::{Mode, Packed};
use mlx_rs::ops::indexing::IndexOp;
use mlx_rs::{Array, Dtype};

use peak::Peak;

/// Repeats of one measurement.
const REPEATS: usize = 7;

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    println!("{}, {} threads", mlx_cpu::Level::current().unwrap(), mlx_cpu::threads());
    println!("{:<44} {:>10} {:>16} {:>16} {:>6}", "kernel", "time", "speed", "peak", "share");
    let bench = |name: &str, work: f64, peak: Peak, run: &dyn Fn(usize) -> Array| {
        if name.contains(&filter) {
            measure(name, work, peak, run);
        }
    };
    linears(&bench);
    training(&bench);
    attentions(&bench);
    elementwise(&bench);
    packing(&bench);
    blas(&bench);
}

type Bench<'a> = &'a dyn Fn(&str, f64, Peak, &dyn Fn(usize) -> Array);

/// Calls of a kernel that is bound by memory, one after another as in a forward pass, each with its own weights.
const CALLS: usize = 8;

/// `work` is bytes or operations, whichever `peak` counts.
fn measure(name: &str, work: f64, peak: Peak, run: &dyn Fn(usize) -> Array) {
    let calls = if matches!(peak, Peak::Read) { CALLS } else { 1 };
    let mut times = Vec::new();
    let mut peaks = Vec::new();
    run(0).eval().unwrap();
    for _ in 0..REPEATS {
        peaks.push(peak.measure());
        let outputs: Vec<Array> = (0..calls).map(run).collect();
        let start = Instant::now();
        mlx_rs::transforms::eval(&outputs).unwrap();
        times.push(start.elapsed() / calls as u32);
    }
    times.sort();
    peaks.sort_by(f64::total_cmp);
    // What disturbs the measurement of arithmetic makes it slower; memory is shared, and its speed comes and goes.
    let best = if calls > 1 { peaks[REPEATS / 2] } else { peaks[REPEATS - 1] };
    let time = times[REPEATS / 2];
    let speed = work / time.as_secs_f64();
    let unit = peak.unit();
    let milliseconds = time.as_secs_f64() * 1e3;
    println!(
        "{name:<44} {milliseconds:>7.2} ms {:>9.1} {unit:<6} {:>9.1} {unit:<6} {:>5.1} %",
        speed / 1e9,
        best / 1e9,
        100.0 * speed / best
    );
}

fn random(shape: &[i32], dtype: Dtype) -> Array {
    let array = mlx_rs::random::normal::<f32>(shape, None, None, None).unwrap().as_dtype(dtype).unwrap();
    array.eval().unwrap();
    array
}

fn linears(bench: Bench) {
    for (name, outputs, inputs) in
        [("qkv_proj", 9216, 3072), ("gate_up_proj", 16384, 3072), ("down_proj", 3072, 8192), ("lm_head", 32064, 3072)]
    {
        for bits in [4, 8, 3] {
            let packed: Vec<Packed> = (0..CALLS).map(|_| random_packed(outputs, inputs, bits)).collect();
            let bytes = f64::from(outputs) * f64::from(inputs) * (f64::from(bits) + 0.5) / 8.0;
            for rows in [1, 4, 8, 16, 64, 512] {
                if bits != 4 && rows == 64 || rows > 16 && name == "lm_head" || bits == 3 && name != "down_proj" {
                    continue;
                }
                let x = random(&[rows, inputs], Dtype::Bfloat16);
                let flops = 2.0 * f64::from(rows) * f64::from(outputs) * f64::from(inputs);
                let (work, peak) =
                    if rows <= 4 { (bytes, Peak::Read) } else { (flops, Peak::products(Dtype::Bfloat16)) };
                bench(&format!("{name} {bits} bits, {rows} rows"), work, peak, &|i| {
                    linear(&x, Weight::Packed(&packed[i]), None).unwrap()
                });
            }
        }
    }
    // Too large for any cache.
    let head = random(&[32064, 3072], Dtype::Bfloat16);
    let x = random(&[1, 3072], Dtype::Bfloat16);
    bench("lm_head Bfloat16, 1 rows", 2.0 * 32064.0 * 3072.0, Peak::Read, &|_| {
        linear(&x, Weight::Dense(&head), None).unwrap()
    });
    for dtype in [Dtype::Bfloat16, Dtype::Float16, Dtype::Float32] {
        for (name, rows, outputs, inputs) in [("CLIP fc1, 2 tiles", 1154, 4096, 1024), ("CLIP fc2", 1154, 1024, 4096)] {
            let (x, weight) = (random(&[rows, inputs], dtype), random(&[outputs, inputs], dtype));
            let flops = 2.0 * f64::from(rows) * f64::from(outputs) * f64::from(inputs);
            bench(&format!("{name} {dtype:?}"), flops, Peak::products(dtype), &|_| {
                linear(&x, Weight::Dense(&weight), None).unwrap()
            });
        }
    }
}

/// Forward and gradients at 1024 rows: of a packed matrix, and of the two narrow ones that adapt it (LoRA).
fn training(bench: Bench) {
    let rows = 1024;
    let peak = Peak::products(Dtype::Bfloat16);
    let packed = random_packed(16384, 3072, 4);
    let flops =
        |rows: i32, outputs: i32, inputs: i32| 2.0 * [rows, outputs, inputs].map(f64::from).iter().product::<f64>();
    let [x, dense] = [[rows, 3072], [16384, 3072]].map(|shape| random(&shape, Dtype::Bfloat16));
    let packed_input = [x.clone()];
    let of_packed = |x: &[Array]| linear(&x[0], Weight::Packed(&packed), None).unwrap();
    let of_dense = |x: &[Array]| linear(&x[0], Weight::Dense(&x[1]), None).unwrap();
    let work = flops(rows, 16384, 3072);
    bench("train: gate_up_proj 4 bits", work, peak, &|_| of_packed(&packed_input));
    differentiate(bench, "train: gate_up_proj 4 bits", work, peak, &packed_input, &[0], &of_packed);
    let inputs = [x, dense];
    bench("train: gate_up_proj Bfloat16", work, peak, &|_| of_dense(&inputs));
    differentiate(bench, "train: gate_up_proj Bfloat16", work, peak, &inputs, &[0], &of_dense);
    differentiate(bench, "train: gate_up_proj Bfloat16", work, peak, &inputs, &[1], &of_dense);
    for (name, outputs, inputs) in [("train: LoRA A", 8, 3072), ("train: LoRA B", 16384, 8)] {
        let work = flops(rows, outputs, inputs);
        let inputs = [[rows, inputs], [outputs, inputs]].map(|shape| random(&shape, Dtype::Float32));
        bench(name, work, Peak::Float32, &|_| of_dense(&inputs));
        differentiate(bench, name, work, Peak::Float32, &inputs, &[0], &of_dense);
        differentiate(bench, name, work, Peak::Float32, &inputs, &[1], &of_dense);
    }
    let [q, k, v] = [0; 3].map(|_| random(&[1, 32, rows, 96], Dtype::Bfloat16));
    let attend = |x: &[Array]| attention(&x[0], &x[1], &x[2], SCORES, Mask::Causal).unwrap();
    let work = 2.0 * 32.0 * f64::from(rows) * f64::from(rows) * 96.0;
    let inputs = [q, k, v];
    bench("train: Phi-3 attention", work, peak, &|_| attend(&inputs));
    // Five products where the forward pass has two.
    differentiate(bench, "train: Phi-3 attention", 2.5 * work, peak, &inputs, &[0, 1, 2], &attend);
    let attend = |x: &[Array]| attention(&x[0], &x[1], &x[2], CAPPED, Mask::Causal).unwrap();
    differentiate(bench, "train: Phi-3 attention, soft cap", 2.5 * work, peak, &inputs, &[0, 1, 2], &attend);
    let x = random(&[rows, 3072], Dtype::Bfloat16);
    let norm = |x: &[Array]| rms_norm(&x[0], &x[1], 1e-5).unwrap();
    let inputs = [x, random(&[3072], Dtype::Bfloat16)];
    let bytes = 2.0 * f64::from(rows) * 3072.0;
    differentiate(bench, "train: rms_norm", 3.0 * bytes, Peak::Read, &inputs, &[0], &norm);
    differentiate(bench, "train: rms_norm", 2.0 * bytes, Peak::Read, &inputs, &[1], &norm);
    let ids = Array::from_iter((0..rows).map(|i| i * 31 % 32064), &[rows]);
    let embed = |x: &[Array]| embedding(&ids, Weight::Dense(&x[0]), Dtype::Bfloat16).unwrap();
    let table = [random(&[32064, 3072], Dtype::Bfloat16)];
    differentiate(bench, "train: embedding", 2.0 * 32064.0 * 3072.0, Peak::Read, &table, &[0], &embed);
}

/// Measures the gradients with respect to the inputs `wanted`.
fn differentiate(
    bench: Bench,
    name: &str,
    work: f64,
    peak: Peak,
    inputs: &[Array],
    wanted: &[usize],
    function: &dyn Fn(&[Array]) -> Array,
) {
    let name = format!("{name}, gradient {wanted:?}");
    let result = function(inputs);
    let cotangent = random(result.shape(), result.dtype());
    let wanted_inputs: Vec<Array> = wanted.iter().map(|&i| inputs[i].clone()).collect();
    let function = |some: &[Array]| {
        let mut all = inputs.to_vec();
        wanted.iter().zip(some).for_each(|(&i, input)| all[i] = input.clone());
        Ok(vec![function(&all)])
    };
    // A kernel alone: what nobody asks for, the forward pass included, is not computed.
    bench(&name, work, peak, &|_| {
        let cotangents = std::slice::from_ref(&cotangent);
        mlx_rs::transforms::fallible_vjp(function, &wanted_inputs, cotangents).unwrap().1.remove(0)
    });
}

/// Random numbers in MLX's affine form; packing real ones takes MLX minutes.
fn random_packed(outputs: i32, inputs: i32, bits: i32) -> Packed {
    let words = mlx_rs::random::randint::<_, i32>(i32::MIN, i32::MAX, &[outputs, inputs * bits / 32], None).unwrap();
    let weight = words.view_dtype(Dtype::Uint32).unwrap();
    let grouped = [outputs, inputs / 64];
    let scales = random(&grouped, Dtype::Bfloat16);
    let biases = random(&grouped, Dtype::Bfloat16);
    weight.eval().unwrap();
    Packed { weight, scales, biases: Some(biases), group_size: 64, bits, mode: Mode::Affine }
}

/// `work` is the bytes of the floats alone.
fn packing(bench: Bench) {
    let matrix = random(&[16384, 3072], Dtype::Bfloat16);
    let bytes = 2.0 * 16384.0 * 3072.0;
    for (mode, group_size, bits) in
        [(Mode::Affine, 64, 4), (Mode::Affine, 64, 3), (Mode::Mxfp4, 32, 4), (Mode::Nvfp4, 16, 4), (Mode::Mxfp8, 32, 8)]
    {
        let pack = || quantize(&matrix, group_size, bits, mode).unwrap();
        bench(&format!("quantize {mode:?}, {bits} bits"), bytes, Peak::Read, &|_| pack().weight);
        let packed = pack();
        packed.weight.eval().unwrap();
        bench(&format!("dequantize {mode:?}, {bits} bits"), bytes, Peak::Read, &|_| {
            dequantize(&packed, Dtype::Bfloat16).unwrap()
        });
    }
    // A part, as all of it would take seconds.
    let rows = matrix.index(..128);
    rows.eval().unwrap();
    let (bytes, pack) = (bytes / 128.0, |mode, size| Packed::quantize(&rows, size, 4, mode).unwrap());
    bench("quantize by MLX, Affine, 4 bits", bytes, Peak::Read, &|_| pack(Mode::Affine, 64).weight);
    bench("quantize by MLX, Nvfp4, 4 bits", bytes, Peak::Read, &|_| pack(Mode::Nvfp4, 16).weight);
    let packed = pack(Mode::Affine, 64);
    bench("dequantize by MLX, Affine, 4 bits", bytes, Peak::Read, &|_| packed.dequantize(Dtype::Bfloat16).unwrap());
}

/// What MLX computes itself, with this crate's `cblas_sgemm`.
fn blas(bench: Bench) {
    let (a, b) = (random(&[512, 3072], Dtype::Float32), random(&[3072, 1024], Dtype::Float32));
    let flops = 2.0 * 512.0 * 3072.0 * 1024.0;
    bench("MLX matmul Float32", flops, Peak::Float32, &|_| a.matmul(&b).unwrap());
}

const SCORES: Scores = Scores { scale: 0.1, softcap: None };
const CAPPED: Scores = Scores { softcap: Some(50.0), ..SCORES };

fn attentions(bench: Bench) {
    for (name, heads, n, total, head_dim, mask) in [
        ("CLIP attention, 2 tiles", 32, 577, 577, 64, Mask::Full),
        ("Phi-3 attention, prefill of 2048", 32, 2048, 2048, 96, Mask::Causal),
    ] {
        let q = random(&[1, heads, n, head_dim], Dtype::Bfloat16);
        let [k, v] = [0; 2].map(|_| random(&[1, heads, total, head_dim], Dtype::Bfloat16));
        let seen = if mask == Mask::Full { 1.0 } else { 0.5 };
        let flops = 4.0 * seen * [heads, n, total, head_dim].map(f64::from).iter().product::<f64>();
        bench(name, flops, Peak::products(Dtype::Bfloat16), &|_| attention(&q, &k, &v, SCORES, mask).unwrap());
        if mask == Mask::Causal {
            bench(&format!("{name}, soft cap"), flops, Peak::products(Dtype::Bfloat16), &|_| {
                attention(&q, &k, &v, CAPPED, mask).unwrap()
            });
        }
    }
    let q = random(&[1, 32, 1, 96], Dtype::Bfloat16);
    let [k, v] = [0; 2].map(|_| random(&[1, 32, 8192, 96], Dtype::Bfloat16));
    let bytes = 2.0 * 2.0 * 32.0 * 8192.0 * 96.0;
    bench("Phi-3 attention, decode after 8192", bytes, Peak::Read, &|_| {
        attention(&q, &k, &v, SCORES, Mask::Causal).unwrap()
    });
    bench("Phi-3 attention, decode after 8192, soft cap", bytes, Peak::Read, &|_| {
        attention(&q, &k, &v, CAPPED, Mask::Causal).unwrap()
    });
    let pieces =
        |all: &Array| (0..32).map(|i| all.index((0, .., 256 * i..256 * (i + 1), ..)).contiguous().unwrap()).collect();
    let [keys, values]: [Vec<Array>; 2] = [pieces(&k), pieces(&v)];
    mlx_rs::transforms::eval(keys.iter().chain(&values)).unwrap();
    cached(
        "decode after 8192 in blocks",
        bytes,
        &q,
        keys.iter().map(Weight::Dense),
        values.iter().map(Weight::Dense),
        bench,
    );
    for bits in [8, 4] {
        let pack = |all: &[Array]| all.iter().map(|array| quantize(array, 32, bits, Mode::Affine).unwrap()).collect();
        let [keys, values]: [Vec<Packed>; 2] = [pack(&keys), pack(&values)];
        let bytes = bytes / 16.0 * (f64::from(bits) + 1.0);
        let name = format!("decode after 8192 in blocks of {bits} bits");
        cached(&name, bytes, &q, keys.iter().map(Weight::Packed), values.iter().map(Weight::Packed), bench);
    }
}

/// Blocks of 256.
fn cached<'a>(
    name: &str,
    bytes: f64,
    queries: &Array,
    keys: impl Iterator<Item = Weight<'a>>,
    values: impl Iterator<Item = Weight<'a>>,
    bench: Bench,
) {
    let blocks: Vec<Block> = keys.zip(values).map(|(keys, values)| Block { keys, values, len: 256 }).collect();
    let rows = [CachedRow { queries: queries.dim(2) as usize, blocks }];
    bench(&format!("Phi-3 {name}"), bytes, Peak::Read, &|_| {
        cached_attention(queries, &rows, SCORES, Mask::Causal).unwrap()
    });
}

/// Bound by memory: each is read once and written once.
fn elementwise(bench: Bench) {
    let rows = 8192;
    let (x, y) = (random(&[rows, 3072], Dtype::Bfloat16), random(&[rows, 3072], Dtype::Bfloat16));
    let (weight, heads) = (random(&[3072], Dtype::Bfloat16), x.reshape(&[1, rows, 32, 96]).unwrap());
    let heads = heads.transpose_axes(&[0, 2, 1, 3]).unwrap();
    let (wavelengths, positions) =
        (Array::from_slice(&[7.0_f32; 48], &[48]), Vec::from_iter((5..5 + rows).map(|position| [position; 3])));
    let bytes = 2.0 * f64::from(rows) * 3072.0;
    bench("rms_norm", 2.0 * bytes, Peak::Read, &|_| rms_norm(&x, &weight, 1e-5).unwrap());
    bench("layer_norm", 2.0 * bytes, Peak::Read, &|_| layer_norm(&x, &weight, &weight, 1e-5).unwrap());
    bench("rope", 2.0 * bytes, Peak::Read, &|_| rope(&heads, &wavelengths, 1.2, &positions, &[]).unwrap());
    bench("silu · gate", 3.0 * bytes, Peak::Read, &|_| gated(Activation::Silu, &x, &y).unwrap());
    bench("quick_gelu", 2.0 * bytes, Peak::Read, &|_| activation(Activation::QuickGelu, &x).unwrap());
    bench("gelu", 2.0 * bytes, Peak::Read, &|_| activation(Activation::Gelu, &x).unwrap());
    bench("add", 3.0 * bytes, Peak::Read, &|_| add(&x, &y).unwrap());
}
