//! Text to ids and back, as `tokenizer.json` says; nothing about the vocabulary is known here.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

/// A checkpoint's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a checkpoint folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            bail!(
                "{} has no tokenizer.json, so no prompt can be read; copy it from the original model",
                folder.display()
            );
        }
        let mut inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|e| anyhow!("{e}"))
            .with_context(|| format!("cannot read {}", path.display()))?;
        // The file may keep how it was last used in training.
        inner.with_truncation(None).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// Ids of `text`; with `special`, those that the tokenizer puts around every text, too (a BOS, for most).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special).map_err(|e| anyhow!("cannot tokenize the prompt: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`, with or without special tokens. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String> {
        self.inner.decode(ids, !special).map_err(|e| anyhow!("cannot decode token ids: {e}"))
    }

    /// The id of a token by its exact name.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}
