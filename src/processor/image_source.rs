//! stub
use std::path::PathBuf;
pub enum ImageSource {
    Path(PathBuf),
}
pub struct ImageLimits {
    pub max_pixels: u64,
    pub max_bytes: u64,
}
impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_bytes: 256 << 20 }
    }
}
impl std::str::FromStr for ImageSource {
    type Err = anyhow::Error;
    fn from_str(s: &str) -> anyhow::Result<Self> {
        Ok(Self::Path(s.into()))
    }
}
pub fn load(s: &ImageSource, _l: &ImageLimits) -> anyhow::Result<image::RgbImage> {
    let ImageSource::Path(p) = s;
    Ok(image::open(p)?.to_rgb8())
}
