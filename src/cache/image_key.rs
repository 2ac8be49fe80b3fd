//! What an image is known by in caches.

use sha2::{Digest, Sha256};

use crate::checkpoint::identity::hex;
use crate::processor::images::Pixels;

/// A hash of the pixels that the model sees, and of their layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey([u8; 32]);

impl ImageKey {
    /// The key of an image.
    pub fn of(image: &Pixels) -> Self {
        let (rows, cols) = image.layout.grid;
        let mut hash = Sha256::new();
        hash.update((rows as u64).to_le_bytes());
        hash.update((cols as u64).to_le_bytes());
        hash.update(bytemuck::cast_slice::<f32, u8>(&image.values));
        Self(hash.finalize().into())
    }

    /// The hash.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn to_hex(self) -> String {
        hex(&self.0)
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
        let bytes: Vec<u8> = (0..32).map(byte).collect::<Option<_>>()?;
        (text.len() == 64).then_some(Self(bytes.try_into().ok()?))
    }
}
