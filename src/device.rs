//! Where arrays live, and how much of it is used.

use std::sync::OnceLock;

use anyhow::{Error, Result, ensure};
use mlx_rs::{Device, DeviceType};

/// Whether arrays live on the CPU, where MLX's own operations are slow and `mlx-cpu` has better ones.
pub(crate) fn on_cpu() -> bool {
    static ON_CPU: OnceLock<bool> = OnceLock::new();
    *ON_CPU.get_or_init(|| {
        let device = Device::try_default().and_then(|device| device.get_type());
        matches!(device, Ok(DeviceType::Cpu))
    })
}

/// Threads for the CPU's kernels; none for as many as there are physical cores.
///
/// # Errors
/// When arrays live on a GPU, or when the environment variable `PHI3V_CPU` asks for instructions that the CPU does not
/// have.
pub fn use_threads(threads: Option<usize>) -> Result<()> {
    if !on_cpu() {
        ensure!(
            threads.is_none(),
            "`threads`: MLX computes on a GPU here, which has no threads to count; leave it out"
        );
        return Ok(());
    }
    mlx_cpu::Level::current().map_err(Error::msg)?;
    if let Some(threads) = threads {
        mlx_cpu::set_threads(threads);
    }
    Ok(())
}
