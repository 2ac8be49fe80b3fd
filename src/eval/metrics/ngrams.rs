//! Words that follow each other.

use std::collections::BTreeMap;

/// How often each run of `n` tokens is in the text.
pub(super) fn counts<T: Ord>(tokens: &[T], n: usize) -> BTreeMap<&[T], usize> {
    let mut counts = BTreeMap::new();
    for ngram in tokens.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}
