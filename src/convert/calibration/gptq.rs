//! Rounding with regard to what a matrix is given: the error of each column is made up for in those that follow.
//!
//! GPTQ (Frantar et al. 2022) in the form that QuIP (Chee et al. 2023, section 3) proves equal to it: with `H = (U + 1) D
//! (U + 1)ᵀ`, `H` the mean of `x xᵀ` over inputs `x` and `U` strictly upper triangular, column `k` of the result is
//! `round(w_k + (W − Ŵ) u_k)`. Rows are independent of one another.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;

use anyhow::{Context, Result};
use mlx_quantized::{Mode, Packed};
use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use crate::checkpoint::ModelFiles;
use crate::checkpoint::quantization::{QuantizedAs, pack};
use crate::convert::calibration::Samples;
use crate::convert::calibration::divergence::{OnPrompt, interruptible};
use crate::convert::pass::ToPack;
use crate::engine::sequence::Sequence;
use crate::models;
use crate::parallel::parallel;

/// Bytes of second moments held at a time; more matrices take another run over the samples.
const BUDGET: usize = 2 << 30;
/// Shares of the mean diagonal that are added to it: the first as in the paper, the others where that is too little for
/// inputs that are almost multiples of one another.
const DAMPING: [f32; 3] = [0.01, 0.1, 1.0];
/// Columns factored at a time.
const BLOCK: usize = 128;
/// How far a group's range is narrowed to find the one with the least error.
const SHRINKAGES: [f32; 9] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6];

/// Packs the matrices of a model one after the other.
pub struct Gptq<'a> {
    files: &'a ModelFiles,
    samples: &'a Samples,
    /// Matrices in the order in which they will be packed, with the length of their rows.
    queue: VecDeque<(String, i32)>,
    /// `[input, input]` by module, of those that were observed; none where a run over the samples brought nothing.
    moments: BTreeMap<String, Option<Array>>,
}

impl<'a> Gptq<'a> {
    /// For these matrices, in the order in which they will be packed.
    pub fn new(files: &'a ModelFiles, samples: &'a Samples, matrices: &[ToPack]) -> Self {
        let queue = matrices.iter().map(|matrix| (matrix.path.clone(), matrix.input)).collect();
        Self { files, samples, queue, moments: BTreeMap::new() }
    }

    /// Runs over the samples that the matrices of this queue take.
    pub fn runs(&self) -> usize {
        let (mut runs, mut left) = (0, 0);
        for (_, input) in &self.queue {
            let bytes = moment_bytes(*input);
            if runs == 0 || bytes > left {
                runs += 1;
                left = BUDGET;
            }
            left = left.saturating_sub(bytes);
        }
        runs
    }

    /// Packs the next matrix `[output, input]`. Tables and matrices that no sample came to are rounded to the nearest.
    pub fn pack(
        &mut self,
        path: &str,
        matrix: &Array,
        packing: QuantizedAs,
        on_prompt: &mut OnPrompt,
    ) -> Result<Packed> {
        while !self.moments.contains_key(path) && self.queue.iter().any(|(queued, _)| queued == path) {
            self.observe(on_prompt)?;
        }
        match self.moments.remove(path).flatten() {
            Some(moments) if packing.mode == Mode::Affine => round(matrix, &moments, packing),
            _ => Ok(pack(matrix, packing)?),
        }
    }

    /// Runs the model over the samples and notes what the next matrices are given.
    fn observe(&mut self, on_prompt: &mut OnPrompt) -> Result<()> {
        let mut left = BUDGET;
        let mut next = BTreeSet::new();
        while let Some((path, input)) = self.queue.front().cloned() {
            if !next.is_empty() && moment_bytes(input) > left {
                break;
            }
            left = left.saturating_sub(moment_bytes(input));
            next.insert(path);
            self.queue.pop_front();
        }
        let sums: Rc<RefCell<BTreeMap<String, Array>>> = Rc::default();
        let observer = {
            let (sums, next) = (sums.clone(), next.clone());
            move |path: &str, x: &Array| if next.contains(path) { add(&mut sums.borrow_mut(), path, x) } else { Ok(()) }
        };
        let model = models::build(self.files, models::weights(self.files, None)?.observe(Rc::new(observer)))?;
        for prompt in &self.samples.prompts {
            let mut sequence = Sequence::new(&model, prompt)?;
            // Of all positions, as the map to logits is to see them, too.
            if let Some(hidden) = sequence.prefill(prompt.len(), prompt.len(), &mut |_, _| ControlFlow::Continue(()))? {
                model.text.logits(&hidden)?;
            }
            interruptible(on_prompt(prompt.len()))?;
        }
        let mut sums = sums.borrow_mut();
        self.moments.extend(next.into_iter().map(|path| {
            let sum = sums.remove(&path);
            (path, sum)
        }));
        Ok(())
    }
}

fn moment_bytes(input: i32) -> usize {
    size_of::<f32>() * (input as usize).pow(2)
}

/// Adds `xᵀ x` for `x` `[.., input]`.
fn add(sums: &mut BTreeMap<String, Array>, path: &str, x: &Array) -> Result<(), Exception> {
    let x = x.reshape(&[-1, x.dim(-1)])?.as_dtype(Dtype::Float32)?;
    let product = x.t().matmul(&x)?;
    let sum = match sums.get(path) {
        Some(sum) => sum.add(product)?,
        None => product,
    };
    sum.eval()?;
    sums.insert(path.to_owned(), sum);
    Ok(())
}

/// Packs `matrix` `[output, input]`, whose inputs have the second moments `[input, input]`.
pub fn round(matrix: &Array, moments: &Array, packing: QuantizedAs) -> Result<Packed> {
    let (rows, columns) = (matrix.dim(0) as usize, matrix.dim(1) as usize);
    let group = packing.group_size as usize;
    let mut damped = DAMPING.iter().map(|&damping| Factors::of(moments, damping));
    let factors = damped.find_map(Result::transpose).context("the second moments of its inputs are no numbers")??;
    let weights = matrix.as_dtype(Dtype::Float32)?;
    let mut grid = Grid { matrix, packing, integers: vec![0; rows * columns], scales: Vec::new(), biases: Vec::new() };
    let mut errors: Option<Array> = None; // W − Ŵ so far, [rows, columns so far]
    for begin in (0..columns).step_by(group) {
        let block = weights.try_index((.., begin as i32..(begin + group) as i32))?;
        let wanted = match &errors {
            Some(errors) => block.add(errors.matmul(&factors.above(begin, group)?)?)?,
            None => block.clone(),
        };
        let new = grid.round_group(begin, &block.contiguous()?, &wanted.contiguous()?, &factors)?;
        let new = Array::from_slice(&new, &[rows as i32, group as i32]);
        errors = Some(match errors {
            Some(errors) => concatenate(&[errors, new], 1)?,
            None => new,
        });
        errors.iter().try_for_each(Array::eval)?;
    }
    grid.packed(rows, columns)
}

/// `H = (U + 1) D (U + 1)ᵀ`.
struct Factors {
    /// `U`, row-major `[input, input]`.
    upper: Vec<f32>,
    /// The diagonal of `D`.
    diagonal: Vec<f32>,
    input: usize,
}

impl Factors {
    /// By Cholesky's factorization of the moments in reversed order of rows and columns, the diagonal raised by this share
    /// of its mean. None where that is not positive definite.
    fn of(moments: &Array, damping: f32) -> Result<Option<Self>> {
        let input = moments.dim(0) as usize;
        let stored = moments.contiguous()?;
        let stored = stored.try_as_slice::<f32>()?;
        let mean = (0..input).map(|i| stored[i * input + i]).sum::<f32>() / input as f32;
        // Inputs that were always zero say nothing of their columns.
        let damping = if mean > 0.0 { damping * mean } else { 1.0 };
        let mut reversed: Vec<f32> = stored.iter().rev().copied().collect();
        (0..input).for_each(|i| reversed[i * input + i] += damping);
        let Some(lower) = cholesky(&Array::from_slice(&reversed, moments.shape()))? else { return Ok(None) };
        let lower = lower.try_as_slice::<f32>()?;

        let at = |row: usize, column: usize| lower[(input - 1 - row) * input + input - 1 - column];
        let mut upper = vec![0.0; input * input];
        for row in 0..input {
            for column in row + 1..input {
                upper[row * input + column] = at(row, column) / at(column, column);
            }
        }
        let diagonal = (0..input).map(|i| at(i, i).powi(2)).collect();
        Ok(Some(Self { upper, diagonal, input }))
    }

    /// What is above these columns' own square, `[begin, columns]`.
    fn above(&self, begin: usize, columns: usize) -> Result<Array> {
        let rows = (0..begin).flat_map(|row| &self.upper[row * self.input + begin..][..columns]);
        let values: Vec<f32> = rows.copied().collect();
        Ok(Array::from_slice(&values, &[begin as i32, columns as i32]))
    }
}

/// `L` with `L Lᵀ = a`, lower triangular, for a positive definite `a` `[n, n]`; some columns at a time, so that most of
/// the work is in matrix products. None for an `a` that is not positive definite.
fn cholesky(a: &Array) -> Result<Option<Array>> {
    let n = a.dim(0) as usize;
    let mut lower: Option<Array> = None; // [n, columns so far]
    for begin in (0..n).step_by(BLOCK) {
        let end = n.min(begin + BLOCK);
        let (from, to) = (begin as i32, end as i32);
        let mut panel = a.try_index((from.., from..to))?; // [n - begin, columns]
        if let Some(lower) = &lower {
            let left = lower.try_index((from.., ..))?;
            let own = lower.try_index((from..to, ..))?;
            panel = panel.subtract(left.matmul(own.t())?)?;
        }
        let panel = panel.contiguous()?;
        let mut columns = vec![0.0; n * (end - begin)];
        columns[begin * (end - begin)..].copy_from_slice(panel.try_as_slice::<f32>()?);
        if !factor_panel(&mut columns[begin * (end - begin)..], end - begin) {
            return Ok(None);
        }
        let columns = Array::from_slice(&columns, &[n as i32, to - from]);
        lower = Some(match lower {
            Some(lower) => concatenate(&[lower, columns], 1)?,
            None => columns,
        });
        lower.iter().try_for_each(Array::eval)?;
    }
    Ok(lower)
}

/// Columns of `L` in place of what is left of `a` in them: the square on top first, then each row below. Whether that is
/// possible.
fn factor_panel(panel: &mut [f32], width: usize) -> bool {
    let (square, below) = panel.split_at_mut(width * width);
    for row in 0..width {
        let (done, rest) = square.split_at_mut(row * width);
        solve_row(&mut rest[..width], done, row, width);
        let rest = &mut rest[..width];
        let pivot = rest[row] - rest[..row].iter().map(|x| x * x).sum::<f32>();
        if pivot.is_nan() || pivot <= 0.0 {
            return false;
        }
        rest[row] = pivot.sqrt();
        rest[row + 1..].fill(0.0);
    }
    below.chunks_mut(width).for_each(|row| solve_row(row, square, width, width));
    true
}

/// The first `count` of a row of `L`, given those rows above that have them.
fn solve_row(row: &mut [f32], above: &[f32], count: usize, width: usize) {
    for column in 0..count {
        let known = &above[column * width..][..=column];
        let sum: f32 = row[..column].iter().zip(known).map(|(x, l)| x * l).sum();
        row[column] = (row[column] - sum) / known[column];
    }
}

/// The integers of a matrix as they are found, and what makes numbers of them.
struct Grid<'a> {
    matrix: &'a Array,
    packing: QuantizedAs,
    /// `[rows, columns]`
    integers: Vec<u8>,
    /// Per group of columns, of all rows.
    scales: Vec<Vec<f32>>,
    biases: Vec<Vec<f32>>,
}

impl Grid<'_> {
    /// Rounds a group of columns, `wanted` being `weights` and what makes up for the errors so far, both `[rows, group]`.
    /// Returns the errors, `weights` less what they are rounded to.
    fn round_group(&mut self, begin: usize, weights: &Array, wanted: &Array, factors: &Factors) -> Result<Vec<f32>> {
        let group = self.packing.group_size as usize;
        let rows = weights.dim(0) as usize;
        let columns = factors.input;
        let (weights, wanted) = (weights.try_as_slice::<f32>()?, wanted.try_as_slice::<f32>()?);
        let largest = ((1 << self.packing.bits) - 1) as f32;
        let dtype = self.matrix.dtype();
        let importance = &factors.diagonal[begin..begin + group];

        let ranges: Vec<(f32, f32)> =
            parallel(rows, |row| range(&wanted[row * group..][..group], importance, largest, dtype));
        let rounded: Vec<(Vec<u8>, Vec<f32>)> = parallel(rows, |row| {
            let weights = &weights[row * group..][..group];
            let wanted = &wanted[row * group..][..group];
            let (scale, bias) = ranges[row];
            let (mut integers, mut errors) = (vec![0; group], vec![0.0; group]);
            // A column's error is passed on as soon as it is known, so that the inner loop runs along a row of U.
            let mut carried = vec![0.0; group];
            for k in 0..group {
                let value = wanted[k] + carried[k];
                let integer = ((value - bias) / scale).round_ties_even().clamp(0.0, largest);
                integers[k] = integer as u8;
                let error = weights[k] - (integer * scale + bias);
                errors[k] = error;
                let along = &factors.upper[(begin + k) * columns + begin..][..group];
                for (carried, factor) in carried[k + 1..].iter_mut().zip(&along[k + 1..]) {
                    *carried += error * factor;
                }
            }
            (integers, errors)
        });
        for (row, (integers, _)) in rounded.iter().enumerate() {
            self.integers[row * columns + begin..][..group].copy_from_slice(integers);
        }
        self.scales.push(ranges.iter().map(|range| range.0).collect());
        self.biases.push(ranges.iter().map(|range| range.1).collect());
        Ok(rounded.into_iter().flat_map(|(_, errors)| errors).collect())
    }

    /// MLX's form: the integers of a row one after the other as bits, lowest first.
    fn packed(self, rows: usize, columns: usize) -> Result<Packed> {
        let QuantizedAs { group_size, bits, mode } = self.packing;
        let words = columns * bits as usize / 32;
        let packed: Vec<Vec<u32>> = parallel(rows, |row| {
            let mut packed = vec![0_u32; words];
            for (i, &integer) in self.integers[row * columns..][..columns].iter().enumerate() {
                let at = i * bits as usize;
                packed[at / 32] |= u32::from(integer) << (at % 32);
                if at % 32 + bits as usize > 32 {
                    packed[at / 32 + 1] |= u32::from(integer) >> (32 - at % 32);
                }
            }
            packed
        });
        let by_row = |parts: &[Vec<f32>]| -> Result<Array> {
            let values: Vec<f32> = (0..rows).flat_map(|row| parts.iter().map(move |part| part[row])).collect();
            Ok(Array::from_slice(&values, &[rows as i32, parts.len() as i32]).as_dtype(self.matrix.dtype())?)
        };
        Ok(Packed {
            weight: Array::from_slice(&packed.concat(), &[rows as i32, words as i32]),
            scales: by_row(&self.scales)?,
            biases: Some(by_row(&self.biases)?),
            group_size,
            bits,
            mode,
        })
    }
}

/// Scale and bias of a group, as their type rounds them: of ranges from the least to the greatest value and narrower ones
/// the one with the least error, columns counting by their `importance`.
fn range(values: &[f32], importance: &[f32], largest: f32, dtype: Dtype) -> (f32, f32) {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let candidates = SHRINKAGES.map(|shrinkage| {
        let scale = rounded(((greatest - least) * shrinkage / largest).max(1e-7), dtype);
        let bias = rounded(least * shrinkage, dtype);
        let error = |(value, importance): (&f32, &f32)| {
            let integer = ((value - bias) / scale).round_ties_even().clamp(0.0, largest);
            importance * (value - (integer * scale + bias)).powi(2)
        };
        (values.iter().zip(importance).map(error).sum::<f32>(), scale, bias)
    });
    let best = candidates.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are several candidates");
    (best.1, best.2)
}

/// The nearest number of a 16-bit type.
fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Bfloat16 => half::bf16::from_f32(value).to_f32(),
        // Scales below the type's range would be zero.
        Dtype::Float16 => half::f16::from_f32(value).to_f32().max(if value > 0.0 { 6e-8 } else { f32::NEG_INFINITY }),
        _ => value,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn random(shape: &[i32], seed: u64) -> Array {
        let key = mlx_rs::random::key(seed).unwrap();
        mlx_rs::random::normal::<f32>(shape, None, None, Some(&key)).unwrap()
    }

    /// Inputs in which few directions matter, and their second moments.
    fn inputs() -> (Array, Array) {
        let x = random(&[400, 12], 1).matmul(random(&[12, 256], 2)).unwrap();
        let x = x.add(random(&[400, 256], 3).multiply(Array::from_f32(0.1)).unwrap()).unwrap();
        let moments = x.t().matmul(&x).unwrap();
        (x, moments)
    }

    fn norm(a: &Array) -> f32 {
        a.multiply(a).unwrap().sum(None).unwrap().item_exact()
    }

    #[test]
    fn the_factors_make_up_the_moments() {
        let (_, moments) = inputs();
        let Factors { upper, diagonal, input } = Factors::of(&moments, DAMPING[0]).unwrap().unwrap();
        let n = input as i32;
        let unit = Array::from_slice(&upper, &[n, n]).add(Array::eye::<f32>(n, None, None).unwrap()).unwrap();
        let scaled = unit.multiply(Array::from_slice(&diagonal, &[1, n])).unwrap();
        let damping = DAMPING[0] * moments.diag(None).unwrap().sum(None).unwrap().item_exact::<f32>() / n as f32;
        let damped = Array::eye::<f32>(n, None, None).unwrap().multiply(Array::from_f32(damping)).unwrap();
        let expected = moments.add(damped).unwrap();
        let difference = norm(&scaled.matmul(unit.t()).unwrap().subtract(&expected).unwrap());
        assert!(difference < 1e-8 * norm(&expected), "{difference} of {}", norm(&expected));
    }

    #[test]
    fn outputs_are_nearer_than_by_rounding_to_the_nearest() {
        let (x, moments) = inputs();
        let matrix = random(&[96, 256], 4);
        let exact = x.matmul(matrix.t()).unwrap();
        for bits in [2, 3, 4, 5, 6, 8] {
            let packing = QuantizedAs { group_size: 64, bits, mode: Mode::Affine };
            let error = |packed: Packed| {
                let matrix = packed.dequantize(Dtype::Float32).unwrap();
                norm(&x.matmul(matrix.t()).unwrap().subtract(&exact).unwrap())
            };
            let nearest = error(pack(&matrix, packing).unwrap());
            let ours = error(round(&matrix, &moments, packing).unwrap());
            assert!(ours < 0.3 * nearest, "{bits} bits: {ours}, {nearest}");
        }
    }
}
