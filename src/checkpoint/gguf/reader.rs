//! The pieces of a GGUF header, each checked to lie within the file.

use std::ops::Range;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::format::Format;

/// One tensor as the file describes it.
pub(super) struct Tensor {
    pub name: String,
    pub format: Format,
    /// Rows first: the file's order is the reverse.
    pub shape: Vec<i32>,
    /// Where it lies in the file.
    pub bytes: Range<usize>,
}

/// What a key of the metadata holds. Texts and lists stay in the file.
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(Range<usize>),
    List { kind: u32, len: usize, bytes: Range<usize> },
}

// The kinds of values, as the file numbers them.
pub(super) const INT32: u32 = 5;
pub(super) const FLOAT32: u32 = 6;
pub(super) const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A place in the file's bytes.
pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Reader<'_> {
    /// The next `len` bytes.
    fn take(&mut self, len: u64) -> Result<Range<usize>> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let end = end.filter(|&end| end <= self.bytes.len()).ok_or_else(|| {
            anyhow!("{len} bytes at byte {} are more than the file has: it is damaged or incomplete", self.at)
        })?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let range = self.take(N as u64)?;
        Ok(self.bytes[range].try_into()?)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A text, checked to be UTF-8.
    pub(super) fn text(&mut self) -> Result<Range<usize>> {
        let len = self.u64()?;
        let range = self.take(len)?;
        ensure!(
            std::str::from_utf8(&self.bytes[range.clone()]).is_ok(),
            "the text at byte {} is not UTF-8",
            range.start
        );
        Ok(range)
    }

    /// A key or a tensor's name, which errors show.
    pub(super) fn name(&mut self) -> Result<String> {
        let range = self.text()?;
        let name = std::str::from_utf8(&self.bytes[range.clone()])?;
        ensure!(name.len() <= 256 && !name.contains(char::is_control), "the name at byte {} is none", range.start);
        Ok(name.to_owned())
    }

    pub(super) fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(self.array::<1>()?[0].into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(u32::from_le_bytes(self.array()?).into()),
            INT32 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            FLOAT32 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            STRING => Value::Text(self.text()?),
            ARRAY => self.list()?,
            10 => Value::Integer(u64::from_le_bytes(self.array()?).into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => bail!("its kind of value, {kind}, is unknown"),
        })
    }

    fn list(&mut self) -> Result<Value> {
        let (kind, len) = (self.u32()?, self.u64()?);
        let start = self.at;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=FLOAT32 => 4,
            10..=12 => 8,
            STRING => 0,
            ARRAY => bail!("a list of lists is not supported"),
            _ => bail!("its kind of value, {kind}, is unknown"),
        };
        if kind == STRING {
            for _ in 0..len {
                self.text()?;
            }
        } else {
            self.take(len.saturating_mul(size))?;
        }
        // As many elements as bytes at most, so the count fits.
        Ok(Value::List { kind, len: len as usize, bytes: start..self.at })
    }

    /// A tensor whose bytes are counted from the start of the data, wherever that is.
    pub(super) fn tensor(&mut self) -> Result<Tensor> {
        let name = self.name()?;
        let dims = self.u32()?;
        ensure!((1..=4).contains(&dims), "{name} has {dims} dimensions, where 1 to 4 are possible");
        let mut shape = Vec::new();
        for _ in 0..dims {
            let dim = self.u64()?;
            shape.insert(0, i32::try_from(dim).with_context(|| format!("{name} has a dimension of {dim}"))?);
        }
        let format = Format::numbered(self.u32()?).with_context(|| name.clone())?;
        let start = usize::try_from(self.u64()?)?;
        let (values, bytes) = format.block();
        let row = *shape.last().expect("one dimension at least") as usize;
        ensure!(row.is_multiple_of(values), "{name}: rows of {row} are no whole blocks of {}", format.name());
        let count = shape.iter().try_fold(1i32, |n, &dim| n.checked_mul(dim));
        let count = count.with_context(|| format!("{name} has the shape {shape:?}, too large for MLX"))?;
        let end = start
            .checked_add(count as usize / values * bytes)
            .with_context(|| format!("{name} lies outside the file"))?;
        Ok(Tensor { name, format, shape, bytes: start..end })
    }
}
