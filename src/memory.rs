//! Whether a model and what it is to do fit into memory, before anything is loaded.

use anyhow::{Result, bail};
use serde::Deserialize;
use sysinfo::System;

use crate::cache::{CacheSettings, CacheShape, KvPacking};
use crate::checkpoint::ModelFiles;
use crate::models::Arch;
use crate::processor::{Prompt, Tiles};

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

/// What a model takes, whatever it is asked.
#[derive(Debug, Clone, Copy)]
pub struct ModelMemory {
    /// Bytes of its tensors.
    pub weights: usize,
    /// What its caches hold.
    pub cache_shape: CacheShape,
    /// Bytes of a number of the hidden states, keys and values.
    pub item_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    vocab_size: usize,
}

/// What is asked of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand {
    /// Positions of the prompt.
    pub prompt_tokens: usize,
    /// Of these, positions of pictures.
    pub image_tokens: usize,
    /// Tiles of the largest picture, the view of the whole included.
    pub tiles: usize,
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
            image_tokens: prompt.images.iter().map(Tiles::image_tokens).sum(),
            tiles: prompt.images.iter().map(|tiles| tiles.rows * tiles.cols + 1).max().unwrap_or(0),
            max_tokens,
            ..Self::default()
        }
    }
}

impl ModelMemory {
    /// By the checkpoint's headers, with `weights` bytes of tensors and numbers of `item_size` bytes.
    pub fn of(files: &ModelFiles, weights: usize, item_size: usize) -> Result<Self> {
        #[derive(Deserialize)]
        struct Sizes {
            hidden_size: usize,
            intermediate_size: usize,
            vocab_size: usize,
        }
        let Sizes { hidden_size, intermediate_size, vocab_size } = files.parse()?;
        let cache_shape = (Arch::of(files)?.cache_shape)(files)?;
        Ok(Self { weights, cache_shape, item_size, hidden_size, intermediate_size, vocab_size })
    }

    /// Bytes of what is computed on the way: of the widest point of a layer, with what enters and leaves it; of CLIP-L's
    /// layers for all tiles of a picture; and logits.
    pub fn activations(&self, demand: &Demand) -> usize {
        let positions = demand.prompt_tokens.clamp(1, demand.prefill_step_size.max(1));
        let decoder = positions * (8 * self.hidden_size + 4 * self.intermediate_size) * self.item_size;
        let vision = demand.tiles * (577 * (8 * 1024 + 2 * 4096) * self.item_size + 4 * 3 * 336 * 336);
        decoder.max(vision) + 8 * self.vocab_size
    }

    fn cache(&self, demand: &Demand) -> usize {
        let len = demand.prompt_tokens.saturating_add(demand.max_tokens);
        self.cache_shape.bytes(len, demand.cache, self.item_size, demand.prefill_step_size)
    }

    fn total(&self, demand: &Demand) -> usize {
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
            return format!("--max-tokens {tokens} would fit");
        }
        for bits in [8, 4] {
            let unpacked = demand.cache.packing.is_none_or(|packing| packing.bits > bits);
            if let Some(group_size) = self.cache_shape.group_size().filter(|_| unpacked) {
                let packing = Some(KvPacking { bits, group_size, start: 0 });
                if fits(Demand { cache: CacheSettings { packing, ..demand.cache }, ..*demand }) {
                    return format!("--kv-bits {bits} would fit");
                }
            }
        }
        if let Some(tokens) = tokens {
            return format!("--max-tokens {tokens} would fit");
        }
        let text = demand.prompt_tokens - demand.image_tokens;
        let one_tile = Demand { prompt_tokens: text + demand.image_tokens.min(313), tiles: 2, ..*demand };
        if demand.tiles > 2 && fits(one_tile) {
            return "--num-crops 1 would fit, or something between".into();
        }
        if self.weights > available {
            return "a quantized model is smaller: phi3v convert -q".into();
        }
        "a shorter prompt or a quantized model (phi3v convert -q) takes less".into()
    }
}
