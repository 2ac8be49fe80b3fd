//! An answer as it comes.

use std::io::Write;
use std::ops::ControlFlow;

use anyhow::Result;
use indicatif::ProgressBar;
use phi3v::engine::{Engine, Event, Generation, Request};

use crate::interrupt;
use crate::ui::Ui;

/// Positions that take so long to read that it is shown how far they are.
const LONG: usize = 256;

/// Serves the request until Ctrl-C; if `echo`, text goes to stdout as it comes. `bar` shows how far the prompt is read;
/// without one it is shown where there is much to read.
pub(super) fn stream(
    engine: &Engine,
    request: Request,
    echo: bool,
    mut bar: Option<ProgressBar>,
    ui: &Ui,
) -> Result<Generation> {
    let mut stdout = std::io::stdout().lock();
    let mut written = Ok(());
    let generation = engine.generate(request, |event| {
        match event {
            // What is read at once would only flicker.
            Event::Prefill(done, total) if bar.is_some() || total - done > LONG => {
                show_prefill(bar.get_or_insert_with(|| ui.positions("reading the prompt", total as u64)), done, total);
            }
            Event::LongFactors(boundary) => {
                ui.verbose(format!("beyond {boundary} positions: reading from the start with longrope's long factors"));
                bar = None;
            }
            Event::Text(text) if echo && !text.is_empty() => {
                written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            }
            Event::Encoded | Event::Prefill(..) | Event::Text(_) => {}
        }
        if written.is_err() || interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    written?;
    generation
}

fn show_prefill(bar: &ProgressBar, done: usize, total: usize) {
    bar.set_length(total as u64);
    bar.set_position(done as u64);
    if done == total {
        bar.finish_and_clear();
    }
}
