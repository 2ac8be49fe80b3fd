//! What a model has to do, counted before it is loaded: the numbers behind shares of what the machine can do.

use anyhow::Result;
use mlx_mmap::item_size;
use serde::Deserialize;

use crate::cache::{CacheSettings, CacheShape};
use crate::checkpoint::conversion::{Conversion, Settings};
use crate::checkpoint::quantize::Role;
use crate::checkpoint::{ModelFiles, Weights};
use crate::memory::ModelMemory;
use crate::models::{self, Arch};

/// What is known of a model by its headers.
pub struct Facts {
    /// Its configuration.
    pub files: ModelFiles,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// What it takes.
    pub memory: ModelMemory,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// Sequences longer than this are read with other rotary factors.
    pub rope_boundary: Option<usize>,
    /// Ids that there are.
    pub vocab_size: u32,
    /// What is computed and read.
    pub work: Work,
}

/// What the language model computes and reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Operations for each position in linear maps, but for the map to logits: two for each number of a matrix.
    pub linear_flops: f64,
    /// Operations for the logits of one position.
    pub logits_flops: f64,
    /// Operations of attention for each position and each that it looks back on: q · k and p · v take two for each number
    /// of each head in each layer.
    pub attention_flops: f64,
    /// Bytes of all tensors that a step reads: those of the language model, without an embedding table of which a row is
    /// read.
    pub weight_bytes: usize,
    /// Keys and values of a position.
    cache_shape: CacheShape,
    item_size: usize,
}

impl Facts {
    /// Of a checkpoint, whose `weights` are not read.
    pub fn of(files: &ModelFiles, weights: Weights) -> Result<Self> {
        #[derive(Deserialize)]
        struct Sizes {
            vocab_size: u32,
            hidden_size: usize,
            num_attention_heads: usize,
        }
        let sizes: Sizes = files.parse()?;
        let arch = Arch::of(files)?;
        let parameters = Conversion::new(files, &weights, &Settings::default())?.sizes.parameters;
        let item_size = item_size(weights.float_dtype());
        let memory = ModelMemory::of(files, weights.bytes_in_memory(), item_size)?;
        let tied = weights.bytes_of(|name| name.starts_with("lm_head.")) == 0;
        let is_read =
            |name: &str| (arch.role)(name) == Role::Text && (tied || !name.starts_with("model.embed_tokens."));
        let weight_bytes = weights.bytes_of(is_read);
        let (model, parts) = models::build_with_parts(files, weights.skeleton())?;
        let text = parts.linears.iter().filter(|(path, _)| (arch.role)(path) == Role::Text && *path != "lm_head");
        let numbers: f64 = text.map(|(_, [output, input])| f64::from(*output) * f64::from(*input)).sum();
        let shape = memory.cache_shape;
        let attention = shape.num_hidden_layers * sizes.num_attention_heads * shape.head_dim;
        let work = Work {
            linear_flops: 2.0 * numbers,
            logits_flops: 2.0 * f64::from(sizes.vocab_size) * sizes.hidden_size as f64,
            attention_flops: 4.0 * attention as f64,
            weight_bytes,
            cache_shape: shape,
            item_size,
        };
        Ok(Self {
            files: files.clone(),
            parameters,
            memory,
            max_position_embeddings: model.max_position_embeddings(),
            rope_boundary: model.rope_boundary(),
            vocab_size: sizes.vocab_size,
            work,
        })
    }
}

impl Work {
    /// Operations for `n` positions that follow `depth` others, and the logits of the last one.
    pub fn prefill_flops(&self, n: usize, depth: usize) -> f64 {
        let (n, depth) = (n as f64, depth as f64);
        let seen = n * depth + n * (n + 1.0) / 2.0;
        n * self.linear_flops + self.logits_flops + seen * self.attention_flops
    }

    /// Bytes that a step reads in which each row gets one token and looks back on so many positions, on average.
    pub fn step_bytes(&self, rows: usize, positions: f64, settings: CacheSettings) -> f64 {
        let plain = settings.packing.map_or(positions, |packing| positions.min(packing.start as f64));
        let bytes = |packing| self.cache_shape.position_bytes(packing, self.item_size) as f64;
        let of_row = plain * bytes(None) + (positions - plain) * bytes(settings.packing);
        self.weight_bytes as f64 + rows as f64 * of_row
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_quantized::Mode;

    use super::*;
    use crate::bench::shape::Shape;
    use crate::cache::KvPacking;
    use crate::checkpoint::config::QuantizedAs;

    fn facts(shape: &Shape) -> Facts {
        Facts::of(&shape.files, shape.weights(None, |_| unreachable!("nothing is read")).unwrap()).unwrap()
    }

    #[test]
    fn operations_and_bytes_of_phi_3_5_mini() {
        let plain = facts(&Shape::find("phi-3.5-mini", None).unwrap());
        let work = plain.work;
        // 32 layers of 3072 × (3 · 3072 + 3072 + 3 · 8192) numbers, and 32064 × 3072 for logits.
        assert_eq!(work.linear_flops, 2.0 * 32.0 * 3072.0 * 36_864.0);
        assert_eq!(work.logits_flops, 2.0 * 32_064.0 * 3072.0);
        assert!((work.linear_flops + work.logits_flops - 7.4e9).abs() < 0.05e9);
        assert_eq!(work.attention_flops, 4.0 * 32.0 * 3072.0);
        // Two positions after three others look back on four and five.
        let expected = 2.0 * work.linear_flops + work.logits_flops + 9.0 * work.attention_flops;
        assert_eq!(work.prefill_flops(2, 3), expected);
        // All but the table of embeddings.
        assert_eq!(work.weight_bytes as u64, 2 * (plain.parameters - 32_064 * 3072));
        // 393,216 bytes of keys and values a position: twice 32 layers of 3072 numbers of two bytes.
        let bytes = |settings| work.step_bytes(2, 10.0, settings) - work.weight_bytes as f64;
        assert_eq!(bytes(CacheSettings::default()), 2.0 * 10.0 * 393_216.0);
        let packing = Some(KvPacking { bits: 8, group_size: 32, start: 4 });
        let packed = 196_608.0 * (1.0 + 4.0 / 32.0);
        assert_eq!(bytes(CacheSettings { packing, max_size: None }), 2.0 * (4.0 * 393_216.0 + 6.0 * packed));
    }

    #[test]
    fn what_sees_is_not_counted_and_packed_matrices_are_counted_as_packed() {
        let packing = QuantizedAs::new(Mode::Affine, Some(4), Some(64)).unwrap();
        let [mini, vision] = ["phi-3.5-mini", "phi-3.5-vision"]
            .map(|name| facts(&Shape::find(name, None).unwrap().quantized(packing).unwrap()));
        assert_eq!(mini.work, vision.work);
        assert_eq!((mini.parameters, vision.parameters), (3_821_079_552, 4_146_621_440));
        // 4.5 bits a number, and norms of 16.
        let matrices = mini.parameters - 65 * 3072 - 32_064 * 3072;
        assert_eq!(mini.work.weight_bytes as u64, matrices * 9 / 16 + 65 * 3072 * 2);
    }

    #[test]
    fn a_table_that_serves_twice_is_read() {
        let tied = facts(&Shape::find("smollm2-135m", None).unwrap());
        assert_eq!(tied.work.weight_bytes as u64, 2 * tied.parameters);
        assert_eq!(tied.work.logits_flops, 2.0 * 49_152.0 * 576.0);
    }
}
