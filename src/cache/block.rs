//! Room for the keys and values of some positions of one layer.

use mlx_quantized::{Mode, Packed};
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{matmul, zeros_dtype};
use mlx_rs::{Array, Dtype};

use super::{BLOCK, KvPacking};
use crate::device::on_cpu;

/// Keys and values of consecutive positions, `[num_key_value_heads, capacity, head_dim]`, of which the first `len` count.
#[derive(Clone)]
pub struct Block {
    pub(crate) keys: Stored,
    pub(crate) values: Stored,
    len: usize,
    capacity: usize,
}

/// Vectors as computed, or packed.
#[derive(Clone)]
pub(crate) enum Stored {
    Plain(Array),
    Packed(Packed),
}

impl Stored {
    /// Room for vectors like `like` `[heads, n, head_dim]`.
    fn room(like: &Array, packing: Option<KvPacking>) -> Result<Self> {
        let shape = [like.dim(0), BLOCK as i32, like.dim(2)];
        let Some(KvPacking { bits, group_size, .. }) = packing else {
            return Ok(Self::Plain(zeros_dtype(&shape, like.dtype())?));
        };
        let [heads, positions, head_dim] = shape;
        let scales = || zeros_dtype(&[heads, positions, head_dim / group_size], like.dtype());
        Ok(Self::Packed(Packed {
            weight: zeros_dtype(&[heads, positions, head_dim * bits / 32], Dtype::Uint32)?,
            scales: scales()?,
            biases: Some(scales()?),
            group_size,
            bits,
            mode: Mode::Affine,
        }))
    }

    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        let (plain, packed) = match self {
            Self::Plain(array) => (Some(array), None),
            Self::Packed(packed) => (None, Some(packed)),
        };
        let parts = packed.into_iter().flat_map(|p| [&p.weight, &p.scales].into_iter().chain(&p.biases));
        plain.into_iter().chain(parts)
    }

    fn for_cpu(&self) -> mlx_cpu::Weight<'_> {
        match self {
            Self::Plain(array) => mlx_cpu::Weight::Dense(array),
            Self::Packed(packed) => mlx_cpu::Weight::Packed(packed),
        }
    }

    /// The first `len` vectors.
    pub(crate) fn first(&self, len: usize) -> Result<Self> {
        let first = |array: &Array| array.try_index((.., ..len as i32, ..));
        Ok(match self {
            Self::Plain(array) => Self::Plain(first(array)?),
            Self::Packed(packed) => Self::Packed(packed.map_rows(first)?),
        })
    }

    /// The vectors `[heads, n, head_dim]`, which must not be packed.
    pub(crate) fn plain(self) -> Result<Array> {
        match self {
            Self::Plain(array) => Ok(array),
            Self::Packed(_) => Err(Exception::custom("these keys and values are packed")),
        }
    }

    /// The products of `rows` `[heads, m, head_dim]` with each vector, `[heads, m, n]`.
    pub(crate) fn scores(&self, rows: &Array) -> Result<Array> {
        match self {
            Self::Plain(array) => matmul(rows, array.swap_axes(1, 2)?),
            Self::Packed(packed) => packed.matmul(rows),
        }
    }

    /// The vectors' sums by `shares` `[heads, m, n]`: `[heads, m, head_dim]`.
    pub(crate) fn weighted(&self, shares: &Array) -> Result<Array> {
        match self {
            Self::Plain(array) => matmul(shares, array),
            Self::Packed(packed) => packed.weighted_rows(shares),
        }
    }

    /// Puts `vectors` `[heads, n, head_dim]` at `position`.
    fn write(&mut self, position: i32, vectors: &Array) -> Result<()> {
        let range = position..position + vectors.dim(1);
        match self {
            Self::Plain(array) => array.try_index_mut((.., range, ..), vectors),
            Self::Packed(room) => {
                let new = quantize(vectors, room.group_size, room.bits)?;
                room.weight.try_index_mut((.., range.clone(), ..), new.weight)?;
                room.scales.try_index_mut((.., range.clone(), ..), new.scales)?;
                match (&mut room.biases, new.biases) {
                    (Some(biases), Some(new)) => biases.try_index_mut((.., range, ..), new),
                    _ => Ok(()),
                }
            }
        }
    }
}

fn quantize(vectors: &Array, group_size: i32, bits: i32) -> Result<Packed> {
    if on_cpu() {
        return mlx_cpu::quantize(vectors, group_size, bits, Mode::Affine);
    }
    Packed::quantize(vectors, group_size, bits, Mode::Affine)
}

impl Block {
    /// Room for keys and values like these `[heads, n, head_dim]`.
    pub(super) fn new(keys: &Array, values: &Array, packing: Option<KvPacking>) -> Result<Self> {
        let room = |like| Stored::room(like, packing);
        Ok(Self { keys: room(keys)?, values: room(values)?, len: 0, capacity: BLOCK })
    }

    /// `num_key_value_heads`
    pub(crate) fn kv_heads(&self) -> i32 {
        self.keys.arrays().next().map_or(0, |array| array.dim(0))
    }

    /// Whether its vectors are packed.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self.keys, Stored::Packed(_))
    }

    /// Positions that count.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position counts.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block as `mlx-cpu` takes it.
    pub(crate) fn for_cpu(&self) -> mlx_cpu::Block<'_> {
        mlx_cpu::Block { keys: self.keys.for_cpu(), values: self.values.for_cpu(), len: self.len }
    }

    /// The arrays behind the block.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.arrays().chain(self.values.arrays())
    }

    /// Whether there is room for more, in this form.
    pub(super) fn takes(&self, packed: bool) -> bool {
        self.len < self.capacity && self.is_packed() == packed
    }

    /// Appends the positions from `start` of keys and values `[heads, n, head_dim]`, `most` or as many as there is room
    /// for; how many that were.
    pub(super) fn push(&mut self, keys: &Array, values: &Array, start: usize, most: usize) -> Result<usize> {
        let n = most.min(self.capacity - self.len);
        let new = |from: &Array| match (start, n as i32 == from.dim(1)) {
            (0, true) => Ok(from.clone()),
            _ => from.try_index((.., start as i32..(start + n) as i32, ..)),
        };
        let (keys, values) = (new(keys)?, new(values)?);
        self.keys.write(self.len as i32, &keys)?;
        self.values.write(self.len as i32, &values)?;
        self.len += n;
        Ok(n)
    }

    /// Takes the last `n` positions back.
    pub(super) fn shorten(&mut self, n: usize) {
        self.len -= n;
    }

    /// Nothing is written to this block any more.
    pub(super) fn close(&mut self) {
        self.capacity = self.len;
    }

    /// A block of these arrays, to which nothing is added.
    pub(super) fn restored(keys: Stored, values: Stored, len: usize) -> Self {
        Self { keys, values, len, capacity: len }
    }
}
