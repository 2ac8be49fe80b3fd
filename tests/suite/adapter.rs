//! Adapters: every format reads as the same changes, writes what it reads, and refuses what it does not understand.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mlx_rs::{Array, Dtype};
use phi3v::adapter::{About, Adapter, FineTuneType, Format};
use phi3v::checkpoint::low_rank::LowRank;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::common::{Tensors, bytes, difference, edit_json, golden, json_file, save};

const QKV: &str = "model.layers.0.self_attn.qkv_proj";
const DOWN: &str = "model.layers.1.mlp.down_proj";

/// Numbers without a pattern that a wrong order of axes would not show.
fn numbers(shape: &[i32], seed: i32) -> Array {
    let count = shape.iter().product::<i32>();
    let values: Vec<f32> = (0..count).map(|i| (((i + 1) * (2 * seed + 37)) % 101) as f32 / 64.0 - 0.7).collect();
    Array::from_slice(&values, shape)
}

fn change(output: i32, input: i32, rank: i32, scale: f32, seed: i32) -> LowRank {
    let (a, b) = (numbers(&[rank, input], seed), numbers(&[output, rank], seed + 1));
    LowRank { a, b, scale, magnitude: None }
}

fn lora() -> Adapter {
    let modules = [(QKV, change(6, 4, 2, 0.5, 1)), (DOWN, change(4, 8, 2, 0.5, 3))];
    let about = About { base_model: Some("microsoft/Phi-3.5-vision-instruct".into()), dropout: 0.1, num_layers: None };
    Adapter { modules: modules.map(|(path, change)| (path.to_owned(), change)).into(), tensors: BTreeMap::new(), about }
}

fn dora() -> Adapter {
    let mut adapter = lora();
    for change in adapter.modules.values_mut() {
        change.magnitude = Some(numbers(&[change.b.dim(0)], 9));
    }
    adapter
}

/// The tensors of a change in MLX's layout, under the names `a` and `b`.
fn mlx_tensors(adapter: &Adapter, a: &str, b: &str) -> Tensors {
    let parts = |(path, change): (&String, &LowRank)| {
        let mut parts = vec![
            (format!("{path}.{a}"), change.a.t().contiguous().unwrap()),
            (format!("{path}.{b}"), change.b.t().contiguous().unwrap()),
        ];
        parts.extend(change.magnitude.iter().map(|m| (format!("{path}.m"), m.clone())));
        parts
    };
    adapter.modules.iter().flat_map(parts).collect()
}

fn peft_tensors(adapter: &Adapter) -> Tensors {
    let parts = |(path, change): (&String, &LowRank)| {
        let name = |part: &str| format!("base_model.model.{path}.{part}");
        let mut parts = vec![(name("lora_A.weight"), change.a.clone()), (name("lora_B.weight"), change.b.clone())];
        parts.extend(change.magnitude.iter().map(|m| (name("lora_magnitude_vector"), m.clone())));
        parts
    };
    adapter.modules.iter().flat_map(parts).collect()
}

fn folder(config: &Value, file: &str, tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    save(folder.path(), file, tensors);
    folder
}

fn mlx_lm_config() -> Value {
    json!({ "fine_tune_type": "lora", "num_layers": 16, "lora_parameters": { "rank": 2, "scale": 0.5, "dropout": 0.1 } })
}

fn mlx_lm_folder() -> TempDir {
    folder(&mlx_lm_config(), "adapters.safetensors", &mlx_tensors(&lora(), "lora_a", "lora_b"))
}

fn peft_config() -> Value {
    json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 1, "lora_dropout": 0.1, "bias": "none" })
}

fn peft_folder() -> TempDir {
    folder(&peft_config(), "adapter_model.safetensors", &peft_tensors(&lora()))
}

fn read(folder: &Path) -> Result<Adapter, String> {
    Adapter::read(folder).map_err(|e| phi3v::one_line(&e))
}

#[track_caller]
fn refuses(folder: &Path, expected: &str) {
    let error = read(folder).map(|_| ()).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[track_caller]
fn same(a: &Array, b: &Array) {
    assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()));
    assert_eq!(bytes(a), bytes(b));
}

#[track_caller]
fn same_changes(a: &Adapter, b: &Adapter) {
    assert_eq!(a.modules.keys().collect::<Vec<_>>(), b.modules.keys().collect::<Vec<_>>());
    for (a, b) in a.modules.values().zip(b.modules.values()) {
        assert_eq!(a.scale, b.scale);
        same(&a.a, &b.a);
        same(&a.b, &b.b);
        assert_eq!(a.magnitude.as_ref().map(bytes), b.magnitude.as_ref().map(bytes));
    }
    assert_eq!(a.tensors.keys().collect::<Vec<_>>(), b.tensors.keys().collect::<Vec<_>>());
    a.tensors.values().zip(b.tensors.values()).for_each(|(a, b)| same(a, b));
}

fn written(adapter: &Adapter, format: Format) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    adapter.write(folder.path(), format, &Map::new()).unwrap();
    folder
}

#[test]
fn every_format_reads_as_the_same_changes() {
    let mlx = |config: Value| folder(&config, "adapters.safetensors", &mlx_tensors(&lora(), "lora_a", "lora_b"));
    let legacy = json!({ "rank": 2, "alpha": 1.0, "dropout": 0.1 });
    let phi3_vision_mlx = json!({
        "model_path": "models/phi3_v", "adapter_path": "adapters/phi3_v", "lora_layers": 2, "lora_targets": ["x"],
        "lora_parameters": { "rank": 2, "alpha": 4, "dropout": 0.1, "scale": 0.25 },
    });
    let folders = [
        mlx_lm_folder(),
        mlx(json!({ "num_layers": -1, "lora_parameters": { "rank": 2, "scale": 0.5, "alpha": 7, "dropout": 0.1 } })),
        folder(&legacy, "adapters.safetensors", &mlx_tensors(&lora(), "A", "B")),
        mlx(phi3_vision_mlx),
        peft_folder(),
    ];
    for folder in folders {
        let adapter = read(folder.path()).unwrap();
        same_changes(&adapter, &lora());
        assert_eq!(adapter.about.dropout, 0.1);
        assert_eq!(adapter.fine_tune_type(), FineTuneType::Lora);
    }
}

#[test]
fn halves_become_floats() {
    let mut tensors = peft_tensors(&lora());
    tensors.values_mut().for_each(|tensor| *tensor = tensor.as_dtype(Dtype::Bfloat16).unwrap());
    let adapter = read(folder(&peft_config(), "adapter_model.safetensors", &tensors).path()).unwrap();
    assert!(adapter.modules.values().all(|change| change.a.dtype() == Dtype::Float32));
    // All these numbers are bfloat16's but for rounding.
    let both = (adapter.modules[QKV].a.as_slice::<f32>(), lora());
    assert!(difference(both.0, both.1.modules[QKV].a.as_slice()) < 0.004);
}

#[test]
fn what_is_written_reads_as_what_it_was() {
    for adapter in [lora(), dora()] {
        for format in [Format::MlxLm, Format::MlxVlm, Format::Peft] {
            let folder = written(&adapter, format);
            let again = read(folder.path()).unwrap();
            same_changes(&again, &adapter);
            assert_eq!(again.about.base_model, adapter.about.base_model);
            assert_eq!(again.about.dropout, adapter.about.dropout);
        }
    }
}

#[test]
fn an_adapter_goes_through_all_formats() {
    let source = mlx_lm_folder();
    let mut adapter = read(source.path()).unwrap();
    for format in [Format::Peft, Format::MlxVlm, Format::MlxLm] {
        adapter = read(written(&adapter, format).path()).unwrap();
    }
    same_changes(&adapter, &lora());
}

#[test]
fn the_configuration_of_mlx_lm_is_sorted_and_names_every_module() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new/adapters");
    let extra = json!({ "zeta": 1, "iters": 600, "fine_tune_type": "none" });
    lora().write(&target, Format::MlxLm, extra.as_object().unwrap()).unwrap();
    let text = fs::read_to_string(target.join("adapter_config.json")).unwrap();
    let expected = json!({
        "fine_tune_type": "lora",
        "iters": 600,
        "lora_parameters": { "dropout": 0.1, "keys": [QKV, DOWN], "rank": 2, "scale": 0.5 },
        "model": "microsoft/Phi-3.5-vision-instruct",
        "num_layers": -1,
        "zeta": 1,
    });
    assert_eq!(text, format!("{expected:#}\n"));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2);
    assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
}

/// Modules of several ranks and scales.
fn mixed() -> Adapter {
    let mut adapter = lora();
    adapter.modules.insert(DOWN.into(), change(4, 8, 3, 0.25, 3));
    adapter.modules.insert("lm_head".into(), change(5, 4, 2, 0.5, 5));
    adapter
}

#[test]
fn mlx_has_one_rank_and_one_scale() {
    let again = read(written(&mixed(), Format::MlxLm).path()).unwrap();
    for (path, change) in &mixed().modules {
        let again = again.get(path).unwrap();
        assert_eq!((again.rank(), again.scale), (3, 1.0));
        let (a, b) = (again.delta().unwrap(), change.delta().unwrap());
        assert!(difference(a.as_slice(), b.as_slice()) < 1e-6);
    }
}

#[test]
fn peft_has_patterns_of_ranks_and_scales() {
    let folder = written(&mixed(), Format::Peft);
    same_changes(&read(folder.path()).unwrap(), &mixed());
    let config = json_file(&folder.path().join("adapter_config.json"));
    assert_eq!(config["rank_pattern"], json!({ DOWN: 3 }));
    assert_eq!(config["alpha_pattern"], json!({ DOWN: 0.75 }));
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(2), &json!(1)));
    assert_eq!(config["target_modules"], json!(["lm_head", QKV, DOWN]));
}

#[test]
fn peft_takes_the_first_pattern_that_is_an_end_of_the_path() {
    let folder = peft_folder();
    let config = folder.path().join("adapter_config.json");
    edit_json(&config, |config| {
        config["alpha_pattern"] = json!({ r"layers\.\d+\.mlp\..*": 3, "down_proj": 8, "qkv": 9 });
    });
    let adapter = read(folder.path()).unwrap();
    assert_eq!((adapter.modules[QKV].scale, adapter.modules[DOWN].scale), (0.5, 1.5));
    edit_json(&config, |config| config["use_rslora"] = json!(true));
    let adapter = read(folder.path()).unwrap();
    assert_eq!(adapter.modules[DOWN].scale, (3.0 / 2f64.sqrt()) as f32);
    edit_json(&config, |config| config["alpha_pattern"] = json!({ "(": 3 }));
    refuses(folder.path(), "alpha_pattern: \"(\" is no regular expression");
    edit_json(&config, |config| config["alpha_pattern"] = json!({ "down_proj": "3" }));
    refuses(folder.path(), "alpha_pattern: down_proj: ");
    edit_json(&config, |config| config["alpha_pattern"] = json!({}));
    edit_json(&config, |config| config["rank_pattern"] = json!({ "down_proj": 3 }));
    refuses(folder.path(), "model.layers.1.mlp.down_proj is of rank 2, but adapter_config.json has 3");
}

#[test]
fn peft_saves_modules_whole() {
    let mut adapter = lora();
    adapter.tensors.insert("model.norm.weight".into(), numbers(&[4], 7).as_dtype(Dtype::Float16).unwrap());
    let folder = written(&adapter, Format::Peft);
    same_changes(&read(folder.path()).unwrap(), &adapter);
    let config = folder.path().join("adapter_config.json");
    assert_eq!(json_file(&config)["modules_to_save"], json!(["model.norm"]));
    edit_json(&config, |config| config["modules_to_save"] = Value::Null);
    refuses(folder.path(), "1 tensor not understood: base_model.model.model.norm.weight");

    // What PEFT adds by itself where the head is changed or the vocabulary has grown.
    let mut tensors = peft_tensors(&lora());
    tensors.insert("base_model.model.lm_head.base_layer.weight".into(), numbers(&[4, 2], 7));
    tensors.insert("base_model.model.model.embed_tokens.weight".into(), numbers(&[4, 2], 8));
    let folder = self::folder(&peft_config(), "adapter_model.safetensors", &tensors);
    let adapter = read(folder.path()).unwrap();
    assert_eq!(adapter.tensors.keys().collect::<Vec<_>>(), ["lm_head.weight", "model.embed_tokens.weight"]);
}

#[test]
fn full_fine_tuning_is_whole_tensors() {
    let tensors = BTreeMap::from([
        ("model.norm.weight".to_owned(), numbers(&[4], 7)),
        ("lm_head.weight".to_owned(), numbers(&[3, 4], 8).as_dtype(Dtype::Bfloat16).unwrap()),
    ]);
    let adapter = Adapter { tensors, ..Adapter::default() };
    for format in [Format::MlxLm, Format::MlxVlm] {
        let again = read(written(&adapter, format).path()).unwrap();
        same_changes(&again, &adapter);
        assert_eq!(again.fine_tune_type(), FineTuneType::Full);
    }
    let target = tempfile::tempdir().unwrap();
    let error = |adapter: &Adapter, format| adapter.write(target.path(), format, &Map::new()).unwrap_err().to_string();
    assert!(error(&adapter, Format::Peft).contains("whole tensors"));
    let both = Adapter { modules: lora().modules, ..adapter.clone() };
    assert!(error(&both, Format::MlxLm).contains("beside low-rank changes: lm_head.weight"));
    assert!(error(&Adapter::default(), Format::MlxLm).contains("changes nothing"));
    let mut halves = dora();
    halves.modules.get_mut(DOWN).unwrap().magnitude = None;
    assert!(error(&halves, Format::MlxLm).contains("of one kind"));
    halves.modules.insert(DOWN.into(), LowRank { b: numbers(&[4, 3], 1), ..change(4, 8, 2, 1.0, 1) });
    assert!(error(&halves, Format::Peft).contains(DOWN));
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn one_folder_is_written_again_and_again_but_not_with_two_formats() {
    let folder = written(&lora(), Format::MlxLm);
    fs::write(folder.path().join("0000100_adapters.safetensors"), "kept").unwrap();
    dora().write(folder.path(), Format::MlxVlm, &Map::new()).unwrap();
    same_changes(&read(folder.path()).unwrap(), &dora());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    let error = lora().write(folder.path(), Format::Peft, &Map::new()).unwrap_err().to_string();
    assert!(error.contains("adapters.safetensors; name another folder"), "{error}");
    let file = folder.path().join("adapters.safetensors");
    assert!(lora().write(&file, Format::MlxLm, &Map::new()).unwrap_err().to_string().contains("not a folder"));
}

#[test]
fn every_tensor_must_be_understood() {
    let extra = |name: &str, tensor: Array, change: fn(&mut Tensors)| {
        let mut tensors = mlx_tensors(&lora(), "lora_a", "lora_b");
        tensors.insert(name.into(), tensor);
        change(&mut tensors);
        folder(&mlx_lm_config(), "adapters.safetensors", &tensors)
    };
    let many = extra("x.weight", numbers(&[1], 1), |tensors| {
        tensors.extend((0..6).map(|i| (format!("{i}.lora_c"), numbers(&[1], 1))));
    });
    refuses(many.path(), "7 tensors not understood: 0.lora_c, 1.lora_c, 2.lora_c, 3.lora_c, 4.lora_c and 2 more");
    refuses(extra("x.lora_a", numbers(&[4, 2], 1), |_| ()).path(), "incomplete, B is missing of x");
    refuses(extra("x.lora_b", numbers(&[2, 4], 1), |_| ()).path(), "incomplete, A is missing of x");
    refuses(extra("x.m", numbers(&[4], 1), |_| ()).path(), "incomplete, A is missing of x");
    refuses(extra("x.lora_a", numbers(&[2, 4, 2], 1), |_| ()).path(), "x.lora_a: of the shape [2, 4, 2]");
    refuses(extra("x.A", numbers(&[4, 2], 1), |_| ()).path(), "x.A");
    let name = "model.layers.0.self_attn.qkv_proj.lora_b";
    refuses(extra(name, numbers(&[3, 6], 1), |_| ()).path(), &format!("{QKV}: A is of rank 2, B of rank 3"));
    refuses(extra(name, Array::from_slice(&[1i32; 12], &[2, 6]), |_| ()).path(), "of type Int32");
    let name = "model.layers.0.self_attn.qkv_proj.lora_a";
    refuses(extra(name, numbers(&[4, 3], 1), |_| ()).path(), &format!("{QKV} is of rank 3"));
    refuses(extra(name, numbers(&[0, 2], 1), |_| ()).path(), "are empty");
    refuses(extra("model.layers.0.self_attn.qkv_proj.m", numbers(&[6], 1), |_| ()).path(), "fine_tune_type");

    let mut tensors = peft_tensors(&lora());
    let folder = |tensors: &Tensors| self::folder(&peft_config(), "adapter_model.safetensors", tensors);
    for name in ["model.x.lora_A.weight", "base_model.model.x.lora_embedding_A", "base_model.model.x.lora_B.bias"] {
        tensors.insert(name.into(), numbers(&[4, 2], 1));
        refuses(folder(&tensors).path(), &format!("1 tensor not understood: {name}"));
        tensors.remove(name);
    }
    tensors.insert(format!("base_model.model.{QKV}.lora_magnitude_vector"), numbers(&[6], 1));
    refuses(folder(&tensors).path(), "use_dora false, and the tensors have magnitudes");
    tensors.insert(format!("base_model.model.{QKV}.lora_magnitude_vector.weight"), numbers(&[6], 1));
    refuses(folder(&tensors).path(), "under two names");
}

#[test]
fn what_a_configuration_asks_for_is_done_or_refused() {
    let peft = |key: &str, value: Value, expected: &str| {
        let folder = peft_folder();
        edit_json(&folder.path().join("adapter_config.json"), |config| config[key] = value);
        refuses(folder.path(), expected);
    };
    peft("peft_type", json!("LOHA"), "peft_type is LOHA; only LORA is read");
    peft("peft_type", json!(null), "peft_type is none");
    peft("bias", json!("all"), "bias is \"all\"");
    peft("use_dora", json!(true), "use_dora true");
    peft("fan_in_fan_out", json!(true), "fan_in_fan_out is true");
    peft("target_parameters", json!(["experts"]), "target_parameters");
    peft("trainable_token_indices", json!([1]), "trainable_token_indices");
    peft("init_lora_weights", json!("pissa_niter_4"), "init_lora_weights is pissa_niter_4");
    peft("r", json!(0), "adapter_config.json: r: ");
    peft("r", json!(-1), "adapter_config.json: r: ");
    peft("lora_alpha", json!(1e300), "out of range");
    peft("lora_alpha", json!("1"), "lora_alpha: ");

    let mlx = |change: fn(&mut Value), expected: &str| {
        let folder = mlx_lm_folder();
        edit_json(&folder.path().join("adapter_config.json"), change);
        refuses(folder.path(), expected);
    };
    mlx(|config| config["fine_tune_type"] = json!("dora"), "the fine_tune_type \"dora\", the tensors are \"lora\"");
    mlx(|config| config["fine_tune_type"] = json!("loha"), "fine_tune_type: unknown variant `loha`");
    mlx(|config| config["lora_parameters"]["rank"] = json!(0), "lora_parameters: rank: ");
    mlx(|config| config["lora_parameters"]["rank"] = json!(1.5), "lora_parameters: rank: ");
    mlx(|config| config["lora_parameters"]["rank"] = json!(3), "is of rank 2, but adapter_config.json has 3");
    mlx(|config| config["lora_parameters"]["scale"] = json!(null), "lora_parameters: scale: ");
    mlx(|config| *config = json!({}), "no known format");
    mlx(|config| *config = json!({ "rank": 2 }), "alpha");
    mlx(|config| *config = json!({ "rank": 2, "alpha": 1 }), "4 tensors not understood");
    mlx(|config| *config = json!([]), "adapter_config.json");
}

#[test]
fn damaged_and_missing_files_are_errors() {
    let folder = mlx_lm_folder();
    let (weights, config) = (folder.path().join("adapters.safetensors"), folder.path().join("adapter_config.json"));
    let whole = fs::read(&weights).unwrap();
    for length in [0, 7, 8, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&weights, &whole[..length]).unwrap();
        refuses(folder.path(), "adapters.safetensors");
    }
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    for shape in ["[4294967296,4294967296]", "[-1]", "[3000000000,1]", "[4,2]"] {
        let json = format!(r#"{{"x.lora_a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#);
        fs::write(&weights, [header(&json), vec![0; 4]].concat()).unwrap();
        refuses(folder.path(), "");
    }
    fs::write(&weights, header("{}")).unwrap();
    refuses(folder.path(), "");
    fs::remove_file(&weights).unwrap();
    refuses(folder.path(), "there is no adapters.safetensors");
    fs::write(&config, r#"{"lora_parameters":{"rank":NaN}}"#).unwrap();
    refuses(folder.path(), "adapter_config.json is not valid JSON");
    fs::remove_file(&config).unwrap();
    refuses(folder.path(), "has no adapter_config.json");
    refuses(&folder.path().join("absent"), "has no adapter_config.json");

    let folder = peft_folder();
    fs::rename(folder.path().join("adapter_model.safetensors"), folder.path().join("adapter_model.bin")).unwrap();
    refuses(folder.path(), "adapter_model.bin is a pickle");
}

#[test]
fn other_programs_names_become_the_models() {
    let known = |name: &str| [QKV, DOWN, "lm_head", "model.norm.weight"].contains(&name);
    let named = |names: [&str; 3]| {
        let changes = [change(6, 4, 2, 1.0, 1), change(4, 8, 2, 1.0, 2), change(4, 8, 2, 1.0, 3)];
        let modules = names.map(str::to_owned).into_iter().zip(changes).collect();
        Adapter { modules, tensors: [("language_model.model.norm.weight".into(), numbers(&[4], 1))].into(), ..lora() }
    };
    for names in [
        [QKV, DOWN, "lm_head"],
        [
            "language_model.model.layers.0.self_attn.qkv_proj",
            "model.language_model.layers.1.mlp.down_proj",
            "language_model.lm_head",
        ],
    ] {
        let mut adapter = named(names);
        adapter.rename(known).unwrap();
        assert_eq!(adapter.modules.keys().collect::<Vec<_>>(), ["lm_head", QKV, DOWN]);
        assert_eq!(adapter.get(DOWN).unwrap().b.shape(), [4, 2]);
        assert_eq!(adapter.tensors.keys().collect::<Vec<_>>(), ["model.norm.weight"]);
    }
    let mut adapter = named([QKV, "model.layers.9.mlp.up_proj", "0"]);
    let error = adapter.rename(known).unwrap_err().to_string();
    assert!(error.contains("does not have: 0, model.layers.9.mlp.up_proj"), "{error}");
    assert!(adapter.get("0").is_some());
    let mut adapter = named(["lm_head", DOWN, "language_model.lm_head"]);
    assert!(adapter.rename(known).unwrap_err().to_string().contains("changes lm_head twice"));
}

#[test]
fn changes_are_merged_into_weights() {
    let weight = Array::from_slice(&[1f32, 0.0, 0.0, 2.0], &[2, 2]);
    let (a, b) = (Array::from_slice(&[1f32, 2.0], &[1, 2]), Array::from_slice(&[4f32, 2.0], &[2, 1]));
    let lora = LowRank { a, b, scale: 0.5, magnitude: None };
    assert_eq!(lora.delta().unwrap().as_slice::<f32>(), [2.0, 4.0, 1.0, 2.0]);
    assert_eq!(lora.merged(&weight).unwrap().as_slice::<f32>(), [3.0, 4.0, 1.0, 4.0]);
    let dora = LowRank { magnitude: Some(Array::from_slice(&[10f32, 0.0], &[2])), ..lora.clone() };
    assert_eq!(dora.merged(&weight).unwrap().as_slice::<f32>(), [6.0, 8.0, 0.0, 0.0]);
    let nothing = LowRank { b: Array::zeros::<f32>(&[2, 1]).unwrap(), ..dora };
    let merged = nothing.merged(&Array::from_slice(&[0f32, 0.0, 0.0, 2.0], &[2, 2])).unwrap();
    assert_eq!(merged.as_slice::<f32>(), [0.0, 0.0, 0.0, 0.0]);
    let error = lora.merged(&numbers(&[2, 3], 1)).unwrap_err().to_string();
    assert!(error.contains("[2, 2] does not fit one of the shape [2, 3]"), "{error}");
}

#[test]
fn the_golden_adapter_is_read() {
    let adapter = read(&golden("phi3v-tiny/lora")).unwrap();
    assert_eq!(adapter.modules.len(), 6);
    let change = adapter.get("model.layers.2.self_attn.qkv_proj").unwrap();
    assert_eq!((change.a.shape(), change.b.shape(), change.scale), (&[4, 64][..], &[192, 4][..], 2.0));
    assert_eq!(adapter.about.base_model.as_deref(), Some("phi3v-tiny"));
    same_changes(&read(written(&adapter, Format::Peft).path()).unwrap(), &adapter);
}
