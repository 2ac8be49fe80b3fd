//! Gradients of DoRA.
//!
//! They take the norm ‖W + scale · BA‖ for a constant (Liu et al. 2024, section 4.3), which differences do not: so where A
//! or B is moved, m is moved with the norm, and m / norm stays.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use mlx_rs::{Array, Dtype, random};
use phi3v::adapter::Adapter;
use phi3v::checkpoint::low_rank::Attached;
use phi3v::checkpoint::{ModelFiles, Param};
use phi3v::models::{self, Model};
use phi3v::train::gradient::{Batch, Piece, Target, Trained};
use phi3v::train::plan::{LoraSettings, Plan};

use super::TINY;
use super::bench::{Bench, three_rows};
use crate::common::{copy_of, golden, path, placement, save, succeeds, tensors};

const MODULE: &str = "model.layers.1.self_attn.o_proj";
const SCALE: f32 = 2.5;

/// A DoRA that changes something.
fn adapter() -> Adapter {
    let settings = LoraSettings { rank: 4, alpha: 4.0 * SCALE, rslora: false };
    let linears = BTreeMap::from([(MODULE.to_owned(), [64, 64])]);
    let mut adapter = Plan::low_rank(&linears, settings, true, 3).unwrap().adapter;
    let key = random::key(8).unwrap();
    let change = adapter.modules.get_mut(MODULE).unwrap();
    change.b = random::uniform::<_, f32>(-0.2, 0.2, &[64, 4], &key).unwrap();
    change.magnitude = Some(norm(&change.a, &change.b).multiply(Array::from_f32(1.25)).unwrap());
    adapter
}

/// ‖W + scale · BA‖ by rows.
fn norm(a: &Array, b: &Array) -> Array {
    let weight = tensors(&golden("phi3v-tiny"))[&format!("{MODULE}.weight")].as_dtype(Dtype::Float32).unwrap();
    let change = b.matmul(a).unwrap().multiply(Array::from_f32(SCALE)).unwrap();
    weight.add(change).unwrap().square().unwrap().sum_axis(1, false).unwrap().sqrt().unwrap()
}

fn dora() -> (Model, Vec<(String, Param)>) {
    let files = ModelFiles::read(Path::new(TINY)).unwrap();
    let attached = Attached { adapter: Rc::new(adapter()), share: 1.0, dropout: None };
    let weights = models::weights(&files, Some(Dtype::Float32)).unwrap().attach(attached);
    let (model, parts) = models::build_with_parts(&files, weights).unwrap();
    let names = ["lora_a", "lora_b", "m"].map(|part| format!("{MODULE}.{part}"));
    (model, names.map(|name| (name.clone(), parts.params[&name].clone())).to_vec())
}

fn batch() -> Batch {
    let ids: Vec<u32> = vec![1, 427, 399, 436, 377, 355, 901, 4100, 77];
    let target = |from: usize| Target { from, id: ids[from + 1], weight: 1.0 };
    Batch {
        rows: vec![placement(ids.len() as i32)],
        targets: (3..8).map(target).collect(),
        ends: vec![5],
        pieces: vec![Piece::Tokens(ids.clone())],
    }
}

fn length(x: &Array) -> f32 {
    x.square().unwrap().sum(None).unwrap().sqrt().unwrap().item_exact::<f32>()
}

#[test]
fn gradients_are_differences_of_the_loss() {
    let (model, params) = dora();
    let values: Vec<Array> = params.iter().map(|(_, param)| param.get().clone()).collect();
    let batch = batch();
    let set =
        |values: &[Array]| params.iter().zip(values).for_each(|((_, param), value)| _ = param.replace(value.clone()));
    for checkpoint in [false, true] {
        let trained = Trained { model: &model, params: params.clone(), checkpoint };
        let (_, gradients) = trained.loss_and_gradients(&batch).unwrap();
        let gain = values[2].divide(norm(&values[0], &values[1])).unwrap();
        let difference = |which: usize, direction: &Array| {
            let by = 0.01 * length(&values[which]);
            let loss = |step: f32| {
                let mut moved = values.clone();
                moved[which] = values[which].add(direction.multiply(Array::from_f32(step)).unwrap()).unwrap();
                if which < 2 {
                    moved[2] = gain.multiply(norm(&moved[0], &moved[1])).unwrap();
                }
                set(&moved);
                let loss = trained.loss_and_gradients(&batch).unwrap().0;
                set(&values);
                loss
            };
            (loss(by) - loss(-by)) / (2.0 * by)
        };
        for (which, name) in ["a", "b", "m"].into_iter().enumerate() {
            let gradient = &gradients[which];
            let steepest = gradient.divide(Array::from_f32(length(gradient))).unwrap();
            let key = random::key(which as u64).unwrap();
            let noise = random::uniform::<_, f32>(-1.0, 1.0, gradient.shape(), &key).unwrap();
            // Half of each: noise alone would be across the gradient.
            let mixed = steepest.add(noise.divide(Array::from_f32(length(&noise))).unwrap()).unwrap();
            for direction in [steepest, mixed] {
                let expected = difference(which, &direction);
                let found = gradient.multiply(&direction).unwrap().sum(None).unwrap().item_exact::<f32>();
                println!("{name} {found} {expected}");
                assert!((found / expected - 1.0).abs() < 0.002, "{name}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn a_row_of_zeros_does_no_harm() {
    let checkpoint = copy_of("phi3v-tiny");
    let mut weights = tensors(checkpoint.path());
    let weight = weights.get_mut(&format!("{MODULE}.weight")).unwrap();
    let rows: Vec<f32> = (0..64).map(|row| if row == 5 { 0.0 } else { 1.0 }).collect();
    *weight = weight.multiply(Array::from_slice(&rows, &[64, 1])).unwrap().as_dtype(weight.dtype()).unwrap();
    save(checkpoint.path(), "model.safetensors", &weights);
    let bench = Bench::new(&three_rows());
    let how = ["--model", path(checkpoint.path()), "--fine-tune-type", "dora", "--learning-rate", "1e-2"];
    let losses = bench.losses("run", &[&how[..], &["--iters", "6"]].concat());
    assert!(losses[5] < 0.9 * losses[0], "{losses:?}");
    let (adapter, fused) = (bench.arg("run"), bench.path("fused"));
    succeeds(&["lora", "fuse", "--model", how[1], "--adapter", &adapter, "-o", path(&fused), "--quiet"]);
    let weight = tensors(&fused)[&format!("{MODULE}.weight")].as_dtype(Dtype::Float32).unwrap();
    let lengths = weight.square().unwrap().sum_axis(1, false).unwrap();
    let lengths = lengths.as_slice::<f32>();
    assert!(lengths[5] == 0.0 && lengths[6] > 0.0, "{lengths:?}");
}
