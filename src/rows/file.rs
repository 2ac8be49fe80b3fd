//! The rows of a file, one at a time: JSON lines, or Parquet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::parquet;
use crate::checkpoint::identity::hex;

/// A file that is read row by row. Which kind it is of shows in its first bytes; its name means nothing.
pub struct RowFile {
    path: PathBuf,
    rows: Rows,
}

enum Rows {
    Lines(Lines),
    Parquet(Box<parquet::Rows>),
}

/// What is known of a file from reading all of it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Lines that hold something, or rows of a Parquet file.
    pub rows: u64,
    /// A hash of all bytes.
    pub sha256: String,
}

impl RowFile {
    /// Opens a file. It has to be one that can be read twice, which a pipe cannot.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read the rows in {}", path.display());
        let metadata = std::fs::metadata(path).with_context(unreadable)?;
        ensure!(
            metadata.is_file(),
            "{} is no file: rows are read from a file of JSON lines, or Parquet",
            path.display()
        );
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path).with_context(unreadable)?);
        let rows = match reader.fill_buf().with_context(unreadable)?.starts_with(parquet::MAGIC) {
            true => Rows::Parquet(Box::new(parquet::Rows::open(path, reader.into_inner())?)),
            false => Rows::Lines(Lines { reader, number: 0, line: Vec::new() }),
        };
        Ok(Self { path: path.to_owned(), rows })
    }

    /// Reads a file from its beginning to its end.
    pub fn scan(path: &Path) -> Result<Scan> {
        let unreadable = || format!("cannot read {}", path.display());
        let mut hash = Sha256::new();
        let rows = match Self::open(path)?.rows {
            Rows::Lines(mut lines) => {
                let mut rows = 0;
                while lines.read().with_context(unreadable)? {
                    hash.update(&lines.line);
                    rows += u64::from(!lines.is_blank());
                }
                rows
            }
            Rows::Parquet(rows) => {
                add(path, &mut hash).with_context(unreadable)?;
                rows.len()
            }
        };
        Ok(Scan { rows, sha256: hex(&hash.finalize()) })
    }

    /// The folder that paths in rows start from.
    pub fn folder(&self) -> PathBuf {
        folder_of(&self.path)
    }

    /// The next row, a JSON object, with its number: that of the line, or of the row in a Parquet file, from 1.
    pub fn next_row(&mut self) -> Result<Option<(u64, &[u8])>> {
        match &mut self.rows {
            Rows::Lines(lines) => lines.next_row().with_context(|| format!("cannot read {}", self.path.display())),
            Rows::Parquet(rows) => rows.next_row(),
        }
    }
}

/// Adds a file's bytes to a hash.
fn add(path: &Path, hash: &mut Sha256) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 1 << 16];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(()),
            read => hash.update(&bytes[..read]),
        }
    }
}

/// Lines without anything in them are counted and left out.
struct Lines {
    reader: BufReader<File>,
    number: u64,
    line: Vec<u8>,
}

impl Lines {
    fn next_row(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        while self.read()? {
            if !self.is_blank() {
                return Ok(Some((self.number, self.contents())));
            }
        }
        Ok(None)
    }

    fn read(&mut self) -> io::Result<bool> {
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line)?;
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
