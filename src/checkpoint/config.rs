//! The JSON files of a checkpoint folder, read into types: what the model's graph needs is parsed by the model itself
//! ([`parse`]), the rest here. Unknown keys are ignored, values that cannot be honoured are errors that name their path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::gguf::Gguf;
use crate::checkpoint::json::{parse, read_json, read_optional, read_text};
use crate::checkpoint::quantization::Quantization;

/// The configuration files of a checkpoint: a folder, or a GGUF file, which holds what a folder would.
#[derive(Clone)]
pub struct ModelFiles {
    /// The folder or file itself.
    pub folder: PathBuf,
    /// The GGUF file, if it is one.
    pub gguf: Option<Rc<Gguf>>,
    /// `config.json` as it stands.
    pub config: Value,
    /// `generation_config.json`; empty when the folder has none.
    pub generation: GenerationConfig,
    /// `preprocessor_config.json`, which vision models have.
    pub preprocessor: Option<Value>,
    /// `tokenizer_config.json`; empty when the folder has none.
    pub tokenizer: TokenizerConfig,
}

/// The keys of `generation_config.json` that decide when to stop.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct GenerationConfig {
    /// Ids that end a generation.
    pub eos_token_id: Option<TokenIds>,
}

/// One id or several, as both spellings occur.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// `"eos_token_id": 2`
    One(u32),
    /// `"eos_token_id": [2, 32000]`
    Many(Vec<u32>),
}

impl TokenIds {
    /// All ids.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// The keys of `tokenizer_config.json` that chat templates use.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TokenizerConfig {
    /// The template, or several by name.
    pub chat_template: Option<ChatTemplates>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
}

/// `chat_template` as a string or as a list of named ones.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum ChatTemplates {
    /// The one template.
    One(String),
    /// Several; `default` is for chatting.
    Named(Vec<NamedTemplate>),
}

/// One of several chat templates.
#[derive(Debug, Clone, Deserialize)]
pub struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

impl SpecialToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

impl TokenizerConfig {
    /// The template for chatting.
    pub fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            ChatTemplates::One(template) => Some(template),
            ChatTemplates::Named(list) => list.iter().find(|t| t.name == "default").map(|t| t.template.as_str()),
        }
    }

    /// The special tokens that templates name: `bos_token`, `eos_token`, `pad_token`, `unk_token`.
    pub fn special_tokens(&self) -> BTreeMap<&'static str, &str> {
        let tokens = [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("pad_token", &self.pad_token),
            ("unk_token", &self.unk_token),
        ];
        tokens.into_iter().filter_map(|(name, token)| Some((name, token.as_ref()?.text()))).collect()
    }
}

impl ModelFiles {
    /// Reads the configuration files of a checkpoint. Of a folder only `config.json` must be there.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::of_gguf(path);
        }
        let folder = path;
        let config = read_json(&folder.join("config.json"))?
            .with_context(|| format!("{} has no config.json: it is not a model folder", folder.display()))?;
        let mut tokenizer: TokenizerConfig = read_optional(folder, "tokenizer_config.json")?.unwrap_or_default();
        // Newer checkpoints keep the template in a file of its own, which then counts.
        if let Some(template) = read_text(&folder.join("chat_template.jinja"))? {
            tokenizer.chat_template = Some(ChatTemplates::One(template));
        } else if let Some(file) = read_optional::<TokenizerConfig>(folder, "chat_template.json")? {
            tokenizer.chat_template = file.chat_template.or(tokenizer.chat_template);
        }
        Ok(Self {
            folder: folder.to_owned(),
            gguf: None,
            config,
            generation: read_optional(folder, "generation_config.json")?.unwrap_or_default(),
            preprocessor: preprocessor(folder)?,
            tokenizer,
        })
    }

    fn of_gguf(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let companions = gguf.companions()?;
        let json = |name: &str| -> Result<Value> {
            companions.get(name).map_or(Ok(json!({})), |bytes| serde_json::from_slice(bytes)).map_err(Into::into)
        };
        let (generation, tokenizer) = (json("generation_config.json")?, json("tokenizer_config.json")?);
        Ok(Self {
            folder: path.to_owned(),
            config: gguf.config()?,
            generation: parse(&generation)?,
            preprocessor: None,
            tokenizer: parse(&tokenizer)?,
            gguf: Some(Rc::new(gguf)),
        })
    }

    /// `tokenizer.json`, if there is one.
    pub fn tokenizer_json(&self) -> Result<Option<Vec<u8>>> {
        match &self.gguf {
            Some(gguf) => Ok(gguf.companions()?.get("tokenizer.json").cloned()),
            None => Ok(read_text(&self.folder.join("tokenizer.json"))?.map(String::into_bytes)),
        }
    }

    /// `tokenizer_config.json` with the chat template, wherever the checkpoint keeps it; null where there is neither.
    pub fn tokenizer_config(&self) -> Result<Value> {
        let mut config = match &self.gguf {
            Some(gguf) => gguf.companions()?.get("tokenizer_config.json").map(|json| serde_json::from_slice(json)),
            None => read_json(&self.folder.join("tokenizer_config.json"))?.map(Ok),
        }
        .transpose()?
        .unwrap_or_default();
        if let Some(template) = self.tokenizer.chat_template() {
            config["chat_template"] = template.into();
        }
        Ok(config)
    }

    /// `config.json`'s `model_type`.
    pub fn model_type(&self) -> Result<&str> {
        self.config["model_type"]
            .as_str()
            .ok_or_else(|| anyhow!("{}: config.json names no model_type", self.folder.display()))
    }

    /// `config.json` as a model's own type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        parse(&self.config).with_context(|| format!("{}", self.folder.join("config.json").display()))
    }

    /// `config.json` of the language part: of the keys at the top and in `text_config` the latter count.
    pub fn parse_text<T: DeserializeOwned>(&self) -> Result<T> {
        let Some(Value::Object(nested)) = self.config.get("text_config") else { return self.parse() };
        let mut config = self.config.clone();
        if let Some(fields) = config.as_object_mut() {
            // What the language part is called does not matter: the model is the whole.
            fields.extend(nested.clone().into_iter().filter(|(key, _)| key != "model_type"));
        }
        parse(&config).with_context(|| format!("{}", self.folder.join("config.json").display()))
    }

    /// The longest sequence that the model reads.
    pub fn max_position_embeddings(&self) -> Result<usize> {
        #[derive(Deserialize)]
        struct Context {
            max_position_embeddings: usize,
        }
        Ok(self.parse_text::<Context>()?.max_position_embeddings)
    }

    /// How the checkpoint is quantized, if it is.
    pub fn quantization(&self) -> Result<Option<Quantization>> {
        // mlx-lm and mlx-vlm write the first two alike, Phi-3-Vision-MLX only the third.
        let found = ["quantization", "quantization_config", "quantized"].into_iter().find_map(|key| {
            let value = self.config.get(key)?;
            (!value.is_null()).then_some((key, value))
        });
        let Some((key, value)) = found else { return Ok(None) };
        Quantization::parse(value)
            .with_context(|| format!("{}: {key}", self.folder.join("config.json").display()))
            .map(Some)
    }

    /// Ids that end a generation, as the checkpoint's files say.
    pub fn eos_token_ids(&self) -> Result<Vec<u32>> {
        #[derive(Deserialize)]
        struct Eos {
            eos_token_id: Option<TokenIds>,
        }
        let config: Eos = self.parse_text()?;
        let sources = [&config.eos_token_id, &self.generation.eos_token_id];
        Ok(sources.into_iter().flatten().flat_map(TokenIds::as_slice).copied().collect())
    }
}

/// `preprocessor_config.json`, or what newer checkpoints have of it in `processor_config.json`.
fn preprocessor(folder: &Path) -> Result<Option<Value>> {
    if let Some(config) = read_json(&folder.join("preprocessor_config.json"))? {
        return Ok(Some(config));
    }
    let config = read_json(&folder.join("processor_config.json"))?;
    Ok(config.and_then(|mut config| Some(config.get_mut("image_processor")?.take())))
}
