//! Whether a model and what it is to do fit into memory, before anything is loaded.

use anyhow::{Result, bail};
use serde::Serialize;
use sysinfo::System;

use crate::cache::{CacheSettings, KvPacking};
use crate::checkpoint::ModelFiles;
use crate::models::{Arch, ModelDims, VisionDims};
use crate::processor::Prompt;

/// Bytes of memory that are free, or could be at once; of a container its own.
pub fn available() -> usize {
    let mut system = System::new();
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    usize::try_from(system.available_memory().min(limit)).unwrap_or(usize::MAX)
}

/// The most memory in bytes that the process had, weights in mapped files included; what MLX allocated where the system
/// does not tell.
pub fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.map_or_else(|| mlx_rs::memory::peak_memory().unwrap_or(0), |kilobytes: usize| 1024 * kilobytes)
}

/// Lets [`peak`] begin anew with what is in use now, where the system can: elsewhere the peak is that of the whole run.
pub fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let _ = mlx_rs::memory::reset_peak_memory();
}

/// What a model takes, whatever it is asked.
#[derive(Debug, Clone, Copy)]
pub struct ModelMemory {
    /// Bytes of its tensors.
    pub weights: usize,
    /// Its sizes.
    pub dims: ModelDims,
    /// Bytes of a number of the hidden states, keys and values.
    pub item_size: usize,
}

/// Numbers that a layer of the vision tower has for each position: what enters and leaves it, and its widest points.
fn widths(tower: &VisionDims) -> usize {
    8 * tower.hidden_size + 2 * tower.intermediate_size
}

/// What is asked of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand {
    /// Positions of the prompt.
    pub prompt_tokens: usize,
    /// Of these, positions of images.
    pub image_tokens: usize,
    /// Positions that the vision tower computes for the largest image.
    pub tower_positions: usize,
    /// Tokens of the answer.
    pub max_tokens: usize,
    /// Positions that are computed at once.
    pub prefill_step_size: usize,
    /// How keys and values are kept.
    pub cache: CacheSettings,
}

impl Demand {
    /// Of a prompt, and an answer of up to so many tokens.
    pub fn of(prompt: &Prompt, max_tokens: usize) -> Self {
        Self {
            prompt_tokens: prompt.len(),
            image_tokens: prompt.image_tokens(),
            tower_positions: prompt.tower_positions(),
            max_tokens,
            ..Self::default()
        }
    }
}

/// What a run of training asks of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrainingDemand {
    /// Positions of the largest batch.
    pub positions: usize,
    /// Its tokens that are to be predicted.
    pub targets: usize,
    /// Positions that the vision tower computes for its images.
    pub tower_positions: usize,
    /// Whether gradients go through the vision tower.
    pub trains_tower: bool,
    /// Numbers that are trained.
    pub trained: usize,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: usize,
    /// Numbers that go into changed linear maps, of all layers together, for each position.
    pub adapted_widths: usize,
    /// Whether only what enters the layers is kept.
    pub checkpoint: bool,
}

/// What it takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// The model's tensors.
    pub weights: usize,
    /// What is trained, in float32, with gradients and the optimizer's state.
    pub trained: usize,
    /// What is computed on the way.
    pub activations: usize,
}

impl TrainingMemory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights.saturating_add(self.trained).saturating_add(self.activations)
    }
}

impl ModelMemory {
    /// What training takes at its largest batch, estimated from the widths of a layer: what enters and leaves its maps is
    /// kept for the way back, what enters changed ones also in float32.
    pub fn training(&self, demand: &TrainingDemand) -> TrainingMemory {
        let layers = self.dims.cache.num_hidden_layers.max(1);
        let plain = (10 * self.dims.hidden_size + 5 * self.dims.intermediate_size) * self.item_size;
        let of_layers = demand.positions * (layers * plain + 4 * demand.adapted_widths);
        let entering = layers * demand.positions * self.dims.hidden_size * self.item_size;
        let at_once = if demand.checkpoint { demand.targets.min(256) } else { demand.targets };
        let logits = at_once * self.dims.vocab_size * (self.item_size + 3 * size_of::<f32>());
        let decoder = if demand.checkpoint { entering + 5 * of_layers / (2 * layers) } else { of_layers };
        let vision = self.dims.vision.map_or(0, |tower| {
            let kept_layers = if demand.trains_tower { tower.num_hidden_layers } else { 1 };
            demand.tower_positions * widths(&tower) * self.item_size * kept_layers
        });
        TrainingMemory {
            weights: self.weights,
            trained: 3 * size_of::<f32>() * demand.trained + demand.optimizer_bytes,
            activations: decoder + logits + vision,
        }
    }

    /// An error, with what would help, unless training fits into `available` bytes.
    pub fn check_training(&self, demand: &TrainingDemand, available: usize) -> Result<()> {
        let needed = self.training(demand).total();
        if needed <= available {
            return Ok(());
        }
        let fits = |demand: TrainingDemand| self.training(&demand).total() <= available;
        let help = if !demand.checkpoint && fits(TrainingDemand { checkpoint: true, ..*demand }) {
            "`grad_checkpoint` would fit"
        } else if self.weights > available {
            "a quantized model is smaller: phi3v convert -q"
        } else {
            "`grad_checkpoint`, a smaller `batch_size`, shorter rows or smaller images take less"
        };
        bail!(
            "training takes about {:.2} GB of memory, and {:.2} GB are free; {help}",
            needed as f64 / 1e9,
            available as f64 / 1e9
        )
    }

    /// By the checkpoint's headers, with `weights` bytes of tensors and numbers of `item_size` bytes.
    pub fn of(files: &ModelFiles, weights: usize, item_size: usize) -> Result<Self> {
        Ok(Self { weights, dims: (Arch::of(files)?.dims)(files)?, item_size })
    }

    /// Bytes of what is computed on the way: of the widest point of a layer, with what enters and leaves it; of the
    /// tower's for all tiles of an image; and logits.
    pub fn activations(&self, demand: &Demand) -> usize {
        let positions = demand.prompt_tokens.clamp(1, demand.prefill_step_size.max(1));
        let decoder = positions * (8 * self.dims.hidden_size + 4 * self.dims.intermediate_size) * self.item_size;
        let pixels = |tower: &VisionDims| size_of::<f32>() * tower.patch_len;
        let vision = self
            .dims
            .vision
            .map_or(0, |tower| demand.tower_positions * (widths(&tower) * self.item_size + pixels(&tower)));
        decoder.max(vision) + 8 * self.dims.vocab_size
    }

    /// Bytes of keys and values in the end.
    pub fn cache(&self, demand: &Demand) -> usize {
        let len = demand.prompt_tokens.saturating_add(demand.max_tokens);
        self.dims.cache.bytes(len, demand.cache, self.item_size, demand.prefill_step_size)
    }

    /// Bytes of all of it.
    pub fn total(&self, demand: &Demand) -> usize {
        self.weights.saturating_add(self.cache(demand)).saturating_add(self.activations(demand))
    }

    /// An error, with what would help, unless all fits into `available` bytes.
    pub fn check(&self, demand: &Demand, available: usize) -> Result<()> {
        if self.total(demand) <= available {
            return Ok(());
        }
        let gigabytes = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
        bail!(
            "this takes {} of memory ({} for weights, {} for keys and values of {} + {} positions, {} on the way), and {} \
             are free; {}",
            gigabytes(self.total(demand)),
            gigabytes(self.weights),
            gigabytes(self.cache(demand)),
            demand.prompt_tokens,
            demand.max_tokens,
            gigabytes(self.activations(demand)),
            gigabytes(available),
            self.what_helps(demand, available)
        )
    }

    /// The change that is felt least of those that suffice.
    fn what_helps(&self, demand: &Demand, available: usize) -> String {
        let fits = |changed: Demand| self.total(&changed) <= available;
        // A power of two is enough to know, and easy to type.
        let tokens = (4..20)
            .rev()
            .map(|power| 1 << power)
            .find(|&n| n < demand.max_tokens && fits(Demand { max_tokens: n, ..*demand }));
        if let Some(tokens) = tokens.filter(|&tokens| 4 * tokens >= demand.max_tokens) {
            return format!("`max_tokens` {tokens} would fit");
        }
        for bits in [8, 4] {
            let unpacked = demand.cache.packing.is_none_or(|packing| packing.bits > bits);
            if let Some(group_size) = self.dims.cache.group_size().filter(|_| unpacked) {
                let packing = Some(KvPacking { bits, group_size, start: 0 });
                if fits(Demand { cache: CacheSettings { packing, ..demand.cache }, ..*demand }) {
                    return format!("`kv_bits` {bits} would fit");
                }
            }
        }
        if let Some(tokens) = tokens {
            return format!("`max_tokens` {tokens} would fit");
        }
        let text = demand.prompt_tokens - demand.image_tokens;
        let without_images = Demand { prompt_tokens: text, image_tokens: 0, tower_positions: 0, ..*demand };
        if demand.image_tokens > 0 && fits(without_images) {
            return "smaller images would fit (`num_crops`, `max_pixels`)".into();
        }
        if self.weights > available {
            return "a quantized model is smaller: phi3v convert -q".into();
        }
        "a shorter prompt or a quantized model (phi3v convert -q) takes less".into()
    }
}
