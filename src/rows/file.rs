//! The lines of a file, one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::checkpoint::identity::hex;

/// A file that is read line by line. Lines without anything in them are counted and left out.
pub struct RowFile {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
    line: Vec<u8>,
}

/// What is known of a file from reading all of it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Lines that hold something.
    pub rows: u64,
    /// A hash of all bytes.
    pub sha256: String,
}

impl RowFile {
    /// Opens a file. It has to be one that can be read twice, which a pipe cannot.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read the rows in {}", path.display());
        let metadata = std::fs::metadata(path).with_context(unreadable)?;
        ensure!(metadata.is_file(), "{} is no file: rows are read from a file of JSON lines", path.display());
        let reader = BufReader::with_capacity(1 << 16, File::open(path).with_context(unreadable)?);
        Ok(Self { path: path.to_owned(), reader, number: 0, line: Vec::new() })
    }

    /// Reads a file from its beginning to its end.
    pub fn scan(path: &Path) -> Result<Scan> {
        let mut file = Self::open(path)?;
        let mut hash = Sha256::new();
        let mut rows = 0;
        while file.read_line()? {
            hash.update(&file.line);
            rows += u64::from(!file.is_blank());
        }
        Ok(Scan { rows, sha256: hex(&hash.finalize()) })
    }

    /// The folder that paths in rows start from.
    pub fn folder(&self) -> PathBuf {
        folder_of(&self.path)
    }

    /// The next line that holds something, with its number. The first line of the file is 1.
    pub fn next_row(&mut self) -> Result<Option<(u64, &[u8])>> {
        while self.read_line()? {
            if !self.is_blank() {
                return Ok(Some((self.number, self.contents())));
            }
        }
        Ok(None)
    }

    fn read_line(&mut self) -> Result<bool> {
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line);
        let read = read.with_context(|| format!("cannot read {}", self.path.display()))?;
        self.number += u64::from(read > 0);
        Ok(read > 0)
    }

    /// The line without the mark that some editors write at a file's beginning.
    fn contents(&self) -> &[u8] {
        let mark = if self.number == 1 { "\u{feff}".as_bytes() } else { b"" };
        self.line.strip_prefix(mark).unwrap_or(&self.line)
    }

    fn is_blank(&self) -> bool {
        self.contents().trim_ascii().is_empty()
    }
}

/// The folder that paths in the rows of a file start from.
pub fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).to_owned()
}
