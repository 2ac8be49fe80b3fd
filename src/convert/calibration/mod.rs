//! Texts and images that guide quantization, and what is measured on them: divergence, sensitivity, second moments for GPTQ.

pub mod divergence;
pub mod gptq;
mod samples;
pub mod sensitivity;

pub use samples::Samples;
