//! Ctrl-C: the first one asks the running command to end, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell reports for a process that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static HEARD: AtomicBool = AtomicBool::new(true);

/// Begins to listen. Commands that can end early call this, once.
pub(crate) fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) || !HEARD.load(Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
    })?;
    Ok(())
}

/// Forgets that Ctrl-C was pressed, before something else that it can end.
pub(crate) fn reset() {
    INTERRUPTED.store(false, Ordering::SeqCst);
    HEARD.store(true, Ordering::SeqCst);
}

/// From now on Ctrl-C ends the process at once: nobody asks any more, and nothing would be lost.
pub(crate) fn stop_listening() {
    HEARD.store(false, Ordering::SeqCst);
}

/// Whether Ctrl-C was pressed.
pub(crate) fn requested() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}
