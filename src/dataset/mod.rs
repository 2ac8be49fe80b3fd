//! Files of rows to what a trainer reads: all rows checked before the first is learned, cut into parts, put in order.

mod example;
mod files;
mod mask;
mod order;
mod read;
mod row;

pub use example::{Example, Image};
pub use files::{DataFiles, Splits};
pub use mask::MaskRatios;
pub use order::Order;
pub use read::{Dataset, Reader, Settings};
