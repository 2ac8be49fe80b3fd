//! MLX arrays from ranges of a memory-mapped file.
//!
//! MLX keeps array data in memory that it allocated itself, so a range is copied once, straight from the page cache, and
//! its pages are given back at once. Reading a file of arrays thus takes the memory of the arrays and no more.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};
use mlx_rs::{Array, Dtype};

/// A file mapped into memory for reading.
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole file. Nobody may shorten it meanwhile: reading pages that are gone ends the process, as with every
    /// memory map.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: as with every memory map, another process could change the bytes under us. They are read as numbers
        // and as text that is checked, never through a pointer that they contain.
        Ok(Self { map: unsafe { Mmap::map(&file)? } })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The bytes `range` of the file as a row-major array of the file's byte order (little endian).
    ///
    /// # Errors
    /// When the range lies outside the file or is not as long as the shape needs.
    pub fn array(&self, range: Range<usize>, shape: &[i32], dtype: Dtype) -> io::Result<Array> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("bytes {range:?}: {what}"));
        let bytes = self
            .map
            .get(range.clone())
            .ok_or_else(|| invalid(&format!("outside the file of {} bytes", self.map.len())))?;
        let size = shape.iter().try_fold(item_size(dtype), |n, &dim| n.checked_mul(usize::try_from(dim).ok()?));
        if size != Some(bytes.len()) {
            return Err(invalid(&format!("not the size of {shape:?} {dtype:?}")));
        }
        // SAFETY: `bytes` is as long as shape and type say, and MLX copies it before the call returns. It copies whole
        // elements with memmove where the types agree, which they do here, so alignment does not matter.
        let array = unsafe { Array::from_raw_data(bytes.as_ptr().cast(), shape, dtype) };
        // SAFETY: the map is read-only, so dropped pages come back from the file when somebody reads them again. The
        // advice is only about memory: where it is refused, nothing else changes.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        Ok(array)
    }
}

/// Bytes of one element.
pub const fn item_size(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mapped(bytes: &[u8]) -> MappedFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        MappedFile::open(file.path()).unwrap()
    }

    #[test]
    fn reads_a_range_at_any_alignment() {
        let file = mapped(&[9, 1, 0, 0, 0, 2, 0, 0, 0]);
        let array = file.array(1..9, &[2, 1], Dtype::Int32).unwrap();
        assert_eq!((array.shape(), array.as_slice::<i32>()), (&[2, 1][..], &[1, 2][..]));
    }

    #[test]
    fn refuses_ranges_that_do_not_fit() {
        let file = mapped(&[0; 8]);
        assert!(file.array(4..12, &[2], Dtype::Int32).is_err());
        assert!(file.array(0..8, &[3], Dtype::Int32).is_err());
        assert!(file.array(0..8, &[i32::MAX, i32::MAX, i32::MAX, 4], Dtype::Int32).is_err());
        assert!(file.array(0..8, &[-2, -1], Dtype::Int32).is_err());
    }
}
