//! Requests in, text out: the one generation loop, for every command. It knows no arguments and no terminal.

mod answer;
pub mod batch;
pub mod choose;
pub mod constrain;
pub mod distribution;
pub mod image_cache;
pub mod phrase;
pub mod queue;
pub mod sampler;
pub mod sequence;
pub mod speculate;
pub mod text;

use std::cell::{OnceCell, RefCell};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mlx_mmap::item_size;
use mlx_rs::Dtype;
use serde::Serialize;

use crate::cache::{CacheSettings, CacheShape, PrefixStore};
use crate::checkpoint::ModelFiles;
use crate::engine::image_cache::FeatureStore;
use crate::models::{Arch, Model};
use crate::nn::RopeFactors;
use crate::processor::{Processor, Prompt, Tokenizer};
use batch::Batch;
use constrain::{Constraint, Grammar, Vocabulary};
use sampler::Sampling;
use sequence::Sequence;
use speculate::Speculation;

/// A model with what turns its tokens into text, and what it remembers from request to request.
pub struct Engine {
    model: Model,
    processor: Processor,
    stop_tokens: Vec<u32>,
    options: EngineOptions,
    speculation: Speculation,
    cache_shape: CacheShape,
    /// The type of hidden states, keys and values.
    dtype: Dtype,
    vocab_size: usize,
    prefixes: RefCell<PrefixStore>,
    features: RefCell<FeatureStore>,
    vocabulary: OnceCell<Vocabulary>,
}

/// How requests are served. Nothing here decides on an answer in float32, but for the cache's settings.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Prompt positions per step: a matter of memory.
    pub prefill_step_size: usize,
    /// Requests that are served at once.
    pub max_batch_size: usize,
    /// Bytes for keys and values; none for no bound.
    pub cache_bytes: Option<usize>,
    /// How keys and values are kept.
    pub cache: CacheSettings,
    /// Bytes for keys and values of earlier requests.
    pub prefix_cache_bytes: usize,
    /// Bytes for the vectors of earlier requests' images.
    pub feature_cache_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            prefill_step_size: 512,
            max_batch_size: 8,
            cache_bytes: None,
            cache: CacheSettings::default(),
            prefix_cache_bytes: 0,
            feature_cache_bytes: 256 << 20,
        }
    }
}

/// What is asked of the engine.
#[derive(Clone)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// The most tokens to generate, at least one.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The form that the answer must have.
    pub grammar: Option<Grammar>,
    /// After so many tokens, end where the model could have ended well: Phi-3-Vision-MLX's `early_stop`.
    pub early_stop: Option<usize>,
}

impl Request {
    /// The best token always, up to `max_tokens`.
    pub fn new(prompt: Prompt, max_tokens: usize) -> Self {
        let sampling = Sampling::default();
        Self { prompt, max_tokens, sampling, stop: Vec::new(), grammar: None, early_stop: None }
    }
}

/// What happens while a request is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The prompt's images are encoded.
    Encoded,
    /// So many positions of so many are in the cache.
    Prefill(usize, usize),
    /// The sequence is longer than this many positions: it is computed, or computed anew, with longrope's long factors.
    LongFactors(usize),
    /// The answer goes on; whole characters.
    Text(&'a str),
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, a stop string was met, or the grammar allows no more.
    Stop,
    /// The rule for ending early applied.
    EarlyStop,
    /// `max_tokens` were generated, or the model's context is full.
    Length,
    /// The caller broke off.
    #[default]
    Interrupted,
}

impl FinishReason {
    /// As machines read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::EarlyStop => "early_stop",
            Self::Length => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An answer and what it took.
#[derive(Debug, Clone, Default)]
pub struct Generation {
    /// The answer.
    pub text: String,
    /// All tokens that were generated, the one that ended the answer included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Whether the answer is a whole one by its grammar, where it has one.
    pub complete: Option<bool>,
    /// Positions of the prompt.
    pub prompt_tokens: usize,
    /// Of these, positions that were computed for an earlier request.
    pub cached_tokens: usize,
    /// Images that were encoded for an earlier request.
    pub cached_images: usize,
    /// Whether longrope's long factors were used in the end.
    pub long_factors: bool,
    /// Tokens that were guessed ahead.
    pub proposed: usize,
    /// Of these, tokens that became part of the answer.
    pub accepted: usize,
    /// Time for the images, from pixels to vectors.
    pub encoder_time: Duration,
    /// Time for the prompt, to the first logits.
    pub prefill_time: Duration,
    /// Time for all tokens after the first.
    pub decode_time: Duration,
}

impl Engine {
    /// An engine for a loaded checkpoint. Answers end with its [`stop_tokens`].
    pub fn new(model: Model, processor: Processor, files: &ModelFiles, options: EngineOptions) -> Result<Self> {
        let arch = Arch::of(files)?;
        let stop_tokens = stop_tokens(files, &processor.tokenizer)?;
        let cache_shape = (arch.dims)(files)?.cache;
        cache_shape.check(options.cache)?;
        ensure!(options.max_batch_size > 0, "a batch of 0 requests serves nobody");
        let hidden = model.text.embed_tokens(&[0])?;
        Ok(Self {
            dtype: hidden.dtype(),
            vocab_size: model.text.logits(&hidden)?.dim(-1) as usize,
            model,
            processor,
            stop_tokens,
            speculation: Speculation::None,
            cache_shape,
            prefixes: RefCell::new(PrefixStore::new(options.prefix_cache_bytes)),
            features: RefCell::new(FeatureStore::new(options.feature_cache_bytes)),
            vocabulary: OnceCell::new(),
            options,
        })
    }

    /// Takes the vocabulary of grammars where it is made already.
    pub fn with_vocabulary(self, vocabulary: Vocabulary) -> Self {
        Self { vocabulary: OnceCell::from(vocabulary), ..self }
    }

    /// Guesses tokens ahead and checks them together. The answers stay the same.
    pub fn speculate(self, speculation: Speculation) -> Self {
        Self { speculation, ..self }
    }

    /// Keeps images' vectors in a folder, too: see [`FeatureStore::with_folder`].
    pub fn keep_features(self, folder: &Path, most_bytes: u64, identity: &str) -> Result<Self> {
        let features = self.features.into_inner().with_folder(folder, most_bytes, identity)?;
        Ok(Self { features: RefCell::new(features), ..self })
    }

    /// Reads a prompt that [`Engine::save_prompt`] wrote; false if there is no such file.
    pub fn load_prompt(&self, path: &Path, identity: &str) -> Result<bool> {
        self.prefixes.borrow_mut().load(path, identity, self.options.cache)
    }

    /// Writes what is kept of the latest request; nothing if nothing is.
    pub fn save_prompt(&self, path: &Path, identity: &str) -> Result<()> {
        self.prefixes.borrow().save(path, identity)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What makes prompts of conversations and images.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// How requests are served.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Bytes that a request's keys and values take in the end.
    pub fn cache_bytes(&self, request: &Request) -> usize {
        let EngineOptions { cache, prefill_step_size, .. } = self.options;
        let len =
            request.prompt.len().saturating_add(request.max_tokens).min(self.model.text.max_position_embeddings());
        self.cache_shape.bytes(len, cache, item_size(self.dtype), prefill_step_size)
    }

    /// Serves a request. `on_event` may break off between any two steps; what there is by then is returned.
    pub fn generate(&self, request: Request, mut on_event: impl FnMut(Event) -> ControlFlow<()>) -> Result<Generation> {
        let mut batch = Batch::new(self);
        batch.submit((), request)?;
        loop {
            if let Some(((), generation)) = batch.step(&mut |(), event| on_event(event))?.pop() {
                return generation;
            }
        }
    }

    /// An error unless the request makes sense.
    pub fn check(&self, request: &Request) -> Result<()> {
        ensure!(request.max_tokens > 0, "max-tokens is 0: nothing would be generated");
        request.sampling.check()?;
        request.prompt.check_fits(self.model.text.max_position_embeddings())?;
        if let Some(id) = request.prompt.token_ids().find(|&id| id as usize >= self.vocab_size) {
            bail!("token id {id} is outside the model's vocabulary of {}; its tokenizer is another's", self.vocab_size);
        }
        let bytes = self.cache_bytes(request);
        if let Some(most) = self.options.cache_bytes {
            ensure!(
                bytes <= most,
                "the prompt of {} positions and an answer of up to {} tokens take {} of memory, of which {} are free; \
                 allow fewer tokens (`max_tokens`), pack the cache (`kv_bits` 8) or bound it (`max_kv_size`)",
                request.prompt.len(),
                request.max_tokens,
                megabytes(bytes),
                megabytes(most)
            );
        }
        Ok(())
    }

    /// A prompt on its way, with what is remembered of it.
    fn sequence(&self, prompt: &Prompt) -> Result<Sequence<'_>> {
        let mut features = self.features.borrow_mut();
        let mut sequence = Sequence::with(self.model(), prompt, self.options.cache, &mut features)?;
        if let Some(known) = self.prefixes.borrow_mut().longest(&sequence.units(), sequence.cache.factors) {
            sequence.cache = known;
        }
        Ok(sequence)
    }

    /// Keeps what was computed.
    fn remember(&self, sequence: Sequence) {
        self.prefixes.borrow_mut().put(sequence.units(), sequence.cache);
    }

    fn constraint(&self, grammar: &Grammar) -> Result<Constraint> {
        let vocabulary = match self.vocabulary.get() {
            Some(vocabulary) => vocabulary,
            None => {
                let made = Vocabulary::new(&self.processor.tokenizer, self.vocab_size, &self.stop_tokens)?;
                self.vocabulary.get_or_init(|| made)
            }
        };
        vocabulary.constraint(grammar)
    }

    fn uses_long_factors(&self, len: usize) -> bool {
        self.model.text.rope_boundary().is_some() && self.model.text.rope_factors(len) == RopeFactors::Long
    }
}

/// Tokens that end answers: those that a checkpoint's files name, and those of its architecture's chat format.
pub fn stop_tokens(files: &ModelFiles, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut tokens = files.eos_token_ids()?;
    tokens.extend(Arch::of(files)?.stop_tokens.iter().filter_map(|token| tokenizer.id(token)));
    Ok(tokens)
}

fn megabytes(bytes: usize) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
