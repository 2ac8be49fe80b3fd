//! The images of a question.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use regex::Regex;

use crate::processor::images::ImageSource;
use crate::rows::{Fields, RowImages, source};

/// Keys of MMMU, whose texts name them: `<image 1>` is `image_1`.
const NUMBERED: [&str; 7] = ["image_1", "image_2", "image_3", "image_4", "image_5", "image_6", "image_7"];

/// Writes the placeholder of an image, of which the first has the index 0.
pub(super) type Placeholder<'a> = dyn Fn(usize) -> Result<String> + 'a;

/// Takes the images of a row, in the order of their numbers.
///
/// MMMU's tags become placeholders, numbered as they come, since it may name an image twice, and has some that it does
/// not name. These are left out, unless the row names none at all: then they come first.
pub(super) fn take(
    fields: &mut Fields,
    text: &mut String,
    options: &mut [String],
    folder: &Path,
    placeholder: &Placeholder,
) -> Result<Vec<ImageSource>> {
    static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<image (\d+)>").expect("a valid expression"));
    let named = NUMBERED.map(|key| fields.take::<String>(key, "a path or an address"));
    let named = named.into_iter().collect::<Result<Vec<_>>>()?;
    let images = RowImages::take(fields)?.sources(folder)?;
    if named.iter().all(Option::is_none) {
        return Ok(images);
    }
    ensure!(images.is_empty(), "the row has numbered images, such as image_1, and others; one kind is expected");

    let mut used = Vec::new();
    for text in std::iter::once(text).chain(options) {
        for tag in TAG.captures_iter(text) {
            let at = tag[1].parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let name = at.and_then(|at| named.get(at)?.as_ref());
            let name = name.with_context(|| format!("{} is named, but the row has no image_{}", &tag[0], &tag[1]))?;
            used.push(source(name, folder)?);
        }
        let mut index = used.len() - TAG.find_iter(text).count();
        let mut with_placeholders = String::new();
        let mut end = 0;
        for tag in TAG.find_iter(text) {
            with_placeholders.extend([&text[end..tag.start()], &placeholder(index)?]);
            (index, end) = (index + 1, tag.end());
        }
        with_placeholders.push_str(&text[end..]);
        *text = with_placeholders;
    }
    match used.is_empty() {
        true => named.iter().flatten().map(|name| source(name, folder)).collect(),
        false => Ok(used),
    }
}
