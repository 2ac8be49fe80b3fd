//! `cblas_sgemm`, for the float32 products that MLX computes itself. The BLAS in MLX's Linux wheel is the reference
//! implementation, at 3 GFLOP/s; a program that links this crate has this one in its place.

use std::ffi::c_int;
use std::slice;

use mlx_rs::Dtype;

use crate::level::Level;
use crate::linear::{Direction, Floats, Matrix};
use crate::view::{SharedMut, View};

const ROW_MAJOR: c_int = 101;
const NO_TRANSPOSE: c_int = 111;

/// `c = alpha · op(a) · op(b) + beta · c` as BLAS defines it.
///
/// # Safety
/// As in BLAS: matrices of these sizes at these addresses, `c` apart from the others.
// Not where the system's own BLAS is linked statically or is as good.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cblas_sgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    if order != ROW_MAJOR {
        // The transposes the other way round: cᵀ = op(b)ᵀ · op(a)ᵀ.
        // SAFETY: by this function's own conditions.
        return unsafe {
            cblas_sgemm(ROW_MAJOR, transpose_b, transpose_a, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
        };
    }
    if m <= 0 || n <= 0 {
        return;
    }
    let level = Level::current().unwrap_or(Level::Portable);
    let (rows, outputs, len) = (m as usize, n as usize, k.max(0) as usize);
    let mut product = vec![0.0; rows * outputs];
    if len > 0 && alpha != 0.0 {
        // What is read along its rows, and how far rows are apart. A transposed `a` has its rows as columns.
        let (shape_a, strides_a) =
            ([m, k], if transpose_a == NO_TRANSPOSE { [lda.into(), 1] } else { [1, lda.into()] });
        let (shape_b, direction) = match transpose_b == NO_TRANSPOSE {
            true => ([k, n], Direction::ColumnsAreOutputs),
            false => ([n, k], Direction::RowsAreOutputs),
        };
        let strides_b = [ldb.into(), 1];
        // SAFETY: by this function's own conditions.
        let (a, b) = unsafe {
            (
                View::new(a.cast(), &shape_a, &strides_a, Dtype::Float32),
                View::new(b.cast(), &shape_b, &strides_b, Dtype::Float32),
            )
        };
        let (a, b) = (Matrix::dense(&a), Matrix::dense(&b));
        let to = SharedMut::new(&mut product);
        Floats::new(level, Dtype::Float32, &a, &b, direction, len).multiply(rows, outputs, None, &to);
    }
    for (row, product) in product.chunks_exact(outputs).enumerate() {
        // SAFETY: by this function's own conditions.
        let c = unsafe { slice::from_raw_parts_mut(c.add(row * ldc as usize), outputs) };
        for (c, product) in c.iter_mut().zip(product) {
            // With beta 0, what was there is not read: it may be NaN.
            *c = alpha * product + if beta == 0.0 { 0.0 } else { beta * *c };
        }
    }
}
