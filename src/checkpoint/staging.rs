//! A folder that appears whole or not at all: it is filled under another name beside its place, and renamed in the end.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::checkpoint::json::read_json;

/// A folder in the making. Dropped before [`Staging::publish`], it leaves nothing behind.
pub struct Staging {
    target: PathBuf,
    replace: bool,
    folder: PathBuf,
    lock: Lock,
}

impl Staging {
    /// Begins the folder that will be `target`, which must not exist yet; with `replace` a model folder may, and gives way
    /// in the end. What a killed process left behind is removed, and what it had put aside comes back.
    pub fn begin(target: &Path, replace: bool) -> Result<Self> {
        check_target(target, replace)?;
        let lock = Lock::take(target)?;
        let (folder, old) = (sibling(target, "partial")?, sibling(target, "replaced")?);
        let make = || {
            // Without a configuration it was being removed already, as the new one had its name.
            if fs::symlink_metadata(target).is_err() && old.join("config.json").is_file() {
                fs::rename(&old, target)?;
            } else {
                remove(&old)?;
            }
            remove(&folder)?;
            fs::create_dir(&folder)
        };
        make().with_context(|| format!("cannot make {}", folder.display()))?;
        let staging = Self { target: target.to_owned(), replace, folder, lock };
        check_target(target, replace)?;
        Ok(staging)
    }

    /// Where the files go meanwhile.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives the folder its name.
    pub fn publish(self) -> Result<()> {
        // Time has passed since it was checked.
        check_target(&self.target, self.replace)?;
        let parent = self.target.parent().unwrap_or(Path::new("."));
        let publish = || -> Result<()> {
            sync_folder(&self.folder)?;
            if !self.target.exists() {
                fs::rename(&self.folder, &self.target)?;
                return Ok(sync_folder(parent)?);
            }
            let old = sibling(&self.target, "replaced")?;
            remove(&old)?;
            fs::rename(&self.target, &old)?;
            if let Err(e) = fs::rename(&self.folder, &self.target) {
                fs::rename(&old, &self.target)?;
                return Err(e.into());
            }
            sync_folder(parent)?;
            Ok(remove(&old)?)
        };
        publish().with_context(|| format!("cannot finish {}", self.target.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // There is none after it was published. The lock is still held, so it is nobody else's.
        let _ = remove(&self.folder);
        let _ = fs::remove_file(&self.lock.path);
    }
}

/// Held as long as the folder is being filled, so that two processes do not fill the same one.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(target: &Path) -> Result<Self> {
        let path = sibling(target, "lock")?;
        let cannot = || format!("cannot make {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(cannot)?;
        }
        loop {
            let file = File::create(&path).with_context(cannot)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => bail!("another process is writing {}", target.display()),
                // Some network file systems have no locks; two writers at once are rarer than they are.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Whoever held it may have removed the file between the two calls.
            if is_at(&file, &path) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

/// Whether the open file is still the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        file.metadata().map(id).ok() == fs::metadata(path).map(id).ok()
    }
    #[cfg(not(unix))]
    {
        // Open files cannot be removed there.
        let _ = (file, path);
        true
    }
}

/// Writes a file so that it lasts.
pub fn write_file(folder: &Path, name: &str, contents: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let write = || {
        fs::write(&path, contents)?;
        File::open(&path)?.sync_all()
    };
    write().with_context(|| format!("cannot write {name}"))
}

/// Makes a file, or replaces it, so that it lasts: whole, with what `write` puts into it, or not at all.
pub fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let replace = || -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = new_file(folder)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

/// A file of another name, with the permissions that files have by default: a temporary one is nobody else's to read.
fn new_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Two runs that write one file would spoil it. The lock goes with the process, however it ends.
pub fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!("{}: another run is writing it", path.display()),
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Copies a file into the folder so that it lasts.
pub fn copy_file(from: &Path, folder: &Path) -> Result<()> {
    let name = from.file_name().with_context(|| format!("{} has no name", from.display()))?;
    let copy = || {
        let to = folder.join(name);
        fs::copy(from, &to)?;
        File::open(&to)?.sync_all()
    };
    copy().with_context(|| format!("cannot copy {}", from.display()))
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
    ensure!(replace, "{} exists already; name another folder, or replace it with `force`", target.display());
    // A mistyped path must not cost somebody's files.
    let config = read_json(&target.join("config.json")).ok().flatten();
    let is_model = config.is_some_and(|config| config.get("model_type").is_some());
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    let replaceable = target.is_dir() && (is_model || is_empty());
    ensure!(replaceable, "{} is no model folder, so `force` does not replace it", target.display());
    Ok(())
}

/// Of a folder first what makes it a model: killed in the middle, this leaves none that lacks files.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            remove(&path.join("config.json"))?;
            fs::remove_dir_all(path)
        }
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
