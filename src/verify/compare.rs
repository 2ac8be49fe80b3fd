//! Comparisons of numbers: each says what it found, or where the first divergence is.

use image::RgbImage;

use super::recording::Numbers;

/// What was found: a passed comparison, or a failed one.
pub(super) type Outcome = Result<String, String>;

/// Largest differences that count as equal; the recordings' README says how they were measured.
pub(super) mod tolerance {
    pub(in super::super) const PIXELS: f64 = 1e-5;
    pub(in super::super) const FEATURES: f64 = 1e-3;
    pub(in super::super) const LOGITS: f64 = 2e-3;
}

pub(super) fn equal(ours: &[i64], expected: &[i64]) -> Outcome {
    if let Some(at) = (0..ours.len().min(expected.len())).find(|&at| ours[at] != expected[at]) {
        return Err(format!("first divergence at {at}: {}, recorded is {}", ours[at], expected[at]));
    }
    if ours.len() != expected.len() {
        return Err(format!("{} numbers, recorded are {}", ours.len(), expected.len()));
    }
    Ok(format!("{} equal", ours.len()))
}

pub(super) fn bytes(ours: &RgbImage, expected: &RgbImage) -> Outcome {
    if ours.dimensions() != expected.dimensions() {
        return Err(format!("{:?} pixels, recorded are {:?}", ours.dimensions(), expected.dimensions()));
    }
    let differences = ours.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b));
    match differences.clone().max() {
        Some(0) | None => Ok("equal to the byte".into()),
        Some(max) => {
            let count = differences.filter(|&difference| difference > 0).count();
            Err(format!("{count} of {} bytes differ, by up to {max}", ours.len()))
        }
    }
}

pub(super) fn close(ours: &[f64], expected: &Numbers, tolerance: f64) -> Outcome {
    if ours.len() != expected.values.len() {
        return Err(format!("{} numbers, recorded are {:?}", ours.len(), expected.shape));
    }
    let difference = |at: usize| (ours[at] - expected.values[at]).abs();
    let outside = |at: &usize| difference(*at).is_nan() || difference(*at) > tolerance;
    let max = (0..ours.len()).map(difference).fold(0.0, f64::max);
    match (0..ours.len()).find(outside) {
        None => Ok(format!("max difference {max:.1e}, allowed {tolerance:.0e}")),
        Some(at) => Err(format!(
            "first divergence at {:?}: {:.6}, recorded is {:.6}; {} of {} outside {tolerance:.0e}, max {max:.1e}",
            position(at, &expected.shape),
            ours[at],
            expected.values[at],
            (0..ours.len()).filter(outside).count(),
            ours.len()
        )),
    }
}

/// The index along each axis of the element `flat`.
fn position(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut indices: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&dim| {
            let index = flat % dim;
            flat /= dim;
            index
        })
        .collect();
    indices.reverse();
    indices
}
