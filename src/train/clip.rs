//! Gradients that are too long, and those that are no numbers.

use anyhow::{Context, Result};
use mlx_rs::Array;
use mlx_rs::error::Exception;

/// Scales gradients so that the norm of all of them together is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_`
/// does: by `max_norm / (norm + 1e-6)` where that is below 1. Gives the norm as it was before.
///
/// A norm that is infinite or NaN is given as such, and the gradients are left as they are: to take a step with them would
/// spoil the parameters.
pub fn clip_grad_norm(gradients: &mut [Array], max_norm: f32) -> Result<f32> {
    let norm = grad_norm(gradients)?;
    let factor = f64::from(max_norm) / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        let factor = Array::from_f32(factor as f32);
        for gradient in gradients {
            *gradient = gradient.multiply(&factor)?;
        }
    }
    Ok(norm as f32)
}

/// The Euclidean norm of all numbers together: squares are summed in float32 along rows, in float64 over them.
pub fn grad_norm(gradients: &[Array]) -> Result<f64> {
    let rows = |gradient: &Array| {
        let gradient = if gradient.ndim() == 0 { gradient.reshape(&[1])? } else { gradient.clone() };
        gradient.square()?.sum_axis(-1, None)?.contiguous()
    };
    let rows = gradients.iter().map(rows).collect::<Result<Vec<_>, Exception>>()?;
    mlx_rs::transforms::eval(&rows)?;
    let mut sum = 0.0;
    for rows in &rows {
        let squares = rows.try_as_slice::<f32>().context("a gradient is not float32")?;
        sum += squares.iter().map(|&square| f64::from(square)).sum::<f64>();
    }
    Ok(sum.sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gradients() -> Vec<Array> {
        vec![Array::from_slice(&[3.0f32, 0.0, 0.0, 4.0], &[2, 2]), Array::from_f32(12.0)]
    }

    #[test]
    fn a_long_gradient_is_scaled_and_its_norm_told() {
        let mut clipped = gradients();
        assert_eq!(clip_grad_norm(&mut clipped, 6.5).unwrap(), 13.0);
        let factor = 6.5 / (13.0 + 1e-6);
        assert!((clipped[0].as_slice::<f32>()[3] - 4.0 * factor as f32).abs() < 1e-6);
        assert!((grad_norm(&clipped).unwrap() - 6.5).abs() < 1e-5);
    }

    #[test]
    fn a_short_one_is_left_alone() {
        let mut clipped = gradients();
        assert_eq!(clip_grad_norm(&mut clipped, 14.0).unwrap(), 13.0);
        assert_eq!(clipped[0].as_slice::<f32>(), gradients()[0].as_slice::<f32>());
        assert_eq!(clip_grad_norm(&mut [], 1.0).unwrap(), 0.0);
    }

    #[test]
    fn what_is_no_number_is_told_and_left_alone() {
        for value in [f32::NAN, f32::INFINITY, f32::MAX] {
            let mut clipped = gradients();
            clipped.push(Array::from_slice(&[value], &[1]));
            assert!(!clip_grad_norm(&mut clipped, 1.0).unwrap().is_finite(), "{value}");
            assert_eq!(clipped[0].as_slice::<f32>(), gradients()[0].as_slice::<f32>());
        }
    }

    #[test]
    fn many_small_numbers_are_not_lost() {
        let ones = Array::ones::<f32>(&[5000, 5000]).unwrap();
        assert_eq!(grad_norm(&[ones]).unwrap(), 5000.0);
    }
}
