//! Adapters: what PEFT, mlx-lm and mlx-vlm save means here what it means there, and the other way round.

use std::collections::BTreeMap;

use mlx_rs::Array;
use phi3v::adapter::{Adapter, Format};
use phi3v::checkpoint::low_rank::LowRank;
use serde_json::Map;

use super::*;

type Tensors = BTreeMap<String, Array>;

fn tensors(file: &Path) -> Tensors {
    Array::load_safetensors(file).unwrap().into_iter().collect()
}

/// The largest difference between two arrays.
fn difference(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.subtract(b).unwrap().abs().unwrap().max(None).unwrap().item_exact()
}

/// The weights of the changed maps.
fn merged(adapter: &Adapter, base: &Tensors) -> Tensors {
    let of = |(path, change): (&String, &LowRank)| {
        let name = format!("{path}.weight");
        let weight = change.merged(&base[&name]).unwrap();
        (name, weight)
    };
    adapter.modules.iter().map(of).collect()
}

/// Reads what the tool saved, and compares with what the tool makes of it.
fn agrees(folder: &Path, base: &Tensors) -> Adapter {
    let adapter = Adapter::read(folder).unwrap();
    let theirs = tensors(&folder.with_extension("safetensors"));
    let ours = merged(&adapter, base);
    let worst = ours.iter().map(|(name, weight)| difference(weight, &theirs[name])).fold(0.0, f32::max);
    println!("{}: {} weights differ by {worst:.1e}", folder.display(), ours.len());
    assert!(worst < 1e-5);
    for (name, tensor) in &adapter.tensors {
        assert!(ours.contains_key(name) || difference(tensor, &theirs[name]) == 0.0, "{name}");
    }
    adapter
}

/// Writes an adapter and what it makes of the model's weights.
fn export(adapter: &Adapter, format: Format, base: &Tensors, folder: &Path) -> PathBuf {
    adapter.write(folder, format, &Map::new()).unwrap();
    let file = folder.with_extension("safetensors");
    let merged = merged(adapter, base);
    Array::save_safetensors(merged.iter().map(|(name, array)| (name.as_str(), array)), None, &file).unwrap();
    file
}

/// Random changes of these maps, of two ranks and two scales.
fn random(paths: &[&str], base: &Tensors, dora: bool) -> Adapter {
    let normal = |shape: &[i32]| mlx_rs::random::normal::<f32>(shape, None, 0.3, None).unwrap();
    mlx_rs::random::seed(1).unwrap();
    let mut adapter = Adapter::default();
    for (index, path) in paths.iter().enumerate() {
        let weight = &base[&format!("{path}.weight")];
        let rank = 2 + (index % 2) as i32;
        let magnitude = dora.then(|| normal(&[weight.dim(0)]).add(Array::from_f32(1.0)).unwrap());
        let (a, b) = (normal(&[rank, weight.dim(1)]), normal(&[weight.dim(0), rank]));
        adapter.modules.insert((*path).to_owned(), LowRank { a, b, scale: 1.5 + (index % 2) as f32, magnitude });
    }
    adapter
}

/// Python with torch.
pub(super) fn peft_python() -> PathBuf {
    python("peft", &["peft==0.21.2", "torch==2.15.0", "transformers==5.23.0", "safetensors<1", "numpy<3"])
}

#[test]
fn adapters_are_those_of_peft() {
    let python = peft_python();
    let script = root().join("tests/slow/adapter_peft.py");
    let folder = tempfile::tempdir_in(work()).unwrap();
    let at = |name: &str| folder.path().join(name);
    run(Command::new(&python).arg(&script).arg("make").arg(folder.path()));
    let base = tensors(&at("model/model.safetensors"));
    let load = |adapter: &Path, merged: &Path| {
        run(Command::new(&python).arg(&script).arg("load").arg(folder.path()).arg(adapter).arg(merged));
    };
    for kind in ["lora", "dora", "rslora", "patterns", "head"] {
        let mut adapter = agrees(&at(kind), &base);
        adapter.tensors.clear();
        let again = at(&format!("{kind}-again"));
        load(&again, &export(&adapter, Format::Peft, &base, &again));
    }
    let paths = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj", "model.layers.1.mlp.up_proj"];
    for dora in [false, true] {
        let ours = at(if dora { "ours-dora" } else { "ours" });
        load(&ours, &export(&random(&paths, &base, dora), Format::Peft, &base, &ours));
    }
}

/// Both ways with one of the MLX tools.
fn with_mlx(tool: &str, python: &Path, model: &Path, kinds: &[&str], format: Format) {
    let script = root().join("tests/slow/adapter_mlx.py");
    let folder = tempfile::tempdir_in(work()).unwrap();
    run(Command::new(python).arg(&script).args([tool, "make"]).arg(model).arg(folder.path()));
    let base = tensors(&model.join("model.safetensors"));
    let paths = ["model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.down_proj", "lm_head"];
    let ours = [false, true].map(|dora| (if dora { "ours-dora" } else { "ours" }, random(&paths, &base, dora)));
    let theirs = kinds.iter().map(|&kind| (kind, agrees(&folder.path().join(kind), &base)));
    for (name, adapter) in theirs.chain(ours) {
        let again = folder.path().join(format!("{name}-again"));
        let merged = export(&adapter, format, &base, &again);
        run(Command::new(python).arg(&script).args([tool, "load"]).arg(model).arg(&again).arg(merged));
    }
}

#[test]
fn adapters_are_those_of_mlx_lm() {
    let python = python("mlx-lm", &["mlx-lm==0.32.0", "mlx[cpu]==0.32.2"]);
    with_mlx("mlx_lm", &python, &root().join("tests/golden/text/phi3"), &["lora", "dora"], Format::MlxLm);
}

#[test]
fn adapters_are_those_of_mlx_vlm() {
    let python = python("mlx-vlm", &["mlx-vlm==0.7.10", "mlx[cpu]"]);
    let tiny = root().join("tests/golden/phi3v-tiny");
    with_mlx("mlx_vlm", &python, &tiny, &["lora", "dora", "legacy"], Format::MlxVlm);
}
