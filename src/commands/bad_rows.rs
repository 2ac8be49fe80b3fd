//! Checking rows with a bar, and telling what is wrong with them.

use std::ops::ControlFlow;

use anyhow::{Result, bail};
use phi3v::rows::{BadRow, Checked};

use crate::ui::Ui;

/// The most bad rows that are listed.
const SHOWN: usize = 20;

/// Reads with a bar on stderr.
pub(super) fn with_progress<T>(ui: &Ui, read: impl FnOnce(&mut dyn FnMut(Checked) -> ControlFlow<()>) -> T) -> T {
    let bar = ui.rows(0);
    bar.set_message("checking the rows");
    let result = read(&mut |checked| {
        bar.set_length(checked.of);
        bar.set_position(checked.rows);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    result
}

/// Lists the bad rows: an error, unless they are to be left out.
pub(super) fn report(bad: &[&BadRow], good: usize, skip: bool, ui: &Ui) -> Result<()> {
    if bad.is_empty() {
        return Ok(());
    }
    for row in bad.iter().take(SHOWN) {
        ui.warning(row);
    }
    if bad.len() > SHOWN {
        ui.warning(format!("and {} bad rows more", bad.len() - SHOWN));
    }
    let of = bad.len() + good;
    if good == 0 {
        bail!("all of the {of} rows are bad; nothing was done");
    }
    if !skip {
        bail!("{} of {of} rows are bad; mend them, or leave them out with --skip-bad", bad.len());
    }
    ui.warning(format!("{} of {of} rows are left out", bad.len()));
    Ok(())
}
