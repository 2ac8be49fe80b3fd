//! HellaSwag's texts, as lm-eval's task `hellaswag` prepares them (lm_eval/tasks/hellaswag/utils.py).

use std::sync::LazyLock;

use anyhow::{Context, Result};
use regex::Regex;

use super::TEXT;
use crate::rows::Fields;

/// What the endings go on after: the activity, which is the row's group, and what happened.
pub(super) fn context(fields: &mut Fields, activity: Option<&str>) -> Result<String> {
    let activity = activity.context("the row has no activity_label, which endings need")?;
    let first: String = fields.take("ctx_a", TEXT)?.context("the row has no ctx_a, which endings need")?;
    let second: String = fields.take("ctx_b", TEXT)?.unwrap_or_default();
    Ok(clean(&format!("{activity}: {first} {}", capitalized(&second))))
}

/// Without what is left of WikiHow's markup.
pub(super) fn clean(text: &str) -> String {
    static BRACKETS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a valid expression"));
    let text = text.trim().replace(" [title]", ". ");
    BRACKETS.replace_all(&text, "").replace("  ", " ")
}

/// As Python's `capitalize`: all but the first letter become small.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next();
    first.into_iter().flat_map(char::to_uppercase).chain(letters.as_str().to_lowercase().chars()).collect()
}
