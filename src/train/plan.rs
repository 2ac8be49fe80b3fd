//! What is trained: which linear maps get an adapter, or which tensors change as a whole.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use mlx_rs::{Array, random};
use regex::Regex;
use serde::Serialize;

use crate::adapter::Adapter;
use crate::checkpoint::Weights;
use crate::checkpoint::low_rank::{LowRank, seed_of};
use crate::checkpoint::weights::Parts;
use crate::models::{Group, GroupOf};

/// What is to be trained.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Only the last layers of the language model; none for all.
    pub num_layers: Option<usize>,
    /// Of the language model only modules whose paths this finds something in; none for attention and MLPs, or for all of
    /// it where its own tensors are changed.
    pub target: Option<Regex>,
    /// And what makes images' features vectors of the language model.
    pub projector: bool,
    /// And the vision tower.
    pub vision: bool,
    /// But no module or tensor in whose path this finds something.
    pub freeze: Option<Regex>,
}

/// What a run trains, known before anything is loaded.
#[derive(Debug, Clone)]
pub struct Plan {
    /// With what is trained of it: its low-rank changes, or whole tensors.
    pub adapter: Adapter,
    /// Names and shapes of the tensors.
    pub tensors: Vec<(String, Vec<i32>)>,
}

/// Some of a plan's tensors: those that are alike, layer by layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SimilarTensors {
    /// The path of the module or the name of the tensor, with `*` for the layers.
    pub module: String,
    /// Its shape, `[output, input]` of a linear map.
    pub shape: Vec<i32>,
    /// How many there are.
    pub count: usize,
    /// Numbers in them that are trained.
    pub parameters: usize,
}

impl Plan {
    /// Of adapters for these linear maps, which change nothing yet.
    pub fn low_rank(
        linears: &BTreeMap<String, [i32; 2]>,
        settings: LoraSettings,
        dora: bool,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self::of(new_adapter(linears, settings, dora, seed)?))
    }

    /// Of an adapter that was trained before.
    pub fn of(adapter: Adapter) -> Self {
        let mut tensors = Vec::new();
        for (path, module) in &adapter.modules {
            tensors.push((format!("{path}.lora_a"), module.a.shape().to_vec()));
            tensors.push((format!("{path}.lora_b"), module.b.shape().to_vec()));
            if module.magnitude.is_some() {
                tensors.push((format!("{path}.m"), vec![module.b.dim(0)]));
            }
        }
        tensors.extend(adapter.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())));
        Self { adapter, tensors }
    }

    /// Of the model's own tensors; `weights` are the model's, as it is going to compute.
    pub fn full(names: &[String], weights: &Weights) -> Result<Self> {
        let mut adapter = Adapter::default();
        for name in names {
            // Never computed: it says the shape and the type to save.
            let spec = weights.spec(name)?;
            adapter.tensors.insert(name.clone(), Array::zeros::<f32>(&spec.shape)?.as_dtype(spec.dtype)?);
        }
        Ok(Self::of(adapter))
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(|(_, shape)| count(shape)).sum()
    }

    /// An error that names the first tensor that belongs to no part of the model: no gradient would reach it.
    pub fn check(&self, group: GroupOf) -> Result<()> {
        self.tensors.iter().try_for_each(|(name, _)| Group::of(group, name).map(drop))
    }

    fn trains(&self, group: GroupOf, groups: &[Group]) -> bool {
        self.tensors.iter().any(|(name, _)| group(name).is_some_and(|group| groups.contains(&group)))
    }

    /// Whether the vectors of images change.
    pub fn trains_vision(&self, group: GroupOf) -> bool {
        self.trains(group, &[Group::Vision, Group::PatchEmbedding, Group::Projector])
    }

    /// Whether gradients go through the vision tower.
    pub fn trains_tower(&self, group: GroupOf) -> bool {
        self.trains(group, &[Group::Vision, Group::PatchEmbedding])
    }

    /// Numbers that go into all changed maps of the language part, for each position.
    pub fn adapted_widths(&self, group: GroupOf) -> usize {
        let modules = self.adapter.modules.iter().filter(|(path, _)| group(path).is_some_and(Group::is_text));
        modules.map(|(_, module)| module.a.dim(1) as usize).sum()
    }

    /// The tensors in short.
    pub fn similar(&self) -> Vec<SimilarTensors> {
        let mut groups: Vec<SimilarTensors> = Vec::new();
        let mut add = |path: &str, shape: Vec<i32>, parameters: usize| {
            let module: Vec<&str> =
                path.split('.').map(|part| if part.parse::<u32>().is_ok() { "*" } else { part }).collect();
            let module = module.join(".");
            match groups.iter_mut().find(|group| group.module == module && group.shape == shape) {
                Some(group) => {
                    group.count += 1;
                    group.parameters += parameters;
                }
                None => groups.push(SimilarTensors { module, shape, count: 1, parameters }),
            }
        };
        for (path, module) in &self.adapter.modules {
            let (output, rank, input) = (module.b.dim(0), module.rank(), module.a.dim(1));
            let of_magnitude = if module.magnitude.is_some() { output } else { 0 };
            add(path, vec![output, input], (rank * (output + input) + of_magnitude) as usize);
        }
        for (name, tensor) in &self.adapter.tensors {
            add(name, tensor.shape().to_vec(), tensor.size());
        }
        groups
    }
}

fn count(shape: &[i32]) -> usize {
    shape.iter().map(|&dim| dim as usize).product()
}

/// The shape of new adapters.
#[derive(Debug, Clone, Copy)]
pub struct LoraSettings {
    /// How many numbers the changes of a map go through.
    pub rank: i32,
    /// The changes are multiplied with `alpha / rank`.
    pub alpha: f32,
    /// Or with `alpha / √rank` (Kalajdzievski 2023).
    pub rslora: bool,
}

impl LoraSettings {
    /// What changes are multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

impl Scope {
    /// The linear maps that get an adapter, as `[output, input]`.
    pub fn linears(&self, parts: &Parts, group: GroupOf) -> Result<BTreeMap<String, [i32; 2]>> {
        let all = groups(parts.linears.keys(), group)?;
        let chosen =
            all.iter().filter(|(path, group)| self.wants(path, **group, &all, matches!(group, Group::Layer(_))));
        let chosen: BTreeMap<_, _> = chosen.map(|(&path, _)| (path.clone(), parts.linears[path])).collect();
        self.check(chosen.is_empty(), &all)?;
        Ok(chosen)
    }

    /// The tensors that change as a whole.
    pub fn tensors(&self, parts: &Parts, group: GroupOf) -> Result<Vec<String>> {
        let all = groups(parts.params.keys(), group)?;
        // The last layers alone, where so many are asked for.
        let by_default =
            |group: Group| group.is_text() && (self.num_layers.is_none() || matches!(group, Group::Layer(_)));
        let chosen = all.iter().filter(|(name, group)| self.wants(name, **group, &all, by_default(**group)));
        let chosen: BTreeSet<&String> = chosen.map(|(&name, _)| name).collect();
        self.check(chosen.is_empty(), &all)?;
        let linears = groups(parts.linears.keys(), group)?;
        for (path, _) in linears.iter().filter(|(path, group)| self.wants(path, **group, &all, by_default(**group))) {
            ensure!(
                chosen.contains(&format!("{path}.weight")),
                "{path} is quantized and cannot be changed as a whole: take `fine_tune_type` lora, or a model that is not \
                 quantized"
            );
        }
        Ok(chosen.into_iter().cloned().collect())
    }

    fn wants(&self, path: &str, group: Group, all: &BTreeMap<&String, Group>, by_default: bool) -> bool {
        if self.freeze.as_ref().is_some_and(|freeze| freeze.is_match(path)) {
            return false;
        }
        let first = self.num_layers.map_or(0, |last| layers(all).saturating_sub(last));
        let wanted = self.target.as_ref().map_or(by_default, |target| target.is_match(path));
        match group {
            Group::Vision | Group::PatchEmbedding => self.vision,
            Group::Projector => self.projector,
            Group::Layer(layer) => wanted && layer >= first,
            Group::Embedding | Group::FinalNorm | Group::Head => wanted,
        }
    }

    fn check(&self, nothing: bool, all: &BTreeMap<&String, Group>) -> Result<()> {
        let layers = layers(all);
        if let Some(n) = self.num_layers.filter(|&n| n > layers) {
            bail!("`num_layers`: {n}, but the model has {layers}");
        }
        let has_vision = all.values().any(|group| !group.is_text());
        ensure!(has_vision || !self.projector, "`train_projector`: this model has no vision");
        ensure!(has_vision || !self.vision, "`train_vision`: this model has no vision");
        let unfound = |regex: &&Regex| !all.keys().any(|path| regex.is_match(path));
        for (setting, regex) in [("target", &self.target), ("freeze", &self.freeze)] {
            if let Some(regex) = regex.as_ref().filter(unfound) {
                let example = all.keys().find(|path| path.contains("self_attn")).map_or("", |path| path);
                bail!("`{setting}`: {:?} is found in no path of the model, such as {example}", regex.as_str());
            }
        }
        ensure!(!nothing, "nothing is left to train: `target`, `num_layers` or `freeze` leave all as it is");
        Ok(())
    }
}

/// Paths with their groups; an error that names the first that has none.
fn groups<'p>(paths: impl Iterator<Item = &'p String>, group: GroupOf) -> Result<BTreeMap<&'p String, Group>> {
    paths.map(|path| Ok((path, Group::of(group, path)?))).collect()
}

/// How many decoder layers there are.
fn layers(all: &BTreeMap<&String, Group>) -> usize {
    let layer = |group: &Group| if let Group::Layer(layer) = group { layer + 1 } else { 0 };
    all.values().map(layer).max().unwrap_or(0)
}

/// An adapter that changes nothing yet: `A` is uniform between ±1/√input as in mlx-lm, `B` zero. The same seed makes the
/// same adapter.
fn new_adapter(linears: &BTreeMap<String, [i32; 2]>, settings: LoraSettings, dora: bool, seed: u64) -> Result<Adapter> {
    let mut adapter = Adapter::default();
    for (path, &[output, input]) in linears {
        let rank = settings.rank;
        ensure!(
            rank <= output.min(input),
            "`rank`: {rank} is more than {path} of {output} × {input} can have; {} or less is expected",
            output.min(input)
        );
        let bound = (input as f32).powf(-0.5);
        let key = random::key(seed_of(seed, path))?;
        let low_rank = LowRank {
            a: random::uniform::<_, f32>(-bound, bound, &[rank, input], &key)?,
            b: Array::zeros::<f32>(&[output, rank])?,
            scale: settings.scale(),
            // The norms of the matrix's rows, when it is loaded.
            magnitude: dora.then(|| Array::zeros::<f32>(&[0])).transpose()?,
        };
        adapter.modules.insert(path.clone(), low_rank);
    }
    Ok(adapter)
}
