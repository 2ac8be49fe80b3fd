//! Ctrl-C: the first one asks the running command to end, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell reports for a process that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Begins to listen. Commands that can end early call this, once.
pub(crate) fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
    })?;
    Ok(())
}

/// Whether Ctrl-C was pressed.
pub(crate) fn requested() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}
