//! The folder of Hugging Face's PEFT: `adapter_model.safetensors` with `base_model.model.PATH.lora_A.weight`
//! `[rank, input]`, `lora_B.weight` `[output, rank]` and DoRA's `lora_magnitude_vector`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::folder::{Files, Layout, PEFT_WEIGHTS, Part, Role, contents, number, read as read_tensors, scale};
use super::{About, Adapter, CONFIG, FineTuneType};
use crate::checkpoint::json::parse;
use crate::checkpoint::low_rank::LowRank;

/// What PEFT puts before the names of the model.
const PREFIX: &str = "base_model.model.";

/// Layers that PEFT saves whole without being told, when their size or themselves are trained.
const EMBEDDINGS: [&str; 2] = ["embed_tokens", "lm_head"];

#[derive(Deserialize)]
struct Config {
    r: NonZeroU32,
    lora_alpha: f64,
    lora_dropout: Option<f32>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    base_model_name_or_path: Option<String>,
    modules_to_save: Option<Vec<String>>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
}

pub(super) fn read(folder: &Path, value: &Value) -> Result<Adapter> {
    refuse(value).context(CONFIG)?;
    let config: Config = parse(value).context(CONFIG)?;
    let path = folder.join(PEFT_WEIGHTS);
    if !path.is_file() && folder.join("adapter_model.bin").is_file() {
        bail!("adapter_model.bin is a pickle, which could run anything; save it with PEFT's safe_serialization=True");
    }
    ensure!(path.is_file(), "there is no {PEFT_WEIGHTS}, which {CONFIG} belongs to");
    let saved = config.modules_to_save.as_deref().unwrap_or_default();
    let mut sorted = read_tensors(&path, Layout::Torch, |name| role(name, saved))?;
    let settings = Settings::new(&config).context(CONFIG)?;
    let tensors = std::mem::take(&mut sorted.tensors);
    let about = About {
        base_model: config.base_model_name_or_path,
        dropout: config.lora_dropout.unwrap_or_default(),
        num_layers: None,
    };
    let adapter = Adapter { modules: sorted.modules(|path| settings.of(path))?, tensors, about };
    ensure!(!adapter.modules.is_empty(), "{PEFT_WEIGHTS} has no lora_A and lora_B");
    let (stated, found) = (config.use_dora.unwrap_or_default(), adapter.fine_tune_type() == FineTuneType::Dora);
    let have = if found { "have" } else { "have no" };
    ensure!(stated == found, "{CONFIG} has use_dora {stated}, and the tensors {have} magnitudes");
    Ok(adapter)
}

/// Keys of what trains the model's own weights, too, or computes something else.
const UNSUPPORTED: [&str; 13] = [
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "megatron_config",
];

/// Ways to begin that leave the model's weights as they are.
const INITIAL: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Refuses what is neither LoRA nor DoRA of linear maps.
fn refuse(config: &Value) -> Result<()> {
    let get = |key: &str| config.get(key).filter(|value| !value.is_null());
    let peft_type = get("peft_type").and_then(Value::as_str).unwrap_or("none");
    ensure!(peft_type == "LORA", "peft_type is {peft_type}; only LORA is read");
    if let Some(bias) = get("bias").filter(|&bias| bias != "none") {
        bail!("bias is {bias}: trained biases are not read, only none");
    }
    let off = [json!(false), json!([]), json!({})];
    let asked = |key: &&str| get(key).filter(|value| !off.contains(value)).map(|value| format!("{key} is {value}"));
    if let Some(asked) = UNSUPPORTED.iter().find_map(asked) {
        bail!("{asked}, which is not supported; merge the adapter into the model with PEFT");
    }
    let method = get("init_lora_weights").and_then(Value::as_str);
    if let Some(method) = method.filter(|method| !INITIAL.contains(method)) {
        bail!("init_lora_weights is {method}, which changed the model's weights, too; convert the adapter with PEFT");
    }
    Ok(())
}

fn role(name: &str, modules_to_save: &[String]) -> Option<Role> {
    let name = name.strip_prefix(PREFIX)?;
    let parts = [
        (".lora_A.weight", Part::A),
        (".lora_B.weight", Part::B),
        (".lora_magnitude_vector", Part::Magnitude),
        (".lora_magnitude_vector.weight", Part::Magnitude),
    ];
    for (suffix, part) in parts {
        if let Some(path) = name.strip_suffix(suffix) {
            return Some(Role::Part(path.to_owned(), part));
        }
    }
    if name.contains(".lora_") {
        return None;
    }
    // The layer itself, which PEFT saves beside a change of the embeddings or the head.
    let whole = name.replace(".base_layer.", ".");
    let is_saved = |module: &str| {
        let mut saved = modules_to_save.iter().map(String::as_str).chain(EMBEDDINGS);
        saved.any(|name| module.ends_with(name))
    };
    let found = whole.match_indices('.').any(|(end, _)| is_saved(&whole[..end]));
    found.then_some(Role::Whole(whole))
}

/// Rank and α of every path, as PEFT finds them.
struct Settings {
    rank: u32,
    alpha: f64,
    ranks: Vec<(Regex, u32)>,
    alphas: Vec<(Regex, f64)>,
    use_rslora: bool,
}

impl Settings {
    fn new(config: &Config) -> Result<Self> {
        let ranks = patterns::<NonZeroU32>(config.rank_pattern.as_ref()).context("rank_pattern")?;
        Ok(Self {
            rank: config.r.get(),
            alpha: config.lora_alpha,
            ranks: ranks.into_iter().map(|(path, rank)| (path, rank.get())).collect(),
            alphas: patterns(config.alpha_pattern.as_ref()).context("alpha_pattern")?,
            use_rslora: config.use_rslora.unwrap_or_default(),
        })
    }

    /// Rank and scale.
    fn of(&self, path: &str) -> Result<(u32, f32)> {
        let rank = first_match(&self.ranks, path).unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, path).unwrap_or(self.alpha);
        let divisor = if self.use_rslora { f64::from(rank).sqrt() } else { f64::from(rank) };
        Ok((rank, scale(alpha / divisor)?))
    }
}

/// Values by what PEFT takes for regular expressions of the ends of paths, in the order in which they are tried.
fn patterns<T: DeserializeOwned>(map: Option<&Map<String, Value>>) -> Result<Vec<(Regex, T)>> {
    let compile = |(key, value): (&String, &Value)| {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .map_err(|_| anyhow!("{key:?} is no regular expression that is understood here"))?;
        Ok((regex, parse(value).with_context(|| key.clone())?))
    };
    map.into_iter().flatten().map(compile).collect()
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], path: &str) -> Option<T> {
    patterns.iter().find(|(regex, _)| regex.is_match(path)).map(|&(_, value)| value)
}

pub(super) fn files(adapter: &Adapter) -> Result<Files> {
    ensure!(!adapter.modules.is_empty(), "PEFT cannot hold whole tensors alone; mlx-lm's format can");
    let ranks = adapter.modules.iter().map(|(path, change)| (path, change.rank()));
    let alphas = adapter.modules.iter().map(|(path, change)| (path, change.scale * change.rank() as f32));
    let (r, rank_pattern) = with_exceptions(ranks.map(|(path, rank)| (path, json!(rank))));
    let (alpha, alpha_pattern) = with_exceptions(alphas.map(|(path, alpha)| (path, number(alpha))));
    let config = json!({
        "alpha_pattern": alpha_pattern,
        "base_model_name_or_path": adapter.about.base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": number(adapter.about.dropout),
        "modules_to_save": modules_to_save(adapter),
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": rank_pattern,
        "target_modules": adapter.modules.keys().collect::<Vec<_>>(),
        "task_type": "CAUSAL_LM",
        "use_dora": adapter.fine_tune_type() == FineTuneType::Dora,
        "use_rslora": false,
    });
    let config = config.as_object().cloned().unwrap_or_default();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in &adapter.tensors {
        tensors.insert(format!("{PREFIX}{name}"), tensor.clone());
    }
    for (path, LowRank { a, b, magnitude, .. }) in &adapter.modules {
        tensors.insert(format!("{PREFIX}{path}.lora_A.weight"), a.clone());
        tensors.insert(format!("{PREFIX}{path}.lora_B.weight"), b.clone());
        tensors.extend(magnitude.iter().map(|m| (format!("{PREFIX}{path}.lora_magnitude_vector"), m.clone())));
    }
    Ok(Files { weights: PEFT_WEIGHTS, contents: contents(tensors, "pt"), config })
}

/// The most frequent value, and which paths have another: longer paths first, as PEFT takes the first that is an end of
/// the path in question.
fn with_exceptions<'a>(values: impl Iterator<Item = (&'a String, Value)> + Clone) -> (Value, Map<String, Value>) {
    let mut counts: Vec<(Value, usize)> = Vec::new();
    for (_, value) in values.clone() {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let most = counts.into_iter().max_by_key(|&(_, count)| count).map(|(value, _)| value).unwrap_or_default();
    let mut others: Vec<(&String, Value)> = values.filter(|(_, value)| *value != most).collect();
    others.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    (most, others.into_iter().map(|(path, value)| (path.clone(), value)).collect())
}

/// The modules of the whole tensors.
fn modules_to_save(adapter: &Adapter) -> Option<BTreeSet<&str>> {
    let modules: BTreeSet<&str> =
        adapter.tensors.keys().map(|name| name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module)).collect();
    (!modules.is_empty()).then_some(modules)
}
