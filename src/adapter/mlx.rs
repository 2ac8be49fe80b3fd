//! The folders of mlx-lm, mlx-vlm and Phi-3-Vision-MLX, which have a common ancestor: `adapters.safetensors` with
//! `PATH.lora_a` `[input, rank]`, `PATH.lora_b` `[rank, output]` and DoRA's `PATH.m`. They differ in what the scale is.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mlx_rs::Array;
use mlx_rs::ops::concatenate;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::folder::{Files, Layout, MLX_WEIGHTS, Part, Role, contents, number, read as read_tensors, scale};
use super::{About, Adapter, CONFIG, FineTuneType, Format};
use crate::checkpoint::json::parse;
use crate::checkpoint::low_rank::LowRank;

/// The keys of all of them.
#[derive(Deserialize)]
struct Config {
    fine_tune_type: Option<FineTuneType>,
    num_layers: Option<i64>,
    /// What mlx-lm and mlx-vlm call the model that is fine-tuned.
    model: Option<String>,
    /// What Phi-3-Vision-MLX and mlx-vlm's command call it.
    model_path: Option<String>,
    /// Of Phi-3-Vision-MLX, and of mlx-lm when that was made of it.
    lora_layers: Option<Value>,
    lora_parameters: Option<Value>,
    /// Of mlx-vlm's legacy format, which has no `lora_parameters`.
    rank: Option<NonZeroU32>,
}

#[derive(Deserialize)]
struct LoraParameters {
    rank: NonZeroU32,
    scale: f64,
    alpha: Option<f64>,
    dropout: Option<f32>,
}

#[derive(Deserialize)]
struct Legacy {
    rank: NonZeroU32,
    alpha: f64,
    dropout: Option<f32>,
}

pub(super) fn read(folder: &Path, value: &Value) -> Result<Adapter> {
    let config: Config = parse(value).context(CONFIG)?;
    let path = folder.join(MLX_WEIGHTS);
    ensure!(path.is_file(), "there is no {MLX_WEIGHTS}, which {CONFIG} belongs to");
    let mut adapter = Adapter::default();
    if config.fine_tune_type == Some(FineTuneType::Full) {
        let sorted = read_tensors(&path, Layout::Mlx, |name| Some(Role::Whole(name.to_owned())))?;
        adapter.tensors = sorted.tensors;
    } else {
        let (rank, scale, dropout) = settings(&config, value).context(CONFIG)?;
        let legacy = config.lora_parameters.is_none();
        let sorted = read_tensors(&path, Layout::Mlx, |name| role(name, legacy))?;
        adapter.modules = sorted.modules(|_| Ok((rank, scale)))?;
        adapter.about.dropout = dropout;
    }
    if let Some(stated) = config.fine_tune_type {
        let found = adapter.fine_tune_type();
        ensure!(stated == found, "{CONFIG} has the fine_tune_type {}, the tensors are {}", json!(stated), json!(found));
    }
    let About { base_model, num_layers, .. } = &mut adapter.about;
    *base_model = config.model.or(config.model_path);
    *num_layers = config.num_layers.or_else(|| config.lora_layers?.as_i64());
    Ok(adapter)
}

/// Rank, scale and dropout.
fn settings(config: &Config, value: &Value) -> Result<(u32, f32, f32)> {
    let Some(parameters) = &config.lora_parameters else {
        if config.rank.is_none() {
            bail!("no known format: it has neither lora_parameters (of mlx-lm), rank (of mlx-vlm) nor peft_type");
        }
        let Legacy { rank, alpha, dropout } = parse(value)?;
        return Ok((rank.get(), scale(alpha / f64::from(rank.get()))?, dropout.unwrap_or_default()));
    };
    let LoraParameters { rank, scale: factor, alpha, dropout } = parse(parameters).context("lora_parameters")?;
    let factor = match alpha {
        // Today's mlx-lm passes over alpha.
        Some(alpha) if config.lora_layers.is_some() => factor * alpha / f64::from(rank.get()),
        _ => factor,
    };
    Ok((rank.get(), scale(factor)?, dropout.unwrap_or_default()))
}

fn role(name: &str, legacy: bool) -> Option<Role> {
    let (path, part) = name.rsplit_once('.')?;
    let part = match (legacy, part) {
        (false, "lora_a") | (true, "A") => Part::A,
        (false, "lora_b") | (true, "B") => Part::B,
        (false, "m") => Part::Magnitude,
        _ => return None,
    };
    Some(Role::Part(path.to_owned(), part))
}

pub(super) fn files(adapter: &Adapter, format: Format) -> Result<Files> {
    ensure!(
        adapter.modules.is_empty() || adapter.tensors.is_empty(),
        "mlx-lm and mlx-vlm cannot hold whole tensors beside low-rank changes: {}",
        adapter.tensors.keys().next().map_or("", String::as_str)
    );
    // All of them, for both.
    let num_layers = adapter.about.num_layers.filter(|_| format == Format::MlxLm).unwrap_or(-1);
    let mut config = Map::new();
    config.insert("fine_tune_type".into(), json!(adapter.fine_tune_type()));
    config.insert("num_layers".into(), json!(num_layers));
    if let Some(model) = &adapter.about.base_model {
        config.insert("model".into(), json!(model));
    }
    let mut tensors = adapter.tensors.clone();
    if !adapter.modules.is_empty() {
        let scale = common_scale(&adapter.modules);
        let rank = adapter.modules.values().map(LowRank::rank).max().unwrap_or_default();
        for (path, change) in &adapter.modules {
            tensors.extend(parts(path, change, rank, scale)?);
        }
        // Of whole paths neither tool makes more than these, whatever num_layers is.
        config.insert(
            "lora_parameters".into(),
            json!({
                "dropout": number(adapter.about.dropout),
                "keys": adapter.modules.keys().collect::<Vec<_>>(),
                "rank": rank,
                "scale": number(scale),
            }),
        );
    }
    Ok(Files { weights: MLX_WEIGHTS, contents: contents(tensors, "mlx"), config })
}

/// The scale of all changes; 1 where they differ.
fn common_scale(modules: &BTreeMap<String, LowRank>) -> f32 {
    let first = modules.values().next().map_or(1.0, |change| change.scale);
    if modules.values().all(|change| change.scale == first) { first } else { 1.0 }
}

/// The tensors of one change at this rank and scale.
fn parts(path: &str, change: &LowRank, rank: i32, scale: f32) -> Result<Vec<(String, Array)>> {
    let mut b = change.b.t();
    if change.scale != scale {
        b = b.multiply(Array::from_f32(change.scale / scale))?;
    }
    let (input, output) = (change.a.dim(1), change.b.dim(0));
    let missing = rank - change.rank();
    let a = concatenate(&[change.a.t(), Array::zeros::<f32>(&[input, missing])?], 1)?;
    let b = concatenate(&[b, Array::zeros::<f32>(&[missing, output])?], 0)?;
    let mut parts = vec![(format!("{path}.lora_a"), a), (format!("{path}.lora_b"), b)];
    parts.extend(change.magnitude.iter().map(|m| (format!("{path}.m"), m.clone())));
    Ok(parts)
}
