//! From arguments to an engine: what all commands that run a model do first.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use mlx_mmap::item_size;
use mlx_rs::Dtype;
use phi3v::adapter::Adapter;
use phi3v::cache::CacheSettings;
use phi3v::checkpoint::hub::{HubSettings, is_cached, locate};
use phi3v::checkpoint::identity::identity;
use phi3v::checkpoint::low_rank::Attached;
use phi3v::checkpoint::{ModelFiles, Weights, demo};
use phi3v::engine::constrain::{Grammar, Vocabulary};
use phi3v::engine::speculate::Speculation;
use phi3v::engine::{Engine, EngineOptions, stop_tokens};
use phi3v::memory::{Demand, ModelMemory};
use phi3v::models::{self, Model};
use phi3v::processor::{Processor, Prompt, Tokenizer};
use phi3v::rows::State;
use phi3v::{device, memory};
use serde::Deserialize;

use crate::commands::args::{AdapterArg, DEFAULT_MODEL, EngineArgs, ModelArgs};
use crate::ui::Ui;

/// A model whose weights are not loaded yet.
pub(super) struct Opened {
    pub(super) files: ModelFiles,
    pub(super) processor: Processor,
    pub(super) dtype: Option<Dtype>,
    pub(super) adapters: Vec<Attached>,
    /// Where a grammar was checked.
    vocabulary: Option<Vocabulary>,
}

/// Finds the model, on the hub if need be, and reads all but its weights.
pub(super) fn open(args: ModelArgs, ui: &Ui) -> Result<Opened> {
    device::use_threads(args.cpu.threads.map(usize::from))?;
    let (settings, revision) = (HubSettings::from_env(), args.revision.as_deref());
    ensure!(
        args.model.is_some() || is_cached(DEFAULT_MODEL, revision, &settings),
        "no model is named: --model {} works at once, as it comes with phi3v; --model {DEFAULT_MODEL} would download \
         8.3 GB; it may be a folder or a GGUF file, too, and the variable PHI3V_MODEL stands for it",
        demo::NAME
    );
    let folder = locate(args.name(), revision, &settings, ui)?;
    let files = ModelFiles::read(&folder)?;
    let (processor, dtype) = (models::processor(&files)?, args.dtype.dtype());
    let adapters = read_adapters(&files, &args.adapters)?;
    Ok(Opened { processor, files, dtype, adapters, vocabulary: None })
}

/// Reads adapters, and makes sure that they are this model's.
fn read_adapters(files: &ModelFiles, args: &[AdapterArg]) -> Result<Vec<Attached>> {
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let parts = models::parts(files)?;
    let read = |AdapterArg { folder, weight }: &AdapterArg| {
        let mut adapter = Adapter::read(folder)?;
        adapter.fit(&parts).with_context(|| format!("{} is not for this model", folder.display()))?;
        ensure!(
            adapter.tensors.is_empty() || *weight == 1.0,
            "{}: whole tensors cannot be weighted; leave the :{weight} out",
            folder.display()
        );
        Ok(Attached { adapter: Rc::new(adapter), share: *weight, dropout: None })
    };
    args.iter().map(read).collect()
}

/// The engine as the arguments want it.
pub(super) struct Session {
    pub(super) engine: Engine,
    memory: ModelMemory,
    memory_limit: Option<usize>,
    /// Where to keep the prompt, and the model's name.
    prompt_cache: Option<(PathBuf, String)>,
}

impl Opened {
    /// What tells the model with its adapters from others.
    pub(super) fn identity(&self) -> Result<String> {
        Ok(identity(&self.files, self.dtype)? + &self.adapters_identity()?)
    }

    /// The adapters' part of it.
    pub(super) fn adapters_identity(&self) -> Result<String> {
        let of = |attached: &Attached| Ok(format!(" {}:{}", attached.adapter.identity()?, attached.share));
        self.adapters.iter().map(of).collect()
    }

    /// How many tokens have a logit.
    pub(super) fn vocab_size(&self) -> Result<usize> {
        #[derive(Deserialize)]
        struct Size {
            vocab_size: usize,
        }
        Ok(self.files.parse_text::<Size>()?.vocab_size)
    }

    /// An error unless answers can follow the grammar.
    pub(super) fn check_grammar(&mut self, grammar: &Grammar) -> Result<()> {
        let tokenizer = &self.processor.tokenizer;
        let vocabulary = Vocabulary::new(tokenizer, self.vocab_size()?, &stop_tokens(&self.files, tokenizer)?)?;
        vocabulary.constraint(grammar)?;
        self.vocabulary = Some(vocabulary);
        Ok(())
    }

    /// Loads the model alone, if it can do `demand`.
    pub(super) fn load_model(self, demand: Demand, ui: &Ui) -> Result<(Model, Processor)> {
        let weights = models::weights(&self.files, self.dtype)?;
        let memory = ModelMemory::of(&self.files, weights.bytes_in_memory(), item_size(weights.float_dtype()))?;
        memory.check(&demand, memory::available())?;
        Ok((load_model(&self.files, weights, &self.adapters, ui)?, self.processor))
    }

    /// Loads the model, if it can do `demand`. Several prompts are served up to `at_once` at a time; none for one prompt.
    pub(super) fn load(self, args: EngineArgs, demand: Demand, at_once: Option<usize>, ui: &Ui) -> Result<Session> {
        let model_name = match (&args.prompt_cache, &args.image_cache) {
            (None, None) => None,
            _ => Some(self.identity()?),
        };
        let Self { files, processor, dtype, adapters, vocabulary } = self;
        let weights = models::weights(&files, dtype)?;
        let memory = ModelMemory::of(&files, weights.bytes_in_memory(), item_size(weights.float_dtype()))?;
        let (group_size, start) = (args.kv_group_size, args.quantized_kv_start.unwrap_or(0));
        let packing = args.kv_bits.map(|bits| memory.dims.cache.packing(bits, group_size, start)).transpose()?;
        let settings = CacheSettings { max_size: args.max_kv_size, packing };
        memory.dims.cache.check(settings)?;
        let prefill_step_size = usize::try_from(args.prefill_step_size).unwrap_or(usize::MAX);
        let demand = Demand { prefill_step_size, cache: settings, ..demand };
        let available = args.memory_limit.unwrap_or_else(memory::available);
        memory.check(&demand, available)?;

        let options = EngineOptions {
            prefill_step_size,
            cache_bytes: Some(available.saturating_sub(memory.weights + memory.activations(&demand))),
            cache: settings,
            max_batch_size: at_once.unwrap_or(1),
            prefix_cache_bytes: args.prefix_cache_bytes.unwrap_or(if at_once.is_some() {
                1_000_000_000
            } else {
                usize::from(args.prompt_cache.is_some())
            }),
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(load_model(&files, weights, &adapters, ui)?, processor, &files, options)?;
        if let Some(vocabulary) = vocabulary {
            engine = engine.with_vocabulary(vocabulary);
        }
        if let (Some(folder), Some(name)) = (&args.image_cache, &model_name) {
            engine = engine.keep_features(folder, args.image_cache_bytes as u64, name)?;
        }
        if let (Some(file), Some(name)) = (&args.prompt_cache, &model_name) {
            let found = engine.load_prompt(file, name)?;
            ui.verbose(format!("{}: {}", file.display(), if found { "read" } else { "to be made" }));
        }
        let speculation = speculation(&args, &engine, ui)?;
        let memory_limit = args.memory_limit;
        Ok(Session {
            engine: engine.speculate(speculation),
            memory,
            memory_limit,
            prompt_cache: args.prompt_cache.zip(model_name),
        })
    }
}

impl Session {
    /// An error unless there is memory for what is computed on the way of a prompt; its keys and values are counted by the
    /// engine.
    pub(super) fn check_room(&self, prompt: &Prompt) -> Result<()> {
        let prefill_step_size = self.engine.options().prefill_step_size;
        let needed = self.memory.activations(&Demand { prefill_step_size, ..Demand::of(prompt, 0) });
        let free = self.memory_limit.map(|limit| limit.saturating_sub(self.memory.weights));
        let free = free.unwrap_or_else(memory::available);
        ensure!(
            needed <= free,
            "reading this takes {} MB of memory on the way, and {} are free; a smaller image takes less",
            needed.div_ceil(1_000_000),
            free / 1_000_000
        );
        Ok(())
    }

    /// Writes what `--prompt-cache` asks for.
    pub(super) fn save_prompt(&self) -> Result<()> {
        match &self.prompt_cache {
            Some((file, identity)) => self.engine.save_prompt(file, identity),
            None => Ok(()),
        }
    }
}

fn speculation(args: &EngineArgs, engine: &Engine, ui: &Ui) -> Result<Speculation> {
    let most = |default| args.num_draft_tokens.map_or(default, usize::from);
    let Some(draft) = &args.draft_model else {
        let lookup = args.prompt_lookup;
        ensure!(
            lookup || args.num_draft_tokens.is_none(),
            "--num-draft-tokens needs --prompt-lookup or --draft-model, which do the guessing"
        );
        return Ok(if lookup { Speculation::Lookup(most(10)) } else { Speculation::None });
    };
    let files = ModelFiles::read(&locate(draft, None, &HubSettings::from_env(), ui)?)?;
    let tokenizer = Tokenizer::read(&files)?;
    let model = load_model(&files, models::weights(&files, None)?, &[], ui)?;
    Speculation::draft(model, &tokenizer, &engine.processor().tokenizer, most(3))
}

pub(super) fn load_model(files: &ModelFiles, weights: Weights, adapters: &[Attached], ui: &Ui) -> Result<Model> {
    let bar = ui.bytes("loading", 0);
    let shown = bar.clone();
    let weights = adapters.iter().cloned().fold(weights, Weights::attach);
    let weights = weights.on_progress(move |done, total| {
        shown.set_length(total);
        shown.set_position(done);
    });
    let model = models::build(files, weights)?;
    bar.finish_and_clear();
    Ok(model)
}

/// An error unless what `flag` names can be written.
pub(super) fn check_output(flag: &str, path: &Path, input: &Path, may_exist: bool) -> Result<()> {
    if let (Ok(input), Ok(output)) = (input.canonicalize(), path.canonicalize()) {
        ensure!(input != output, "{flag} {}: that is the input", path.display());
    }
    if path.exists() {
        ensure!(may_exist, "{} exists; --resume goes on with it, --force replaces it", path.display());
        ensure!(path.is_file(), "{flag} {}: that is no file", path.display());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "{flag} {}: there is no folder {}", path.display(), folder.display());
    // Not after an hour.
    tempfile::tempfile_in(folder)
        .with_context(|| format!("{flag} {}: nothing can be written there", path.display()))?;
    Ok(())
}

/// Of what is kept in memory, that which changes answers.
pub(super) fn add_cache(state: &mut State, engine: &EngineArgs) {
    state.add("max_kv_size", engine.max_kv_size);
    state.add("kv_bits", engine.kv_bits);
    state.add("kv_group_size", engine.kv_group_size);
    state.add("quantized_kv_start", engine.quantized_kv_start);
}
