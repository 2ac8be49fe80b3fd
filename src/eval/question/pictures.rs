//! The pictures of a question.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use regex::{Captures, Regex};

use crate::processor::images::ImageSource;
use crate::rows::{Fields, Pictures, source};

/// Keys of MMMU, whose texts name them: `<image 1>` is `image_1`.
const NUMBERED: [&str; 7] = ["image_1", "image_2", "image_3", "image_4", "image_5", "image_6", "image_7"];

/// Takes the pictures of a row, in the order of their numbers.
///
/// MMMU's tags become `<|image_N|>`, numbered as they come, since it may name a picture twice, and has some that it does
/// not name. These are left out, unless the row names none at all: then they come first.
pub(super) fn take(
    fields: &mut Fields,
    text: &mut String,
    options: &mut [String],
    folder: &Path,
) -> Result<Vec<ImageSource>> {
    static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<image (\d+)>").expect("a valid expression"));
    let named = NUMBERED.map(|key| fields.take::<String>(key, "a path or an address"));
    let named = named.into_iter().collect::<Result<Vec<_>>>()?;
    let pictures = Pictures::take(fields)?.sources(folder)?;
    if named.iter().all(Option::is_none) {
        return Ok(pictures);
    }
    ensure!(pictures.is_empty(), "the row has numbered pictures, such as image_1, and others; one kind is expected");

    let mut used = Vec::new();
    for text in std::iter::once(text).chain(options) {
        for tag in TAG.captures_iter(text) {
            let at = tag[1].parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let name = at.and_then(|at| named.get(at)?.as_ref());
            let name = name.with_context(|| format!("{} is named, but the row has no image_{}", &tag[0], &tag[1]))?;
            used.push(source(name, folder)?);
        }
        let mut number = used.len() - TAG.find_iter(text).count();
        let numbered = TAG.replace_all(text, |_: &Captures| {
            number += 1;
            format!("<|image_{number}|>")
        });
        *text = numbered.into_owned();
    }
    match used.is_empty() {
        true => named.iter().flatten().map(|name| source(name, folder)).collect(),
        false => Ok(used),
    }
}
