//! The lines typed in earlier sessions. Sessions share one file: each adds its lines to the end, in one piece.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use phi3v::checkpoint::staging::replace_file;

/// Lines that are known in a session; the file may have as many again.
const MOST: usize = 1000;

/// A file of lines, oldest first.
pub(super) struct History {
    path: PathBuf,
}

impl History {
    /// Opens the file, with its folder, and gives the lines in it. A file that has grown too long is cut.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Vec<String>)> {
        let open = || -> Result<Vec<String>> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let file = private(&path)?;
            file.lock()?;
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            let latest = &lines[lines.len().saturating_sub(MOST)..];
            if lines.len() > 2 * MOST {
                // Another session sees the old file or the new one.
                replace_file(&path, |file| Ok(file.write_all((latest.join("\n") + "\n").as_bytes())?))?;
            }
            Ok(latest.iter().map(|line| unescape(line)).collect())
        };
        let lines = open().with_context(|| format!("cannot keep what is typed in {}", path.display()))?;
        Ok((Self { path }, lines))
    }

    /// Adds a line, which may have several lines itself.
    pub(super) fn add(&self, line: &str) -> Result<()> {
        let add = || -> Result<()> {
            let mut file = private(&self.path)?;
            file.lock()?;
            Ok(file.write_all(format!("{}\n", escape(line)).as_bytes())?)
        };
        add().with_context(|| format!("cannot keep what is typed in {}", self.path.display()))
    }
}

/// The file for writing at its end; nobody else's business.
fn private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn escape(line: &str) -> String {
    line.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let escaped = if c == '\\' { characters.next() } else { None };
        text.push(match escaped {
            Some('n') => '\n',
            Some('r') => '\r',
            Some(other) => other,
            None => c,
        });
    }
    text
}

/// The file that is used where none is named; none where there is no home.
pub(super) fn default_path() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::home_dir().filter(|path| path.is_absolute());
    let state = if cfg!(target_os = "macos") {
        home.map(|home| home.join("Library/Application Support"))
    } else if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else {
        variable("XDG_STATE_HOME").or_else(|| home.map(|home| home.join(".local/state")))
    };
    state.map(|state| state.join("phi3v/history"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sessions_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/history");
        let (one, nothing) = History::open(path.clone()).unwrap();
        let (two, _) = History::open(path.clone()).unwrap();
        let lines = ["one", "two\nlines \\ and \\n", "three"];
        one.add(lines[0]).unwrap();
        two.add(lines[1]).unwrap();
        one.add(lines[2]).unwrap();
        assert_eq!((nothing.len(), History::open(path).unwrap().1), (0, lines.map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_long_file_is_cut_to_the_latest_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let numbers: Vec<String> = (0..2 * MOST + 1).map(|n| n.to_string()).collect();
        fs::write(&path, numbers.join("\n")).unwrap();
        let (_, lines) = History::open(path.clone()).unwrap();
        assert_eq!(lines, numbers[numbers.len() - MOST..]);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), MOST);
        assert!(History::open(path.join("below-a-file")).is_err());
    }
}
