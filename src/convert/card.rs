//! The model card, README.md: what the Hub shows of a model, and how to use it.

use std::fs;

use anyhow::Result;

use crate::checkpoint::ModelFiles;
use crate::convert::pass::Conversion;
use crate::models::Arch;

/// The keys of the source's card that hold for what is made of it, too.
const KEPT: [&str; 5] = ["license", "license_name", "license_link", "language", "datasets"];

/// A card with the source's licence and name.
pub(super) fn model_card(files: &ModelFiles, source: Option<&str>, conversion: &Conversion) -> Result<String> {
    // A card that is not there or cannot be read says nothing of a licence; it must not cost the conversion.
    let original = fs::read(files.folder.join("README.md")).unwrap_or_default();
    let original = String::from_utf8_lossy(&original).replace("\r\n", "\n");
    let vision = Arch::of(files)?.images.is_some();
    let mut card = String::from("---\nlibrary_name: mlx\n");
    card += &format!("pipeline_tag: {}\n", if vision { "image-text-to-text" } else { "text-generation" });
    card += "tags:\n- mlx\n";
    if let Some(source) = source {
        card += &format!("base_model: {source}\n");
    }
    card += &kept(&original);
    card += "---\n\n";
    let name = source.unwrap_or("a local model");
    let bits = conversion.sizes.bits_per_weight;
    card += &format!("Made of {name} by `phi3v convert`, for MLX: {bits:.2} bits per weight.\n\n");
    let image = if vision { " --image cat.jpg" } else { "" };
    card += &format!("```sh\nphi3v generate --model THIS_FOLDER{image} --prompt \"Hello\"\n```\n");
    Ok(card)
}

/// Entries of the front matter, with what is indented or listed under them.
fn kept(card: &str) -> String {
    let Some((front, _)) = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")) else {
        return String::new();
    };
    let mut keep = false;
    let mut kept = String::new();
    for line in front.lines() {
        if !line.starts_with([' ', '-', '#']) && !line.is_empty() {
            keep = line.split_once(':').is_some_and(|(key, _)| KEPT.contains(&key));
        }
        if keep {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::kept;

    #[test]
    fn licence_and_languages_stay() {
        let card = "---\ntags:\n- vision\nlicense: mit\nlanguage:\n- en\n- de\nwidget:\n  - text: x\n---\n# Title\nlicense: no\n";
        assert_eq!(kept(card), "license: mit\nlanguage:\n- en\n- de\n");
        assert_eq!(kept("# Title\nlicense: mit\n"), "");
    }
}
