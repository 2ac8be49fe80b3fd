//! The JSON files of a checkpoint folder, read into types: what the model's graph needs is parsed by the model itself
//! ([`parse`]), the rest here. Unknown keys are ignored, values that cannot be honoured are errors that name their path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mlx_quantized::Mode;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::gguf::Gguf;
use crate::processor;

/// Pixels on the side of the tiles that a vision tower sees.
const TILE: usize = processor::TILE as usize;

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
    pub preprocessor: Option<PreprocessorConfig>,
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

/// The keys of Phi-3-vision's `preprocessor_config.json`. Defaults are those of the reference's image processor.
#[derive(Debug, Clone, Deserialize)]
pub struct PreprocessorConfig {
    /// The most 336-pixel tiles a picture is cut into.
    #[serde(default = "one")]
    pub num_crops: u32,
    /// Per channel, red first.
    #[serde(default = "clip_mean")]
    pub image_mean: [f32; 3],
    /// Per channel, red first.
    #[serde(default = "clip_std")]
    pub image_std: [f32; 3],
    /// Vectors in a line of a tile, and such lines: `num_img_tokens` is the square of it.
    #[serde(default = "twelve", rename = "num_img_tokens", deserialize_with = "root")]
    pub line: usize,
}

fn one() -> u32 {
    1
}

fn twelve() -> usize {
    12
}

fn root<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let tokens = usize::deserialize(deserializer)?;
    let root = tokens.isqrt();
    // A line holds at least one vector, and at most one for each two pixels.
    let fits = root * root == tokens && (1..=168).contains(&root);
    fits.then_some(root).ok_or_else(|| D::Error::custom(format!("a tile is a square, which {tokens} vectors are not")))
}

fn clip_mean() -> [f32; 3] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

fn clip_std() -> [f32; 3] {
    [0.268_629_54, 0.261_302_6, 0.275_777_1]
}

/// The vision tower's measures, in `img_processor.vision_config` of `config.json`: CLIP-L's where published checkpoints
/// leave them to the code.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct Tower {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) patch_size: usize,
}

impl Default for Tower {
    fn default() -> Self {
        Self { hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 24, patch_size: 14 }
    }
}

impl Tower {
    /// Positions of a tile: its patches and the class.
    pub(crate) fn num_positions(&self) -> usize {
        (TILE / self.patch_size).pow(2) + 1
    }

    /// By a whole `config.json`.
    pub(crate) fn of(config: &Value) -> Result<Self> {
        let tower = config.pointer("/img_processor/vision_config").map(Self::deserialize).transpose();
        let tower = tower.context("config.json: img_processor.vision_config")?.unwrap_or_default();
        ensure!(
            (1..=TILE / 2).contains(&tower.patch_size),
            "config.json: img_processor.vision_config.patch_size: {} does not fit tiles of {TILE}",
            tower.patch_size
        );
        Ok(tower)
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
            preprocessor: read_optional(folder, "preprocessor_config.json")?,
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

    /// The longest sequence that the model reads.
    pub fn max_position_embeddings(&self) -> Result<usize> {
        #[derive(Deserialize)]
        struct Context {
            max_position_embeddings: usize,
        }
        Ok(self.parse::<Context>()?.max_position_embeddings)
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
        let config: Eos = self.parse()?;
        let sources = [&config.eos_token_id, &self.generation.eos_token_id];
        Ok(sources.into_iter().flatten().flat_map(TokenIds::as_slice).copied().collect())
    }
}

/// How one module's weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantizedAs {
    /// Consecutive weights of a row that share a scale.
    pub group_size: i32,
    /// Bits of one weight.
    pub bits: i32,
    /// The number format.
    #[serde(with = "ModeName", default = "affine")]
    pub mode: Mode,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Mode", rename_all = "lowercase")]
enum ModeName {
    Affine,
    Mxfp4,
    Nvfp4,
    Mxfp8,
}

fn affine() -> Mode {
    Mode::Affine
}

/// `config.json`'s `quantization`: the rule and its exceptions by module path.
#[derive(Debug, Clone)]
pub struct Quantization {
    /// How modules are packed that are not named below.
    pub default: QuantizedAs,
    /// Modules packed otherwise.
    pub overrides: BTreeMap<String, QuantizedAs>,
}

impl Quantization {
    fn parse(value: &Value) -> Result<Self> {
        let fields = value.as_object().ok_or_else(|| anyhow!("an object is expected, not {value}"))?;
        if let Some(method) = fields.get("quant_method") {
            bail!("quantized by {method}, which is not MLX's format; use the unquantized checkpoint");
        }
        let default = parse::<QuantizedAs>(value)?.check()?;
        let mut overrides = BTreeMap::new();
        // `false` stands for a module left as it was; that it has no scales says so already.
        for (path, value) in fields.iter().filter(|(_, value)| value.is_object()) {
            let mut merged = json!({ "group_size": default.group_size, "bits": default.bits });
            merged.as_object_mut().expect("made as an object").extend(value.as_object().cloned().unwrap_or_default());
            let packing = parse::<QuantizedAs>(&merged).and_then(QuantizedAs::check).with_context(|| path.clone())?;
            overrides.insert(path.clone(), packing);
        }
        Ok(Self { default, overrides })
    }

    /// As `config.json` has it.
    pub fn to_value(&self) -> Value {
        let mut value = json!(self.default);
        let fields = value.as_object_mut().expect("a struct is an object");
        fields.extend(self.overrides.iter().map(|(path, packing)| (path.clone(), json!(packing))));
        value
    }

    /// How the module at `path` is packed, given that it is.
    pub fn of(&self, path: &str) -> QuantizedAs {
        self.overrides.get(path).copied().unwrap_or(self.default)
    }
}

/// A JSON value as `T`; errors name the path of the value at fault.
pub fn parse<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| anyhow!("{}: {}", e.path(), e.inner()))
}

/// The file's JSON, or nothing when there is no such file.
pub fn read_json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} is not valid JSON", path.display()))
}

fn read_optional<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>> {
    let path = folder.join(name);
    let Some(value) = read_json(&path)? else { return Ok(None) };
    parse(&value).with_context(|| format!("{}", path.display())).map(Some)
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}
