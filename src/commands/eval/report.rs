//! What is told of an evaluation.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use phi3v::checkpoint::staging::replace_file;
use phi3v::eval::page::Page;
use phi3v::eval::summary::Summary;

/// Prints figures to stdout.
pub(super) fn print(summary: &Summary, json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(summary)?)?);
    }
    for line in summary.lines() {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Writes the page, whole or not at all.
pub(super) fn write_page(path: &Path, page: &Page) -> Result<()> {
    let page = page.render()?;
    replace_file(path, |file| Ok(file.write_all(page.as_bytes())?))
}
