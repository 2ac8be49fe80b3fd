//! The tokenizer in a GGUF file's metadata as Hugging Face's files.
//! Reference: llama.cpp llama-vocab.cpp, impl::load; transformers convert_slow_tokenizer.py.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::container::Container;
use super::pretokenizer::{PreTokenizer, sentencepiece_decoder, sentencepiece_normalizer};

// What a token is, as `tokenizer.ggml.token_type` numbers it.
pub(super) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;
pub(super) const BYTE: i32 = 6;

/// The texts of tokens that end an answer in the chat formats of the supported models. Files often name only one of them.
/// Reference: llama.cpp llama-vocab.cpp, special_eog_ids.
const ENDS: &[&str] =
    &["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>"];

/// The JSON files beside `config.json`, by name.
pub(super) fn companions(file: &Container) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut put = |name: &str, json: Value| files.insert(name.to_owned(), json.to_string().into_bytes());
    let Some(tokenizer) = Tokenizer::read(file)? else {
        put("generation_config.json", json!({}));
        return Ok(files);
    };
    put("generation_config.json", tokenizer.generation_config());
    put("tokenizer_config.json", tokenizer.config(file)?);
    put("tokenizer.json", tokenizer.json(file)?);
    Ok(files)
}

struct Tokenizer<'a> {
    kind: Kind,
    tokens: Vec<&'a str>,
    types: Vec<i32>,
    ids: HashMap<&'a str, u32>,
    /// Ids by what they are for: `bos`, `eos`, `unknown`, `padding`.
    special: BTreeMap<&'static str, u32>,
    adds: Adds,
    /// Whether control tokens swallow the white space after them.
    rstrip: bool,
}

/// What the tokenizer puts around every text.
struct Adds {
    bos: bool,
    eos: bool,
}

enum Kind {
    SentencePiece,
    ByteLevel(&'static PreTokenizer),
}

impl<'a> Tokenizer<'a> {
    /// The file's tokenizer; none where it has no vocabulary.
    fn read(file: &'a Container) -> Result<Option<Self>> {
        let (kind, defaults): (_, &[_]) = match file.text("tokenizer.ggml.model")? {
            None | Some("no_vocab" | "none") => return Ok(None),
            Some("llama") => (Kind::SentencePiece, &[("bos", 1), ("eos", 2), ("unknown", 0)]),
            Some("gpt2") => (Kind::ByteLevel(PreTokenizer::named(file.text("tokenizer.ggml.pre")?)?), &[]),
            Some(other) => bail!("its tokenizer {other:?} is not supported; supported are llama and gpt2"),
        };
        let tokens = file.texts("tokenizer.ggml.tokens")?.context("it has no tokenizer.ggml.tokens")?;
        let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        ensure!(types.len() == tokens.len(), "it has {} tokens and the types of {}", tokens.len(), types.len());
        let mut ids = HashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            // Merges are looked for at every place of a token.
            ensure!(token.len() <= 4096, "token {id} is {} bytes long", token.len());
            ensure!(ids.insert(*token, id as u32).is_none(), "token {id}, {token:?}, is there twice");
        }
        let mut special: BTreeMap<&str, u32> = defaults.iter().copied().collect();
        for name in ["bos", "eos", "unknown", "padding", "eot", "eom"] {
            if let Some(id) = file.unsigned(&format!("tokenizer.ggml.{name}_token_id"))? {
                special.insert(name, u32::try_from(id)?);
            }
        }
        special.retain(|_, id| (*id as usize) < tokens.len());
        let adds_bos = match kind {
            Kind::SentencePiece => true,
            Kind::ByteLevel(pre) => pre.adds_bos,
        };
        let adds = |name: &str| file.bool(&format!("tokenizer.ggml.add_{name}_token"));
        let adds = Adds { bos: adds("bos")?.unwrap_or(adds_bos), eos: adds("eos")?.unwrap_or(false) };
        // llama.cpp knows Phi-3's by the model's name, too.
        let name = file.text("general.name")?.unwrap_or_default().to_lowercase();
        let rstrip = ["phi-3", "phi3"].iter().any(|phi| name.contains(phi));
        Ok(Some(Self { kind, tokens, types, ids, special, adds, rstrip }))
    }

    fn token(&self, name: &str) -> Option<&'a str> {
        self.special.get(name).map(|&id| self.tokens[id as usize])
    }

    fn generation_config(&self) -> Value {
        let named = ["eos", "eot", "eom"].iter().filter_map(|name| self.special.get(name).copied());
        let known = ENDS.iter().filter_map(|end| self.ids.get(end).copied());
        let known = known.filter(|&id| [CONTROL, USER_DEFINED].contains(&self.types[id as usize]));
        let mut ends: Vec<u32> = Vec::new();
        for id in named.chain(known) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        let mut config = json!({ "eos_token_id": ends });
        for (key, name) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
            if let Some(&id) = self.special.get(name) {
                config[key] = id.into();
            }
        }
        config
    }

    fn config(&self, file: &Container) -> Result<Value> {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.adds.bos,
            "add_eos_token": self.adds.eos,
            "clean_up_tokenization_spaces": false,
        });
        let keys = [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];
        for (key, name) in keys {
            if let Some(token) = self.token(name) {
                config[key] = token.into();
            }
        }
        let default = file.text("tokenizer.chat_template")?;
        let named = file.texts("tokenizer.chat_templates")?.unwrap_or_default();
        if named.is_empty() {
            if let Some(template) = default {
                config["chat_template"] = template.into();
            }
            return Ok(config);
        }
        let mut templates: Vec<Value> =
            default.iter().map(|template| json!({ "name": "default", "template": template })).collect();
        for name in named {
            let template = file.text(&format!("tokenizer.chat_template.{name}"))?;
            templates.extend(template.map(|template| json!({ "name": name, "template": template })));
        }
        config["chat_template"] = templates.into();
        Ok(config)
    }

    fn json(&self, file: &Container) -> Result<Value> {
        let prefix = file.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let vocab: Map<String, Value> =
            (0u32..).zip(&self.tokens).map(|(id, &token)| (token.into(), id.into())).collect();
        let mut model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
        });
        let (normalizer, pre_tokenizer, decoder);
        match self.kind {
            Kind::SentencePiece => {
                let scores = file.floats("tokenizer.ggml.scores")?.context("it has no tokenizer.ggml.scores")?;
                model["merges"] = self.merges_by_score(&scores)?;
                model["unk_token"] = self.token("unknown").into();
                model["fuse_unk"] = true.into();
                model["byte_fallback"] = self.types.contains(&BYTE).into();
                normalizer = sentencepiece_normalizer(prefix);
                pre_tokenizer = Value::Null;
                decoder = sentencepiece_decoder(prefix);
            }
            Kind::ByteLevel(pre) => {
                let merges = file.texts("tokenizer.ggml.merges")?.context("it has no tokenizer.ggml.merges")?;
                model["merges"] = self.listed_merges(&merges);
                model["ignore_merges"] = pre.ignore_merges.into();
                normalizer = pre.normalizer();
                pre_tokenizer = pre.json();
                decoder =
                    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
            }
        }
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": decoder,
            "model": model,
        }))
    }

    /// Every split of a piece into two pieces, that of the best piece first.
    /// Reference: transformers convert_slow_tokenizer.py, generate_merges.
    fn merges_by_score(&self, scores: &[f32]) -> Result<Value> {
        ensure!(scores.len() == self.tokens.len(), "it has {} tokens and {} scores", self.tokens.len(), scores.len());
        let piece = |token: &str| {
            let id = self.ids.get(token).copied()?;
            [NORMAL, USER_DEFINED].contains(&self.types[id as usize]).then_some(id)
        };
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(_, token)| piece(token).is_some()) {
            let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            for (left, right) in splits {
                if let (Some(first), Some(second)) = (piece(left), piece(right)) {
                    merges.push((scores[id], id, first, second, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        Ok(merges.into_iter().map(|(.., left, right)| json!([left, right])).collect())
    }

    /// The file's merges, without those that no text can come to: Hugging Face's reader refuses them.
    fn listed_merges(&self, merges: &[&str]) -> Value {
        let pairs = merges.iter().filter_map(|merge| {
            // A token may begin with a space.
            let at = merge.char_indices().skip(1).find(|&(_, char)| char == ' ')?.0;
            Some((&merge[..at], &merge[at + 1..]))
        });
        let known = |token: &str| self.ids.contains_key(token);
        pairs
            .filter(|(left, right)| known(left) && known(right) && known(&format!("{left}{right}")))
            .map(|(left, right)| json!([left, right]))
            .collect()
    }

    /// Tokens that are found in the text before it is cut.
    fn added_tokens(&self) -> Vec<Value> {
        let unknown = self.special.get("unknown").copied();
        let rstrip = |token: &str| self.rstrip && !["<unk>", "<s>", "<|endoftext|>"].contains(&token);
        let tokens = (0u32..).zip(&self.tokens).zip(&self.types);
        tokens
            .filter(|&((id, _), &kind)| {
                [CONTROL, USER_DEFINED].contains(&kind) || kind == UNKNOWN && Some(id) == unknown
            })
            .map(|((id, token), &kind)| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": rstrip(token),
                    "normalized": false,
                    "special": kind != USER_DEFINED,
                })
            })
            .collect()
    }

    /// BOS and EOS around every text, where the file wants them.
    fn post_processor(&self) -> Value {
        let around = |add: bool, name: &str| self.special.get(name).copied().filter(|_| add);
        let (bos, eos) = (around(self.adds.bos, "bos"), around(self.adds.eos, "eos"));
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let text = |id: u32| self.tokens[id as usize];
        let with = |sequence: &str, type_id: u32| {
            let special = |id: Option<u32>| id.map(|id| json!({"SpecialToken": {"id": text(id), "type_id": type_id}}));
            let sequence = json!({"Sequence": {"id": sequence, "type_id": type_id}});
            [special(bos), Some(sequence), special(eos)].into_iter().flatten()
        };
        let tokens = [bos, eos].into_iter().flatten();
        let tokens: Map<String, Value> =
            tokens.map(|id| (text(id).into(), json!({"id": text(id), "ids": [id], "tokens": [text(id)]}))).collect();
        json!({
            "type": "TemplateProcessing",
            "single": with("A", 0).collect::<Value>(),
            "pair": with("A", 0).chain(with("B", 1)).collect::<Value>(),
            "special_tokens": tokens,
        })
    }
}
