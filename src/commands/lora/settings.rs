//! From arguments to the settings of a run.

use anyhow::{Result, ensure};
use phi3v::adapter::{Adapter, FineTuneType, number};
use phi3v::checkpoint::identity::new_run;
use phi3v::checkpoint::{ModelFiles, Weights};
use phi3v::models;
use phi3v::train::optimizer::{self, Adafactor, AdamW, Lion, Muon, Sgd};
use phi3v::train::plan::{LoraSettings, Plan, Scope};
use phi3v::train::schedule::{Decay, Schedule};
use phi3v::train::trainer::Settings;
use serde_json::{Map, Value, json};

use super::args::{DataArgs, FineTuneArg, MethodArgs, OptimizerArg, ScheduleArg, ShownArgs, SplitArgs, StepsArgs};
use crate::commands::session::Opened;

/// What is trained.
pub(super) fn plan(
    files: &ModelFiles,
    weights: &Weights,
    method: &MethodArgs,
    started_from: Option<Adapter>,
    seed: u64,
) -> Result<Plan> {
    if let Some(adapter) = started_from {
        ensure!(
            !matches!(method.fine_tune_type, FineTuneArg::Full) && !adapter.modules.is_empty(),
            "--adapter: only low-rank adapters are trained further; fuse this one into the model first"
        );
        return Ok(Plan::of(adapter));
    }
    let scope = Scope {
        num_layers: method.num_layers.0,
        target: method.target.clone(),
        projector: method.train_projector,
        vision: method.train_vision,
        freeze: method.freeze.clone(),
    };
    let (parts, group) = (models::parts(files)?, models::Arch::of(files)?.group);
    let lora = LoraSettings { rank: method.rank, alpha: alpha(method), rslora: method.rslora };
    match method.fine_tune_type.into() {
        FineTuneType::Full => {
            ensure!(
                method.dropout == 0.0 && !method.rslora && method.alpha.is_none(),
                "--fine-tune-type full changes the model's own tensors: --dropout, --rslora and --alpha mean nothing there"
            );
            Plan::full(&scope.tensors(&parts, group)?, weights)
        }
        FineTuneType::Dora => Plan::low_rank(&scope.linears(&parts, group)?, lora, true, seed),
        FineTuneType::Lora => Plan::low_rank(&scope.linears(&parts, group)?, lora, false, seed),
    }
}

fn alpha(method: &MethodArgs) -> f32 {
    method.alpha.unwrap_or(2.0 * method.rank as f32)
}

fn optimizer(steps: &StepsArgs) -> optimizer::Settings {
    let weight_decay = f64::from(steps.weight_decay);
    match steps.optimizer {
        OptimizerArg::Adamw => optimizer::Settings::AdamW(AdamW { weight_decay, ..AdamW::default() }),
        OptimizerArg::Sgd => optimizer::Settings::Sgd(Sgd { weight_decay, momentum: 0.9, ..Sgd::default() }),
        OptimizerArg::Adafactor => optimizer::Settings::Adafactor(Adafactor { weight_decay, ..Adafactor::default() }),
        OptimizerArg::Lion => optimizer::Settings::Lion(Lion { weight_decay, ..Lion::default() }),
        OptimizerArg::Muon => optimizer::Settings::Muon(Muon {
            weight_decay,
            match_rms_adamw: true,
            adamw: AdamW { weight_decay, ..AdamW::default() },
            ..Muon::default()
        }),
    }
}

/// How the run goes, whose epochs have so many batches.
pub(super) fn run(
    steps: &StepsArgs,
    shown: &ShownArgs,
    method: &MethodArgs,
    per_epoch: usize,
    mut identity: Map<String, Value>,
) -> Result<Settings> {
    let accumulated = usize::from(steps.grad_accumulation_steps);
    let total = match steps.iters {
        Some(iters) => iters as usize,
        None => (per_epoch * steps.epochs as usize).div_ceil(accumulated),
    };
    let by_default = if matches!(method.fine_tune_type, FineTuneArg::Full) { 1e-5 } else { 1e-4 };
    let schedule = Schedule {
        learning_rate: steps.learning_rate.unwrap_or(by_default),
        kind: match steps.lr_schedule {
            ScheduleArg::Constant => Decay::Constant,
            ScheduleArg::Linear => Decay::Linear,
            ScheduleArg::Cosine => Decay::Cosine,
        },
        warmup: steps.warmup_steps.unwrap_or((total / 20).min(100)),
        total,
        minimum: steps.min_learning_rate,
    };
    ensure!(
        schedule.minimum <= schedule.learning_rate,
        "--min-learning-rate: {} is more than the learning rate of {}",
        schedule.minimum,
        schedule.learning_rate
    );
    let optimizer = optimizer(steps);
    let steps_per_eval = shown.steps_per_eval.map_or(per_epoch.div_ceil(accumulated), |n| n as usize);
    let of_run = json!({
        "steps": total,
        "grad_accumulation_steps": accumulated,
        "max_grad_norm": steps.max_grad_norm,
        "grad_checkpoint": steps.grad_checkpoint,
        "optimizer": optimizer,
        "schedule": schedule,
        "seed": steps.seed,
        "steps_per_report": shown.steps_per_report,
        "steps_per_eval": steps_per_eval,
        "patience": shown.patience,
    });
    identity.extend(of_run.as_object().cloned().unwrap_or_default());
    Ok(Settings {
        steps: total,
        grad_accumulation_steps: accumulated,
        max_grad_norm: (steps.max_grad_norm > 0.0).then_some(steps.max_grad_norm),
        grad_checkpoint: steps.grad_checkpoint,
        optimizer,
        schedule,
        seed: steps.seed,
        steps_per_report: shown.steps_per_report as usize,
        steps_per_eval,
        save_every: shown.save_every as usize,
        patience: shown.patience.map(|n| n as usize),
        identity,
    })
}

/// What a run depends on besides its steps: the model, the rows, and what is trained. `hashes` are those of the rows' files.
pub(super) fn identity(
    model: String,
    (rows, splits, method): (&DataArgs, &SplitArgs, &MethodArgs),
    [train, valid]: [Option<String>; 2],
) -> Result<Map<String, Value>> {
    let identity = json!({
        "model": model,
        "train": train,
        "valid": valid,
        "image_options": rows.image_options.options(),
        "max_image_pixels": rows.image_options.limits().max_pixels,
        "max_seq_length": rows.max_seq_length,
        "mask_prompt": rows.mask_prompt,
        "skip_bad": rows.skip_bad,
        "batch_size": rows.batch_size,
        "val_split": splits.val_split,
        "pack": splits.pack,
        "mask_ratios": splits.mask_ratios,
        "fine_tune_type": FineTuneType::from(method.fine_tune_type),
        "rank": method.rank,
        "alpha": alpha(method),
        "rslora": method.rslora,
        "dropout": method.dropout,
        "num_layers": method.num_layers.0,
        "target": method.target.as_ref().map(|target| target.as_str()),
        "train_projector": method.train_projector,
        "train_vision": method.train_vision,
        "freeze": method.freeze.as_ref().map(|freeze| freeze.as_str()),
    });
    let mut run = new_run();
    run.extend(identity.as_object().cloned().unwrap_or_default());
    Ok(run)
}

/// What the adapter's configuration tells of the run, by the names that mlx-lm has.
pub(super) fn config(opened: &Opened, settings: &Settings) -> Map<String, Value> {
    let config = json!({
        "model": opened.files.folder.display().to_string(),
        "optimizer": settings.optimizer.name(),
        "learning_rate": number(settings.schedule.learning_rate),
        "iters": settings.steps,
        "grad_accumulation_steps": settings.grad_accumulation_steps,
        "grad_checkpoint": settings.grad_checkpoint,
        "seed": settings.seed,
    });
    config.as_object().cloned().unwrap_or_default()
}
