//! Whether an adapter is for a model, and which of several it is.

use anyhow::{Result, ensure};
use mlx_rs::Array;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use super::Adapter;
use crate::checkpoint::identity::hex;
use crate::checkpoint::weights::Parts;

impl Adapter {
    /// Gives everything the names that the model has for it.
    ///
    /// # Errors
    /// When the model does not have it, or has it in another shape.
    pub fn fit(&mut self, parts: &Parts) -> Result<()> {
        let (linears, params) = (&parts.linears, &parts.params);
        self.rename(|name| linears.contains_key(name) || params.contains_key(name))?;
        for (path, module) in &self.modules {
            let Some([output, input]) = linears.get(path) else {
                anyhow::bail!("{path} is no linear map of the model");
            };
            let (changes, of) = (module.b.dim(0), module.a.dim(1));
            ensure!(
                (changes, of) == (*output, *input),
                "it changes {path} as a map from {of} to {changes} numbers; the model's is from {input} to {output}"
            );
        }
        for (name, tensor) in &self.tensors {
            let Some(param) = params.get(name) else {
                anyhow::bail!("{name} is quantized in this model, and cannot be replaced by floats");
            };
            // The model may hold it with other axes.
            ensure!(
                tensor.size() == param.get().size(),
                "{name} has the shape {:?}, the model's {:?}",
                tensor.shape(),
                param.get().shape()
            );
        }
        Ok(())
    }

    /// A hash of all that it changes.
    pub fn identity(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let mut add = |name: &str, array: &Array| -> Result<()> {
            let array = array.contiguous()?;
            array.eval()?;
            hash.update(format!("{name} {:?} {:?}", array.shape(), array.dtype()));
            hash.update(TensorView::try_from(&array)?.data());
            Ok(())
        };
        for (path, module) in &self.modules {
            add(&format!("{path} {}", module.scale), &module.a)?;
            add(path, &module.b)?;
            module.magnitude.iter().try_for_each(|magnitude| add(path, magnitude))?;
        }
        self.tensors.iter().try_for_each(|(name, tensor)| add(name, tensor))?;
        Ok(hex(&hash.finalize()))
    }
}
