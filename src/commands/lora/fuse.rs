//! `phi3v lora fuse`: a model of a model and its adapters.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::args::FuseArgs;

pub(super) fn run(_args: FuseArgs) -> Result<ExitCode> {
    bail!("not yet")
}
