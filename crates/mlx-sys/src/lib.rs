//! Raw bindings to mlx-c, with the interface of the registry's `mlx-sys` 0.7.0 that mlx-rs 0.33 expects.
//!
//! This crate stands in for that one (`[patch.crates-io]` in the workspace manifest), which compiles MLX from a GitHub
//! checkout and on macOS only. Here libmlx comes ready from the wheels that MLX publishes, see `build.rs`. Nothing but
//! mlx-rs and the crates beside this one should use it.
#![allow(non_camel_case_types, non_upper_case_globals)]

#[allow(clippy::all)]
mod bindings;

pub use bindings::*;

/// The bits of an IEEE half; mlx-rs reads and writes them as such.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct float16_t(pub u16);

/// The bits of a bfloat16.
pub type bfloat16_t = u16;

// mlx-c defines these on Arm only, `half.cpp` elsewhere.
unsafe extern "C" {
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> std::ffi::c_int;
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> std::ffi::c_int;
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}

/// The clock from which mlx-rs seeds its default random state; macOS has it in its own system library.
/// Returns nanoseconds since an unspecified moment.
#[cfg(not(target_vendor = "apple"))]
#[unsafe(no_mangle)]
pub extern "C" fn mach_approximate_time() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_nanos() as u64)
}
