//! Linear maps of which every row takes some out of many: a mixture's experts (Shazeer et al. 2017).

use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Dtype};

use super::{Format, Weight, current_level, is_float, is_index, product};
use crate::element::{Element, with_element};
use crate::ffi::{self, Kernel};
use crate::level::Level;
use crate::view::{SharedMut, View, ViewMut};

/// `y[i, j] = x[i] · weight[experts[i, j]]ᵀ` for `x` `[rows, input]`, `weight` `[experts, output, input]` and `experts`
/// `[rows, k]`; `[rows, k, output]`, of the type of `x`. Zeros for numbers that are no expert.
///
/// Each expert's rows are multiplied together, so that its matrix is read once.
///
/// # Errors
/// When shapes or types do not fit.
pub fn expert_linear(x: &Array, weight: Weight, experts: &Array) -> Result<Array> {
    expert_linear_at(current_level()?, x, weight, experts)
}

pub(crate) fn expert_linear_at(level: Level, x: &Array, weight: Weight, experts: &Array) -> Result<Array> {
    let shape = match (weight.shapes(), x.shape(), experts.shape()) {
        (Some((&[_], outputs, inputs)), &[rows, input], &[same_rows, k]) if rows == same_rows && input == inputs => {
            Some([rows, k, outputs])
        }
        _ => None,
    };
    let Some(shape) = shape.filter(|_| is_float(x.dtype()) && is_index(experts.dtype())) else {
        let (x, experts) = ((x.shape(), x.dtype()), experts.shape());
        return Err(Exception::custom(format!("experts {weight:?} do not take {x:?} with choices {experts:?}")));
    };
    let experts = experts.as_dtype(Dtype::Int32)?;
    let inputs: Vec<&Array> = [x, &experts].into_iter().chain(weight.arrays()).collect();
    ffi::apply_one(Experts { format: weight.format(), level }, &inputs, &shape, x.dtype())
}

struct Experts {
    format: Format,
    level: Level,
}

impl Kernel for Experts {
    const NAME: &'static CStr = c"expert_linear";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let y = &mut outputs[0];
        with_element!(y.dtype(), T => self.compute::<T>(inputs, y));
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("experts are not trained here"))
    }
}

impl Experts {
    fn compute<T: Element>(&self, inputs: &[View], y: &mut ViewMut) {
        let (x, choices, weight) = (inputs[0].rows::<T>(), inputs[1].to_slice::<i32>(), &inputs[2..]);
        let (len, k, outputs) = (inputs[0].last(), inputs[1].last(), y.last());
        let y = y.shared::<T>();
        // The places in the result that an expert computes; those of no expert last.
        let mut places = vec![Vec::new(); weight[0].dim(0) + 1];
        for (place, &expert) in choices.iter().enumerate() {
            let expert = usize::try_from(expert).unwrap_or(usize::MAX).min(places.len() - 1);
            places[expert].push(place);
        }
        // SAFETY: this thread alone writes here, one place after the other; so below.
        let to = |place: usize| unsafe { y.slice(place * outputs, outputs) };
        places.pop().into_iter().flatten().for_each(|place| to(place).fill(T::ZERO));
        for (expert, places) in places.iter().enumerate().filter(|(_, places)| !places.is_empty()) {
            let matrix: Vec<View> = weight.iter().map(|array| array.part(expert)).collect();
            let gathered: Vec<T> = places.iter().flat_map(|place| x.get(place / k)).copied().collect();
            let (shape, strides) = ([places.len() as i32, len as i32], [len as i64, 1]);
            let mut results = vec![T::ZERO; places.len() * outputs];
            let gathered = View::matrix(&gathered, &shape, &strides);
            product(self.level, self.format, &matrix, &gathered, None, &SharedMut::new(&mut results));
            for (&place, result) in places.iter().zip(results.chunks_exact(outputs)) {
                to(place).copy_from_slice(result);
            }
        }
    }
}
