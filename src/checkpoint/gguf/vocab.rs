//! `tokenizer.json` and `tokenizer_config.json` as the metadata of a GGUF file.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::metadata::{Config, Metadata};
use super::pretokenizer::PreTokenizer;
use super::tokenizer::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::checkpoint::config::TokenIds;
use crate::checkpoint::json::parse;

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    rstrip: bool,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    r#type: Option<String>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

/// Both spellings occur.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Text(text) => text.split_once(' '),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

/// Writes the tokenizer; whether its control tokens swallow the white space after them.
pub(super) fn write(
    tokenizer: &Value,
    tokenizer_config: &Value,
    config: &Config,
    metadata: &mut Metadata,
) -> Result<bool> {
    let json: Json = parse(tokenizer).context("tokenizer.json")?;
    let kind = json.model.r#type.as_deref().unwrap_or("BPE");
    ensure!(kind == "BPE", "a tokenizer of type {kind} cannot be written as GGUF; BPE can");
    let merges = json.model.merges.iter().map(Merge::pair).collect::<Option<Vec<_>>>();
    let merges = merges.context("tokenizer.json: a merge has no two parts")?;
    let pre = PreTokenizer::of(json.pre_tokenizer.as_ref(), json.normalizer.as_ref(), json.model.ignore_merges);
    let space_prefix = sentencepiece_prefix(json.normalizer.as_ref(), json.pre_tokenizer.as_ref());
    let (mut tokens, types) = json.tokens(config.vocab_size)?;
    match (pre, space_prefix) {
        (Some(pre), _) => {
            metadata.text("tokenizer.ggml.model", "gpt2");
            metadata.text("tokenizer.ggml.pre", pre.names[0]);
            let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            metadata.texts("tokenizer.ggml.merges", merges.iter().map(String::as_str));
        }
        (None, Some(prefix)) if json.model.byte_fallback => {
            metadata.text("tokenizer.ggml.model", "llama");
            metadata.text("tokenizer.ggml.pre", "default");
            metadata.bool("tokenizer.ggml.add_space_prefix", prefix);
            metadata.f32s("tokenizer.ggml.scores", &scores(&tokens, &types, &merges)?);
            // llama.cpp looks for these before it turns spaces into ▁.
            for (token, _) in tokens.iter_mut().zip(&types).filter(|(_, kind)| **kind == USER_DEFINED) {
                *token = token.replace('▁', " ");
            }
        }
        _ => {
            bail!("how tokenizer.json cuts text is not known to llama.cpp: its pre_tokenizer or normalizer is another")
        }
    }
    metadata.texts("tokenizer.ggml.tokens", tokens.iter().map(String::as_str));
    metadata.i32s("tokenizer.ggml.token_type", &types);
    special(&json, tokenizer_config, config, metadata)?;
    templates(tokenizer_config, metadata);
    Ok(json.added_tokens.iter().any(|token| token.special && token.rstrip))
}

impl Json {
    /// Texts and types of all ids that the model has.
    fn tokens(&self, count: u32) -> Result<(Vec<String>, Vec<i32>)> {
        ensure!(count < 1 << 24, "config.json: vocab_size is {count}");
        let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; count as usize];
        let mut set = |id: u32, token: &str, kind: i32| {
            let place = tokens.get_mut(id as usize).zip(types.get_mut(id as usize));
            let (text, place) = place.with_context(|| format!("token {token:?} is {id}, of {count} in the model"))?;
            (*text, *place) = (token.to_owned(), kind);
            anyhow::Ok(())
        };
        for (token, &id) in &self.model.vocab {
            let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            set(id, token, if self.model.byte_fallback && is_byte { BYTE } else { NORMAL })?;
        }
        for added in &self.added_tokens {
            set(added.id, &added.content, if added.special { CONTROL } else { USER_DEFINED })?;
        }
        if let Some(unknown) = &self.model.unk_token
            && let Some(id) = self.id(unknown)
        {
            set(id, unknown, UNKNOWN)?;
        }
        Ok((tokens, types))
    }

    fn id(&self, token: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|added| added.content == token).map(|added| added.id);
        added.or_else(|| self.model.vocab.get(token).copied())
    }

    /// The special tokens that are put before and after every text.
    fn around(&self) -> (Option<&str>, Option<&str>) {
        fn template(processor: &Value) -> Option<&Value> {
            match processor["type"].as_str()? {
                "TemplateProcessing" => Some(&processor["single"]),
                "Sequence" => processor["processors"].as_array()?.iter().find_map(template),
                _ => None,
            }
        }
        fn token(step: Option<&Value>) -> Option<&str> {
            step?["SpecialToken"]["id"].as_str()
        }
        let steps = self.post_processor.as_ref().and_then(template).and_then(Value::as_array);
        (token(steps.and_then(|steps| steps.first())), token(steps.and_then(|steps| steps.last())))
    }
}

/// Whether a space is put before the text, if text is handled as SentencePiece does.
fn sentencepiece_prefix(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> Option<bool> {
    let replaces =
        |step: &Value| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == "▁";
    match (normalizer, pre_tokenizer) {
        (Some(normalizer), None) if replaces(normalizer) => Some(false),
        (Some(normalizer), None) => match normalizer["normalizers"].as_array()?.as_slice() {
            [replace] if replaces(replace) => Some(false),
            [prepend, replace] if prepend["prepend"] == "▁" && replaces(replace) => Some(true),
            _ => None,
        },
        (None, Some(pre)) if pre["type"] == "Metaspace" && pre["replacement"] == "▁" && pre["split"] == false => {
            Some(pre["prepend_scheme"] != "never")
        }
        _ => None,
    }
}

/// Scores that make llama.cpp join pieces in the order of the merges: it joins any two that make a piece, that of the best
/// score first. So the merges must be all there are, and those of one piece next to each other, which is how transformers
/// makes them of a SentencePiece model.
fn scores(tokens: &[String], types: &[i32], merges: &[(&str, &str)]) -> Result<Vec<f32>> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let piece = |token: &str| ids.get(token).copied().filter(|&id| [NORMAL, USER_DEFINED].contains(&types[id]));
    let mut ranks: HashMap<usize, usize> = HashMap::new();
    let mut given: HashSet<(usize, usize)> = HashSet::new();
    let mut last = None;
    let foreign = || {
        anyhow!(
            "the merges of tokenizer.json are not those of a SentencePiece model, which are all that GGUF can express"
        )
    };
    for (left, right) in merges {
        // Control tokens are found before anything is merged.
        let joined = format!("{left}{right}");
        let (Some(result), Some(first), Some(second)) = (piece(&joined), piece(left), piece(right)) else { continue };
        let rank = ranks.len();
        if last != Some(result) && ranks.insert(result, rank).is_some() {
            return Err(foreign());
        }
        last = Some(result);
        given.insert((first, second));
    }
    for (token, _) in tokens.iter().zip(types).filter(|(token, _)| piece(token).is_some()) {
        let mut splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let missing =
            splits.any(|(left, right)| piece(left).zip(piece(right)).is_some_and(|pair| !given.contains(&pair)));
        if missing {
            return Err(foreign());
        }
    }
    Ok((0..tokens.len()).map(|id| -(ranks.get(&id).copied().unwrap_or(ranks.len()) as f32)).collect())
}

/// The ids of special tokens, and which of them are put around texts.
fn special(json: &Json, tokenizer_config: &Value, config: &Config, metadata: &mut Metadata) -> Result<()> {
    let named = |key: &str| -> Option<u32> {
        let token = &tokenizer_config[key];
        json.id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    let first = |ids: &Option<TokenIds>| ids.as_ref().and_then(|ids| ids.as_slice().first().copied());
    let (before, after) = json.around();
    let required = |token: Option<&str>| -> Result<Option<u32>> {
        token.map(|token| json.id(token).with_context(|| format!("{token:?} has no id"))).transpose()
    };
    let ids = [
        ("bos", required(before)?.or_else(|| named("bos_token")).or_else(|| first(&config.bos_token_id))),
        ("eos", required(after)?.or_else(|| named("eos_token")).or_else(|| first(&config.eos_token_id))),
        ("padding", named("pad_token").or_else(|| first(&config.pad_token_id))),
        ("unknown", json.model.unk_token.as_deref().and_then(|token| json.id(token)).or_else(|| named("unk_token"))),
    ];
    for (name, id) in ids {
        if let Some(id) = id.filter(|&id| id < config.vocab_size) {
            metadata.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    metadata.bool("tokenizer.ggml.add_bos_token", before.is_some());
    metadata.bool("tokenizer.ggml.add_eos_token", after.is_some());
    Ok(())
}

fn templates(tokenizer_config: &Value, metadata: &mut Metadata) {
    match &tokenizer_config["chat_template"] {
        Value::String(template) => metadata.text("tokenizer.chat_template", template),
        Value::Array(list) => {
            let named = list.iter().filter_map(|one| Some((one["name"].as_str()?, one["template"].as_str()?)));
            let (default, others): (Vec<_>, Vec<_>) = named.partition(|(name, _)| *name == "default");
            if let Some((_, template)) = default.first() {
                metadata.text("tokenizer.chat_template", template);
            }
            for (name, template) in &others {
                metadata.text(&format!("tokenizer.chat_template.{name}"), template);
            }
            metadata.texts("tokenizer.chat_templates", others.iter().map(|(name, _)| *name));
        }
        _ => (),
    }
}
