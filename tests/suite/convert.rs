//! `phi3v convert` and `phi3v quantize`: what comes out, what is refused, and that nothing is ever half there.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_quantized::Mode;
use phi3v::checkpoint::ModelFiles;
use phi3v::checkpoint::quantization::QuantizedAs;
use phi3v::convert::pass::Settings;
use phi3v::convert::rule::Rule;
use phi3v::convert::{Event, Options, convert};
use tempfile::TempDir;

use crate::common::{path, succeeds};

mod exchange;
mod layout;
mod report;
mod rules;
mod safety;
mod values;

/// A place for a new folder.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn model(&self) -> PathBuf {
        self.0.path().join("model")
    }

    /// The names of all that is there.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// Converts by the library; the result, and the warnings.
fn made(source: &Path, settings: Settings) -> (Place, Vec<String>) {
    let place = Place::new();
    let mut warnings = Vec::new();
    let options = Options { settings, ..Options::new(place.model()) };
    let mut on_event = |event: Event| {
        if let Event::Warning(warning) = event {
            warnings.push(warning);
        }
        ControlFlow::Continue(())
    };
    convert(&ModelFiles::read(source).unwrap(), &options, &mut on_event).unwrap();
    (place, warnings)
}

/// Converts by the binary.
fn made_by(command: &str, source: &Path, args: &[&str]) -> Place {
    let place = Place::new();
    let paths = ["--model", path(source), "--mlx-path", path(&place.model())].map(str::to_owned);
    let paths = paths.each_ref().map(String::as_str);
    succeeds(&[&[command], &paths[..], args].concat());
    place
}

/// Everything packed alike.
fn packed_as(mode: Mode, bits: i32, group_size: i32) -> Settings {
    let rule = Rule::uniform(QuantizedAs::new(mode, Some(bits), Some(group_size)).unwrap());
    Settings { rule: Some(rule), ..Settings::default() }
}
