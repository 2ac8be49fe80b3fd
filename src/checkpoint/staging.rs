//! A folder that appears whole or not at all: it is filled under another name beside its place, and renamed in the end.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Held as long as the folder is being filled, so that two processes do not fill the same one.
const LOCK: &str = ".lock";

/// A folder in the making. Dropped before [`Staging::publish`], it leaves nothing behind.
pub struct Staging {
    target: PathBuf,
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    /// Begins the folder that will be `target`, which must not exist yet; with `replace` a model folder may, and gives way
    /// in the end. What a killed process left behind is removed.
    pub fn begin(target: &Path, replace: bool) -> Result<Self> {
        check_target(target, replace)?;
        let folder = sibling(target, "partial")?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => bail!("another process is writing {}", target.display()),
            // Some network file systems have no locks; two writers at once are rarer than they are.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let staging = Self { target: target.to_owned(), folder, _lock: lock };
        staging.empty()?;
        Ok(staging)
    }

    /// Where the files go meanwhile.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let write = || {
            fs::write(&path, contents)?;
            File::open(&path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {name}"))
    }

    /// Copies a file into the folder.
    pub fn copy(&self, from: &Path) -> Result<()> {
        let name = from.file_name().with_context(|| format!("{} has no name", from.display()))?;
        let copy = || {
            let to = self.folder.join(name);
            fs::copy(from, &to)?;
            File::open(&to)?.sync_all()
        };
        copy().with_context(|| format!("cannot copy {}", from.display()))
    }

    /// Gives the folder its name.
    pub fn publish(self) -> Result<()> {
        let publish = || -> Result<()> {
            fs::remove_file(self.folder.join(LOCK))?;
            sync_folder(&self.folder)?;
            if !self.target.exists() {
                fs::rename(&self.folder, &self.target)?;
                return sync_folder(self.target.parent().unwrap_or(Path::new("."))).map_err(Into::into);
            }
            let old = sibling(&self.target, "replaced")?;
            remove(&old)?;
            fs::rename(&self.target, &old)?;
            if let Err(e) = fs::rename(&self.folder, &self.target) {
                fs::rename(&old, &self.target)?;
                return Err(e.into());
            }
            sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
            remove(&old).map_err(Into::into)
        };
        publish().with_context(|| format!("cannot finish {}", self.target.display()))
    }

    fn empty(&self) -> Result<()> {
        let empty = || -> std::io::Result<()> {
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                if entry.file_name() != LOCK {
                    remove(&entry.path())?;
                }
            }
            Ok(())
        };
        empty().with_context(|| format!("cannot empty {}", self.folder.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A name beside `target` that listings hide.
fn sibling(target: &Path, what: &str) -> Result<PathBuf> {
    let name =
        target.file_name().with_context(|| format!("{} cannot be the name of a new folder", target.display()))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{what}"));
    Ok(target.with_file_name(hidden))
}

fn check_target(target: &Path, replace: bool) -> Result<()> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    ensure!(replace, "{} exists already; name another folder, or replace it with --force", target.display());
    // A mistyped path must not cost somebody's files.
    let replaceable =
        target.is_dir() && (target.join("config.json").is_file() || fs::read_dir(target)?.next().is_none());
    ensure!(replaceable, "{} is no model folder, so --force does not replace it", target.display());
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes the names in a folder last.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Only Unix opens folders.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
