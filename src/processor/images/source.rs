//! Images from anywhere: a file, the web, a `data:` URI or stdin, to upright RGB as Pillow gives it.
//!
//! The reference opens images with `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`. So the EXIF orientation
//! is applied, alpha is dropped (not composited), grey is repeated, palettes are looked up, of 16 bits the upper 8 are
//! kept, and JPEG is decoded by libjpeg's own code, since other decoders differ by a few levels.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use image::{ImageFormat, RgbImage};

use super::decode::decode;
use crate::http::proxy_for;

/// How large an image may be. Both are checked before anything is decoded.
#[derive(Debug, Clone, Copy)]
pub struct ImageLimits {
    /// Width times height.
    pub max_pixels: u64,
    /// Bytes of the file.
    pub max_bytes: u64,
}

impl Default for ImageLimits {
    /// Pillow's limit, twice its `MAX_IMAGE_PIXELS`, and 256 MiB.
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_bytes: 256 << 20 }
    }
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A file.
    Path(PathBuf),
    /// An `http://` or `https://` address.
    Url(String),
    /// A `data:` URI, base64 or percent-encoded.
    Data(String),
    /// Standard input.
    Stdin,
}

/// Why an image cannot be had. Every message names the image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A scheme that is not supported.
    #[error("{0}: only http:, https: and data: addresses and files can be read")]
    Scheme(String),
    /// A folder where a file is expected.
    #[error("{0} is a folder; name an image in it")]
    Folder(String),
    /// The file cannot be read.
    #[error("cannot read the image {source_name}: {error}")]
    Unreadable {
        /// The image.
        source_name: String,
        /// Why.
        error: io::Error,
    },
    /// The server does not give it.
    #[error("cannot fetch the image {url}: {reason}")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// A `data:` URI that is none.
    #[error("{0} is no valid data: address; data:image/png;base64,… is expected")]
    Data(String),
    /// More bytes than allowed.
    #[error("the image {name} has more than {limit} bytes, the most that is read; make it smaller")]
    TooManyBytes {
        /// The image.
        name: String,
        /// Bytes allowed.
        limit: u64,
    },
    /// More pixels than allowed.
    #[error("the image {name} has {width} × {height} pixels, more than {limit}; `max_image_pixels` raises the limit")]
    TooManyPixels {
        /// The image.
        name: String,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixels allowed.
        limit: u64,
    },
    /// No image, or none of a supported format.
    #[error("{0} is no image in a supported format: JPEG, PNG, WebP, GIF or BMP")]
    Format(String),
    /// Broken contents.
    #[error("the image {name} is damaged or incomplete: {reason}")]
    Damaged {
        /// The image.
        name: String,
        /// What the decoder says.
        reason: String,
    },
}

impl FromStr for ImageSource {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            _ if text == "-" => Ok(Self::Stdin),
            Some("http" | "https") => Ok(Self::Url(text.to_owned())),
            Some("data") => Ok(Self::Data(text.to_owned())),
            Some(scheme) if text[scheme.len()..].starts_with("://") => Err(ImageError::Scheme(text.to_owned())),
            _ => Ok(Self::Path(text.into())),
        }
    }
}

impl ImageSource {
    /// The image as it appears in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Url(url) => url.clone(),
            Self::Data(uri) => uri.chars().take(40).chain("…".chars()).collect(),
            Self::Stdin => "on stdin".into(),
        }
    }

    fn read(&self, limits: &ImageLimits) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Path(path) if path.is_dir() => Err(ImageError::Folder(self.name())),
            Self::Path(path) => {
                let file = File::open(path).map_err(|error| self.unreadable(error))?;
                self.read_to_end(file, limits)
            }
            Self::Stdin => self.read_to_end(io::stdin().lock(), limits),
            Self::Url(url) => self.read_to_end(fetch(url)?, limits),
            Self::Data(uri) => {
                let bytes = data(uri).ok_or_else(|| ImageError::Data(self.name()))?;
                self.read_to_end(&bytes[..], limits)
            }
        }
    }

    fn read_to_end(&self, reader: impl Read, limits: &ImageLimits) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        reader.take(limits.max_bytes + 1).read_to_end(&mut bytes).map_err(|error| self.unreadable(error))?;
        if bytes.len() as u64 > limits.max_bytes {
            return Err(ImageError::TooManyBytes { name: self.name(), limit: limits.max_bytes });
        }
        Ok(bytes)
    }

    fn unreadable(&self, error: io::Error) -> ImageError {
        match self {
            Self::Url(url) => ImageError::Fetch { url: url.clone(), reason: error.to_string() },
            _ => ImageError::Unreadable { source_name: self.name(), error },
        }
    }
}

/// Reads and decodes an image.
pub fn load(source: &ImageSource, limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    decode(&source.read(limits)?, &source.name(), limits)
}

/// Whether there is a file of a supported format at `path`, by how it begins.
pub fn is_image(path: &Path) -> bool {
    let mut beginning = Vec::new();
    // Opening a pipe would wait for its other end.
    path.is_file()
        && File::open(path).and_then(|file| file.take(64).read_to_end(&mut beginning)).is_ok()
        && image::guess_format(&beginning).is_ok_and(|format| format == ImageFormat::Jpeg || format.reading_enabled())
}

fn fetch(url: &str) -> Result<impl Read, ImageError> {
    let failed = |reason: String| ImageError::Fetch { url: url.to_owned(), reason };
    let mut agent =
        ureq::AgentBuilder::new().timeout_connect(Duration::from_secs(20)).timeout_read(Duration::from_secs(60));
    if let Some(proxy) = proxy_for(url, |name| std::env::var(name).ok()) {
        agent = agent.proxy(ureq::Proxy::new(&proxy).map_err(|_| failed(format!("{proxy} is no proxy's address")))?);
    }
    match agent.build().get(url).call() {
        Ok(response) => Ok(response.into_reader()),
        Err(ureq::Error::Status(code, response)) => {
            Err(failed(format!("the server answers {code} {}", response.status_text())))
        }
        Err(ureq::Error::Transport(error)) => {
            Err(failed(error.message().map_or_else(|| error.kind().to_string(), str::to_owned)))
        }
    }
}

/// The contents of a `data:` URI (RFC 2397).
fn data(uri: &str) -> Option<Vec<u8>> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let (kind, contents) = uri.get("data:".len()..)?.split_once(',')?;
    let contents: Vec<u8> = percent_encoding::percent_decode_str(contents).collect();
    if kind.trim_end().to_ascii_lowercase().ends_with(";base64") {
        let symbols: Vec<u8> = contents.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
        BASE64.decode(symbols).ok()
    } else {
        Some(contents)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn folder() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images"))
    }

    /// All images, without Pillow's renderings of them.
    fn images() -> Vec<PathBuf> {
        let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().unwrap() != "md").collect();
        files.retain(|path| !path.to_str().unwrap().ends_with(".rgb.png"));
        files.sort();
        files
    }

    fn load_text(text: &str) -> Result<RgbImage, ImageError> {
        load(&text.parse()?, &ImageLimits::default())
    }

    fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
        use base64::prelude::*;
        load_text(&format!("data:;base64,{}", BASE64_STANDARD.encode(bytes)))
    }

    #[test]
    fn images_are_as_pillow_reads_them() {
        assert!(images().len() >= 18);
        for path in images() {
            let ours = load(&ImageSource::Path(path.clone()), &ImageLimits::default()).unwrap();
            let expected = image::open(format!("{}.rgb.png", path.display())).unwrap().into_rgb8();
            assert!(ours == expected, "{}", path.display());
        }
    }

    #[test]
    fn sources_are_told_apart() {
        let source = |text: &str| text.parse::<ImageSource>();
        assert!(matches!(source("-"), Ok(ImageSource::Stdin)));
        assert!(matches!(source("HTTPS://example.org/a.png"), Ok(ImageSource::Url(_))));
        assert!(matches!(source("data:image/png,abc"), Ok(ImageSource::Data(_))));
        assert!(matches!(source("C:\\cat.png"), Ok(ImageSource::Path(_))));
        assert!(matches!(source("cat: the movie.png"), Ok(ImageSource::Path(_))));
        assert!(matches!(source("file:///cat.png"), Err(ImageError::Scheme(_))));
    }

    #[test]
    fn data_addresses_are_decoded() {
        let bytes = std::fs::read(folder().join("palette.gif")).unwrap();
        let expected = decode(&bytes).unwrap();
        let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
        assert!(load_text(&format!("data:image/gif,{percent}")).unwrap() == expected);
        for broken in ["data:", "data:image/png;base64", "data:image/png;base64,****"] {
            assert!(matches!(load_text(broken), Err(ImageError::Data(_))), "{broken}");
        }
        assert!(matches!(load_text("data:text/plain,hello"), Err(ImageError::Format(_))));
    }

    #[test]
    fn sizes_are_checked_before_decoding() {
        for path in images() {
            let pixels = image::image_dimensions(format!("{}.rgb.png", path.display())).unwrap();
            let max_pixels = u64::from(pixels.0 * pixels.1);
            let source = ImageSource::Path(path.clone());
            let limits = ImageLimits { max_pixels, ..ImageLimits::default() };
            assert!(load(&source, &limits).is_ok());
            let error = load(&source, &ImageLimits { max_pixels: max_pixels - 1, ..limits }).unwrap_err();
            assert!(matches!(error, ImageError::TooManyPixels { .. }), "{error}");
            assert!(error.to_string().contains("`max_image_pixels`"));
            let error = load(&source, &ImageLimits { max_bytes: 100, ..limits }).unwrap_err();
            assert!(matches!(error, ImageError::TooManyBytes { limit: 100, .. }), "{error}");
        }
        // A header alone, of an image of 60000 × 60000.
        let mut png = std::fs::read(folder().join("alpha.png")).unwrap();
        png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        let mut header = flate_crc(&png[12..29]).to_be_bytes().to_vec();
        png.splice(29..33, header.drain(..));
        assert!(matches!(decode(&png), Err(ImageError::TooManyPixels { width: 60_000, .. })));
    }

    /// PNG's checksum (ISO 3309), bit by bit.
    fn flate_crc(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
    }

    #[test]
    fn truncated_images_are_errors() {
        for name in ["chroma-420.jpg", "progressive.jpg", "cmyk.jpg", "alpha.png", "lossy.webp", "palette.gif"] {
            let bytes = std::fs::read(folder().join(name)).unwrap();
            for len in (0..bytes.len() - 2).step_by(7) {
                // A GIF's trailer may be missing: the image is whole without it.
                let result = decode(&bytes[..len]);
                assert!(result.is_err() || name.ends_with("gif") && len + 8 > bytes.len(), "{name} cut to {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_images_never_panic(which in 0usize..18, damage in prop::collection::vec((0usize..2000, any::<u8>()), 1..8)) {
            let mut bytes = std::fs::read(&images()[which]).unwrap();
            for (at, byte) in damage {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let _ = decode(&bytes);
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }

    /// Answers each connection with the next of these.
    fn serve(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&answer);
            }
        });
        address
    }

    fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn images_are_fetched_through_redirects() {
        let bytes = std::fs::read(folder().join("alpha.png")).unwrap();
        let length = format!("Content-Length: {}\r\n", bytes.len());
        let whole = answer("200 OK", &length, &bytes);
        let address = serve(vec![answer("302 Found", "Location: /b.png\r\nContent-Length: 0\r\n", b""), whole.clone()]);
        assert!(load_text(&format!("{address}/a.png")).unwrap() == decode(&bytes).unwrap());

        let address = serve(vec![whole[..whole.len() - 100].to_vec()]);
        assert!(matches!(load_text(&address), Err(ImageError::Fetch { .. })));
        let address = serve(vec![answer("404 Not Found", "", b"no")]);
        assert!(load_text(&address).unwrap_err().to_string().contains("the server answers 404 Not Found"));
        let address = serve(vec![answer("200 OK", "", &bytes)]);
        let limits = ImageLimits { max_bytes: 100, ..ImageLimits::default() };
        assert!(matches!(load(&ImageSource::Url(address), &limits), Err(ImageError::TooManyBytes { .. })));
        assert!(matches!(load_text("http://127.0.0.1:1/a.png"), Err(ImageError::Fetch { .. })));
    }
}
