//! Packing and unpacking of matrices, to the bit as MLX's CPU backend does it.
//!
//! MLX packs on one thread; the modes of floats it composes of a dozen operations on the whole matrix. Which intermediate
//! numbers are rounded to the type of the matrix is MLX's choice, and is kept here.

use std::ffi::CStr;

use mlx_quantized::{Mode, Packed};
use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use crate::element::{Element, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::linear::{E2M1, E4M3, Format, Matrix, PackedView, Weight, current_level, is_float, is_form, pack};
use crate::map::for_rows;
use crate::scratch::as_slice_of;
use crate::simd::{Simd, Work};
use crate::view::{View, ViewMut};

/// Packs `matrix` `[.., output, input]` of floats: weights `[.., output, input · bits / 32]`, scales and, in the affine
/// mode, biases `[.., output, input / group_size]`.
///
/// The result is that of [`Packed::quantize`], to the bit but for groups with NaN or, in MXFP8, infinity.
///
/// # Errors
/// When MLX has no such form, `matrix` is no matrix of floats or empty, or `input` is not a multiple of `group_size`.
pub fn quantize(matrix: &Array, group_size: i32, bits: i32, mode: Mode) -> Result<Packed> {
    quantize_at(current_level()?, matrix, group_size, bits, mode)
}

pub(crate) fn quantize_at(level: Level, matrix: &Array, group_size: i32, bits: i32, mode: Mode) -> Result<Packed> {
    if !is_form(mode, group_size, bits) {
        return Err(Exception::custom(format!("{mode:?} has no groups of {group_size} with {bits} bits")));
    }
    let (shape, dtype) = (matrix.shape(), matrix.dtype());
    let [outer @ .., inputs] = shape else { return Err(Exception::custom("a number is no matrix to pack")) };
    if outer.is_empty() || shape.contains(&0) || inputs % group_size != 0 || !is_float(dtype) {
        return Err(Exception::custom(format!("{shape:?} of {dtype:?} is no matrix to pack by {group_size}")));
    }
    let with_last = |last: i32| [outer, &[last]].concat();
    // Of 32 numbers each bit is a word; there are never fewer than 16.
    let (weight, grouped) = (with_last(inputs / 16 * bits / 2), with_last(inputs / group_size));
    let scale = if mode.has_biases() { dtype } else { Dtype::Uint8 };
    let mut outputs = vec![(&weight[..], Dtype::Uint32), (&grouped[..], scale)];
    outputs.extend(mode.has_biases().then_some((&grouped[..], dtype)));
    let kernel = Quantize { mode, bits: bits as usize, group_size: group_size as usize, level };
    let mut arrays = ffi::apply(kernel, &[matrix], &outputs)?.into_iter();
    let (Some(weight), Some(scales)) = (arrays.next(), arrays.next()) else { unreachable!("two outputs or three") };
    Ok(Packed { weight, scales, biases: arrays.next(), group_size, bits, mode })
}

#[derive(Clone, Copy)]
struct Quantize {
    mode: Mode,
    bits: usize,
    group_size: usize,
    level: Level,
}

impl Kernel for Quantize {
    const NAME: &'static CStr = c"quantize";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let (x, form, len) = (&inputs[0], *self, inputs[0].last());
        let (words, groups) = (len / 16 * self.bits / 2, len / self.group_size);
        with_element!(x.dtype, T => {
            let rows = x.rows::<T>();
            if let [weight, scales, biases] = outputs {
                let (weight, scales, biases) = (weight.shared(), scales.shared::<T>(), biases.shared::<T>());
                for_rows(x.num_rows(), len, |row| {
                    // SAFETY: each row is written by one task.
                    let (scales, biases) =
                        unsafe { (scales.slice(row * groups, groups), biases.slice(row * groups, groups)) };
                    // SAFETY: as above.
                    let to = as_slice_of(unsafe { weight.slice(row * words, words) });
                    self.level.dispatch(AffineRow { form, x: rows.get(row), to, scales, biases });
                });
            } else if let [weight, scales] = outputs {
                let (weight, scales) = (weight.shared(), scales.shared());
                for_rows(x.num_rows(), len, |row| {
                    // SAFETY: each row is written by one task.
                    let scales = unsafe { scales.slice(row * groups, groups) };
                    // SAFETY: as above.
                    let to = as_slice_of(unsafe { weight.slice(row * words, words) });
                    self.level.dispatch(FloatRow { form, x: rows.get(row), to, scales });
                });
            }
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("packed numbers have no derivative"))
    }
}

/// The longest group.
const GROUP: usize = 128;

/// A row in the affine mode.
struct AffineRow<'a, T> {
    form: Quantize,
    x: &'a [T],
    to: &'a mut [u8],
    scales: &'a mut [T],
    biases: &'a mut [T],
}

impl<T: Element> Work for AffineRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize { bits, group_size, .. } = self.form;
        let most = ((1_u32 << bits) - 1) as f32;
        let mut codes = [0; GROUP];
        let groups = self.x.chunks_exact(group_size).zip(self.to.chunks_exact_mut(group_size * bits / 8));
        for ((x, to), (scale, bias)) in groups.zip(self.scales.iter_mut().zip(self.biases)) {
            let (smallest, largest) = range(s, x);
            let (step, start) = affine(smallest, largest, most);
            (*scale, *bias) = (T::from_f32(step), T::from_f32(start));
            let codes = &mut codes[..group_size];
            for (x, to) in x.chunks_exact(S::LANES).zip(codes.chunks_exact_mut(S::LANES)) {
                // SAFETY: chunks are of that length.
                let x = unsafe { T::load(s, x.as_ptr()) };
                // By the numbers before they were rounded to the type of the matrix.
                let steps = s.div(s.sub(x, s.splat(start)), s.splat(step));
                let code = s.round(s.min(s.max(steps, s.splat(0.0)), s.splat(most)));
                // SAFETY: as above.
                unsafe { s.store_words(to.as_mut_ptr(), code) };
            }
            pack(bits, codes, to);
        }
    }
}

/// The smallest and the largest of a group, without NaN.
#[inline(always)]
fn range<S: Simd, T: Element>(s: S, x: &[T]) -> (f32, f32) {
    let mut largest = s.splat(f32::NEG_INFINITY);
    let mut smallest = s.splat(f32::INFINITY);
    for x in x.chunks_exact(S::LANES) {
        // SAFETY: chunks are of that length.
        let x = unsafe { T::load(s, x.as_ptr()) };
        (largest, smallest) = (s.max(x, largest), s.min(x, smallest));
    }
    (-s.largest(s.sub(s.splat(0.0), smallest)), s.largest(largest))
}

/// Scale and bias of a group. Its end that is farther from zero becomes exact, and so does zero.
#[inline(always)]
fn affine(smallest: f32, largest: f32, most: f32) -> (f32, f32) {
    const LEAST: f32 = 1e-7;
    let width = (largest - smallest) / most;
    // Not `max`, which would hide NaN.
    let step = if width < LEAST { LEAST } else { width };
    let (edge, step) = if smallest.abs() > largest.abs() { (smallest, step) } else { (largest, -step) };
    let steps = (edge / step).round_ties_even();
    if steps == 0.0 { (step, 0.0) } else { (edge / steps, edge) }
}

/// A row in one of the modes of floats.
struct FloatRow<'a, T> {
    form: Quantize,
    x: &'a [T],
    to: &'a mut [u8],
    scales: &'a mut [u8],
}

impl<T: Element> Work for FloatRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Quantize { mode, bits, group_size, .. } = self.form;
        let largest_code = if bits == 4 { 6.0 } else { 448.0 };
        let (mut quotients, mut codes) = ([0.0; GROUP], [0; GROUP]);
        let groups = self.x.chunks_exact(group_size).zip(self.to.chunks_exact_mut(group_size * bits / 8));
        for ((x, to), scale_code) in groups.zip(self.scales) {
            let (smallest, largest) = range(s, x);
            let largest = (-smallest).max(largest);
            let wanted = round_to::<T>(largest / largest_code);
            let (code, scale) = if mode == Mode::Nvfp4 { by_e4m3(wanted) } else { by_power::<T>(wanted) };
            *scale_code = code;
            let (quotients, codes) = (&mut quotients[..group_size], &mut codes[..group_size]);
            divide(s, x, scale, quotients);
            if bits == 8 {
                for (code, &x) in codes.iter_mut().zip(&*quotients) {
                    *code = e4m3(x).into();
                }
            } else if largest / scale < EXACT {
                e2m1(s, quotients, codes);
            } else {
                for (code, &x) in codes.iter_mut().zip(&*quotients) {
                    *code = nearest_e2m1(x);
                }
            }
            pack(bits, codes, to);
        }
    }
}

/// Rounded to the type of the matrix.
#[inline(always)]
fn round_to<T: Element>(x: f32) -> f32 {
    T::from_f32(x).to_f32()
}

/// The scale of NVFP4 near `wanted`, and its code.
#[inline(always)]
fn by_e4m3(wanted: f32) -> (u8, f32) {
    let code = e4m3(wanted);
    (code, E4M3[usize::from(code)])
}

/// The scale of the MX formats, the smallest power of two that is at least `wanted`, and its code: the exponent plus 127,
/// modulo 256. MLX takes 1 for 0, and for infinity what x86 makes of it as an integer.
#[inline(always)]
fn by_power<T: Element>(wanted: f32) -> (u8, f32) {
    let exponent = if wanted == 0.0 {
        0
    } else if wanted.is_infinite() {
        i32::MIN
    } else {
        // All float32 are normal in float64.
        let bits = f64::from(wanted).to_bits();
        (bits >> 52) as i32 - 1023 + i32::from(bits << 12 != 0)
    };
    let scale = f64::from_bits(((exponent.max(-1023) + 1023) as u64) << 52) as f32;
    (round_to::<T>(exponent as f32 + 127.0) as i64 as u8, round_to::<T>(scale))
}

/// `x / scale`, rounded to the type of the matrix.
#[inline(always)]
fn divide<S: Simd, T: Element>(s: S, x: &[T], scale: f32, to: &mut [f32]) {
    for (x, to) in x.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
        // SAFETY: chunks are of that length.
        unsafe { s.store(to.as_mut_ptr(), round_lanes::<S, T>(s, s.div(T::load(s, x.as_ptr()), s.splat(scale)))) };
    }
}

/// [`round_to`] in every lane.
#[inline(always)]
fn round_lanes<S: Simd, T: Element>(s: S, x: S::F) -> S::F {
    let mut lanes = [T::ZERO; 16];
    // SAFETY: no set has more than 16 lanes.
    unsafe {
        T::store(s, lanes.as_mut_ptr(), x);
        T::load(s, lanes.as_ptr())
    }
}

/// The 8-bit float next to `x`, ties to even, and the largest one beyond them.
#[inline(always)]
fn e4m3(x: f32) -> u8 {
    let size = x.abs().min(448.0);
    let bits = size.to_bits();
    // The exponent's offset falls from 127 to 7. Subnormal numbers round as do those to which 2^14 was added.
    let normal = ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
    let subnormal = (size + 16384.0).to_bits() - 16384_f32.to_bits();
    let code = if size < 1.0 / 64.0 { subnormal } else { normal };
    code as u8 | (x.to_bits() >> 24 & 0x80) as u8
}

/// Below it, float32 tells the distances to two neighbouring 4-bit floats from each other.
const EXACT: f32 = (1 << 24) as f32;

/// The 4-bit floats next to `x`, of two the smaller, and no negative zero.
#[inline(always)]
fn e2m1<S: Simd>(s: S, x: &[f32], to: &mut [i16]) {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    for (x, to) in x.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
        // SAFETY: chunks are of that length.
        let x = unsafe { s.load(x.as_ptr()) };
        let size = s.max(x, s.sub(zero, x));
        let mut code = zero;
        for middle in [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0] {
            code = s.add(code, s.select_le(size, s.splat(middle), zero, one));
        }
        let sign = s.select_le(x, s.splat(-0.25), s.splat(8.0), zero);
        code = s.add(code, s.select_le(size, s.splat(0.25), zero, sign));
        // SAFETY: as above.
        unsafe { s.store_words(to.as_mut_ptr(), code) };
    }
}

/// As MLX finds it: the first at the smallest of the rounded distances, so that it is 0 for infinity.
fn nearest_e2m1(x: f32) -> i16 {
    let distance = |code: usize| (x - E2M1[code]).abs();
    let mut nearest = 0;
    for code in 1..16 {
        if distance(code) < distance(nearest) {
            nearest = code;
        }
    }
    nearest as i16
}

/// Unpacks a matrix, `[.., output, input]`, as floats of type `dtype`.
///
/// The result is that of [`Packed::dequantize`], to the bit but for NaN: of the affine mode it is computed and rounded in
/// the type of the scales, of the others in `dtype`.
///
/// # Errors
/// When the arrays of `packed` do not fit one another or are empty, or `dtype` is no float.
pub fn dequantize(packed: &Packed, dtype: Dtype) -> Result<Array> {
    dequantize_at(current_level()?, packed, dtype)
}

pub(crate) fn dequantize_at(level: Level, packed: &Packed, dtype: Dtype) -> Result<Array> {
    let weight = Weight::Packed(packed);
    let alike = packed.biases.as_ref().is_none_or(|biases| biases.dtype() == packed.scales.dtype());
    let Some((outer, outputs, inputs)) = weight.shapes().filter(|_| alike && is_float(dtype)) else {
        let arrays: Vec<_> = weight.arrays().into_iter().map(|array| (array.shape(), array.dtype())).collect();
        let form = (packed.mode, packed.group_size, packed.bits);
        return Err(Exception::custom(format!("{arrays:?} are no matrix of {form:?} to unpack as {dtype:?}")));
    };
    let computed = if packed.mode.has_biases() { packed.scales.dtype() } else { dtype };
    let shape = [outer, &[outputs, inputs]].concat();
    let array = ffi::apply_one(Dequantize { format: weight.format(), level }, &weight.arrays(), &shape, computed)?;
    array.as_dtype(dtype)
}

struct Dequantize {
    format: Format,
    level: Level,
}

impl Kernel for Dequantize {
    const NAME: &'static CStr = c"dequantize";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let Matrix::Packed(packed) = &Matrix::new(self.format, inputs) else { unreachable!("it was packed") };
        let (rows, y) = (inputs[0].num_rows(), &mut outputs[0]);
        let len = y.last();
        with_element!(y.dtype(), T => {
            let y = y.shared::<T>();
            for_rows(rows, len, |row| {
                // SAFETY: each row is written by one task.
                let to = unsafe { y.slice(row * len, len) };
                self.level.dispatch(UnpackRow { packed, row, to });
            });
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("packed numbers have no derivative"))
    }
}

struct UnpackRow<'a, T> {
    packed: &'a PackedView<'a>,
    row: usize,
    to: &'a mut [T],
}

impl<T: Element> Work for UnpackRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { packed, row, to } = self;
        let size = packed.group_size;
        let mut codes = [0; GROUP];
        for (group, to) in to.chunks_exact_mut(size).enumerate() {
            let codes = &mut codes[..size];
            packed.codes(s, row, group * size, codes);
            let (scale, bias) = packed.scale_and_bias(row, group);
            match packed.mode {
                Mode::Affine => unpack_affine(s, codes, scale, bias, to),
                Mode::Mxfp4 | Mode::Nvfp4 => unpack_floats(s, &E2M1, codes, scale, to),
                Mode::Mxfp8 => unpack_floats(s, &E4M3, codes, scale, to),
            }
        }
    }
}

#[inline(always)]
fn unpack_affine<S: Simd, T: Element>(s: S, codes: &[u8], scale: f32, bias: f32, to: &mut [T]) {
    let (scale, bias) = (s.splat(scale), s.splat(bias));
    for (codes, to) in codes.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
        // SAFETY: chunks are of that length.
        unsafe {
            // MLX rounds twice, even in float32.
            let product = round_lanes::<S, T>(s, s.mul(s.load_u8(codes.as_ptr()), scale));
            T::store(s, to.as_mut_ptr(), s.add(product, bias));
        }
    }
}

#[inline(always)]
fn unpack_floats<S: Simd, T: Element>(s: S, table: &[f32], codes: &[u8], scale: f32, to: &mut [T]) {
    let scale = s.splat(round_to::<T>(scale));
    for (codes, to) in codes.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
        let mut lanes = [0.0; 16];
        for (lane, &code) in lanes.iter_mut().zip(codes) {
            *lane = table[usize::from(code)];
        }
        // SAFETY: chunks are of that length, and no set has more than 16 lanes.
        unsafe { T::store(s, to.as_mut_ptr(), s.mul(s.load(lanes.as_ptr()), scale)) };
    }
}
