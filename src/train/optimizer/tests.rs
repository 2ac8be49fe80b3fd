use std::path::Path;

use serde_json::Value;

use super::*;

const KINDS: [&str; 5] = ["adamw", "sgd", "adafactor", "lion", "muon"];

/// Five steps of each of a kind's cases, by the published formulas in float64.
struct Golden {
    rates: Vec<f32>,
    shapes: Vec<(String, Vec<i32>)>,
    parameters: Vec<Array>,
    gradients: Vec<Vec<Array>>,
    /// Settings, and the parameters after each step.
    cases: Vec<(Settings, Vec<Vec<Vec<f64>>>)>,
}

impl Golden {
    fn read(kind: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/optim/{kind}.json"));
        let record: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let get = |name: &str| record[name].clone();
        let shapes: BTreeMap<String, Vec<i32>> = serde_json::from_value(get("shapes")).unwrap();
        let numbers = |value: &Value| -> Vec<Vec<f64>> {
            shapes.keys().map(|name| serde_json::from_value(value[name].clone()).unwrap()).collect()
        };
        let arrays = |value: &Value| -> Vec<Array> {
            let to_array = |(numbers, shape): (Vec<f64>, &Vec<i32>)| {
                Array::from_slice(&numbers.iter().map(|&x| x as f32).collect::<Vec<_>>(), shape)
            };
            numbers(value).into_iter().zip(shapes.values()).map(to_array).collect()
        };
        let case = |case: &Value| {
            let steps = case["steps"].as_array().unwrap().iter().map(numbers).collect();
            (serde_json::from_value(case["settings"].clone()).unwrap(), steps)
        };
        Self {
            rates: serde_json::from_value(get("learning_rates")).unwrap(),
            parameters: arrays(&record["parameters"]),
            gradients: record["gradients"].as_array().unwrap().iter().map(arrays).collect(),
            cases: record["cases"].as_array().unwrap().iter().map(case).collect(),
            shapes: shapes.into_iter().collect(),
        }
    }
}

fn bits(arrays: &[Array]) -> Vec<Vec<u32>> {
    let bits = |array: &Array| array.as_slice::<f32>().iter().map(|x| x.to_bits()).collect();
    arrays.iter().map(bits).collect()
}

#[test]
fn five_steps_are_those_of_the_formulas() {
    for kind in KINDS {
        let golden = Golden::read(kind);
        for (settings, steps) in &golden.cases {
            let mut optimizer = Optimizer::new(settings.clone(), &golden.shapes).unwrap();
            let mut parameters = golden.parameters.clone();
            for ((gradients, &rate), expected) in golden.gradients.iter().zip(&golden.rates).zip(steps) {
                optimizer.step(&mut parameters, gradients, rate).unwrap();
                for ((parameter, expected), (name, _)) in parameters.iter().zip(expected).zip(&golden.shapes) {
                    let found = parameter.contiguous().unwrap();
                    for (&found, &expected) in found.as_slice::<f32>().iter().zip(expected) {
                        let error = (f64::from(found) - expected).abs() / expected.abs().max(FLOOR);
                        assert!(error < 1e-6, "{settings:?}: {name}: {found} for {expected}, off by {error:.1e}");
                    }
                }
            }
            assert_eq!(optimizer.steps(), 5);
        }
    }
}

/// Below it errors are not relative: a parameter near 0 is the difference of larger numbers.
const FLOOR: f64 = 0.5;

#[test]
fn a_restored_optimizer_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let golden = Golden::read(kind);
        for (settings, _) in &golden.cases {
            let run = |optimizer: &mut Optimizer, parameters: &mut [Array], steps: std::ops::Range<usize>| {
                for step in steps {
                    optimizer.step(parameters, &golden.gradients[step], golden.rates[step]).unwrap();
                }
            };
            let mut optimizer = Optimizer::new(settings.clone(), &golden.shapes).unwrap();
            let mut parameters = golden.parameters.clone();
            run(&mut optimizer, &mut parameters, 0..2);

            let path = folder.path().join("state.safetensors");
            Array::save_safetensors(optimizer.state(), None, &path).unwrap();
            let mut restored = Optimizer::new(settings.clone(), &golden.shapes).unwrap();
            restored.restore(Array::load_safetensors(&path).unwrap().into_iter().collect()).unwrap();
            std::fs::remove_file(&path).unwrap();
            let mut copies = parameters.iter().map(Array::deep_clone).collect::<Vec<_>>();

            run(&mut optimizer, &mut parameters, 2..5);
            run(&mut restored, &mut copies, 2..5);
            assert_eq!(bits(&parameters), bits(&copies), "{settings:?}");
            assert_eq!(restored.steps(), 5);
            let values = |optimizer: &Optimizer| {
                bits(&optimizer.parameters.iter().flat_map(|p| p.slots.clone()).collect::<Vec<_>>())
            };
            assert_eq!(values(&optimizer), values(&restored), "{settings:?}");
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
    let golden = Golden::read("adamw");
    let settings = || Settings::AdamW(AdamW::default());
    let mut trained = Optimizer::new(settings(), &golden.shapes).unwrap();
    trained.step(&mut golden.parameters.clone(), &golden.gradients[0], 0.1).unwrap();
    let refused = |state: BTreeMap<String, Array>, what: &str| {
        let mut optimizer = Optimizer::new(settings(), &golden.shapes).unwrap();
        let error = optimizer.restore(state).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(optimizer.steps(), 0);
        assert!(optimizer.parameters[0].slots[0].as_slice::<f32>().iter().all(|&x| x == 0.0));
    };
    let with = |key: &str, array: Array| {
        let mut state = trained.state();
        state.insert(key.into(), array);
        state
    };
    let without = |key: &str| {
        let mut state = trained.state();
        state.remove(key).unwrap();
        state
    };
    refused(without("adamw.m.wide"), "no adamw.m.wide");
    refused(without("adamw.step"), "no adamw.step");
    refused(with("adamw.m.other", Array::from_f32(0.0)), "adamw.m.other of the optimizer's state belongs to no");
    refused(
        with("adamw.v.wide", Array::zeros::<f32>(&[6, 3]).unwrap()),
        "adamw.v.wide of the optimizer's state is Float32 [6, 3]",
    );
    refused(with("adamw.v.wide", Array::zeros::<i32>(&[3, 6]).unwrap()), "Int32");
    let other = Optimizer::new(Settings::Lion(Lion::default()), &golden.shapes).unwrap();
    refused(other.state(), "no adamw.step");
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let shapes = [("weight".to_owned(), vec![2])];
    let mut optimizer = Optimizer::new(Settings::Sgd(Sgd::default()), &shapes).unwrap();
    let fitting = || [Array::from_slice(&[1.0f32, 2.0], &[2])];
    let mut refused = |parameters: &mut [Array], gradients: &[Array], what: &str| {
        let error = crate::one_line(&optimizer.step(parameters, gradients, 0.1).unwrap_err());
        assert!(error.contains(what), "{error}");
    };
    refused(&mut fitting(), &[], "1 parameters, and was given 0 gradients");
    refused(&mut fitting(), &[Array::from_f32(1.0)], "the gradient of weight: has shape []");
    let half = fitting()[0].as_dtype(Dtype::Float16).unwrap();
    refused(&mut [half], &fitting(), "the parameter of weight: is Float16");
}

#[test]
fn settings_without_sense_are_refused() {
    let refused = |settings: &str, what: &str| {
        let error = Optimizer::new(serde_json::from_str(settings).unwrap(), &[]).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(r#"{"kind": "adamw", "beta2": 1.0}"#, "beta2 is 1");
    refused(r#"{"kind": "sgd", "nesterov": true}"#, "nesterov needs a momentum");
    refused(r#"{"kind": "lion", "weight_decay": -0.1}"#, "weight_decay is -0.1");
    refused(r#"{"kind": "adafactor", "clip_threshold": 0.0}"#, "clip_threshold is 0");
    refused(r#"{"kind": "muon", "adamw": {"eps": -1.0}}"#, "eps is -1");
}

/// Rows of tables are one by one, and so are vectors' maps from pixels and to logits.
#[test]
fn muon_leaves_what_comes_first_and_last_to_adamw() {
    let slots = |name: &str| {
        let settings: Settings = serde_json::from_value(serde_json::json!({"kind": "muon"})).unwrap();
        let optimizer = Optimizer::new(settings, &[(name.to_owned(), vec![4, 2])]).unwrap();
        optimizer.state().len() - 1
    };
    assert_eq!(slots("model.layers.0.mlp.down_proj.weight"), 1);
    assert_eq!(slots("lm_head.lora_a"), 1);
    let outer = ["model.embed_tokens", "embeddings.position_embedding", "embeddings.patch_embedding", "lm_head"];
    for outer in outer.map(|name| format!("{name}.weight")) {
        assert_eq!(slots(&outer), 2, "{outer}");
    }
}

#[test]
fn the_state_takes_as_much_as_is_told() {
    for kind in KINDS {
        let golden = Golden::read(kind);
        for (settings, _) in golden.cases {
            let told: usize = golden.shapes.iter().map(|(path, shape)| settings.state_bytes(path, shape)).sum();
            let state = Optimizer::new(settings.clone(), &golden.shapes).unwrap().state();
            let steps = size_of::<u32>();
            assert_eq!(told + steps, state.values().map(Array::nbytes).sum::<usize>(), "{settings:?}");
        }
    }
}
