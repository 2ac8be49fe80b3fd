//! Images' sizes, found by decoding each once.

use std::collections::HashMap;

use crate::processor::images::{self, ImageError, ImageLimits, ImageSource};

/// Decodes images, so that damaged ones are found, and keeps their sizes.
pub struct ImageSizes {
    limits: ImageLimits,
    /// Width and height.
    sizes: HashMap<ImageSource, (u32, u32)>,
}

impl ImageSizes {
    /// None yet.
    pub fn new(limits: ImageLimits) -> Self {
        Self { limits, sizes: HashMap::new() }
    }

    /// An image's width and height.
    pub fn of(&mut self, source: &ImageSource) -> Result<(u32, u32), ImageError> {
        if let Some(&size) = self.sizes.get(source) {
            return Ok(size);
        }
        let size = images::load(source, &self.limits)?.dimensions();
        // An image that stands in the row itself is hardly in another one, and would be kept as a whole.
        if !matches!(source, ImageSource::Data(_)) {
            self.sizes.insert(source.clone(), size);
        }
        Ok(size)
    }
}
