//! Model location: from what follows `--model` to a folder that holds the whole model.
//!
//! A folder or a GGUF file is taken as it is; `demo` is the model that comes with the program; a hub id (`org/name`) is
//! looked up in the cache that Python's `huggingface_hub` keeps, and fetched into it where files are missing. This file
//! decides which folder and which files; `hub/download.rs` moves the bytes. Whether the files make sense is the loader's
//! business. The way back, from a folder to the hub, is `hub/upload.rs`.
//!
//! The cache of one model, `models--org--name`:
//!
//! ```text
//! refs/main                        commit hash of the branch, written last
//! blobs/<etag>                     contents, named by their hash (sha256, or git's sha1 for small files)
//! snapshots/<commit>/config.json   -> ../../blobs/<etag>
//! ```
//!
//! Not built on the `hf-hub` crate: 0.4.3 sends the token to the storage host that the hub redirects to, verifies
//! neither size nor hash, knows neither `HF_TOKEN`, `HF_HUB_CACHE` nor `HF_HUB_OFFLINE`, and can append a resumed
//! download at the wrong offset.

use std::path::{Path, PathBuf};

use self::cache::{Repo, missing_from, shards};
pub use self::error::HubError;
pub use self::settings::HubSettings;
pub use self::upload::{check_upload, upload};
use super::identity::hex;
use super::{INDEX, demo};

mod cache;
mod client;
mod download;
mod error;
mod settings;
mod upload;

const DEFAULT_REVISION: &str = "main";
const CONFIG: &str = "config.json";

/// Receives what happens during a download or an upload; the caller draws it. `()` ignores everything.
pub trait Progress {
    /// A transfer of `total` bytes begins, of which `already` have arrived. Comes again for the same file when a broken
    /// transfer is resumed or restarted.
    fn start(&self, file: &str, total: u64, already: u64);
    /// `bytes` more have arrived.
    fn advance(&self, bytes: u64);
    /// The file is verified and in the cache, or on the hub.
    fn finish(&self);
    /// Something the user should know, which does not stop the work.
    fn warn(&self, message: &str);
}

impl Progress for () {
    fn start(&self, _file: &str, _total: u64, _already: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn warn(&self, _message: &str) {}
}

/// Returns the folder of `model`: a folder, a GGUF file, [`demo::NAME`] or a hub id, of which is fetched what the cache does
/// not have.
///
/// A commit hash that is whole in the cache needs no network. A branch or tag is asked of the hub; if the hub cannot
/// be reached, what the cache has for it is used with a warning, provided it is whole.
///
/// # Errors
///
/// See [`HubError`]; [`HubError::is_network`] tells those that may pass.
pub fn locate(
    model: &str,
    revision: Option<&str>,
    settings: &HubSettings,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    if let Some(folder) = local_folder(model, revision, settings)? {
        return Ok(folder);
    }
    let repo = Repo::new(model, revision.unwrap_or(DEFAULT_REVISION), &settings.cache)?;
    let cached = repo.cached();
    match cached {
        Ok(folder) if is_commit(repo.revision) => return Ok(folder),
        Err(missing) if settings.offline => {
            return Err(HubError::Offline { id: model.to_owned(), revision: repo.revision.to_owned(), missing });
        }
        Ok(folder) if settings.offline => return Ok(folder),
        _ => {}
    }
    // With a copy at hand a hub that is down should cost one time-out, not six.
    let patience = if cached.is_ok() { 0 } else { settings.retries };
    match (update(&repo, settings, patience, progress), cached) {
        (Err(error), Ok(folder)) if error.is_network() => {
            progress.warn(&format!("{error}. Using the cached copy of {model}, which may be out of date."));
            Ok(folder)
        }
        (result, _) => result,
    }
}

/// Whether all of a hub model is in the cache.
pub fn is_cached(model: &str, revision: Option<&str>, settings: &HubSettings) -> bool {
    Repo::new(model, revision.unwrap_or(DEFAULT_REVISION), &settings.cache).is_ok_and(|repo| repo.cached().is_ok())
}

/// `model` as a folder, or `None` if it is spelled like a hub id and no such folder exists.
fn local_folder(model: &str, revision: Option<&str>, settings: &HubSettings) -> Result<Option<PathBuf>, HubError> {
    let path = Path::new(model);
    // Before a folder of that name, as there is one where phi3v is built.
    let is_demo = model == demo::NAME;
    if is_demo || path.is_dir() {
        return match revision {
            Some(revision) => {
                Err(HubError::RevisionOfFolder { folder: model.to_owned(), revision: revision.to_owned() })
            }
            None if is_demo => demo::unpack(&settings.unpacked).map(Some).map_err(HubError::Demo),
            None => Ok(Some(path.to_owned())),
        };
    }
    if path.extension().is_some_and(|extension| extension == "gguf") && path.is_file() {
        return Ok(Some(path.to_owned()));
    }
    if path.exists() {
        return Err(HubError::NotAFolder(model.to_owned()));
    }
    let is_path = model.starts_with(['.', '/', '~']) || model.contains('\\') || model.matches('/').count() > 1;
    if is_path { Err(HubError::NoSuchFolder(model.to_owned())) } else { Ok(None) }
}

/// Brings the cache up to date with the hub and returns the snapshot's folder.
fn update(
    repo: &Repo<'_>,
    settings: &HubSettings,
    patience: u32,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let download = download::Download::new(repo, settings, progress)?;
    let listing = download.listing(patience)?;
    let not_a_model = |missing: &str| HubError::NotAModel { id: repo.id.to_owned(), missing: missing.to_owned() };
    if let Some(sibling) = listing.siblings.iter().find(|sibling| escapes(&sibling.rfilename)) {
        return Err(HubError::UnsafeName(sibling.rfilename.clone()));
    }
    if !listing.siblings.iter().any(|sibling| sibling.rfilename == CONFIG) {
        return Err(not_a_model(CONFIG));
    }
    if !listing.siblings.iter().any(|sibling| is_weights(&sibling.rfilename)) {
        return Err(not_a_model("*.safetensors"));
    }

    // The small files first: the index among them says which weights are needed, and a snapshot that has its
    // weights then has everything else.
    let folder = repo.snapshot(&listing.sha);
    for file in listing.siblings.iter().filter(|sibling| is_companion(&sibling.rfilename)) {
        download.fetch(&listing.sha, file)?;
    }
    let shards = shards(&folder)?;
    if let Some(shards) = &shards
        && let Some(shard) = shards.iter().find(|shard| !listing.siblings.iter().any(|s| s.rfilename == **shard))
    {
        return Err(not_a_model(shard));
    }
    let needed = |name: &str| is_weights(name) && shards.as_ref().is_none_or(|shards| shards.contains(name));
    for file in listing.siblings.iter().filter(|sibling| needed(&sibling.rfilename)) {
        download.fetch(&listing.sha, file)?;
    }
    if let Some(missing) = missing_from(&folder) {
        return Err(not_a_model(&missing));
    }
    // The snapshot is whole; a cache that others own may refuse the note of it.
    if let Err(error) = repo.write_ref(&listing.sha) {
        progress.warn(&error.to_string());
    }
    Ok(folder)
}

/// A name that can stand for nothing but a file directly in the snapshot's folder.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.') && !name.contains(['/', '\\', ':']) && !name.contains(char::is_control)
}

/// Whether a listed name, which may lie in a subfolder, points out of the repository.
fn escapes(name: &str) -> bool {
    name.split('/').any(|part| part == ".." || part.is_empty()) || name.contains(['\\', '\0'])
}

fn is_weights(name: &str) -> bool {
    is_plain(name) && name.ends_with(".safetensors")
}

/// What the loader reads beside the weights, configuration, tokenizer and chat template, and what belongs to a copy of the
/// model: its card, licence and code, which is never run.
fn is_companion(name: &str) -> bool {
    let wanted = [".json", ".jinja", ".txt", ".py"].iter().any(|extension| name.ends_with(extension));
    let named = ["tokenizer.model", "README.md"].contains(&name) || name.starts_with("LICENSE");
    is_plain(name) && (wanted || named)
}

/// A hub id, `org/name`.
fn is_id(id: &str) -> bool {
    id.split_once('/').is_some_and(|(org, name)| is_id_part(org) && is_id_part(name))
}

/// Half of a hub id. The hub's own rules, so that an id is always one folder name and one part of a URL.
fn is_id_part(part: &str) -> bool {
    (1..=96).contains(&part.len())
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.ends_with(".git")
        && !part.contains("--")
        && !part.contains("..")
}

/// A full commit hash.
fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
