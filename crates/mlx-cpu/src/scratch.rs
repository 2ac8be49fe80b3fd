//! Working memory that threads keep: fresh pages are slow to come by.

use std::cell::RefCell;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `use_it` with `len` words of this thread's, whose contents are arbitrary.
pub(crate) fn with_scratch<R>(len: usize, use_it: impl FnOnce(&mut [u32]) -> R) -> R {
    let mut words = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if words.len() < len {
        words.resize(len, 0);
    }
    let result = use_it(&mut words[..len]);
    KEPT.with_borrow_mut(|kept| kept.push(words));
    result
}

/// The same memory as float32.
pub(crate) fn as_floats(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: same size, same alignment, no invalid values.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// The same memory as elements of another type with at most the alignment of a word, two or one to a word.
pub(crate) fn as_elements<T: crate::element::Element>(words: &mut [u32]) -> &mut [T] {
    let len = size_of_val(words) / size_of::<T>();
    // SAFETY: the same memory; all floats of 32 or 16 bits have no invalid values and no larger alignment.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
}
