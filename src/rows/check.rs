//! Files of rows that are all looked at before anything is done with one of them.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use rand::seq::index;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use super::RowFile;
use crate::one_line;

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The file.
    pub file: Arc<Path>,
    /// The line there, from 1.
    pub row: u64,
    /// What is wrong, in one line.
    pub error: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}, row {}: {}", self.file.display(), self.row, self.error)
    }
}

/// The rows of a file that were looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    /// The good ones, in their order.
    pub good: Vec<T>,
    /// The others, in their order.
    pub bad: Vec<BadRow>,
    /// A hash of the file.
    pub sha256: String,
}

/// How far checking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked<'a> {
    /// The file.
    pub file: &'a Path,
    /// Rows that are checked.
    pub rows: u64,
    /// Rows that are to be.
    pub of: u64,
}

/// Which rows are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    /// The most rows; none for all.
    pub limit: Option<usize>,
    /// Take random ones, not the first. They keep their order.
    pub shuffle: bool,
    /// Of the random numbers.
    pub seed: u64,
}

impl Selection {
    /// Of so many, whether each is looked at.
    pub fn of(&self, rows: usize) -> Vec<bool> {
        let limit = self.limit.unwrap_or(rows).min(rows);
        let mut wanted = vec![false; rows];
        if self.shuffle {
            let mut random = ChaCha12Rng::seed_from_u64(self.seed);
            index::sample(&mut random, rows, limit).iter().for_each(|at| wanted[at] = true);
        } else {
            wanted[..limit].fill(true);
        }
        wanted
    }
}

/// Looks at the rows of a file with `read`, which is given a row's number and line; none if `progress` breaks off.
///
/// # Errors
/// When the file cannot be read, or holds no rows: `purpose` says what that means.
pub fn check<T>(
    path: &Path,
    purpose: &str,
    selection: &Selection,
    read: &mut dyn FnMut(u64, &[u8]) -> Result<T>,
    progress: &mut dyn FnMut(Checked) -> ControlFlow<()>,
) -> Result<Option<Rows<T>>> {
    let mut rows = RowFile::open(path)?;
    let scan = RowFile::scan(path)?;
    ensure!(scan.rows > 0, "{} holds no rows: {purpose}", path.display());
    let wanted = selection.of(usize::try_from(scan.rows)?);
    let file: Arc<Path> = path.into();
    let mut found = Rows { good: Vec::new(), bad: Vec::new(), sha256: scan.sha256 };
    let of = wanted.iter().filter(|wanted| **wanted).count() as u64;
    let mut checked = Checked { file: path, rows: 0, of };
    for wanted in wanted {
        let Some((row, line)) = rows.next_row()? else { break };
        if !wanted {
            continue;
        }
        if progress(checked).is_break() {
            return Ok(None);
        }
        match read(row, line) {
            Ok(good) => found.good.push(good),
            Err(error) => found.bad.push(BadRow { file: file.clone(), row, error: one_line(&error) }),
        }
        checked.rows += 1;
    }
    Ok(progress(checked).is_continue().then_some(found))
}
