//! What the machine can do: read memory, and multiply matrices the way models do.

use std::time::{Duration, Instant};

use anyhow::Result;
use mlx_rs::ops::{matmul, zeros_dtype};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};
use sysinfo::{CpuRefreshKind, RefreshKind, System};

use super::random::RandomNumbers;
use super::report::Machine;
use crate::checkpoint::safetensors::TensorSpec;
use crate::device::on_cpu;

/// How long each limit is looked for.
const TIME: Duration = Duration::from_millis(300);

/// Bytes that looking for them takes, at most.
pub(super) fn bytes() -> usize {
    if on_cpu() { (mlx_cpu::threads() << 24).max(1 << 28) } else { 1 << 30 }
}

/// The machine's name, and what it can do with numbers of a model's type: the best of several runs.
pub(super) fn measure(dtype: Dtype) -> Result<Machine> {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let cpu = system.cpus().first().map_or("unknown CPU", |cpu| cpu.brand().trim()).to_owned();
    Ok(Machine {
        device: if on_cpu() { cpu } else { format!("GPU beside {cpu}") },
        instructions: on_cpu().then(|| mlx_cpu::Level::current().ok()).flatten().map(|level| level.to_string()),
        threads: on_cpu().then(mlx_cpu::threads),
        bytes_per_second: bandwidth()?,
        flops_per_second: compute(dtype)?,
    })
}

/// The machine again, where it does better than before.
pub(super) fn improve(machine: &mut Machine, dtype: Dtype) -> Result<()> {
    machine.bytes_per_second = machine.bytes_per_second.max(bandwidth()?);
    machine.flops_per_second = machine.flops_per_second.max(compute(dtype)?);
    Ok(())
}

/// Bytes per second that are read.
fn bandwidth() -> Result<f64> {
    if on_cpu() {
        let memory = mlx_cpu::Memory::new();
        return best(|| Ok(memory.read()));
    }
    let memory = zeros_dtype(&[1 << 28], Dtype::Float32)?;
    memory.eval()?;
    best(|| rate(memory.nbytes() as f64, || Ok(memory.sum(None)?)))
}

/// Operations per second of a product, as a linear map computes it for 512 positions.
fn compute(dtype: Dtype) -> Result<f64> {
    let (rows, size) = if on_cpu() { (512, 4096) } else { (4096, 8192) };
    let numbers = RandomNumbers::new(None);
    let random = |name: &str, shape: [i32; 2]| -> Result<Array> {
        let spec = TensorSpec { name: name.into(), dtype: Dtype::Bfloat16, shape: shape.into() };
        Ok(numbers.tensor(&spec)?.as_dtype(dtype)?)
    };
    let (x, matrix) = (random("x", [rows, size])?, random("matrix", [size, size])?);
    eval([&x, &matrix])?;
    let product = || -> Result<Array> {
        Ok(match on_cpu() {
            true => mlx_cpu::linear(&x, mlx_cpu::Weight::Dense(&matrix), None)?,
            false => matmul(&x, matrix.t())?,
        })
    };
    best(|| rate(2.0 * f64::from(rows) * f64::from(size).powi(2), product))
}

/// `work` over the seconds that it takes.
fn rate(work: f64, compute: impl Fn() -> Result<Array>) -> Result<f64> {
    let start = Instant::now();
    compute()?.eval()?;
    Ok(work / start.elapsed().as_secs_f64())
}

/// The highest of as many rates as fit into the time, and of three at least.
fn best(rate: impl Fn() -> Result<f64>) -> Result<f64> {
    let start = Instant::now();
    let mut best: f64 = 0.0;
    let mut runs = 0;
    while runs < 3 || start.elapsed() < TIME {
        best = best.max(rate()?);
        runs += 1;
    }
    Ok(best)
}
