//! The front door for caches of keys and values that are kept in blocks.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};

use super::sequence::{Heads, Sequence, Stored};
use super::{Attention, Mask, Scores};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::{Format, Weight, current_level, is_float};
use crate::view::{View, ViewMut};

/// A part of a sequence's cache: the first `len` positions of arrays that may have room for more.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// `[kv_heads, capacity, head_dim]`, packed or of the queries' type.
    pub keys: Weight<'a>,
    /// As the keys, but for the capacity and the form, which may be others.
    pub values: Weight<'a>,
    /// Positions in use.
    pub len: usize,
}

/// A sequence of a ragged batch.
#[derive(Debug, Clone)]
pub struct CachedRow<'a> {
    /// How many of the queries are this row's. The last of them stands at the last key.
    pub queries: usize,
    /// The cache, whose keys follow one another; as many as there are queries, at least.
    pub blocks: Vec<Block<'a>>,
}

/// [`attention`](super::attention) of sequences whose numbers of queries and of keys differ: queries
/// `[1, heads, n, head_dim]`, those of the first row first, to `[1, n, heads · head_dim]`. `mask` counts the keys of a row
/// through all its blocks.
///
/// In float32 a query's result is that of [`attention`](super::attention) on all keys of its row in one array, to the bit,
/// whatever other queries and rows there are and wherever blocks end. With 16-bit queries, packed keys and values are read
/// as they are for up to four queries of a row, and rounded to the type of the queries for more.
///
/// Not differentiable.
///
/// # Errors
/// When shapes or types do not fit, or the soft cap is not positive.
pub fn cached_attention(queries: &Array, rows: &[CachedRow], scores: Scores, mask: Mask) -> Result<Array> {
    cached_attention_at(current_level()?, queries, rows, scores, mask)
}

pub(crate) fn cached_attention_at(
    level: Level,
    queries: &Array,
    rows: &[CachedRow],
    scores: Scores,
    mask: Mask,
) -> Result<Array> {
    scores.check()?;
    let &[1, heads, n, head_dim] = queries.shape() else {
        return Err(misfit(queries, "it takes [1, heads, n, head_dim]"));
    };
    let kv_heads = kv_heads(queries, rows)?;
    let all: usize = rows.iter().map(|row| row.queries).sum();
    if all != n as usize {
        return Err(misfit(queries, &format!("the rows have {all} queries")));
    }
    let plan = |row: &CachedRow| Row {
        queries: row.queries,
        blocks: row.blocks.iter().map(|block| (block.len, block.keys.format(), block.values.format())).collect(),
    };
    let kernel =
        Cached { attention: Attention { scores, mask, level }, kv_heads, rows: rows.iter().map(plan).collect() };
    let blocks = rows.iter().flat_map(|row| &row.blocks);
    let arrays = blocks.flat_map(|block| [block.keys, block.values]).flat_map(Weight::arrays);
    let inputs: Vec<&Array> = std::iter::once(queries).chain(arrays).collect();
    ffi::apply_one(kernel, &inputs, &[1, n, heads * head_dim], queries.dtype())
}

fn misfit(queries: &Array, why: &str) -> Exception {
    Exception::custom(format!("cached attention does not take {:?} {:?}: {why}", queries.shape(), queries.dtype()))
}

/// Key heads of all blocks, which fit one another and the queries.
fn kv_heads(queries: &Array, rows: &[CachedRow]) -> Result<usize> {
    let (heads, head_dim) = (queries.dim(1), queries.dim(3));
    let mut all = None;
    for (index, row) in rows.iter().enumerate() {
        for &Block { keys, values, len } in &row.blocks {
            for matrix in [keys, values] {
                let fits = matrix.shapes().is_some_and(|(outer, capacity, columns)| {
                    let &[kv_heads] = outer else { return false };
                    let own_type = matches!(matrix, Weight::Packed(_))
                        || matrix.arrays().iter().all(|array| array.dtype() == queries.dtype());
                    own_type
                        && len <= capacity as usize
                        && columns == head_dim
                        && *all.get_or_insert(kv_heads) == kv_heads
                });
                if !fits {
                    return Err(misfit(queries, &format!("row {index} has a block of {len} in {matrix:?}")));
                }
            }
        }
        let total: usize = row.blocks.iter().map(|block| block.len).sum();
        if total < row.queries {
            return Err(misfit(queries, &format!("row {index} has {} queries and {total} keys", row.queries)));
        }
    }
    // Without keys there are no queries.
    let kv_heads = all.unwrap_or(heads.max(1));
    if kv_heads < 1 || heads % kv_heads != 0 || head_dim < 1 || !is_float(queries.dtype()) {
        return Err(misfit(queries, &format!("there are {kv_heads} key heads")));
    }
    Ok(kv_heads as usize)
}

/// Inputs: the queries; then, of each block of each row, the arrays of its keys and of its values.
struct Cached {
    attention: Attention,
    kv_heads: usize,
    rows: Vec<Row>,
}

/// A row without its arrays.
struct Row {
    queries: usize,
    /// Length, and forms of keys and values.
    blocks: Vec<(usize, Format, Format)>,
}

impl Kernel for Cached {
    const NAME: &'static CStr = c"cached_attention";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let (queries, mut arrays) = inputs.split_first().expect("the queries are the first input");
        let heads = Heads { heads: queries.dim(1), kv_heads: self.kv_heads, head_dim: queries.dim(3) };
        let mut take = |format: Format| {
            let (own, rest) = arrays.split_at(format.num_arrays());
            arrays = rest;
            (format, own)
        };
        let mut first = 0;
        let mut sequences = Vec::with_capacity(self.rows.len());
        for Row { queries: n, blocks } in &self.rows {
            let blocks =
                blocks.iter().map(|&(len, keys, values)| Stored { len, keys: take(keys), values: take(values) });
            let blocks: Vec<Stored> = blocks.collect();
            let total = blocks.iter().map(|block| block.len).sum();
            let head_rows = queries.dim(2);
            sequences.push(Sequence { n: *n, total, first_row: first, head_rows, first_position: first, blocks });
            first += n;
        }
        self.attention.compute(heads, queries, sequences, &mut outputs[0]);
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("attention over a cache has no gradient: train without a cache"))
    }
}
