//! What each token adds to a text, byte for byte: its grammar's alphabet.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper};

use super::Tokenizer;

/// What is decoded before a token to see what it adds amid a text.
const BEFORE: &str = "a";

impl Tokenizer {
    /// The bytes of every token as the first of a text or amid it: decoders may drop the space that the first word starts
    /// with. Tokens that stand for no text have none: special ones, and markers such as `<tool_call>`.
    pub fn token_bytes(&self, first: bool) -> Result<Vec<Vec<u8>>> {
        let decoder = self.inner.get_decoder().context("the tokenizer has no decoder")?;
        let steps = steps(decoder)?;
        let byte_level = steps.iter().any(|step| step == "ByteLevel");
        let byte_fallback = steps.iter().any(|step| step == "ByteFallback");
        let known = ["ByteLevel", "ByteFallback", "Replace", "Fuse", "Strip", "Metaspace"];
        if let Some(step) = steps.iter().find(|step| !known.contains(&step.as_str())) {
            return Err(anyhow!("the tokenizer's decoder is a {step}, of which the bytes of a token are not known"));
        }
        ensure!(!byte_level || steps.len() == 1, "the tokenizer's decoder does more than ByteLevel: {steps:?}");

        let added = self.inner.get_added_tokens_decoder();
        let alphabet = byte_level_alphabet();
        let bytes_of = |id: u32| -> Option<Vec<u8>> {
            let marker = |text: &str| text.starts_with('<') && text.ends_with('>');
            if added.get(&id).is_some_and(|token| token.special || marker(&token.content)) {
                return None;
            }
            let name = self.inner.id_to_token(id)?;
            if byte_level {
                let bytes: Option<Vec<u8>> = name.chars().map(|c| alphabet.get(&c).copied()).collect();
                return Some(bytes.unwrap_or_else(|| name.into_bytes()));
            }
            // A byte of a longer character means nothing to the decoder by itself.
            match byte_token(&name).filter(|byte| byte_fallback && !byte.is_ascii()) {
                Some(byte) => Some(vec![byte]),
                None if first => decoder.decode(vec![name]).ok().map(String::into_bytes),
                None => {
                    let text = decoder.decode(vec![BEFORE.to_owned(), name]).ok()?;
                    text.strip_prefix(BEFORE).map(|text| text.as_bytes().to_vec())
                }
            }
        };
        let last = self.inner.get_vocab(true).into_values().max();
        Ok((0..last.map_or(0, |id| id + 1)).map(|id| bytes_of(id).unwrap_or_default()).collect())
    }
}

/// The types of a decoder's steps, of which some are lists again.
fn steps(decoder: &DecoderWrapper) -> Result<Vec<String>> {
    let mut steps = Vec::new();
    let mut todo = vec![serde_json::to_value(decoder)?];
    while let Some(mut step) = todo.pop() {
        match step["decoders"].take() {
            Value::Array(parts) => todo.extend(parts),
            _ => steps.push(step["type"].as_str().unwrap_or_default().to_owned()),
        }
    }
    Ok(steps)
}

/// The byte that a token named `<0x0A>` is.
fn byte_token(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's bytes_to_unicode, turned: printable Latin-1 stands for itself, the other bytes follow from U+0100.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut others = '\u{100}'..;
    let alphabet = (0..=255u8).map(|byte| match byte as char {
        c @ ('!'..='~' | '¡'..='¬' | '®'..='ÿ') => (c, byte),
        _ => (others.next().expect("an endless range"), byte),
    });
    alphabet.collect()
}
