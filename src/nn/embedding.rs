//! Embedding tables, over plain or quantized weights.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::indexing::IndexOp;

use super::weight::Weight;
use crate::checkpoint::Scope;
use crate::checkpoint::weights::Tap;

/// A table of vectors, one per token id.
pub struct Embedding {
    weight: Weight,
    vocab_size: i32,
    tap: Option<Tap>,
}

impl Embedding {
    /// A table `[vocab_size, hidden_size]`.
    pub fn load(w: &Scope, vocab_size: i32, hidden_size: i32) -> Self {
        Self { weight: Weight::load(w, hidden_size, vocab_size), vocab_size, tap: w.tap() }
    }

    /// `[n] ids -> [1, n, hidden_size]`
    ///
    /// # Errors
    /// When an id lies outside the table, as happens with another model's tokenizer.
    pub fn forward(&self, ids: &[u32]) -> Result<Array> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.vocab_size as u32) {
            let what = format!("token id {id} is outside the model's vocabulary of {}", self.vocab_size);
            return Err(mlx_rs::error::Exception::custom(what));
        }
        let ids = Array::from_slice(ids, &[ids.len() as i32]);
        Ok(self.weight.rows(&ids)?.index(mlx_rs::ops::indexing::NewAxis))
    }

    /// All vectors, `[vocab_size, hidden_size]`.
    pub fn table(&self) -> Result<Array> {
        self.weight.to_floats()
    }

    /// The table as the map to logits, `[.., hidden_size] -> [.., vocab_size]`, for models that tie the two.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        if let Some(tap) = &self.tap {
            tap.see(x)?;
        }
        self.weight.apply(x, None)
    }
}
