//! `phi3v convert` and `phi3v quantize`: a model folder from another.

use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use phi3v::checkpoint::conversion::Settings;
use phi3v::checkpoint::hub::{HubSettings, locate};
use phi3v::checkpoint::quantize::Rule;
use phi3v::checkpoint::{ModelFiles, config::QuantizedAs};
use phi3v::convert::{Event, Options, Outcome, convert};
use phi3v::device;
use serde_json::json;

use crate::cli::{ConvertArgs, CpuArgs, OutputArgs, QuantizationArgs, QuantizeArgs, TargetArgs};
use crate::interrupt;
use crate::ui::Ui;

pub(super) fn run(args: ConvertArgs) -> Result<ExitCode> {
    let ConvertArgs { hf_path, revision, quantize, dequantize, target, cpu, output, quantization } = args;
    let rule = match (quantize, quantization.given()) {
        (false, Some(flag)) => bail!("{flag} says how to quantize; add --quantize, or leave it out"),
        (false, None) => None,
        (true, _) => Some(rule(quantization)?),
    };
    let ui = Ui::new(output.quiet, output.verbose);
    let folder = locate(&hf_path, revision.as_deref(), &HubSettings::from_env(), &ui)?;
    let source_name = (folder.as_os_str() != hf_path.as_str()).then_some(hf_path);
    make(&ModelFiles::read(&folder)?, source_name, rule, dequantize, target, &cpu, &ui)
}

pub(super) fn quantize(args: QuantizeArgs) -> Result<ExitCode> {
    let QuantizeArgs { model, target, cpu, output: OutputArgs { quiet, verbose }, quantization } = args;
    let rule = rule(quantization)?;
    make(&ModelFiles::read(&model)?, None, Some(rule), false, target, &cpu, &Ui::new(quiet, verbose))
}

fn rule(args: QuantizationArgs) -> Result<Rule> {
    let QuantizationArgs { q_bits, q_group_size, q_mode, quant_predicate, q_overrides, quantize_vision } = args;
    let mode = q_mode.map_or(mlx_quantized::Mode::Affine, Into::into);
    let mixed = quant_predicate.map(phi3v::checkpoint::quantize::Mixed::from);
    let bits = q_bits.or(mixed.map(|mixed| mixed.low));
    let default = QuantizedAs::new(mode, bits, q_group_size)?;
    Ok(Rule { mixed, overrides: q_overrides, vision: quantize_vision, ..Rule::uniform(default) })
}

fn make(
    files: &ModelFiles,
    source_name: Option<String>,
    rule: Option<Rule>,
    dequantize: bool,
    target: TargetArgs,
    cpu: &CpuArgs,
    ui: &Ui,
) -> Result<ExitCode> {
    let TargetArgs { mlx_path, force, dtype, json } = target;
    device::use_threads(cpu.threads.map(usize::from))?;
    interrupt::listen()?;
    let settings = Settings { rule, dequantize, dtype: dtype.dtype() };
    let options = Options { target: mlx_path, replace: force, settings, source_name };
    let started = Instant::now();
    let bar = ui.bytes("converting", 0);
    let result = convert(files, &options, &mut |event| {
        match event {
            Event::Warning(message) => bar.suspend(|| ui.warning(message)),
            Event::Phase(phase) => bar.set_message(phase.to_owned()),
            Event::Converted(done, total) => {
                bar.set_length(total);
                bar.set_position(done);
            }
        }
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let outcome = match result {
        Err(error) if interrupt::requested() => {
            ui.warning(format!("{error:#}"));
            return Ok(ExitCode::from(interrupt::EXIT_CODE));
        }
        result => result?,
    };
    report(&outcome, &options, started.elapsed().as_secs_f64(), json, ui)?;
    Ok(ExitCode::SUCCESS)
}

fn report(outcome: &Outcome, options: &Options, seconds: f64, json: bool, ui: &Ui) -> Result<()> {
    let sizes = outcome.sizes;
    let path = options.target.display();
    if json {
        let output = json!({ "path": path.to_string(), "sizes": sizes, "seconds": seconds });
        writeln!(std::io::stdout(), "{output}")?;
        return Ok(());
    }
    let gb = |bytes: u64| bytes as f64 / 1e9;
    ui.status(format!(
        "{path}: {:.3} GB of {:.3} GB, {:.2} bits per weight, {seconds:.1} s",
        gb(sizes.bytes),
        gb(sizes.source_bytes),
        sizes.bits_per_weight
    ));
    Ok(())
}
