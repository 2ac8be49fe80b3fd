//! How rows are read.

use anyhow::Result;
use phi3v::dataset::Settings;
use phi3v::engine::stop_tokens;

use super::args::DataArgs;
use crate::commands::session::Opened;

/// How the model's rows are read.
pub(super) fn settings(args: &DataArgs, opened: &Opened) -> Result<Settings> {
    Ok(Settings {
        max_seq_length: args.max_seq_length,
        max_position_embeddings: opened.files.max_position_embeddings()?,
        image_options: args.image_options.options(),
        limits: args.image_options.limits(),
        mask_prompt: args.mask_prompt,
        stop_tokens: stop_tokens(&opened.files, &opened.processor.tokenizer)?,
    })
}
