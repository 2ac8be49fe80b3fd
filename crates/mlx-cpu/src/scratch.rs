//! Working memory that threads keep: fresh pages are slow to come by.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::slice;

use crate::view::Plain;

thread_local! {
    static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A cache line: vectors that start at its beginning load fastest.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; WORDS]);

const WORDS: usize = 16;

/// Words of this thread's, whose contents are arbitrary.
pub(crate) struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        let mut lines = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        if lines.len() < len.div_ceil(WORDS) {
            lines.resize(len.div_ceil(WORDS), Line([0; WORDS]));
        }
        Self { lines, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        KEPT.with_borrow_mut(|kept| kept.push(lines));
    }
}

impl Deref for Scratch {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        // SAFETY: a line is 16 words and nothing else.
        let words = unsafe { slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * WORDS) };
        &words[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above.
        let words = unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * WORDS) };
        &mut words[..self.len]
    }
}

/// The same memory as numbers of another type of at most 32 bits.
pub(crate) fn as_slice_of<T: Plain>(words: &mut [u32]) -> &mut [T] {
    const { assert!(align_of::<T>() <= align_of::<u32>() && size_of::<u32>().is_multiple_of(size_of::<T>())) };
    let len = size_of_val(words) / size_of::<T>();
    // SAFETY: the same memory; plain types have no invalid values, and this one no larger alignment.
    unsafe { slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
}

/// The same memory as float32.
pub(crate) fn as_floats(words: &mut [u32]) -> &mut [f32] {
    as_slice_of(words)
}
