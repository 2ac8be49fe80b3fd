//! Text to ids and back, as `tokenizer.json` says; nothing about the vocabulary is known here.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use crate::checkpoint::ModelFiles;

/// A checkpoint's tokenizer. Clones share it.
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: Arc<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// The tokenizer of a checkpoint.
    pub fn read(files: &ModelFiles) -> Result<Self> {
        let folder = files.folder.display();
        let Some(json) = files.tokenizer_json()? else {
            bail!("{folder} has no tokenizer.json, so no prompt can be read; copy it from the original model");
        };
        Self::from_json(&json).with_context(|| format!("cannot read the tokenizer.json of {folder}"))
    }

    /// The tokenizer that the contents of a `tokenizer.json` describe.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| anyhow!("{e}"))?;
        // The file may keep how it was last used in training.
        inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?;
        inner.with_padding(None);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ids of `text`; with `special`, those that the tokenizer puts around every text, too (a BOS, for most).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special).map_err(|e| anyhow!("cannot tokenize the prompt: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of `text` without special tokens, and the byte at which each token ends.
    pub fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>)> {
        let encoding = self.inner.encode(text, false).map_err(|e| anyhow!("cannot tokenize the text: {e}"))?;
        let mut ends: Vec<usize> = encoding.get_offsets().iter().map(|&(_, end)| end).collect();
        // What a normalizer takes away at the end belongs to the last token.
        ends.iter_mut().last().into_iter().for_each(|end| *end = text.len());
        Ok((encoding.get_ids().to_vec(), ends))
    }

    /// Ids of `text` as it goes on after `before`; none if a token belongs to both.
    pub fn encode_after(&self, before: &str, text: &str) -> Result<Option<Vec<u32>>> {
        let both = [before, text].concat();
        let encoding = self.inner.encode(both, false).map_err(|e| anyhow!("cannot tokenize the prompt: {e}"))?;
        let offsets = encoding.get_offsets();
        let first = offsets.iter().position(|&(_, end)| end > before.len()).unwrap_or(offsets.len());
        let apart = offsets[first..].iter().all(|&(start, _)| start >= before.len());
        Ok(apart.then(|| encoding.get_ids()[first..].to_vec()))
    }

    /// Ids of `text` as it goes on after `before`, or after something else where a token would belong to both: as a model
    /// would generate it whose prompt ends with `before`.
    pub fn encode_on(&self, before: &str, text: &str) -> Result<Vec<u32>> {
        // After a line's or a sentence's end hardly anything is one token with what follows.
        for before in [before, "\n", "."] {
            if let Some(ids) = self.encode_after(before, text)? {
                return Ok(ids);
            }
        }
        self.encode(text, false)
    }

    /// Text of `ids`, with or without special tokens. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String> {
        self.inner.decode(ids, !special).map_err(|e| anyhow!("cannot decode token ids: {e}"))
    }

    /// Whether a text ends with the name of a special token.
    pub fn ends_specially(&self, text: &str) -> bool {
        let mut added = self.inner.get_added_tokens_decoder().into_values();
        added.any(|token| token.special && text.ends_with(&token.content))
    }

    /// The id of a token by its exact name.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The exact name of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether ids mean the same here and there.
    pub fn has_vocabulary_of(&self, other: &Self) -> bool {
        self.inner.get_vocab(true) == other.inner.get_vocab(true)
    }
}
