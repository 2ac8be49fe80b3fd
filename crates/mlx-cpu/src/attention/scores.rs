//! From the products of queries and keys to scores.

use mlx_rs::error::{Exception, Result};

use crate::element::{load_part, store_part};
use crate::simd::{Simd, Work, tanh};

/// How the products of queries and keys become scores, before the mask and the softmax.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// The factor of the products.
    pub scale: f32,
    /// Then, scores become `softcap · tanh(score / softcap)` (Gemma 2, arXiv 2408.00118, section 2).
    pub softcap: Option<f32>,
}

impl Scores {
    /// Scores of queries and keys with so many entries: products times `1 / sqrt(head_dim)` (Vaswani et al. 2017).
    pub fn scaled(head_dim: i32) -> Self {
        Self { scale: (head_dim as f32).powf(-0.5), softcap: None }
    }

    /// An error if the soft cap is not a positive number.
    pub(super) fn check(self) -> Result<()> {
        match self.softcap {
            Some(cap) if !(cap.is_finite() && cap > 0.0) => {
                Err(Exception::custom(format!("the soft cap of attention scores is {cap}: it must be positive")))
            }
            _ => Ok(()),
        }
    }
}

/// `products` become `cap · tanh(scale · product / cap)`.
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(s: S, scale: f32, cap: f32, products: &mut [f32]) {
    for products in products.chunks_mut(S::LANES) {
        let bounded = tanh(s, s.mul(load_part(s, products), s.splat(scale / cap)));
        store_part(s, products, s.mul(bounded, s.splat(cap)));
    }
}

/// [`soft_cap`] with its derivatives with respect to `scale · product`.
pub(super) struct SoftCap<'a> {
    pub scale: f32,
    pub cap: f32,
    pub products: &'a mut [f32],
    pub derivatives: &'a mut [f32],
}

impl Work for SoftCap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scale, cap, products, derivatives } = self;
        soft_cap(s, scale, cap, products);
        for (scores, derivatives) in products.chunks(S::LANES).zip(derivatives.chunks_mut(S::LANES)) {
            let bounded = s.mul(load_part(s, scores), s.splat(1.0 / cap));
            store_part(s, derivatives, s.sub(s.splat(1.0), s.mul(bounded, bounded)));
        }
    }
}
