//! How many bits each matrix gets, so that a given size costs the least: measured, matrix by matrix.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Result, ensure};
use mlx_quantized::Mode;

use crate::checkpoint::ModelFiles;
use crate::checkpoint::quantization::{QuantizedAs, pack, unpack};
use crate::convert::calibration::Samples;
use crate::convert::calibration::divergence::Reference;
use crate::convert::pass::ToPack;
use crate::models;

/// Bits to choose from.
const BITS: [i32; 6] = [2, 3, 4, 5, 6, 8];

/// Divergence that packing one matrix in `bits` alone brings, by module.
pub struct Sensitivities {
    bits: i32,
    kl: BTreeMap<String, f64>,
}

impl Sensitivities {
    /// Packs each matrix alone in `bits` and measures how far the model's predictions move. `progress` is told how many
    /// are done.
    pub fn measure(
        files: &ModelFiles,
        samples: &Samples,
        candidates: &[ToPack],
        packing: QuantizedAs,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let go_on = &mut |_| ControlFlow::Continue(());
        let original = models::build(files, models::weights(files, None)?)?;
        let reference = Reference::record(&original, samples, go_on)?;
        drop(original);
        let mut kl = BTreeMap::new();
        for (done, candidate) in candidates.iter().enumerate() {
            super::divergence::interruptible(progress(done))?;
            let name = format!("{}.weight", candidate.path);
            let weights = models::weights(files, None)?;
            let matrix = weights.read(&name)?;
            let coarse = unpack(&pack(&matrix, packing)?, matrix.dtype())?;
            let model = models::build(files, weights.replace(name, coarse))?;
            let measured = reference.compare(&model, go_on)?.all.kl;
            let (path, bits) = (&candidate.path, packing.bits);
            ensure!(measured.is_finite(), "{path} in {bits} bits makes predictions that are no numbers");
            kl.insert(path.clone(), measured.max(0.0));
            drop(model);
            mlx_rs::memory::clear_cache()?;
        }
        Ok(Self { bits: packing.bits, kl })
    }

    /// The bits of each matrix that bring the least divergence within `budget` bits in all. Divergence grows with the
    /// square of the rounding errors, which halve with each bit; so the best next bit is the one that saves most for its
    /// size. The budget must allow the bits that were measured.
    pub fn choose(&self, candidates: &[ToPack], group_size: i32, budget: f64) -> BTreeMap<String, QuantizedAs> {
        let packing = |bits| QuantizedAs { group_size, bits, mode: Mode::Affine };
        let steps: Vec<i32> = BITS.into_iter().filter(|&bits| bits >= self.bits).collect();
        let mut chosen = vec![0; candidates.len()];
        let least: f64 = candidates.iter().map(|candidate| candidate.size(packing(steps[0]))).sum();
        let mut left = budget - least;
        loop {
            // What the next step of this matrix saves, for each bit that it takes.
            let gain = |i: usize| -> Option<(f64, f64)> {
                let (candidate, now) = (&candidates[i], steps[chosen[i]]);
                let next = *steps.get(chosen[i] + 1)?;
                let taken = candidate.size(packing(next)) - candidate.size(packing(now));
                let loss = |bits: i32| self.kl[&candidate.path] * 4_f64.powi(self.bits - bits);
                (taken <= left).then(|| ((loss(now) - loss(next)) / taken, taken))
            };
            let best = (0..candidates.len()).filter_map(|i| Some((i, gain(i)?)));
            let Some((i, (_, taken))) = best.max_by(|a, b| a.1.0.total_cmp(&b.1.0)) else { break };
            chosen[i] += 1;
            left -= taken;
        }
        candidates.iter().zip(chosen).map(|(c, step)| (c.path.clone(), packing(steps[step]))).collect()
    }
}

/// Few enough bits that there is something to choose on the way to `target` bits per weight.
pub fn coarse_bits(target: f64) -> i32 {
    BITS.into_iter().rev().find(|&bits| f64::from(bits) + 1.0 <= target).unwrap_or(BITS[0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mlx_rs::Dtype;

    use super::*;

    #[test]
    fn bits_go_where_they_save_most() {
        let packing = QuantizedAs { group_size: 64, bits: 4, mode: Mode::Affine };
        let candidate =
            |path: &str, output| ToPack { path: path.to_owned(), output, input: 1, packing, scales: Dtype::Bfloat16 };
        let candidates = [candidate("calm", 1000), candidate("touchy", 1000), candidate("large", 100_000)];
        let kl = [("calm", 0.001), ("touchy", 1.0), ("large", 0.5)].map(|(path, kl)| (path.to_owned(), kl));
        let sensitivities = Sensitivities { bits: 3, kl: kl.into() };
        let budget = 4.6 * 102_000.0;
        let chosen = sensitivities.choose(&candidates, 64, budget);
        // The touchy one first, then the large one, and what is too little for another bit of that goes to the calm one.
        assert_eq!(["touchy", "large", "calm"].map(|path| chosen[path].bits), [8, 4, 8]);
        let size: f64 = candidates.iter().map(|c| c.size(chosen[&c.path])).sum();
        assert!(size <= budget);
    }
}
