//! Images: from a source to pixels, and from pixels to what an architecture's vision part takes.

mod decode;
pub mod phi3_v;
mod resize;
mod sizes;
mod source;

pub use decode::decode;
pub use sizes::PictureSizes;
pub use source::{ImageError, ImageLimits, ImageSource, is_picture, load};
