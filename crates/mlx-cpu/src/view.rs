//! Arrays as kernels see them: a pointer, a shape and strides.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::slice;

use mlx_rs::Dtype;

/// A type of array elements, all of whose bit patterns are values.
pub(crate) trait Plain: Copy + Send + Sync + 'static {
    const DTYPE: Dtype;
}

macro_rules! plain {
    ($($type:ty: $dtype:ident)*) => {
        $(impl Plain for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        })*
    };
}

plain!(u8: Uint8 i16: Int16 u32: Uint32 i32: Int32 f32: Float32 half::bf16: Bfloat16 half::f16: Float16);

/// An array to read.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: *const u8,
    pub shape: &'a [i32],
    strides: &'a [i64],
    pub dtype: Dtype,
}

// SAFETY: it stands for a shared slice of plain numbers.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// # Safety
    /// `data` with `shape`, `strides` (in elements) and `dtype` describes memory that is readable while `'a` lasts.
    pub(crate) unsafe fn new(data: *const u8, shape: &'a [i32], strides: &'a [i64], dtype: Dtype) -> Self {
        Self { data, shape, strides, dtype }
    }

    /// The part `index` along the first axis.
    pub(crate) fn part(&self, index: usize) -> Self {
        assert!(index < self.dim(0));
        let item_size = match self.dtype {
            Dtype::Uint8 => 1,
            Dtype::Bfloat16 | Dtype::Float16 => 2,
            Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
            other => unreachable!("kernels do not take {other:?}"),
        };
        let offset = self.strides[0] as isize * index as isize * item_size;
        // The part is inside the array, so it keeps the promise of `new`.
        Self { data: self.data.wrapping_offset(offset), shape: &self.shape[1..], strides: &self.strides[1..], ..*self }
    }

    /// The rows of a matrix that lies in a slice; `shape` and `strides` are room for its own.
    pub(crate) fn matrix<T: Plain>(all: &'a [T], shape: &'a [i32; 2], strides: &'a [i64; 2]) -> Self {
        assert!(all.len() == shape[0] as usize * shape[1] as usize && *strides == [i64::from(shape[1]), 1]);
        Self { data: all.as_ptr().cast(), shape, strides, dtype: T::DTYPE }
    }

    /// Length of axis `axis`.
    pub(crate) fn dim(&self, axis: usize) -> usize {
        self.shape[axis] as usize
    }

    /// Number of elements.
    pub(crate) fn size(&self) -> usize {
        self.shape.iter().map(|&n| n as usize).product()
    }

    /// Length of the last axis; 1 for a scalar.
    pub(crate) fn last(&self) -> usize {
        self.shape.last().map_or(1, |&n| n as usize)
    }

    /// Number of vectors along the last axis.
    pub(crate) fn num_rows(&self) -> usize {
        self.shape.iter().rev().skip(1).map(|&n| n as usize).product()
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(self.strides).rev().all(|(&n, &stride)| {
            let fits = n == 1 || stride == expected;
            expected *= i64::from(n);
            fits
        })
    }

    /// All elements in row-major order; copied where they lie otherwise.
    pub(crate) fn to_slice<T: Plain>(self) -> Cow<'a, [T]> {
        assert_eq!(self.dtype, T::DTYPE);
        if self.size() == 0 {
            return Cow::Borrowed(&[]);
        }
        if self.is_row_major() {
            // SAFETY: by the promise of `new`, this many elements of this type lie there one after another.
            return Cow::Borrowed(unsafe { slice::from_raw_parts(self.data.cast(), self.size()) });
        }
        let last_stride = self.strides.last().copied().unwrap_or(0) as isize;
        let mut all = Vec::with_capacity(self.size());
        for row in 0..self.num_rows() {
            // SAFETY: the row starts in the array; its elements are `last_stride` apart by the promise of `new`.
            unsafe {
                let start = self.data.cast::<T>().offset(self.row_offset(row));
                all.extend((0..self.last() as isize).map(|i| *start.offset(i * last_stride)));
            }
        }
        Cow::Owned(all)
    }

    /// The vectors along the last axis.
    pub(crate) fn rows<T: Plain>(&self) -> Rows<'a, T> {
        assert_eq!(self.dtype, T::DTYPE);
        let len = self.last();
        if self.size() == 0 {
            return Rows::Even { all: Cow::Borrowed(&[]), len, stride: 0 };
        }
        if len > 1 && self.strides.last() != Some(&1) {
            return Rows::Even { all: self.to_slice(), len, stride: len };
        }
        let Some(stride) = self.row_stride() else { return Rows::Strided(*self) };
        // SAFETY: the first and the last row are in the array, and so is what lies between them.
        let all = unsafe { slice::from_raw_parts(self.data.cast(), (self.num_rows() - 1) * stride + len) };
        Rows::Even { all: Cow::Borrowed(all), len, stride }
    }

    /// How many elements each row starts after the one before it, if all do alike.
    fn row_stride(&self) -> Option<usize> {
        let (mut all, mut rows) = (None, 1);
        for (&n, &stride) in self.shape.iter().zip(self.strides).rev().skip(1).filter(|(n, _)| **n != 1) {
            if stride != *all.get_or_insert(stride) * rows {
                return None;
            }
            rows *= i64::from(n);
        }
        usize::try_from(all.unwrap_or(0)).ok()
    }

    /// Where row `index` starts, in elements.
    fn row_offset(&self, index: usize) -> isize {
        let mut rest = index as i64;
        let mut offset = 0;
        for (&n, &stride) in self.shape.iter().zip(self.strides).rev().skip(1) {
            offset += rest % i64::from(n) * stride;
            rest /= i64::from(n);
        }
        offset as isize
    }
}

/// The vectors along an array's last axis.
pub(crate) enum Rows<'a, T: Plain> {
    Strided(View<'a>),
    /// Of `len` elements each, `stride` from the start of one to that of the next.
    Even {
        all: Cow<'a, [T]>,
        len: usize,
        stride: usize,
    },
}

impl<T: Plain> Rows<'_, T> {
    /// The vector `index`, counted in row-major order of the other axes.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &[T] {
        match self {
            Self::Strided(view) => {
                assert!(index < view.num_rows());
                // SAFETY: the row is in the array, and its elements are one after another.
                unsafe { slice::from_raw_parts(view.data.cast::<T>().offset(view.row_offset(index)), view.last()) }
            }
            Self::Even { all, len, stride } => &all[index * stride..][..*len],
        }
    }
}

/// An array to write, row-major.
pub(crate) struct ViewMut<'a>(View<'a>);

impl<'a> ViewMut<'a> {
    /// # Safety
    /// The memory of `view` is row-major, writable, and nobody else's while `'a` lasts.
    pub(crate) unsafe fn new(view: View<'a>) -> Self {
        Self(view)
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.0.dtype
    }

    /// Length of the last axis.
    pub(crate) fn last(&self) -> usize {
        self.0.last()
    }

    /// Number of vectors along the last axis.
    pub(crate) fn num_rows(&self) -> usize {
        self.0.num_rows()
    }

    /// All elements, for many threads to write each its own.
    pub(crate) fn shared<T: Plain>(&mut self) -> SharedMut<'_, T> {
        assert_eq!(self.0.dtype, T::DTYPE);
        SharedMut { data: self.0.data.cast_mut().cast(), len: self.0.size(), life: PhantomData }
    }
}

/// A mutable slice of which several threads write disjoint parts.
pub(crate) struct SharedMut<'a, T> {
    data: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a mutable slice, whose parts go to one thread each by the condition of `slice`.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(all: &'a mut [T]) -> Self {
        Self { data: all.as_mut_ptr(), len: all.len(), life: PhantomData }
    }

    /// The `len` elements from `start`.
    ///
    /// # Safety
    /// No two slices that are alive at once overlap.
    #[allow(clippy::mut_from_ref)] // Disjointness is the caller's promise.
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.len);
        // SAFETY: inside the slice, and nobody else's by the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}
