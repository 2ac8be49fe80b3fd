//! MLX's quantized operations in all their number formats; mlx-rs has them for the affine one only.

use std::ffi::{CStr, c_int};

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{mlx_array, mlx_optional_dtype, mlx_optional_int};

/// A packed number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `scale · q + bias` with unsigned integers; scales and biases are floats.
    Affine,
    /// OCP's MX format: 4-bit floats, a power of two as the scale of 32.
    Mxfp4,
    /// NVIDIA's: 4-bit floats, an 8-bit float as the scale of 16.
    Nvfp4,
    /// OCP's MX format: 8-bit floats, a power of two as the scale of 32.
    Mxfp8,
}

impl Mode {
    fn name(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Nvfp4 => c"nvfp4",
            Self::Mxfp8 => c"mxfp8",
        }
    }

    /// Whether groups have a bias beside their scale.
    pub fn has_biases(self) -> bool {
        self == Self::Affine
    }
}

/// A matrix `[output, input]` in packed form.
#[derive(Debug, Clone)]
pub struct Packed {
    /// `[output, input · bits / 32]`, u32.
    pub weight: Array,
    /// `[output, input / group_size]`
    pub scales: Array,
    /// `[output, input / group_size]`, where the mode has them.
    pub biases: Option<Array>,
    /// Consecutive numbers of a row that share a scale.
    pub group_size: i32,
    /// Bits of one number.
    pub bits: i32,
    /// The number format.
    pub mode: Mode,
}

impl Packed {
    /// Packs a matrix of floats.
    pub fn quantize(matrix: &Array, group_size: i32, bits: i32, mode: Mode) -> Result<Self> {
        prepare()?;
        let (stream, none) = (Stream::thread_local_or_default(), Empty::new());
        let mut arrays = Empty::new_vector();
        // SAFETY: all handles are alive for the call, which reads the inputs and writes a valid vector into `arrays`.
        let status = unsafe {
            mlx_sys::mlx_quantize(
                &mut arrays.0,
                matrix.as_ptr(),
                some(group_size),
                some(bits),
                mode.name().as_ptr(),
                none.0,
                stream.as_ptr(),
            )
        };
        check(status, "quantize", mode)?;
        let get = |index| {
            // SAFETY: as above; an index out of range is an error, not undefined.
            result("quantize", mode, |array| unsafe { mlx_sys::mlx_vector_array_get(array, arrays.0, index) })
        };
        let biases = mode.has_biases().then(|| get(2)).transpose()?;
        Ok(Self { weight: get(0)?, scales: get(1)?, biases, group_size, bits, mode })
    }

    /// `x · matrixᵀ` for `x` `[.., input]`, of the type of `x`.
    pub fn matmul(&self, x: &Array) -> Result<Array> {
        self.product(x, true)
    }

    /// `x · matrix` for `x` `[.., output]`, of the type of `x`.
    pub fn weighted_rows(&self, x: &Array) -> Result<Array> {
        self.product(x, false)
    }

    fn product(&self, x: &Array, transposed: bool) -> Result<Array> {
        prepare()?;
        let (stream, none) = (Stream::thread_local_or_default(), Empty::new());
        // SAFETY: all handles are alive for the call, which only reads the inputs.
        result("quantized_matmul", self.mode, |array| unsafe {
            mlx_sys::mlx_quantized_matmul(
                array,
                x.as_ptr(),
                self.weight.as_ptr(),
                self.scales.as_ptr(),
                self.biases.as_ref().map_or(none.0, Array::as_ptr),
                transposed,
                some(self.group_size),
                some(self.bits),
                self.mode.name().as_ptr(),
                stream.as_ptr(),
            )
        })
    }

    /// The matrix as floats of type `dtype`.
    pub fn dequantize(&self, dtype: Dtype) -> Result<Array> {
        prepare()?;
        let (stream, none) = (Stream::thread_local_or_default(), Empty::new());
        // SAFETY: all handles are alive for the call, which only reads the inputs.
        let array = result("dequantize", self.mode, |array| unsafe {
            mlx_sys::mlx_dequantize(
                array,
                self.weight.as_ptr(),
                self.scales.as_ptr(),
                self.biases.as_ref().map_or(none.0, Array::as_ptr),
                some(self.group_size),
                some(self.bits),
                self.mode.name().as_ptr(),
                none.0,
                mlx_optional_dtype { value: dtype.into(), has_value: true },
                stream.as_ptr(),
            )
        })?;
        array.as_dtype(dtype)
    }

    /// The same rows of all parts: those that `select` takes.
    pub fn map_rows(&self, select: impl Fn(&Array) -> Result<Array>) -> Result<Self> {
        Ok(Self {
            weight: select(&self.weight)?,
            scales: select(&self.scales)?,
            biases: self.biases.as_ref().map(&select).transpose()?,
            ..*self
        })
    }
}

/// An empty handle of MLX's, freed in the end.
struct Empty<T>(T, unsafe extern "C" fn(T) -> c_int)
where
    T: Copy;

impl Empty<mlx_array> {
    fn new() -> Self {
        // SAFETY: makes a new handle; no conditions.
        Self(unsafe { mlx_sys::mlx_array_new() }, mlx_sys::mlx_array_free)
    }
}

impl Empty<mlx_sys::mlx_vector_array> {
    fn new_vector() -> Self {
        // SAFETY: makes a new handle; no conditions.
        Self(unsafe { mlx_sys::mlx_vector_array_new() }, mlx_sys::mlx_vector_array_free)
    }
}

impl<T: Copy> Drop for Empty<T> {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own, and it is freed once.
        unsafe { (self.1)(self.0) };
    }
}

fn some(value: i32) -> mlx_optional_int {
    mlx_optional_int { value, has_value: true }
}

/// The array that `operation` writes.
fn result(what: &str, mode: Mode, operation: impl FnOnce(*mut mlx_array) -> c_int) -> Result<Array> {
    // SAFETY: makes a new handle; no conditions.
    let mut array = unsafe { mlx_sys::mlx_array_new() };
    let status = operation(&mut array);
    // SAFETY: the handle is valid, empty if the operation failed, and Array becomes its only owner.
    let array = unsafe { Array::from_ptr(array) };
    check(status, what, mode)?;
    Ok(array)
}

fn check(status: c_int, what: &str, mode: Mode) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(Exception::custom(format!("MLX refuses {what} of {mode:?} numbers with these shapes and types")))
}

/// Until mlx-rs has installed its error handler, which it does at its first own call, MLX ends the process on errors.
fn prepare() -> Result<()> {
    mlx_rs::memory::active_memory().map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_unpacked_matrix() {
        // The same numbers every time: how coarse a mode is depends on the largest.
        let key = mlx_rs::random::key(0).unwrap();
        let random = |shape: &[i32]| mlx_rs::random::normal::<f32>(shape, None, None, &key).unwrap();
        let (matrix, x) = (random(&[48, 128]), random(&[3, 128]));
        for (mode, group_size, bits, error) in [
            (Mode::Affine, 64, 3, 1.0),
            (Mode::Mxfp4, 32, 4, 0.9),
            (Mode::Nvfp4, 16, 4, 0.9),
            (Mode::Mxfp8, 32, 8, 0.2),
        ] {
            let packed = Packed::quantize(&matrix, group_size, bits, mode).unwrap();
            assert_eq!(packed.biases.is_some(), mode.has_biases());
            let plain = packed.dequantize(Dtype::Float32).unwrap();
            let largest =
                |a: &Array, b: &Array| a.subtract(b).unwrap().abs().unwrap().max(None).unwrap().item_exact::<f32>();
            assert!(largest(&plain, &matrix) < error, "{mode:?}: {}", largest(&plain, &matrix));
            let product = packed.matmul(&x).unwrap();
            assert!(largest(&product, &x.matmul(plain.t()).unwrap()) < 1e-4, "{mode:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let matrix = Array::zeros::<f32>(&[4, 40]).unwrap();
        assert!(Packed::quantize(&matrix, 64, 4, Mode::Affine).is_err());
        let packed = Packed::quantize(&Array::zeros::<f32>(&[4, 64]).unwrap(), 32, 4, Mode::Mxfp4).unwrap();
        assert!(packed.matmul(&matrix).is_err());
    }
}
