//! The bridge to MLX: a Rust value that implements [`Kernel`] becomes a lazy MLX operation.
//!
//! The other side is `shim.cpp`, one C++ primitive for all kernels.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::slice;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype, Stream};

use crate::view::{View, ViewMut};

/// An operation on arrays.
pub(crate) trait Kernel: Send + Sync + Sized + 'static {
    /// For error messages and graphs.
    const NAME: &'static CStr;

    /// Computes the outputs; called on a thread of MLX's. Shapes and types are those that [`apply`] was called with, so
    /// that whoever calls it has checked them: a panic here ends the process.
    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]);

    /// The gradients with respect to the inputs, as far as there are any, from those with respect to the outputs, which
    /// are of the outputs' types. All of them are lazy: those that nobody asked for are never computed.
    fn vjp(&self, inputs: &[Array], cotangents: &[Array]) -> Result<Vec<Option<Array>>>;
}

/// The outputs of `kernel` on `inputs`, one for each shape and type.
pub(crate) fn apply<K: Kernel>(kernel: K, inputs: &[&Array], outputs: &[(&[i32], Dtype)]) -> Result<Vec<Array>> {
    // Any own call of mlx-rs installs its error handler; until then MLX ends the process on errors.
    mlx_rs::memory::active_memory()?;
    let stream = Stream::thread_local_or_default();
    // mlx-c's handles are a pointer to the C++ object.
    let handles: Vec<*mut c_void> = inputs.iter().map(|array| array.as_ptr().ctx).collect();
    let specs: Vec<RawTensor> = outputs
        .iter()
        .map(|&(shape, dtype)| RawTensor {
            data: std::ptr::null_mut(),
            shape: shape.as_ptr(),
            strides: std::ptr::null(),
            ndim: shape.len(),
            dtype: mlx_sys::mlx_dtype::from(dtype) as c_int,
        })
        .collect();
    let mut results = vec![std::ptr::null_mut(); outputs.len()];
    // SAFETY: all pointers are alive for the call and as long as said beside them. The kernel's box belongs to the
    // other side from here on, which gives it to `drop_kernel` once, also on failure.
    let ok = unsafe {
        mlx_cpu_apply(
            Box::into_raw(Box::new(kernel)).cast(),
            vtable::<K>(),
            handles.as_ptr(),
            handles.len(),
            specs.as_ptr(),
            specs.len(),
            stream.as_ptr().ctx,
            results.as_mut_ptr(),
        )
    };
    if !ok {
        return Err(Exception::custom(format!("MLX refuses the operation {:?}", K::NAME)));
    }
    // SAFETY: each is a new object that the call made for us.
    Ok(results.into_iter().map(|array| unsafe { own(array) }).collect())
}

/// [`apply`] for one output.
pub(crate) fn apply_one<K: Kernel>(kernel: K, inputs: &[&Array], shape: &[i32], dtype: Dtype) -> Result<Array> {
    let mut outputs = apply(kernel, inputs, &[(shape, dtype)])?;
    Ok(outputs.remove(0))
}

/// # Safety
/// `array` is a C++ array that nobody else frees.
unsafe fn own(array: *mut c_void) -> Array {
    // SAFETY: mlx-c's handle of an array is a pointer to the C++ object, and the caller gives it away.
    unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx: array }) }
}

/// `Tensor` of shim.cpp.
#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    shape: *const i32,
    strides: *const i64,
    ndim: usize,
    dtype: c_int,
}

/// `Vtable` of shim.cpp.
#[repr(C)]
struct Vtable {
    name: *const c_char,
    run: unsafe extern "C" fn(*const c_void, *const RawTensor, usize, *const RawTensor, usize),
    vjp: unsafe extern "C" fn(
        *const c_void,
        *const *mut c_void,
        usize,
        *const *mut c_void,
        usize,
        *mut *mut c_void,
    ) -> bool,
    drop: unsafe extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    fn mlx_cpu_apply(
        kernel: *mut c_void,
        vtable: *const Vtable,
        inputs: *const *mut c_void,
        n_inputs: usize,
        outputs: *const RawTensor,
        n_outputs: usize,
        stream: *const c_void,
        results: *mut *mut c_void,
    ) -> bool;
}

fn vtable<K: Kernel>() -> *const Vtable {
    struct Of<K>(K);
    impl<K: Kernel> Of<K> {
        const VTABLE: &'static Vtable =
            &Vtable { name: K::NAME.as_ptr(), run: run::<K>, vjp: vjp::<K>, drop: drop_kernel::<K> };
    }
    Of::<K>::VTABLE
}

/// # Safety
/// As shim.cpp calls it: a living `K`, and descriptions of arrays whose memory is allocated, the inputs' written.
unsafe extern "C" fn run<K: Kernel>(
    kernel: *const c_void,
    inputs: *const RawTensor,
    n_inputs: usize,
    outputs: *const RawTensor,
    n_outputs: usize,
) {
    // SAFETY: by this function's own conditions; outputs overlap neither each other nor the inputs, as each is a fresh
    // allocation.
    unsafe {
        let inputs: Vec<View> = raw_tensors(inputs, n_inputs).iter().map(|raw| view(raw)).collect();
        let mut outputs: Vec<ViewMut> =
            raw_tensors(outputs, n_outputs).iter().map(|raw| ViewMut::new(view(raw))).collect();
        (*kernel.cast::<K>()).run(&inputs, &mut outputs);
    }
}

/// # Safety
/// As shim.cpp calls it: a living `K`, arrays that become ours, and room for as many gradients as inputs.
unsafe extern "C" fn vjp<K: Kernel>(
    kernel: *const c_void,
    primals: *const *mut c_void,
    n_primals: usize,
    cotangents: *const *mut c_void,
    n_cotangents: usize,
    gradients: *mut *mut c_void,
) -> bool {
    // SAFETY: by this function's own conditions.
    let (kernel, primals, cotangents, gradients) = unsafe {
        let own_all = |arrays, n| slice::from_raw_parts(arrays, n).iter().map(|&array| own(array)).collect::<Vec<_>>();
        (
            &*kernel.cast::<K>(),
            own_all(primals, n_primals),
            own_all(cotangents, n_cotangents),
            slice::from_raw_parts_mut(gradients, n_primals),
        )
    };
    let Ok(values) = kernel.vjp(&primals, &cotangents) else { return false };
    for (slot, value) in gradients.iter_mut().zip(values) {
        // The C++ side frees it in place of the Array.
        *slot = value.map_or(std::ptr::null_mut(), |array| std::mem::ManuallyDrop::new(array).as_ptr().ctx);
    }
    true
}

/// # Safety
/// `kernel` is a box of `K`, dropped here only.
unsafe extern "C" fn drop_kernel<K>(kernel: *mut c_void) {
    // SAFETY: by this function's own conditions.
    drop(unsafe { Box::from_raw(kernel.cast::<K>()) });
}

/// # Safety
/// `n` descriptions at `tensors`.
unsafe fn raw_tensors<'a>(tensors: *const RawTensor, n: usize) -> &'a [RawTensor] {
    // SAFETY: by this function's own conditions; a vector of none may have no address.
    if n == 0 { &[] } else { unsafe { slice::from_raw_parts(tensors, n) } }
}

/// # Safety
/// The description is of an array that lives as long as `raw`.
unsafe fn view(raw: &RawTensor) -> View<'_> {
    // SAFETY: by this function's own conditions. Scalars have no axes and perhaps no address for them.
    unsafe {
        let (shape, strides): (&[i32], &[i64]) = match raw.ndim {
            0 => (&[], &[]),
            n => (slice::from_raw_parts(raw.shape, n), slice::from_raw_parts(raw.strides, n)),
        };
        View::new(raw.data.cast(), shape, strides, dtype(raw.dtype))
    }
}

/// MLX's number of a type.
fn dtype(value: c_int) -> Dtype {
    use Dtype::*;
    const ALL: [Dtype; 14] = [
        Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Float16, Float32, Float64, Bfloat16, Complex64,
    ];
    ALL[value as usize]
}
