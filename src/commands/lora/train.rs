//! `phi3v lora --data`: a run, from its rows to its adapter.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use mlx_mmap::item_size;
use mlx_rs::Dtype;
use phi3v::adapter::Adapter;
use phi3v::dataset::{self, DataFiles, MaskRatios, Order, Reader, Splits};
use phi3v::engine::EngineOptions;
use phi3v::memory::{self, ModelMemory, TrainingDemand};
use phi3v::models;
use phi3v::processor::{Message, Prompt, images};
use phi3v::train::batch::{Batches, Largest, Reading};
use phi3v::train::load::load;
use phi3v::train::state;
use phi3v::train::trainer::{FILES, Run, Trainer};

use super::args::{ShownArgs, TrainArgs};
use super::report::{Prospect, Shown, finish};
use super::{rows, settings};
use crate::commands::args::OutputArgs;
use crate::commands::bad_rows;
use crate::commands::session::{self, Opened};
use crate::interrupt;
use crate::ui::Ui;

/// The most bytes for the vectors of images that come again every epoch.
const FEATURE_BYTES: usize = 2 << 30;

pub(super) fn run(args: TrainArgs) -> Result<ExitCode> {
    let TrainArgs {
        data,
        adapter_path,
        resume,
        force,
        dry_run,
        json,
        output,
        model,
        rows,
        splits,
        method,
        steps,
        shown,
    } = args;
    let OutputArgs { quiet, verbose } = output;
    let ui = Ui::new(quiet, verbose);

    // Everything cheap first.
    let data = data.context("--data is required")?;
    let files = DataFiles::find(&data)?;
    let folder = adapter_path.as_path();
    if !dry_run {
        check_folder(folder, resume, force)?;
    }
    if let Some(share) = splits.val_split {
        files.check_val_split(share.into())?;
    }
    let mut opened = session::open(model, &ui)?;
    compute_in_bfloat16(&mut opened)?;

    let reading = rows::settings(&rows, &opened)?;
    let mut reader = Reader::new(&opened.processor, &reading);
    let read = bad_rows::with_progress(&ui, |progress| Splits::read(&files, &mut reader, progress))?;
    let mut read = read.context("interrupted")?;
    let good = read.train.good.len();
    bad_rows::report(&read.bad().collect::<Vec<_>>(), good, rows.skip_bad, &ui)?;
    if let Some(share) = splits.val_split {
        read.hold_out(share.into(), steps.seed)?;
    }
    if !splits.mask_ratios.is_empty() {
        let ratios = splits.mask_ratios.iter().map(|&ratio| ratio.into()).collect();
        let ratios = MaskRatios::new(ratios, &opened.processor.tokenizer, rows.mask_prompt)?;
        read.train.good = ratios.apply(&read.train.good, steps.seed);
    }

    // With the adapter that it starts from.
    let model_identity = opened.identity()?;
    let started_from = start(&mut opened)?;
    let weights = models::weights(&opened.files, opened.dtype)?;
    let memory = ModelMemory::of(&opened.files, weights.bytes_in_memory(), item_size(weights.float_dtype()))?;
    let mut plan = settings::plan(&opened.files, &weights, &method, started_from, steps.seed)?;
    plan.adapter.about.dropout = method.dropout;
    let samples = samples(&opened, &shown, &reading)?;
    let group = models::Arch::of(&opened.files)?.group;
    plan.check(group)?;
    let (trains_vision, trains_tower) = (plan.trains_vision(group), plan.trains_tower(group));

    // The order of batches needs no weights, and tells what memory is needed.
    let order = Order::new(steps.seed, rows.batch_size.into(), splits.pack)?;
    let hashes = [Some(&read.train), read.valid.as_ref()].map(|data| data.map(|data| data.sha256.clone()));
    let (examples, valid) = (read.train.good, read.valid.map(|valid| valid.good));
    let (largest, per_epoch) = Largest::of(&examples, &order);
    let identity = settings::identity(model_identity, (&rows, &splits, &method), hashes)?;
    let run_settings = settings::run(&steps, &shown, &method, per_epoch, identity)?;
    let demand = TrainingDemand {
        positions: largest.positions,
        targets: largest.targets,
        tower_positions: largest.tower_positions,
        trains_tower,
        trained: plan.parameters(),
        optimizer_bytes: plan.tensors.iter().map(|(path, shape)| run_settings.optimizer.state_bytes(path, shape)).sum(),
        adapted_widths: plan.adapted_widths(group),
        checkpoint: steps.grad_checkpoint,
    };
    let needed = memory.training(&demand);
    let held_out = valid.as_ref().map_or(0, Vec::len);
    let prospect = Prospect::new(&plan, examples.len(), held_out, run_settings.steps, needed);
    match (dry_run, json) {
        (true, true) => writeln!(std::io::stdout(), "{}", serde_json::to_string(&prospect)?)?,
        (true, false) => writeln!(std::io::stdout(), "{}", prospect.lines().join("\n"))?,
        (false, _) => prospect.lines().iter().for_each(|line| ui.status(line)),
    }
    let available = steps.memory_limit.unwrap_or_else(memory::available);
    memory.check_training(&demand, available)?;
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }

    let extra = settings::config(&opened, &run_settings);
    let Opened { files, processor, .. } = opened;
    let bar = ui.bytes("loading", 0);
    let loading = bar.clone();
    let weights = weights.on_progress(move |done, total| {
        loading.set_length(total);
        loading.set_position(done);
    });
    // Where the vision tower is trained, an image's vectors change.
    let feature_cache_bytes = if trains_vision { 0 } else { EngineOptions::default().feature_cache_bytes };
    let options = EngineOptions { feature_cache_bytes, ..EngineOptions::default() };
    let loaded = load(&files, processor, weights, plan, method.dropout, options)?;
    bar.finish_and_clear();

    prepare_folder(folder, force)?;
    let reading = Reading {
        model: loaded.engine.model(),
        processor: loaded.engine.processor(),
        limits: reading.limits,
        image_options: reading.image_options,
        feature_bytes: (!trains_vision).then(|| FEATURE_BYTES.min(available.saturating_sub(needed.total()))),
    };
    let total = run_settings.steps;
    let run = Run {
        engine: &loaded.engine,
        params: loaded.params,
        adapter: loaded.adapter,
        dropout: loaded.dropout,
        train: Batches::new(examples, order, reading),
        valid: valid.map(|valid| Batches::new(valid, order, reading)),
        samples,
        extra,
        folder,
    };
    let mut trainer = Trainer::new(run, run_settings, resume)?;
    // What comes earlier can simply be ended.
    interrupt::listen()?;
    let on_screen = Shown::new(&ui, total, trainer.progress().step);
    let end = trainer.run(&mut |event| on_screen.on(event));
    on_screen.clear();
    finish(end?, &trainer, folder, shown.plot, json, &ui)
}

/// An error unless the run's files can be written there.
fn check_folder(folder: &Path, resume: bool, force: bool) -> Result<()> {
    let shown = folder.display();
    ensure!(!folder.exists() || folder.is_dir(), "--adapter-path {shown}: that is no folder");
    let old = FILES.iter().find(|name| folder.join(name).exists());
    match (old, state::exists(folder)) {
        (Some(_), true) => {
            ensure!(resume || force, "{shown} holds a run already; --resume goes on with it, --force begins anew");
        }
        // Of a run that ended before it saved anything, or an adapter alone.
        (Some(old), false) => ensure!(force, "{shown} holds {old}, but no run to go on with; --force begins anew"),
        (None, _) => ensure!(!resume, "--resume: {shown} holds no run to go on with; leave it out"),
    }
    Ok(())
}

/// Takes away what another run left, and nothing else.
fn prepare_folder(folder: &Path, force: bool) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for path in FILES.iter().map(|name| folder.join(name)).filter(|path| force && path.exists()) {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Small gradients are lost in IEEE's 16-bit floats.
fn compute_in_bfloat16(opened: &mut Opened) -> Result<()> {
    if opened.dtype.is_none() && models::weights(&opened.files, None)?.float_dtype() == Dtype::Float16 {
        opened.dtype = Some(Dtype::Bfloat16);
    }
    ensure!(opened.dtype != Some(Dtype::Float16), "--dtype float16 loses small gradients; take bfloat16 or float32");
    Ok(())
}

/// The adapter that is trained further.
fn start(opened: &mut Opened) -> Result<Option<Adapter>> {
    let Some(attached) = opened.adapters.pop() else { return Ok(None) };
    ensure!(
        opened.adapters.is_empty() && attached.share == 1.0,
        "--adapter: training goes on with one adapter, without a weight; fuse others into the model first"
    );
    Ok(Some(Rc::unwrap_or_clone(attached.adapter)))
}

/// The prompts whose answers are shown, as the model reads them.
fn samples(opened: &Opened, shown: &ShownArgs, reading: &dataset::Settings) -> Result<Vec<(String, Prompt)>> {
    let images = shown.sample_image.iter().map(|source| Ok(images::load(&source.parse()?, &reading.limits)?));
    let images = images.collect::<Result<Vec<_>>>()?;
    let prompt = |text: &String| {
        let processor = &opened.processor;
        let prompt = match processor.has_chat_template() {
            true => processor.prepare(&[Message::new("user", text)], &images, &reading.image_options)?,
            false => processor.prepare_text(text, &images, &reading.image_options)?,
        };
        prompt.check_fits(opened.files.max_position_embeddings()?)?;
        Ok((text.clone(), prompt))
    };
    shown.sample_prompt.iter().map(prompt).collect()
}
