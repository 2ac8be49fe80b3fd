//! A photo that needs no file.

use anyhow::{Context, Result};
use mozjpeg::{ColorSpace, Compress};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// Pixels of a row.
pub(super) const WIDTH: u32 = 2048;
/// Rows.
pub(super) const HEIGHT: u32 = 1536;

/// 3 megapixels of JPEG: waves of colour, with as much noise as a camera has.
pub(super) fn jpeg() -> Result<Vec<u8>> {
    let mut random = ChaCha12Rng::seed_from_u64(0);
    let mut pixels = Vec::with_capacity((3 * WIDTH * HEIGHT) as usize);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let (x, y) = (x as f32, y as f32);
            let waves = [(x / 90.0).sin() + (y / 70.0).cos(), (x / 300.0 + y / 9.0).sin(), ((x - y) / 200.0).cos()];
            pixels.extend(waves.map(|wave| (127.0 + 55.0 * wave + random.random_range(-8.0..8.0)) as u8));
        }
    }
    let mut encoder = Compress::new(ColorSpace::JCS_RGB);
    encoder.set_size(WIDTH as usize, HEIGHT as usize);
    encoder.set_quality(90.0);
    encoder.set_fastest_defaults();
    let mut encoder = encoder.start_compress(Vec::new()).context("cannot encode the photo")?;
    encoder.write_scanlines(&pixels).context("cannot encode the photo")?;
    encoder.finish().context("cannot encode the photo")
}
