//! A file of JSON lines that one run begins and others go on with, of which never more than the last line is broken.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::State;
use crate::checkpoint::staging::lock;

/// Where lines go.
pub struct Lines {
    to: Box<dyn Write>,
    name: String,
}

impl Lines {
    /// To a stream, which cannot be resumed.
    pub fn stream(to: Box<dyn Write>) -> Self {
        Self { to, name: "the rows".into() }
    }

    /// To a new file. One that is there is an error unless `replace`.
    pub fn create(path: &Path, state: &State, replace: bool) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true);
        let file = match replace {
            true => options.create(true).truncate(false).open(path),
            false => options.create_new(true).open(path),
        };
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        lock(&file, path)?;
        // Old rows go before the state changes: they are never taken for rows of the new one.
        file.set_len(0).with_context(|| format!("cannot empty {}", path.display()))?;
        state.write(path)?;
        Ok(Self { name: path.display().to_string(), ..Self::stream(Box::new(file)) })
    }

    /// To a file that an earlier run began: `on_line` is given its whole lines with their numbers, from 1. What a killed
    /// run left of a line is cut off.
    pub fn resume(path: &Path, state: &State, mut on_line: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {} to go on with it", path.display()))?;
        lock(&file, path)?;
        let unreadable = || format!("cannot read {}", path.display());
        let end = end_of_last_line(&mut file).with_context(unreadable)?;
        if end == 0 {
            drop(file);
            return Self::create(path, state, true);
        }
        state.check(path)?;
        file.rewind()?;
        let mut lines = BufReader::new((&file).take(end));
        let (mut line, mut number) = (Vec::new(), 0);
        while lines.read_until(b'\n', &mut line).with_context(unreadable)? > 0 {
            number += 1;
            on_line(number, &line)?;
            line.clear();
        }
        drop(lines);
        file.set_len(end).with_context(|| format!("cannot shorten {}", path.display()))?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { to: Box::new(file), name: path.display().to_string() })
    }

    /// Writes a line.
    pub fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        // In one go: who is killed leaves at most one line unfinished.
        let written = self.to.write_all(&line).and_then(|()| self.to.flush());
        written.with_context(|| format!("cannot write {}", self.name))
    }
}

/// Bytes up to the end of the last whole line.
fn end_of_last_line(file: &mut File) -> std::io::Result<u64> {
    const STEP: u64 = 1 << 16;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut bytes = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        bytes.clear();
        if (&mut *file).take(end - start).read_to_end(&mut bytes)? as u64 != end - start {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(at) = bytes.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
