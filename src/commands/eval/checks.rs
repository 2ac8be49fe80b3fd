//! What makes no sense, before anything is loaded.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use phi3v::eval::passage::Passage;
use phi3v::rows::{Fields, RowFile};

use super::args::AskArgs;
use crate::commands::args::EngineArgs;
use crate::commands::session::Opened;

/// Whether a file holds rows and not text: by its name, or where that tells nothing by its beginning.
pub(super) fn is_rows(path: &Path) -> Result<bool> {
    ensure!(!path.is_dir(), "--data {}: that is a folder; a file is expected", path.display());
    ensure!(path.is_file(), "--data {}: there is no such file", path.display());
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
    Ok(match extension.as_deref() {
        Some("jsonl" | "ndjson" | "json" | "parquet") => true,
        Some("txt" | "md") => false,
        _ => RowFile::open(path)?.next_row().is_ok_and(|row| row.is_some_and(|(_, line)| Fields::parse(line).is_ok())),
    })
}

/// An error if a flag is there that means nothing where no answer is generated.
pub(super) fn refuse_generation(ask: &AskArgs, engine: &EngineArgs) -> Result<()> {
    let given = [
        ("--max-tokens", ask.max_tokens.is_some()),
        ("--stop", !ask.stop.is_empty()),
        ("--max-batch-size", ask.max_batch_size.is_some()),
        ("--draft-model", engine.draft_model.is_some()),
        ("--prompt-lookup", engine.prompt_lookup),
        ("--num-draft-tokens", engine.num_draft_tokens.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("{flag} is about answers that are generated: it goes with --by letter"),
        None => Ok(()),
    }
}

/// An error unless predictions of these passages can be compared with a reference's.
pub(super) fn check_reference(opened: &Opened, reference: &Opened, passages: &[Passage]) -> Result<()> {
    ensure!(
        opened.processor.tokenizer.has_vocabulary_of(&reference.processor.tokenizer),
        "--reference {}: it has another vocabulary, so that predictions cannot be compared",
        reference.files.folder.display()
    );
    let images = passages.iter().any(|passage| !passage.example.images.is_empty());
    ensure!(
        !images || reference.processor.has_vision(),
        "--reference {}: it takes no images, which the rows have",
        reference.files.folder.display()
    );
    let (ours, theirs) = (opened.vocab_size()?, reference.vocab_size()?);
    ensure!(
        ours == theirs,
        "--reference {}: it has logits of {theirs} tokens, and the model of {ours}",
        reference.files.folder.display()
    );
    let context = reference.files.max_position_embeddings()?;
    let longest = passages.iter().map(|passage| passage.example.len()).max().unwrap_or(0);
    ensure!(longest <= context, "--reference: a row takes {longest} positions, more than its context of {context}");
    Ok(())
}
