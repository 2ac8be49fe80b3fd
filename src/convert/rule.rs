//! Which matrices are packed, and how: the default, mlx-lm's mixed recipes, and exceptions by module path.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use mlx_quantized::Mode;
use regex::Regex;

use crate::checkpoint::quantization::QuantizedAs;
use crate::models::Group;

/// mlx-lm's and mlx-vlm's recipes: few bits, and more for what errors hurt most. After llama.cpp's Q4_K_M: the values' and
/// the down projection in the first and last eighth of the layers and every third between, and the map to logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixed {
    /// Bits of most matrices.
    pub low: i32,
    /// Bits of the others.
    pub high: i32,
}

impl Mixed {
    /// Whether the module is among those with more bits. Phi-3 keeps queries, keys and values in one matrix, qkv_proj,
    /// which gets them as a whole.
    fn favours(path: &str, num_layers: usize) -> bool {
        if path.ends_with("lm_head") {
            return true;
        }
        let sensitive = ["v_proj", "down_proj"].iter().any(|name| path.ends_with(name));
        let layer = layer_of(path).filter(|_| sensitive);
        layer.is_some_and(|layer| {
            let eighth = num_layers / 8;
            layer < eighth || layer >= 7 * num_layers / 8 || (layer + 3 - eighth % 3) % 3 == 2
        })
    }
}

/// The number of the layer that a module belongs to.
pub fn layer_of(path: &str) -> Option<usize> {
    path.split('.').find_map(|part| part.parse().ok())
}

/// An exception: `REGEX=bits`, `REGEX=bits:group_size` or `REGEX=none`.
#[derive(Debug, Clone)]
pub struct Override {
    text: String,
    pattern: Regex,
    packing: Option<(i32, Option<i32>)>,
}

impl FromStr for Override {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = "REGEX=bits, REGEX=bits:group_size or REGEX=none is expected";
        let (pattern, packing) = text.rsplit_once('=').context(expected)?;
        let pattern = Regex::new(pattern).map_err(|e| Error::msg(e.to_string().replace('\n', " ")))?;
        let packing = if packing == "none" {
            None
        } else {
            let (bits, group_size) = match packing.split_once(':') {
                Some((bits, group_size)) => (bits, Some(group_size.parse().context(expected)?)),
                None => (packing, None),
            };
            let packing = (bits.parse().context(expected)?, group_size);
            QuantizedAs::new(Mode::Affine, Some(packing.0), packing.1)?;
            Some(packing)
        };
        Ok(Self { text: text.to_owned(), pattern, packing })
    }
}

/// How the matrices of a checkpoint are to be packed.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What holds where nothing else is said.
    pub default: QuantizedAs,
    /// Few and more bits in place of the default's.
    pub mixed: Option<Mixed>,
    /// Exceptions; of several that match, the last counts.
    pub overrides: Vec<Override>,
    /// Packings found by measuring, by module path.
    pub chosen: BTreeMap<String, QuantizedAs>,
    /// Whether the part that sees is packed, too.
    pub vision: bool,
}

/// A matrix that may be packed.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Its module.
    pub path: String,
    /// The part of the model that it belongs to.
    pub group: Group,
    /// Length of its rows.
    pub input: i32,
}

impl Rule {
    /// Everything packed alike.
    pub fn uniform(default: QuantizedAs) -> Self {
        Self { default, mixed: None, overrides: Vec::new(), chosen: BTreeMap::new(), vision: false }
    }

    /// Whether an exception says how this module is packed.
    pub fn is_exception(&self, path: &str) -> bool {
        self.exception(path).is_some()
    }

    fn exception(&self, path: &str) -> Option<&Override> {
        self.overrides.iter().rfind(|exception| exception.pattern.is_match(path))
    }

    /// How each of these matrices is packed; those that are not there stay floats.
    ///
    /// # Errors
    /// When an exception concerns no matrix, or one whose rows do not fall into whole groups.
    pub fn apply(&self, matrices: &[Matrix]) -> Result<BTreeMap<String, QuantizedAs>> {
        self.default.check()?;
        if self.mixed.is_some() && self.default.mode != Mode::Affine {
            bail!("mixed recipes are for affine quantization, not {:?}", self.default.mode);
        }
        for exception in &self.overrides {
            let matches = matrices.iter().any(|matrix| exception.pattern.is_match(&matrix.path));
            ensure!(matches, "{:?} matches no matrix of this model", exception.text);
        }
        let text = matrices.iter().filter(|matrix| matrix.group.is_text());
        let num_layers = text.filter_map(|matrix| layer_of(&matrix.path)).max().map_or(0, |last| last + 1);
        let mut packings = BTreeMap::new();
        for matrix in matrices {
            if let Some(packing) = self.of(matrix, num_layers)? {
                packings.insert(matrix.path.clone(), packing);
            }
        }
        ensure!(!packings.is_empty(), "there is nothing to quantize: no matrix has rows of whole groups");
        Ok(packings)
    }

    fn of(&self, matrix: &Matrix, num_layers: usize) -> Result<Option<QuantizedAs>> {
        if let Some(exception) = self.exception(&matrix.path) {
            let Some((bits, group_size)) = exception.packing else { return Ok(None) };
            let affine = self.default.mode == Mode::Affine;
            let group_size = group_size.or(affine.then_some(self.default.group_size));
            let packing = QuantizedAs::new(Mode::Affine, Some(bits), group_size)?;
            ensure!(
                packing.divides(matrix.input),
                "{:?}: {} has rows of {}, which groups of {} do not divide",
                exception.text,
                matrix.path,
                matrix.input,
                packing.group_size
            );
            return Ok(Some(packing));
        }
        let vision = matches!(matrix.group, Group::Vision | Group::Projector);
        let wanted = matrix.group.is_text() || (vision && self.vision);
        let packing = match (self.chosen.get(&matrix.path), self.mixed) {
            (Some(&chosen), _) => chosen,
            (None, Some(mixed)) => {
                // Of the part that sees no recipe tells; more bits are on the safe side.
                let high = vision || Mixed::favours(&matrix.path, num_layers);
                QuantizedAs { bits: if high { mixed.high } else { mixed.low }, ..self.default }
            }
            (None, None) => self.default,
        };
        Ok((wanted && packing.divides(matrix.input)).then_some(packing))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn matrices(names: &[&str], layers: usize) -> Vec<Matrix> {
        let in_layer = |i| names.iter().map(move |name| format!("model.layers.{i}.{name}"));
        let paths = (0..layers).flat_map(in_layer).chain(["lm_head".into(), "model.embed_tokens".into()]);
        paths.map(|path| Matrix { path, group: Group::Layer(0), input: 64 }).collect()
    }

    fn bits(rule: &Rule, matrices: &[Matrix]) -> BTreeMap<String, i32> {
        rule.apply(matrices).unwrap().into_iter().map(|(path, packing)| (path, packing.bits)).collect()
    }

    #[test]
    fn recipes_favour_the_same_layers_as_mlx_lm() {
        let default = QuantizedAs::new(Mode::Affine, Some(4), None).unwrap();
        let rule = Rule { mixed: Some(Mixed { low: 4, high: 6 }), ..Rule::uniform(default) };
        // index < n / 8 or index >= 7 n / 8 or (index - n / 8) % 3 == 2, with Python's sign of the remainder.
        for layers in [1_usize, 3, 8, 30, 32] {
            let bits = bits(&rule, &matrices(&["self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"], layers));
            let eighth = (layers / 8) as i64;
            for i in 0..layers {
                let index = i as i64;
                let more = i < layers / 8 || i >= 7 * layers / 8 || (index - eighth).rem_euclid(3) == 2;
                let expected = if more { 6 } else { 4 };
                assert_eq!(bits[&format!("model.layers.{i}.self_attn.qkv_proj")], expected, "{i} of {layers}");
                assert_eq!(bits[&format!("model.layers.{i}.mlp.down_proj")], expected, "{i} of {layers}");
                assert_eq!(bits[&format!("model.layers.{i}.mlp.gate_up_proj")], 4);
            }
            assert_eq!((bits["lm_head"], bits["model.embed_tokens"]), (6, 4));
        }
    }

    #[test]
    fn the_last_exception_that_matches_counts() {
        let mut rule = Rule::uniform(QuantizedAs::new(Mode::Affine, None, None).unwrap());
        rule.overrides = ["layers=8:32", "layers\\.1=none", "lm_head=6"].map(|text| text.parse().unwrap()).into();
        let packings = rule.apply(&matrices(&["mlp.down_proj"], 2)).unwrap();
        let of = |path: &str| packings.get(path).map(|packing| (packing.bits, packing.group_size));
        assert_eq!(of("model.layers.0.mlp.down_proj"), Some((8, 32)));
        assert_eq!(of("model.layers.1.mlp.down_proj"), None);
        assert_eq!((of("lm_head"), of("model.embed_tokens")), (Some((6, 64)), Some((4, 64))));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for text in ["lm_head", "lm_head=7", "lm_head=4:48", "lm_head=x", "(=4", "lm_head=4:"] {
            assert!(text.parse::<Override>().is_err(), "{text}");
        }
        let refused = |rule: Rule, part: &str| {
            let error = rule.apply(&matrices(&["mlp.down_proj"], 1)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let uniform = || Rule::uniform(QuantizedAs::new(Mode::Affine, None, None).unwrap());
        refused(Rule { overrides: vec!["v_proj=8".parse().unwrap()], ..uniform() }, "matches no matrix");
        refused(Rule { overrides: vec!["lm_head=4:128".parse().unwrap()], ..uniform() }, "do not divide");
        let mxfp4 = QuantizedAs::new(Mode::Mxfp4, None, None).unwrap();
        refused(Rule { mixed: Some(Mixed { low: 4, high: 8 }), ..Rule::uniform(mxfp4) }, "affine");
        assert!(QuantizedAs::new(Mode::Mxfp4, Some(8), None).is_err());
    }
}
