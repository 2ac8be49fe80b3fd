//! What models do with tables of a vocabulary's length: rows by number, and the largest entries.

use std::cmp::Ordering;
use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use crate::element::{Element, load_part, store_part, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::{Format, Matrix, Weight, convert, current_level, is_float, is_index};
use crate::map::for_rows;
use crate::pool::parallel;
use crate::scratch::{Scratch, as_floats};
use crate::simd::{Simd, Work};
use crate::view::{View, ViewMut};

/// The rows `ids` `[..]` of `table` `[rows, size]` as floats of type `dtype`, `[.., size]`; zeros for numbers that are no
/// row. Differentiable with respect to a dense table.
pub fn embedding(ids: &Array, table: Weight, dtype: Dtype) -> Result<Array> {
    embedding_at(current_level()?, ids, table, dtype)
}

pub(crate) fn embedding_at(level: Level, ids: &Array, table: Weight, dtype: Dtype) -> Result<Array> {
    let Some((_, size)) = table.shape().filter(|_| is_float(dtype) && is_index(ids.dtype())) else {
        let ids = ids.dtype();
        return Err(Exception::custom(format!("no embedding by numbers of {ids:?} in a table such as {table:?}")));
    };
    let ids = ids.as_dtype(Dtype::Int32)?;
    let mut shape = ids.shape().to_vec();
    shape.push(size);
    let inputs: Vec<&Array> = std::iter::once(&ids).chain(table.arrays()).collect();
    ffi::apply_one(Embedding { format: table.format(), level }, &inputs, &shape, dtype)
}

struct Embedding {
    format: Format,
    level: Level,
}

impl Kernel for Embedding {
    const NAME: &'static CStr = c"embedding";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let (ids, table, y) = (inputs[0].to_slice::<i32>(), Matrix::new(self.format, &inputs[1..]), &mut outputs[0]);
        let (rows, size) = (inputs[1].dim(0), y.last());
        with_element!(y.dtype(), T => {
            let y = y.shared::<T>();
            for_rows(ids.len(), size, |i| {
                // SAFETY: each row is written by one task.
                let to = unsafe { y.slice(i * size, size) };
                match usize::try_from(ids[i]) {
                    Ok(row) if row < rows => self.level.dispatch(ReadRow { table: &table, row, to }),
                    _ => to.fill(T::ZERO),
                }
            });
        });
    }

    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>> {
        let mut gradients = vec![None; inputs.len()];
        if self.format == Format::Dense {
            let (ids, table) = (&inputs[0], &inputs[1]);
            let kernel = OfTable(self.level);
            gradients[1] = Some(ffi::apply_one(kernel, &[ids, &cotangents[0]], table.shape(), table.dtype())?);
        }
        Ok(gradients)
    }
}

/// The gradient with respect to a table, whose every row is the sum of the gradients with respect to its copies, in their
/// order. Inputs: the ids, and the gradient with respect to the result.
struct OfTable(Level);

impl Kernel for OfTable {
    const NAME: &'static CStr = c"embedding_gradient";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let (ids, gradient, y) = (inputs[0].to_slice::<i32>(), Matrix::dense(&inputs[1]), &mut outputs[0]);
        let (rows, size) = (y.num_rows(), y.last());
        let mut places: Vec<(usize, usize)> = ids
            .iter()
            .enumerate()
            .filter_map(|(place, &id)| Some((usize::try_from(id).ok().filter(|id| *id < rows)?, place)))
            .collect();
        places.sort_unstable();
        with_element!(y.dtype(), T => {
            let y = y.shared::<T>();
            for_rows(rows, size, |row| {
                // SAFETY: each row is written by one task.
                let to = unsafe { y.slice(row * size, size) };
                let start = places.partition_point(|(id, _)| *id < row);
                let end = start + places[start..].partition_point(|(id, _)| *id == row);
                self.0.dispatch(SumRows { matrix: &gradient, rows: &places[start..end], to });
            });
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("tables have no second derivative"))
    }
}

/// The sum of those rows of a matrix that come second in `rows`.
struct SumRows<'a, T> {
    matrix: &'a Matrix<'a>,
    rows: &'a [(usize, usize)],
    to: &'a mut [T],
}

impl<T: Element> Work for SumRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { matrix, rows, to } = self;
        // Most rows of a vocabulary are in no text.
        if rows.is_empty() {
            return to.fill(T::ZERO);
        }
        let mut scratch = Scratch::new(2 * to.len());
        let (sums, read) = as_floats(&mut scratch).split_at_mut(to.len());
        sums.fill(0.0);
        for (_, row) in rows {
            matrix.read(s, *row, 0, read);
            for (sum, x) in sums.chunks_mut(S::LANES).zip(read.chunks(S::LANES)) {
                store_part(s, sum, s.add(load_part(s, sum), load_part(s, x)));
            }
        }
        convert(s, sums, to);
    }
}

struct ReadRow<'a, T> {
    table: &'a Matrix<'a>,
    row: usize,
    to: &'a mut [T],
}

impl<T: Element> Work for ReadRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.table.read(s, self.row, 0, self.to);
    }
}

/// Where the largest entry of each row of `x` `[.., n]` is, `[..]`: the first of them if there are several.
pub fn argmax(x: &Array) -> Result<Array> {
    let (_, indices) = top_k(x, 1)?;
    indices.reshape(&x.shape()[..x.ndim() - 1])
}

/// The `k` largest entries of each row of `x` `[.., n]`, falling, and where they are, each `[.., k]`; the first of equal
/// ones first, and NaN last.
pub fn top_k(x: &Array, k: i32) -> Result<(Array, Array)> {
    let n = x.shape().last().copied().unwrap_or(0);
    if !is_float(x.dtype()) || !(1..=n).contains(&k) {
        let x = (x.shape(), x.dtype());
        return Err(Exception::custom(format!("there are no {k} largest entries in {x:?}")));
    }
    let mut shape = x.shape().to_vec();
    shape[x.ndim() - 1] = k;
    let mut outputs = ffi::apply(TopK, &[x], &[(&shape, x.dtype()), (&shape, Dtype::Uint32)])?;
    let indices = outputs.remove(1);
    Ok((outputs.remove(0), indices))
}

struct TopK;

impl Kernel for TopK {
    const NAME: &'static CStr = c"top_k";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let [values, indices] = outputs else { unreachable!("two outputs") };
        let (x, k) = (&inputs[0], values.last());
        with_element!(x.dtype, T => {
            let (rows, values, indices) = (x.rows::<T>(), values.shared::<T>(), indices.shared::<u32>());
            parallel(x.num_rows(), |row| {
                let x = rows.get(row);
                // SAFETY: each row is written by one task.
                let (values, indices) = unsafe { (values.slice(row * k, k), indices.slice(row * k, k)) };
                for (i, index) in largest(x, k).into_iter().enumerate() {
                    (values[i], indices[i]) = (x[index as usize], index);
                }
            });
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("places have no derivative"))
    }
}

fn largest<T: Element>(x: &[T], k: usize) -> Vec<u32> {
    let rank = |&a: &u32, &b: &u32| -> Ordering {
        let (x, y) = (x[a as usize].to_f32(), x[b as usize].to_f32());
        x.is_nan().cmp(&y.is_nan()).then(y.partial_cmp(&x).unwrap_or(Ordering::Equal)).then(a.cmp(&b))
    };
    let all = 0..x.len() as u32;
    if k == 1 {
        return all.min_by(rank).into_iter().collect();
    }
    let mut indices: Vec<u32> = all.collect();
    if k < indices.len() {
        indices.select_nth_unstable_by(k - 1, rank);
        indices.truncate(k);
    }
    indices.sort_unstable_by(rank);
    indices
}
