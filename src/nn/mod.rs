//! The layers that models are made of. Here alone it is known how a weight is stored and which kernel runs.

mod activation;
mod attention;
mod linear;
mod norm;
mod rope;

pub use activation::{add, gelu, quick_gelu, swiglu};
pub use attention::{Mask, attention, split_heads};
pub use linear::{Embedding, Linear};
pub use norm::{LayerNorm, RmsNorm};
pub use rope::{Rope, RopeConfig, RopeFactors};

/// Whether arrays live on the CPU, where MLX's own operations are slow and `mlx-cpu` has better ones.
fn on_cpu() -> bool {
    static ON_CPU: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ON_CPU.get_or_init(|| {
        let device = mlx_rs::Device::try_default().and_then(|device| device.get_type());
        matches!(device, Ok(mlx_rs::DeviceType::Cpu))
    })
}
