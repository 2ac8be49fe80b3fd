//! The places of one model in the cache, and whether what lies there is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use super::{CONFIG, HubError, INDEX, is_commit, is_companion, is_id, is_weights};

/// One model at one revision, and its places in the cache.
pub(super) struct Repo<'a> {
    pub(super) id: &'a str,
    pub(super) revision: &'a str,
    /// `models--org--name`.
    folder: PathBuf,
    /// Where Python too puts its lock files.
    pub(super) locks: PathBuf,
}

impl<'a> Repo<'a> {
    pub(super) fn new(id: &'a str, revision: &'a str, cache: &Path) -> Result<Self, HubError> {
        if !is_id(id) {
            return Err(HubError::InvalidId(id.to_owned()));
        }
        let unusable = |part: &str| part.is_empty() || part == "." || part == "..";
        if revision.split('/').any(unusable) || revision.contains(['\\', ':']) || revision.contains(char::is_control) {
            return Err(HubError::InvalidRevision(revision.to_owned()));
        }
        let name = format!("models--{}", id.replace('/', "--"));
        Ok(Self { id, revision, folder: cache.join(&name), locks: cache.join(".locks").join(name) })
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn ref_file(&self) -> PathBuf {
        self.folder.join("refs").join(self.revision)
    }

    /// The cached snapshot of this revision if it is whole, else the name of something it lacks.
    pub(super) fn cached(&self) -> Result<PathBuf, String> {
        let commit = if is_commit(self.revision) {
            self.revision.to_owned()
        } else {
            fs::read_to_string(self.ref_file())
                .map(|commit| commit.trim().to_owned())
                .ok()
                .filter(|commit| is_commit(commit))
                .ok_or_else(|| format!("refs/{}", self.revision))?
        };
        let folder = self.snapshot(&commit);
        match missing_from(&folder) {
            None => Ok(folder),
            Some(missing) => Err(missing),
        }
    }

    /// Notes which commit the branch or tag is at.
    pub(super) fn write_ref(&self, commit: &str) -> Result<(), HubError> {
        let path = self.ref_file();
        if self.revision == commit || fs::read_to_string(&path).is_ok_and(|old| old == commit) {
            return Ok(());
        }
        replace(&path, |temporary| fs::write(temporary, commit))
    }
}

/// Makes `path` with `make`, which gets the name of a temporary sibling that is then renamed.
pub(super) fn replace(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), HubError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary); // of a killed process with the same number
    let made = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| make(&temporary))
        .and_then(|()| fs::rename(&temporary, path));
    if made.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    made.map_err(HubError::io(path))
}

/// The first thing that a snapshot lacks to be whole: the configuration, weights, or the target of a link.
pub(super) fn missing_from(folder: &Path) -> Option<String> {
    if !folder.join(CONFIG).is_file() {
        return Some(CONFIG.to_owned());
    }
    let Ok(entries) = fs::read_dir(folder) else { return Some(CONFIG.to_owned()) };
    let names: BTreeSet<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let absent = |name: &&String| !folder.join(name).is_file();
    if let Some(name) = names.iter().filter(|name| is_companion(name)).find(absent) {
        return Some(name.clone());
    }
    match shards(folder) {
        Ok(Some(shards)) => shards.iter().find(absent).cloned(),
        Err(_) => Some(INDEX.to_owned()),
        Ok(None) => {
            let weights: Vec<_> = names.iter().filter(|name| is_weights(name)).collect();
            if weights.is_empty() {
                return Some("*.safetensors".to_owned());
            }
            // Shards without the index that names them: someone else's download stopped early.
            let sharded = weights.iter().any(|name| name.contains("-of-"));
            let absent = weights.into_iter().find(absent).cloned();
            absent.or_else(|| sharded.then(|| INDEX.to_owned()))
        }
    }
}

/// The weight files that the index of `folder` names, or `None` without an index.
pub(super) fn shards(folder: &Path) -> Result<Option<BTreeSet<String>>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(INDEX);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(HubError::io(&path))?,
    };
    let bad = |why: &str| HubError::BadIndex { path: path.clone(), why: why.to_owned() };
    let index: Index = serde_json::from_slice(&text).map_err(|error| bad(&error.to_string()))?;
    if index.weight_map.is_empty() {
        return Err(bad("it names no weights"));
    }
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|name| !is_weights(name)) {
        Some(name) => Err(HubError::UnsafeName(name.clone())),
        None => Ok(Some(shards)),
    }
}
