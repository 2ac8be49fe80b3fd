//! What is trained: which linear maps get an adapter, or which tensors change as a whole.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use mlx_rs::{Array, random};
use regex::Regex;
use serde::Serialize;

use crate::adapter::Adapter;
use crate::checkpoint::Weights;
use crate::checkpoint::low_rank::{LowRank, seed_of};
use crate::checkpoint::weights::Parts;

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
pub struct Group {
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

    /// Whether what an image becomes changes.
    pub fn trains_vision(&self) -> bool {
        self.tensors.iter().any(|(name, _)| name.starts_with(VISION))
    }

    /// Whether gradients go through the vision tower.
    pub fn trains_tower(&self) -> bool {
        self.tensors.iter().any(|(name, _)| name.starts_with(TOWER))
    }

    /// Numbers that go into all changed maps of the language model, for each position.
    pub fn adapted_widths(&self) -> usize {
        let modules = self.adapter.modules.iter().filter(|(path, _)| !path.starts_with(VISION));
        modules.map(|(_, module)| module.a.dim(1) as usize).sum()
    }

    /// The tensors in short.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut add = |path: &str, shape: Vec<i32>, parameters: usize| {
            let module: Vec<&str> =
                path.split('.').map(|part| if part.parse::<u32>().is_ok() { "*" } else { part }).collect();
            let module = module.join(".");
            match groups.iter_mut().find(|group| group.module == module && group.shape == shape) {
                Some(group) => {
                    group.count += 1;
                    group.parameters += parameters;
                }
                None => groups.push(Group { module, shape, count: 1, parameters }),
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

const LAYERS: &str = "model.layers.";
const VISION: &str = "model.vision_embed_tokens.";
const TOWER: &str = "model.vision_embed_tokens.img_processor.";

impl Scope {
    /// The linear maps that get an adapter, as `[output, input]`.
    pub fn linears(&self, parts: &Parts) -> Result<BTreeMap<String, [i32; 2]>> {
        let layers = parts.linears.keys().filter_map(|path| layer_of(path)).max().map_or(0, |last| last + 1);
        let chosen = parts.linears.iter().filter(|(path, _)| self.wants(path, layers, path.starts_with(LAYERS)));
        let chosen: BTreeMap<_, _> = chosen.map(|(path, &shape)| (path.clone(), shape)).collect();
        self.check(&chosen, parts.linears.keys(), layers)?;
        Ok(chosen)
    }

    /// The tensors that change as a whole.
    pub fn tensors(&self, parts: &Parts) -> Result<Vec<String>> {
        let layers = parts.linears.keys().filter_map(|path| layer_of(path)).max().map_or(0, |last| last + 1);
        // The last layers alone, where so many are asked for.
        let by_default =
            |name: &str| !name.starts_with(VISION) && (self.num_layers.is_none() || name.starts_with(LAYERS));
        let chosen = parts.params.keys().filter(|name| self.wants(name, layers, by_default(name)));
        let chosen: BTreeMap<_, _> = chosen.map(|name| (name.clone(), ())).collect();
        self.check(&chosen, parts.params.keys(), layers)?;
        for path in parts.linears.keys().filter(|path| self.wants(path, layers, by_default(path))) {
            ensure!(
                chosen.contains_key(&format!("{path}.weight")),
                "{path} is quantized and cannot be changed as a whole: take `fine_tune_type` lora, or a model that is not \
                 quantized"
            );
        }
        Ok(chosen.into_keys().collect())
    }

    fn wants(&self, path: &str, layers: usize, by_default: bool) -> bool {
        if self.freeze.as_ref().is_some_and(|freeze| freeze.is_match(path)) {
            return false;
        }
        let first = self.num_layers.map_or(0, |last| layers.saturating_sub(last));
        let wanted = match &self.target {
            Some(target) => target.is_match(path),
            None => by_default,
        };
        match path.starts_with(VISION) {
            true if path.starts_with(TOWER) => self.vision,
            true => self.projector,
            false => wanted && layer_of(path).is_none_or(|layer| layer >= first),
        }
    }

    fn check<'p, T>(
        &self,
        chosen: &BTreeMap<String, T>,
        all: impl Iterator<Item = &'p String>,
        layers: usize,
    ) -> Result<()> {
        if let Some(n) = self.num_layers.filter(|&n| n > layers) {
            bail!("`num_layers`: {n}, but the model has {layers}");
        }
        let all: Vec<_> = all.collect();
        let has_vision = all.iter().any(|path| path.starts_with(VISION));
        ensure!(has_vision || !self.projector, "`train_projector`: this model has no vision");
        ensure!(has_vision || !self.vision, "`train_vision`: this model has no vision");
        let unfound = |regex: &&Regex| !all.iter().any(|path| regex.is_match(path));
        for (flag, regex) in [("`target`", &self.target), ("`freeze`", &self.freeze)] {
            if let Some(regex) = regex.as_ref().filter(unfound) {
                bail!(
                    "{flag}: {:?} is found in no path of the model, such as {LAYERS}0.self_attn.o_proj",
                    regex.as_str()
                );
            }
        }
        ensure!(!chosen.is_empty(), "nothing is left to train: `target`, `num_layers` or `freeze` leave all as it is");
        Ok(())
    }
}

/// The layer of the language model that a path leads to.
fn layer_of(path: &str) -> Option<usize> {
    path.strip_prefix(LAYERS)?.split('.').next()?.parse().ok()
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
