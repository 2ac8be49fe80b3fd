//! A tensor that can be exchanged while the model stands.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use mlx_rs::Array;

/// A tensor of a model that training may change. Clones stand for the same tensor.
#[derive(Debug, Clone)]
pub struct Param(Rc<RefCell<Array>>);

impl Param {
    /// A tensor with this value.
    pub fn new(value: Array) -> Self {
        Self(Rc::new(RefCell::new(value)))
    }

    /// Its value, borrowed for the moment.
    pub fn get(&self) -> Ref<'_, Array> {
        self.0.borrow()
    }

    /// Gives it another value; returns the one before.
    pub fn replace(&self, value: Array) -> Array {
        self.0.replace(value)
    }
}
