//! What a model has to do, counted before it is loaded: the numbers behind shares of what the machine can do.

use std::ops::Range;

use anyhow::Result;
use mlx_mmap::item_size;
use mlx_rs::Dtype;

use crate::cache::{CacheSettings, CacheShape};
use crate::checkpoint::{ModelFiles, Weights};
use crate::convert::pass::{Conversion, Settings};
use crate::memory::ModelMemory;
use crate::models::{self, Arch, Group};
use crate::processor::images::ImageProcessor;

/// What is known of a model by its headers.
pub struct Facts {
    /// Its configuration.
    pub files: ModelFiles,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// The type of its numbers that are not packed, in which it computes.
    pub dtype: Dtype,
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
    /// The image processor of a vision model.
    pub images: Option<Box<dyn ImageProcessor>>,
}

/// What the language model computes and reads.
#[derive(Debug, Clone, PartialEq)]
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
    /// How many positions each layer attends to, its own included; none for all.
    pub windows: Vec<Option<usize>>,
    /// Keys and values of a position.
    cache_shape: CacheShape,
    item_size: usize,
}

impl Facts {
    /// Of a checkpoint, whose `weights` are not read.
    pub fn of(files: &ModelFiles, weights: Weights) -> Result<Self> {
        let arch = Arch::of(files)?;
        let parameters = Conversion::new(files, &weights, &Settings::default())?.sizes.parameters;
        let dtype = weights.float_dtype();
        let item_size = item_size(dtype);
        let memory = ModelMemory::of(files, weights.bytes_in_memory(), item_size)?;
        let group = |name: &str| (arch.group)(name);
        let tied = weights.bytes_of(|name| name.contains("lm_head.")) == 0;
        let is_read = |name: &str| match group(name) {
            Some(Group::Embedding) => tied,
            Some(group) => group.is_text(),
            None => false,
        };
        let weight_bytes = weights.bytes_of(is_read);
        let (model, parts) = models::build_with_parts(files, weights.skeleton())?;
        let text = parts.linears.iter().filter(|(path, _)| matches!(group(path), Some(Group::Layer(_))));
        let numbers: f64 = text.map(|(_, [output, input])| f64::from(*output) * f64::from(*input)).sum();
        let dims = memory.dims;
        let shape = dims.cache;
        let attention = shape.num_hidden_layers * dims.num_attention_heads * shape.head_dim;
        let work = Work {
            linear_flops: 2.0 * numbers,
            logits_flops: 2.0 * dims.vocab_size as f64 * dims.hidden_size as f64,
            attention_flops: 4.0 * attention as f64,
            weight_bytes,
            windows: model.text.windows(),
            cache_shape: shape,
            item_size,
        };
        Ok(Self {
            files: files.clone(),
            parameters,
            dtype,
            memory,
            max_position_embeddings: model.text.max_position_embeddings(),
            rope_boundary: model.text.rope_boundary(),
            vocab_size: dims.vocab_size as u32,
            work,
            images: arch.images.map(|images| images(files)).transpose()?,
        })
    }
}

impl Work {
    /// Operations for `n` positions that follow `depth` others, and the logits of the last one.
    pub fn prefill_flops(&self, n: usize, depth: usize) -> f64 {
        n as f64 * self.linear_flops + self.logits_flops + self.attended(depth..depth + n) * self.attention_flops
    }

    /// Bytes that `tokens` steps read in which each of the rows gets one token, after `depth` positions. Packed keys and
    /// values are packed from the first one on.
    pub fn decode_bytes(&self, rows: usize, tokens: usize, depth: usize, settings: CacheSettings) -> f64 {
        let of_position = self.cache_shape.position_bytes(settings.packing, self.item_size);
        tokens as f64 * self.weight_bytes as f64
            + rows as f64 * self.attended(depth..depth + tokens) * of_position as f64
    }

    /// Positions that these attend to, all together; the mean of the layers.
    fn attended(&self, positions: Range<usize>) -> f64 {
        let of_layer = |window: &Option<usize>| {
            let window = window.unwrap_or(usize::MAX);
            positions.clone().map(|position| (position + 1).min(window) as f64).sum::<f64>()
        };
        self.windows.iter().map(of_layer).sum::<f64>() / self.windows.len().max(1) as f64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use mlx_quantized::Mode;

    use super::*;
    use crate::bench::shape::Shape;
    use crate::cache::KvPacking;
    use crate::checkpoint::quantization::QuantizedAs;

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
        // Two tokens of two rows after eight positions look back on nine and ten.
        let bytes = |settings| work.decode_bytes(2, 2, 8, settings) - 2.0 * work.weight_bytes as f64;
        assert_eq!(bytes(CacheSettings::default()), 2.0 * 19.0 * 393_216.0);
        let packing = Some(KvPacking { bits: 8, group_size: 32, start: 0 });
        let packed = 196_608.0 * (1.0 + 4.0 / 32.0);
        assert_eq!(bytes(CacheSettings { packing, max_size: None }), 2.0 * 19.0 * packed);
    }

    #[test]
    fn positions_outside_of_a_window_are_not_counted() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text/mistral");
        let files = ModelFiles::read(&folder).unwrap();
        let work = Facts::of(&files, models::weights(&files, None).unwrap()).unwrap().work;
        assert_eq!(work.windows, [Some(16); 2]);
        // 14 + 1, 15 + 1, and twice what the window has.
        let attention = work.prefill_flops(4, 14) - 4.0 * work.linear_flops - work.logits_flops;
        assert_eq!(attention, (15.0 + 3.0 * 16.0) * work.attention_flops);
        // Keys and values of two layers with two heads of 24 numbers of two bytes.
        let bytes = work.decode_bytes(3, 2, 400, CacheSettings::default()) - 2.0 * work.weight_bytes as f64;
        assert_eq!(bytes, 3.0 * 2.0 * 16.0 * (2.0 * 2.0 * 2.0 * 24.0 * 2.0));
    }

    #[test]
    fn what_sees_is_not_counted_and_packed_matrices_are_counted_as_packed() {
        let packing = QuantizedAs::new(Mode::Affine, Some(4), Some(64)).unwrap();
        let [mini, vision] = ["phi-3.5-mini", "phi-3.5-vision"]
            .map(|name| facts(&Shape::find(name, None).unwrap().quantized(packing).unwrap().0));
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
