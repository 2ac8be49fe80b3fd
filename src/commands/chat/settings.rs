//! What `/set` changes.

use anyhow::{Result, anyhow, bail};
use phi3v::engine::sampler::Sampling;
use phi3v::processor::images::{ImageOptions, NumCrops};

use super::command::nearest;
use crate::commands::args;

/// How answers are generated and images are processed.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    /// Of images that are attached from now on.
    pub(super) image_options: ImageOptions,
}

/// The names, which are those of the flags.
pub(super) const NAMES: [&str; 13] = [
    "temperature",
    "top-k",
    "top-p",
    "min-p",
    "repetition-penalty",
    "repetition-context-size",
    "presence-penalty",
    "frequency-penalty",
    "seed",
    "max-tokens",
    "num-crops",
    "min-pixels",
    "max-pixels",
];

impl Settings {
    /// Changes a setting, as the flag of that name would have.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let refused = |expected: String| anyhow!("{name}: {value:?} is no value for it; {expected}");
        let whole = || value.parse().map_err(|_| refused("a whole number from 0 is expected".into()));
        let sampling = &mut self.sampling;
        match name {
            "temperature" => sampling.temperature = args::from_zero(value).map_err(refused)?,
            "top-k" => sampling.top_k = whole()?,
            "top-p" => sampling.top_p = args::share(value).map_err(refused)?,
            "min-p" => sampling.min_p = args::share_or_zero(value).map_err(refused)?,
            "repetition-penalty" => sampling.repetition_penalty = args::above_zero(value).map_err(refused)?,
            "repetition-context-size" => {
                sampling.repetition_context_size = match (value, value.parse()) {
                    ("all", _) => None,
                    (_, Ok(size)) => Some(size),
                    _ => return Err(refused("a whole number from 0 or all is expected".into())),
                }
            }
            "presence-penalty" => sampling.presence_penalty = args::finite(value).map_err(refused)?,
            "frequency-penalty" => sampling.frequency_penalty = args::finite(value).map_err(refused)?,
            "seed" => {
                let seed = value.parse().map_err(|_| refused("a whole number from 0 is expected".into()));
                sampling.seed = seed?;
            }
            "max-tokens" => {
                let tokens = value.parse().ok().filter(|&tokens| tokens > 0);
                self.max_tokens = tokens.ok_or_else(|| refused("a whole number from 1 is expected".into()))?;
            }
            "num-crops" if value == "checkpoint" => self.image_options.num_crops = None,
            "num-crops" => {
                let num_crops = args::num_crops(value).map_err(|why| refused(format!("{why} (or checkpoint)")))?;
                self.image_options.num_crops = Some(num_crops);
            }
            "min-pixels" => self.image_options.min_pixels = pixels(value).map_err(refused)?,
            "max-pixels" => self.image_options.max_pixels = pixels(value).map_err(refused)?,
            _ => match nearest(name, NAMES.into_iter()) {
                Some(near) => bail!("{name} is no setting; did you mean {near}?"),
                None => bail!("{name} is no setting; there are {}", NAMES.join(", ")),
            },
        }
        Ok(())
    }

    /// A setting's value, as it can be set.
    pub(super) fn get(&self, name: &str) -> String {
        let sampling = &self.sampling;
        match name {
            "temperature" => sampling.temperature.to_string(),
            "top-k" => sampling.top_k.to_string(),
            "top-p" => sampling.top_p.to_string(),
            "min-p" => sampling.min_p.to_string(),
            "repetition-penalty" => sampling.repetition_penalty.to_string(),
            "repetition-context-size" => {
                sampling.repetition_context_size.map_or_else(|| "all".into(), |size| size.to_string())
            }
            "presence-penalty" => sampling.presence_penalty.to_string(),
            "frequency-penalty" => sampling.frequency_penalty.to_string(),
            "seed" => sampling.seed.to_string(),
            "max-tokens" => self.max_tokens.to_string(),
            "num-crops" => match self.image_options.num_crops {
                None => "checkpoint".into(),
                Some(NumCrops::Auto) => "auto".into(),
                Some(NumCrops::Fixed(n)) => n.to_string(),
            },
            _ => {
                let ImageOptions { min_pixels, max_pixels, .. } = self.image_options;
                let pixels = if name == "min-pixels" { min_pixels } else { max_pixels };
                pixels.map_or_else(|| "checkpoint".into(), |pixels| pixels.to_string())
            }
        }
    }

    /// What `/set` with this argument does; what there is to say about it.
    pub(super) fn command(&mut self, argument: &str) -> Result<String> {
        let show = |name: &str, settings: &Self| format!("{name:24} {}", settings.get(name));
        let Some((name, value)) = argument.split_once([' ', '\t', '=']) else {
            return match NAMES.into_iter().find(|&name| name == argument) {
                _ if argument.is_empty() => Ok(NAMES.map(|name| show(name, self)).join("\n")),
                Some(name) => Ok(show(name, self)),
                None => self.set(argument, "").map(|()| String::new()),
            };
        };
        self.set(name, value.trim())?;
        Ok(show(name, self))
    }
}

fn pixels(value: &str) -> Result<Option<u64>, String> {
    match value.parse() {
        _ if value == "checkpoint" => Ok(None),
        Ok(pixels) if pixels > 0 => Ok(Some(pixels)),
        _ => Err("a whole number from 1 or checkpoint is expected".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { sampling: Sampling::default(), max_tokens: 2048, image_options: ImageOptions::default() }
    }

    #[test]
    fn every_setting_can_be_set_to_what_is_shown() {
        let mut settings = settings();
        let values = ["0.7", "40", "0.9", "0.05", "1.1", "64", "-0.5", "0.25", "7", "100", "16", "3136", "200704"];
        for (name, value) in NAMES.into_iter().zip(values) {
            let default = settings.get(name);
            settings.set(name, value).unwrap();
            assert_eq!(settings.get(name), value, "{name}");
            settings.set(name, &default).unwrap();
            assert_eq!(settings.get(name), default, "{name}");
        }
        assert_eq!(settings.command("").unwrap().lines().count(), NAMES.len());
        assert!(settings.command("top-k").unwrap().ends_with(" 0"));
        assert!(settings.command("top-k=5").unwrap().ends_with(" 5"));
    }

    #[test]
    fn what_cannot_be_set_is_refused_with_what_can() {
        let refused = |argument: &str, expected: &str| {
            let mut changed = settings();
            let error = changed.command(argument).unwrap_err().to_string();
            assert!(error.contains(expected), "{argument}: {error}");
            assert_eq!(changed.command("").unwrap(), settings().command("").unwrap());
        };
        refused("temperature -1", "temperature: \"-1\" is no value for it; a number from 0 is expected");
        refused("temperature nan", "a number from 0");
        refused("top-p 0", "above 0 and up to 1");
        refused("min-p 2", "from 0 to 1");
        refused("max-tokens 0", "a whole number from 1");
        refused("seed 1.5", "a whole number from 0");
        refused("repetition-context-size some", "or all");
        refused("num-crops 0", "from 1 to 1024 or auto");
        refused("temprature 1", "temprature is no setting; did you mean temperature?");
        refused("colour", "there are temperature, top-k");
    }
}
