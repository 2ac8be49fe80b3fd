//! MLX arrays from ranges of a memory-mapped file.
//!
//! On a CPU the arrays are the mapped pages themselves: loading is a matter of page tables, and the memory is the system's
//! file cache. Elsewhere MLX keeps array data in memory that it allocated itself, so a range is copied once and its pages
//! are given back at once. Either way a file of arrays takes the memory of the arrays and no more.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use mlx_rs::{Array, Dtype};

/// A file mapped into memory.
pub struct MappedFile {
    /// Private: what is written stays in this process. Nobody but MLX writes, which reuses memory of arrays that nobody
    /// else holds.
    map: Arc<MmapMut>,
    /// The arrays that are mapped pages, by where they begin: as long as they are held here MLX does not reuse their memory,
    /// which may be asked for again.
    borrowed: RefCell<Vec<(usize, Array)>>,
}

impl MappedFile {
    /// Maps the whole file. Nobody may shorten it meanwhile: reading pages that are gone ends the process, as with every
    /// memory map.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: as with every memory map, another process could change the bytes under us. They are read as numbers
        // and as text that is checked, never through a pointer that they contain.
        let map = unsafe { MmapOptions::new().no_reserve_swap().map_copy(&file)? };
        Ok(Self { map: Arc::new(map), borrowed: RefCell::default() })
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
        // One call for all pages is much faster than a fault for each. Where it is refused, those come.
        #[cfg(target_os = "linux")]
        let _ = self.map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        if let Some(array) = self.borrow(range.clone(), shape, dtype) {
            self.borrowed.borrow_mut().push((range.start, array.clone()));
            return Ok(array);
        }
        // SAFETY: `bytes` is as long as shape and type say, and MLX copies it before the call returns. It copies whole
        // elements with memmove where the types agree, which they do here, so alignment does not matter.
        let array = unsafe { Array::from_raw_data(bytes.as_ptr().cast(), shape, dtype) };
        self.release(range);
        Ok(array)
    }

    /// Gives the memory of these bytes back; who reads them again reads the file again.
    pub fn release(&self, range: Range<usize>) {
        self.borrowed.borrow_mut().retain(|(start, _)| !range.contains(start));
        // SAFETY: nobody writes to these pages: MLX not into an array's memory that somebody else holds, as this value did
        // until now, and arrays that are still in use elsewhere read from the file what was dropped. The advice is only
        // about memory: where it is refused, nothing else changes.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }

    /// The array that is the mapped pages; none where they are not aligned or MLX cannot.
    fn borrow(&self, range: Range<usize>, shape: &[i32], dtype: Dtype) -> Option<Array> {
        let data = self.map.as_ptr().wrapping_add(range.start);
        // MLX expects the buffer's size before the data.
        let room = range.start >= size_of::<usize>();
        if range.is_empty() || !room || !(data as usize).is_multiple_of(item_size(dtype)) {
            return None;
        }
        let owner = Arc::into_raw(self.map.clone());
        let dtype = mlx_sys::mlx_dtype::from(dtype) as c_int;
        // SAFETY: the range is inside the map and as long as shape and type say, as was checked; the map stays as long as
        // the array does, which owns a count of it. Ranges of one map as arrays may overlap only if a file's header says
        // so; such arrays are read.
        let array = unsafe {
            mlx_mmap_borrow(
                data.cast_mut().cast(),
                shape.as_ptr(),
                shape.len(),
                dtype,
                owner.cast_mut().cast(),
                release,
            )
        };
        // SAFETY: mlx-c's handle of an array is a pointer to the C++ object, which is new and ours.
        (!array.is_null()).then(|| unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx: array }) })
    }
}

unsafe extern "C" {
    fn mlx_mmap_borrow(
        data: *mut c_void,
        shape: *const i32,
        ndim: usize,
        dtype: c_int,
        owner: *mut c_void,
        drop: unsafe extern "C" fn(*mut c_void),
    ) -> *mut c_void;
}

/// # Safety
/// `owner` is a count of the map that `borrow` gave away, given back once.
unsafe extern "C" fn release(owner: *mut c_void) {
    // SAFETY: by this function's own conditions.
    drop(unsafe { Arc::from_raw(owner.cast::<MmapMut>()) });
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
    fn arrays_outlive_the_map_and_leave_the_file_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
        let array = MappedFile::open(file.path()).unwrap().array(8..16, &[2], Dtype::Int32).unwrap();
        // MLX may compute the sum in the memory of an input that nobody else holds.
        let sum = array.add(Array::from_int(1)).unwrap();
        drop(array);
        assert_eq!(sum.as_slice::<i32>(), &[2, 3]);
        assert_eq!(std::fs::read(file.path()).unwrap()[8..], [1, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn an_array_may_be_asked_for_again() {
        let file = mapped(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        let read = || file.array(8..16, &[2], Dtype::Int32).unwrap();
        let sum = read().add(Array::from_int(1)).unwrap();
        assert_eq!((sum.as_slice::<i32>(), read().as_slice::<i32>()), (&[2, 3][..], &[1, 2][..]));
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
