//! What can go wrong while a model is located or published, each with what to do about it.

use std::path::{Path, PathBuf};

/// Why a model could not be located or published.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // of the fields: the messages below show what each one is
pub enum HubError {
    /// The demo model cannot be unpacked.
    #[error("{0:#}; the demo model is unpacked there: name a folder that can be written as XDG_CACHE_HOME")]
    Demo(anyhow::Error),
    /// A revision was asked of a local folder, which has none.
    #[error("`revision` {revision} has no meaning for the local folder {folder}; leave it out")]
    RevisionOfFolder { folder: String, revision: String },
    /// The model is written like a path, and nothing is there.
    #[error("model folder {0} does not exist")]
    NoSuchFolder(String),
    /// The model is a file.
    #[error("{0} is a file; a model is a GGUF file, or the folder that holds config.json and the weights")]
    NotAFolder(String),
    /// The model is neither a folder nor spelled like a hub id.
    #[error("'{0}' is neither an existing folder nor a hub id like microsoft/Phi-3.5-vision-instruct")]
    InvalidId(String),
    /// The revision cannot be a branch, tag or commit.
    #[error("'{0}' is not a revision; give a branch, a tag or a commit hash")]
    InvalidRevision(String),
    /// A setting from the environment cannot be used. The token's value is never shown.
    #[error("{name} cannot be used: {why}")]
    InvalidSetting { name: &'static str, why: String },
    /// Offline, and the cache does not hold all of the model.
    #[error(
        "offline and not in the cache: {id} at {revision} ({missing} is missing); unset HF_HUB_OFFLINE or download first"
    )]
    Offline { id: String, revision: String, missing: String },
    /// The hub knows no such repository, or hides it.
    #[error("no model {0} on the hub; check the name, and set HF_TOKEN if it is private")]
    RepoNotFound(String),
    /// The repository has no such branch, tag or commit.
    #[error("{id} has no revision '{revision}'; give a branch, a tag or a commit hash")]
    RevisionNotFound { id: String, revision: String },
    /// A file of the listing is not there.
    #[error("{url} is listed for {id} but is not there; try again later")]
    FileNotFound { id: String, url: String },
    /// The model is gated or private, or the token was refused.
    #[error("access to {id} was refused; {hint} {url}")]
    Denied { id: String, url: String, hint: &'static str },
    /// No usable answer: no connection, a time-out, a broken transfer, or an overloaded server.
    #[error("cannot reach {url}: {why}; check the network, or set HF_HUB_OFFLINE=1 to use the cache only")]
    Unreachable { url: String, why: String },
    /// The server refused the request for another reason, or its answer makes no sense.
    #[error("unexpected answer from {url}: {why}; check HF_ENDPOINT")]
    Unexpected { url: String, why: String },
    /// The bytes received are not those that the hub announced.
    #[error("{file} arrived damaged: expected {expected}, found {found}; nothing was kept, try again")]
    Corrupt { file: String, expected: String, found: String },
    /// A name from the hub that would lead out of the cache.
    #[error("the hub names a file {0:?}, which could lead out of the cache; refused")]
    UnsafeName(String),
    /// The repository is not a checkpoint that can be loaded.
    #[error("{id} is not a model that can be loaded: it has no {missing}")]
    NotAModel { id: String, missing: String },
    /// The index of the weights is not one.
    #[error("{}: not an index of weights: {why}", path.display())]
    BadIndex { path: PathBuf, why: String },
    /// The target of an upload is not spelled like a hub id.
    #[error("'{0}' is not a hub id like my-name/Phi-3.5-vision-instruct")]
    InvalidTarget(String),
    /// An upload without a token.
    #[error("an upload needs a token that may write; set HF_TOKEN or run `hf auth login`")]
    NoToken,
    /// An upload while offline.
    #[error("offline, so {0} cannot be uploaded; unset HF_HUB_OFFLINE")]
    UploadOffline(String),
    /// The folder to upload cannot be read, or changed meanwhile.
    #[error("{}: {source}; nothing was published", path.display())]
    Source { path: PathBuf, source: std::io::Error },
    /// The token was refused, or may not write to this model.
    #[error("may not write to {id}: {why}; see which token HF_TOKEN is at {tokens}")]
    WriteDenied { id: String, why: String, tokens: String },
    /// Someone else changes the repository at the same time.
    #[error("{id} is being changed by someone else: {why}; try again")]
    Conflict { id: String, why: String },
    /// The hub has a limit for what one request or file may hold.
    #[error("too large for {url}: {why}; use smaller shards and fewer other files")]
    TooLarge { url: String, why: String },
    /// The hub or its storage refuses an upload for a reason of its own.
    #[error("{url} refused the upload: {why}")]
    Refused { url: String, why: String },
    /// The network failed during an upload.
    #[error("cannot upload to {url}: {why}; try again, files that have arrived are not sent twice")]
    UploadBroken { url: String, why: String },
    /// The cache cannot be read or written.
    #[error("{}: {source}; check the permissions and the free space of the cache (HF_HOME)", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl HubError {
    /// Whether trying again later, or using what is cached, can help.
    pub fn is_network(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::UploadBroken { .. })
    }

    /// The same with what to do about it during an upload.
    pub(super) fn of_upload(self) -> Self {
        match self {
            Self::Unreachable { url, why } => Self::UploadBroken { url, why },
            other => other,
        }
    }

    pub(super) fn source(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Source { path: path.to_owned(), source }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
