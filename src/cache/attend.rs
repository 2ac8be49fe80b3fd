//! Attention of sequences over their caches.

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::{NewAxis, TryIndexOp};

use super::block::{Block, Stored};
use crate::device::on_cpu;
use crate::nn::{Mask, Scores, attention, merge_heads, probabilities};

/// Attention of each row of a ragged batch over its own cache. Queries are `[1, heads, n of all rows, head_dim]`, the
/// result is `[1, n of all rows, heads · head_dim]`; a row's last query stands at the last position of its blocks.
pub fn cached_attention(queries: &Array, rows: &[(usize, &[Block])], scores: Scores, mask: Mask) -> Result<Array> {
    if on_cpu() {
        let rows: Vec<_> = rows
            .iter()
            .map(|(n, blocks)| mlx_cpu::CachedRow { queries: *n, blocks: blocks.iter().map(Block::for_cpu).collect() })
            .collect();
        return mlx_cpu::cached_attention(queries, &rows, scores, mask);
    }
    let mut parts = Vec::new();
    let mut start = 0;
    for (n, blocks) in rows {
        let end = start + *n as i32;
        let queries = queries.try_index((.., .., start..end, ..))?;
        parts.push(if blocks.iter().any(Block::is_packed) {
            over_blocks(&queries, blocks, scores, mask)?
        } else {
            let all = |part: fn(&Block) -> &Stored| -> Result<Array> {
                let used = blocks.iter().map(|block| part(block).first(block.len())?.plain());
                concatenate(&used.collect::<Result<Vec<_>>>()?, 1)?.try_index(NewAxis)
            };
            attention(&queries, &all(|block| &block.keys)?, &all(|block| &block.values)?, scores, mask)?
        });
        start = end;
    }
    concatenate(&parts, 1)
}

/// Attention over one cache, whose packed blocks are never unpacked: queries `[1, heads, n, head_dim]` to
/// `[1, n, heads · head_dim]`.
fn over_blocks(queries: &Array, blocks: &[Block], scores: Scores, mask: Mask) -> Result<Array> {
    let &[_, heads, n, head_dim] = queries.shape() else { unreachable!("attention has four axes") };
    let kv_heads = blocks[0].kv_heads();
    let rows = queries.reshape(&[kv_heads, heads / kv_heads * n, head_dim])?;
    let products = blocks.iter().map(|block| block.keys.first(block.len())?.scores(&rows));
    let products = concatenate(&products.collect::<Result<Vec<_>>>()?, -1)?; // [kv_heads, rows, total]
    let probabilities = probabilities(&products, n, scores, mask)?;
    let mut sums: Option<Array> = None;
    let mut start = 0;
    for block in blocks {
        let end = start + block.len() as i32;
        let part = block.values.first(block.len())?.weighted(&probabilities.try_index((.., .., start..end))?)?;
        sums = Some(match sums {
            Some(sums) => sums.add(part)?,
            None => part,
        });
        start = end;
    }
    let sums = sums.ok_or_else(|| Exception::custom("a cache without blocks"))?;
    merge_heads(&sums.reshape(&[1, heads, n, head_dim])?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::random::normal;

    use super::*;
    use crate::cache::{Cache, CacheSettings, KvPacking};
    use crate::nn::RopeFactors;

    /// What is for GPUs agrees with the CPU's kernel.
    #[test]
    fn packed_blocks_are_attended_without_unpacking() {
        let random = |heads: i32, n: i32| normal::<f32>(&[heads, n, 32], None, None, None).unwrap();
        let window = Mask::Window { sinks: 4, window: 100 };
        for (mask, softcap) in [(Mask::Causal, None), (window, None), (window, Some(0.8))] {
            let scores = Scores { scale: 0.2, softcap };
            let packing = Some(KvPacking { bits: 8, group_size: 32, start: 40 });
            let mut cache = Cache::new(1, RopeFactors::Short, CacheSettings { packing, ..CacheSettings::default() });
            for n in [300, 7] {
                cache.append(0, &random(2, n), &random(2, n)).unwrap();
                cache.advance(n as usize, |_| (0, None));
            }
            let queries = random(4, 7).reshape(&[1, 4, 7, 32]).unwrap();
            let generic = over_blocks(&queries, cache.blocks(0), scores, mask).unwrap();
            let kernel = cached_attention(&queries, &[(7, cache.blocks(0))], scores, mask).unwrap();
            let difference = generic.subtract(&kernel).unwrap().abs().unwrap().max(None).unwrap();
            assert!(difference.item_exact::<f32>() < 1e-4, "{mask:?} {softcap:?}: {difference}");
        }
    }
}
