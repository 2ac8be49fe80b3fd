//! `phi3v convert` and `phi3v quantize`: a model folder from another.

mod args;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use indicatif::ProgressBar;
use mlx_quantized::Mode;
use phi3v::checkpoint::ModelFiles;
use phi3v::checkpoint::gguf::GgufType;
use phi3v::checkpoint::hub::{HubSettings, check_upload, locate, upload};
use phi3v::checkpoint::quantization::QuantizedAs;
use phi3v::convert::calibration::divergence::Divergence;
use phi3v::convert::export::export_gguf;
use phi3v::convert::rule::{Mixed, Rule};
use phi3v::convert::{Event, Method, Options, Outcome, Unit, convert};
use phi3v::device;
use serde_json::json;

pub(crate) use args::{ConvertArgs, QuantizeArgs};
use args::{FolderArgs, MethodArg, QuantizationArgs, TargetArgs};

use crate::commands::args::{CpuArgs, LongOutputArgs};
use crate::interrupt;
use crate::ui::Ui;

pub(super) fn run(args: ConvertArgs) -> Result<ExitCode> {
    let ConvertArgs {
        hf_path,
        revision,
        gguf,
        quantize,
        dequantize,
        upload_repo,
        export_gguf,
        gguf_type,
        folder: FolderArgs { target, cpu, output: LongOutputArgs { quiet, verbose }, quantization },
    } = args;
    if let (false, Some(flag)) = (quantize, quantization.given()) {
        bail!("{flag} says how to quantize; add --quantize, or leave it out");
    }
    // clap requires nothing that would exclude a flag which is given.
    ensure!(
        gguf_type.is_none() || export_gguf.is_some(),
        "--gguf-type is about --export-gguf; add that, or leave it out"
    );
    let ui = Ui::new(quiet, verbose);
    let hub = HubSettings::from_env();
    if let Some(id) = &upload_repo {
        check_upload(id, &hub)?;
    }
    let mut options = Options::new(target.mlx_path.clone());
    options.settings.dequantize = dequantize;
    if quantize {
        add(&mut options, quantization)?;
    }
    let folder = match gguf {
        Some(file) => {
            ensure!(file.is_file(), "--gguf {}: there is no such file", file.display());
            file
        }
        None => {
            let folder = locate(&hf_path, revision.as_deref(), &hub, &ui)?;
            options.source_name = (folder.as_os_str() != hf_path.as_str()).then_some(hf_path);
            folder
        }
    };
    let files = ModelFiles::read(&folder)?;
    if let Some(file) = export_gguf {
        return export(&files, &file, gguf_type.map_or(GgufType::F16, GgufType::from), target.force, &cpu, &ui);
    }
    let folder = options.target.clone();
    let code = make(&files, options, target, &cpu, &ui)?;
    if let (Some(id), true) = (upload_repo, code == ExitCode::SUCCESS) {
        interrupt::stop_listening(); // what has arrived is taken up by the next upload
        let address = upload(&folder, &id, &hub, &ui)?;
        ui.status(format!("published: {address}"));
    }
    Ok(code)
}

fn export(files: &ModelFiles, file: &Path, kind: GgufType, replace: bool, cpu: &CpuArgs, ui: &Ui) -> Result<ExitCode> {
    device::use_threads(cpu.threads.map(usize::from))?;
    interrupt::listen()?;
    let bar = ui.positions("exporting", 0);
    let result = export_gguf(files, kind, file, replace, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    finish(result, ui, |()| {
        let bytes = std::fs::metadata(file)?.len();
        ui.status(format!("{}: {:.3} GB", file.display(), bytes as f64 / 1e9));
        Ok(())
    })
}

/// What Ctrl-C broke off is no failure, and has a code of its own.
fn finish<T>(result: Result<T>, ui: &Ui, succeed: impl FnOnce(T) -> Result<()>) -> Result<ExitCode> {
    match result {
        Err(error) if interrupt::requested() => {
            ui.warning(format!("{error:#}"));
            Ok(ExitCode::from(interrupt::EXIT_CODE))
        }
        result => succeed(result?).map(|()| ExitCode::SUCCESS),
    }
}

pub(super) fn quantize(args: QuantizeArgs) -> Result<ExitCode> {
    let QuantizeArgs { model, folder } = args;
    let FolderArgs { target, cpu, output: LongOutputArgs { quiet, verbose }, quantization } = folder;
    let mut options = Options::new(target.mlx_path.clone());
    add(&mut options, quantization)?;
    make(&ModelFiles::read(&model)?, options, target, &cpu, &Ui::new(quiet, verbose))
}

/// How to quantize.
fn add(options: &mut Options, args: QuantizationArgs) -> Result<()> {
    let QuantizationArgs {
        q_bits,
        q_group_size,
        q_mode,
        quant_predicate,
        q_overrides,
        quantize_vision,
        quant_method,
        target_bpw,
        calibration,
        report,
    } = args;
    let mode = q_mode.map_or(Mode::Affine, Mode::from);
    let mixed = quant_predicate.map(Mixed::from);
    let default = QuantizedAs::new(mode, q_bits.or(mixed.map(|mixed| mixed.low)), q_group_size)?;
    let rule = Rule { mixed, overrides: q_overrides, vision: quantize_vision, ..Rule::uniform(default) };
    options.settings.rule = Some(rule);
    options.method = match quant_method {
        None | Some(MethodArg::Rtn) => Method::Nearest,
        Some(MethodArg::Gptq) => Method::Gptq,
    };
    ensure!(
        options.method == Method::Nearest || mode == Mode::Affine,
        "--quant-method gptq is for affine quantization"
    );
    let used = report || target_bpw.is_some() || options.method != Method::Nearest;
    ensure!(
        used || calibration.is_none(),
        "--calibration is used by --quant-method gptq, --target-bpw and --report; add one, or leave it out"
    );
    options.target_bpw = target_bpw;
    options.calibration = calibration;
    options.report = report;
    Ok(())
}

fn make(files: &ModelFiles, mut options: Options, target: TargetArgs, cpu: &CpuArgs, ui: &Ui) -> Result<ExitCode> {
    let TargetArgs { mlx_path: _, force, dtype, json } = target;
    options.replace = force;
    options.settings.dtype = dtype.dtype();
    device::use_threads(cpu.threads.map(usize::from))?;
    make_folder(files, &options, json, ui)
}

/// Makes the folder, with bars, and tells what came out.
pub(super) fn make_folder(files: &ModelFiles, options: &Options, json: bool, ui: &Ui) -> Result<ExitCode> {
    interrupt::listen()?;
    let started = Instant::now();
    let mut bar = ProgressBar::hidden();
    let result = convert(files, options, &mut |event| {
        match event {
            Event::Warning(message) => bar.suspend(|| ui.warning(message)),
            Event::Stage(label, unit, total) => {
                bar.finish_and_clear();
                bar = match unit {
                    Unit::Bytes => ui.bytes(label, total),
                    Unit::Steps => ui.positions(label, total),
                };
            }
            Event::Done(done) => bar.set_position(done),
        }
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    finish(result, ui, |outcome| print(&outcome, options, started.elapsed().as_secs_f64(), json, ui))
}

fn print(outcome: &Outcome, options: &Options, seconds: f64, json: bool, ui: &Ui) -> Result<()> {
    let Outcome { sizes, packings, report, divergence } = outcome;
    for (path, QuantizedAs { group_size, bits, mode }) in packings {
        ui.verbose(format!("{path}: {mode:?}, {bits} bits in groups of {group_size}"));
    }
    let path = options.target.display();
    let mut stdout = std::io::stdout().lock();
    if json {
        let output = json!({ "path": path.to_string(), "sizes": sizes, "report": report, "divergence": divergence, "seconds": seconds });
        writeln!(stdout, "{output}")?;
    } else if let Some(report) = report {
        writeln!(stdout, "{report}")?;
    }
    if let Some(divergence) = divergence.filter(|_| !json) {
        let Divergence { kl, top1_agreement, positions } = divergence.all;
        let same = 100.0 * top1_agreement;
        writeln!(
            stdout,
            "against the model with its adapters: KL {kl:.5} nats, {same:.1} % of {positions} first choices the same"
        )?;
    }
    let (before, after) = (sizes.source_bytes as f64 / 1e9, sizes.bytes as f64 / 1e9);
    let bits = sizes.bits_per_weight;
    ui.status(format!("{path}: {after:.3} GB of {before:.3} GB, {bits:.2} bits per weight, {seconds:.1} s"));
    Ok(())
}
