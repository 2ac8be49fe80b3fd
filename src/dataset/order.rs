//! Which rows are learned together, and when.

use anyhow::{Result, ensure};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

/// Batches whose rows are sorted by length together. More waste less padding, fewer mix better.
const BATCHES_PER_BUCKET: usize = 32;

/// Rows among which those are sought that fit together.
const ROWS_PER_BUCKET: usize = 512;

/// The order of rows: a function of the seed and the epoch, and of nothing else but the rows' lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    batch_size: usize,
    pack: Option<usize>,
}

impl Order {
    /// Batches of `batch_size` rows, or, with `pack`, of as many rows as have together at most so many tokens.
    pub fn new(seed: u64, batch_size: usize, pack: Option<usize>) -> Result<Self> {
        ensure!(batch_size > 0, "batch-size is 0: nothing would be learned");
        ensure!(pack != Some(0), "pack is 0: no row fits into a batch of no tokens");
        Ok(Self { seed, batch_size, pack })
    }

    /// The batches of an epoch: each row is in one of them, once. `lengths` are the rows' tokens.
    ///
    /// Without `pack`, a batch's rows have similar lengths, all batches but one are full, and every epoch has the same
    /// number of them. With `pack`, a row that is longer has a batch of its own.
    pub fn batches(&self, lengths: &[usize], epoch: u64) -> Vec<Vec<usize>> {
        let mut random = ChaCha12Rng::seed_from_u64(self.seed);
        random.set_stream(epoch);
        let mut rows: Vec<usize> = (0..lengths.len()).collect();
        rows.shuffle(&mut random);
        let bucket = match self.pack {
            Some(_) => ROWS_PER_BUCKET,
            None => self.batch_size.saturating_mul(BATCHES_PER_BUCKET),
        };
        let mut batches = Vec::new();
        for bucket in rows.chunks_mut(bucket) {
            bucket.sort_by_key(|&row| lengths[row]);
            match self.pack {
                Some(tokens) => batches.extend(packed(bucket, lengths, tokens)),
                None => batches.extend(bucket.chunks(self.batch_size).map(<[usize]>::to_vec)),
            }
        }
        batches.shuffle(&mut random);
        batches
    }
}

/// First fit, longest first: near the fewest batches that there can be.
fn packed(rows: &[usize], lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<(usize, Vec<usize>)> = Vec::new();
    for &row in rows.iter().rev() {
        let len = lengths[row];
        match batches.iter_mut().find(|(tokens, _)| tokens.saturating_add(len) <= most) {
            Some((tokens, batch)) => {
                *tokens += len;
                batch.push(row);
            }
            None => batches.push((len, vec![row])),
        }
    }
    batches.into_iter().map(|(_, batch)| batch).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_epoch_has_every_row_once(
            lengths in prop::collection::vec(1usize..3000, 0..700),
            seed: u64,
            epoch: u64,
            batch_size in 1usize..9,
            pack in prop::option::of(1usize..5000),
        ) {
            let order = Order { seed, batch_size, pack };
            let batches = order.batches(&lengths, epoch);
            prop_assert_eq!(&batches, &order.batches(&lengths, epoch));
            let mut rows = batches.concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            match pack {
                None => prop_assert_eq!(batches.len(), lengths.len().div_ceil(batch_size)),
                Some(most) => {
                    let tokens = |batch: &Vec<usize>| batch.iter().map(|&row| lengths[row]).sum::<usize>();
                    prop_assert!(batches.iter().all(|batch| batch.len() == 1 || tokens(batch) <= most));
                }
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_lengths_are_alike() {
        let lengths: Vec<usize> = (0..1000).map(|row| 1 + row * 7919 % 2000).collect();
        let order = Order { seed: 1, batch_size: 4, pack: None };
        let first = order.batches(&lengths, 0);
        assert_ne!(first, order.batches(&lengths, 1));
        assert_ne!(first, Order { seed: 2, ..order }.batches(&lengths, 0));
        let longest = |batch: &[usize]| batch.iter().map(|&row| lengths[row]).max().unwrap_or(0);
        let padded: usize = first.iter().map(|batch| longest(batch) * batch.len()).sum();
        let total: usize = lengths.iter().sum();
        assert!(padded * 100 < total * 105, "{padded} for {total}");
        let packed = Order { pack: Some(4096), ..order }.batches(&lengths, 0);
        assert!(packed.len() * 4096 * 100 < total * 110, "{} batches for {total}", packed.len());
    }
}
