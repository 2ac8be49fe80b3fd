//! What memory can do, on the threads that the kernels use.

use std::hint::black_box;
use std::time::Instant;

use crate::pool::{parallel, threads};

/// What one thread reads at a time, in numbers.
const CHUNK: usize = 1 << 19;

/// A buffer to be read, larger than caches.
pub struct Memory(Vec<u64>);

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// 256 MB, and more where so many threads have larger caches.
    pub fn new() -> Self {
        let chunks = (4 * threads()).max(64);
        Self((0..(chunks * CHUNK) as u64).collect())
    }

    /// Reads it once with all threads: bytes per second.
    pub fn read(&self) -> f64 {
        let start = Instant::now();
        parallel(self.0.len() / CHUNK, |chunk| {
            let mut sums = [0_u64; 64];
            for numbers in self.0[chunk * CHUNK..][..CHUNK].chunks_exact(64) {
                sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum ^= x);
            }
            black_box(sums);
        });
        size_of_val(&self.0[..]) as f64 / start.elapsed().as_secs_f64()
    }
}
