//! `phi3v lora fuse`: a model of a model and its adapters.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use phi3v::convert::Options;

use super::args::FuseArgs;
use crate::commands::args::OutputArgs;
use crate::commands::convert::make_folder;
use crate::commands::session::{self, Opened};
use crate::ui::Ui;

pub(super) fn run(args: FuseArgs) -> Result<ExitCode> {
    let FuseArgs { save_path, force, dequantize, verify, json, output: OutputArgs { quiet, verbose }, model } = args;
    let ui = Ui::new(quiet, verbose);
    ensure!(!model.adapters.is_empty(), "--adapter: say which adapter becomes part of the model");
    let named = model.name().to_owned();
    let Opened { files, dtype, adapters, .. } = session::open(model, &ui)?;
    let mut options = Options::new(save_path);
    options.source_name = (files.folder.as_os_str() != named.as_str()).then_some(named);
    options.replace = force;
    options.settings.dtype = dtype;
    options.settings.dequantize = dequantize;
    options.adapters = adapters;
    options.verify = verify;
    make_folder(&files, &options, json, &ui)
}
