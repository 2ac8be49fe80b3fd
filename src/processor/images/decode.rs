//! Bytes of an image file to upright RGB, as Pillow gives it.
//!
//! The reference opens images with `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`. So the EXIF orientation
//! is applied, alpha is dropped (not composited), grey is repeated, palettes are looked up, of 16 bits the upper 8 are
//! kept, and JPEG is decoded by libjpeg's own code, since other decoders differ by a few levels.

use std::io::{self, BufRead, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use mozjpeg::decompress::Format;
use mozjpeg::{Decompress, Marker};

use super::source::{ImageError, ImageLimits};

/// Decodes the contents of an image's file, which errors call `name`.
pub fn decode(bytes: &[u8], name: &str, limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => jpeg(bytes, name, limits),
        Ok(format) if format.reading_enabled() => other(bytes, format, name, limits),
        _ => Err(ImageError::Format(name.to_owned())),
    }
}

fn check_pixels(width: u32, height: u32, name: &str, limits: &ImageLimits) -> Result<(), ImageError> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { name: name.to_owned(), width, height, limit: limits.max_pixels });
    }
    Ok(())
}

/// Everything but JPEG.
fn other(bytes: &[u8], format: ImageFormat, name: &str, limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let damaged = |error: image::ImageError| ImageError::Damaged { name: name.to_owned(), reason: error.to_string() };
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, name, limits)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::ImageRgb8(rgb(DynamicImage::from_decoder(decoder).map_err(damaged)?));
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Without alpha, in 8 bits. Pillow cuts 16 bits off where `image` would round.
fn rgb(image: DynamicImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let pixels = match image {
        DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_)
        | DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_) => {
            let wide = image.into_rgb16().into_raw();
            wide.into_iter().map(|value| (value >> 8) as u8).collect()
        }
        _ => image.into_rgb8().into_raw(),
    };
    RgbImage::from_raw(width, height, pixels).expect("three bytes per pixel")
}

/// Bytes in memory that note whether somebody wanted more of them: libjpeg fills an incomplete image with grey instead
/// of failing.
struct Source<'a> {
    bytes: &'a [u8],
    ran_out: &'a std::cell::Cell<bool>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() {
            self.ran_out.set(true);
        }
        Ok(self.bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.bytes = &self.bytes[amount..];
    }
}

fn jpeg(bytes: &[u8], name: &str, limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let damaged = |reason: String| ImageError::Damaged { name: name.to_owned(), reason };
    let ran_out = std::cell::Cell::new(false);
    // libjpeg's errors come as unwinding, which passes its C code and stops here.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode_jpeg(Source { bytes, ran_out: &ran_out }, name, limits)));
    let (image, orientation) = match decoded {
        Ok(result) => result?,
        Err(reason) => {
            let reason = reason.downcast::<String>().map_or_else(|_| "the decoder gave up".into(), |reason| *reason);
            return Err(damaged(reason));
        }
    };
    if ran_out.get() {
        return Err(damaged("the file ends in the middle of the image".into()));
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

fn decode_jpeg(source: Source, name: &str, limits: &ImageLimits) -> Result<(RgbImage, Orientation), ImageError> {
    let damaged = |error: io::Error| ImageError::Damaged { name: name.to_owned(), reason: error.to_string() };
    let decoder = Decompress::with_markers(&[Marker::APP(1)]).from_reader(source).map_err(damaged)?;
    let (width, height) = (decoder.width() as u32, decoder.height() as u32);
    check_pixels(width, height, name, limits)?;
    let exif =
        decoder.markers().find_map(|marker| Orientation::from_exif_chunk(marker.data.strip_prefix(b"Exif\0\0")?));
    let orientation = exif.unwrap_or(Orientation::NoTransforms);

    let pixels: Vec<u8> = match decoder.image().map_err(damaged)? {
        Format::RGB(mut rows) => {
            let pixels = rows.read_scanlines::<u8>().map_err(damaged)?;
            rows.finish().map_err(damaged)?;
            pixels
        }
        Format::Gray(mut rows) => {
            let grey = rows.read_scanlines::<u8>().map_err(damaged)?;
            rows.finish().map_err(damaged)?;
            grey.into_iter().flat_map(|value| [value; 3]).collect()
        }
        Format::CMYK(mut rows) => {
            let inks = rows.read_scanlines::<[u8; 4]>().map_err(damaged)?;
            rows.finish().map_err(damaged)?;
            inks.into_iter().flat_map(cmyk_to_rgb).collect()
        }
    };
    let image = RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| ImageError::Damaged { name: name.to_owned(), reason: "rows are missing".into() })?;
    Ok((image, orientation))
}

/// Pillow takes the inks of every CMYK JPEG as inverted, as Adobe writes them (JpegImagePlugin.py, rawmode "CMYK;I"), and
/// mixes them in integers (Convert.c, cmyk2rgb).
fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|inverted| {
        let product = u32::from(255 - inverted) * u32::from(k) + 128;
        k - (((product >> 8) + product) >> 8) as u8
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Pillow would clip, and show nearly everything as white.
    #[test]
    fn of_sixteen_bit_grey_the_upper_bits_are_kept() {
        let wide = image::ImageBuffer::from_raw(3, 1, vec![0u16, 0x12ff, 0xffff]).unwrap();
        assert_eq!(rgb(DynamicImage::ImageLuma16(wide)).into_raw(), [0, 0, 0, 0x12, 0x12, 0x12, 255, 255, 255]);
    }
}
