//! Transfers from the hub into the cache: requests, retries, resuming, verification, publication.
//!
//! A file is downloaded to `blobs/<etag>.incomplete` under a lock, checked against the announced size and against the
//! hash that the etag is, synced, renamed to `blobs/<etag>`, and only then linked into the snapshot. Since the name of
//! the partial file is the hash of the whole one, a file that changed on the hub never continues an old download; this
//! is also why no `If-Range` is sent, which could only compare with the storage host's own, different etags.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Response;
use url::Url;

use super::cache::{Repo, replace};
use super::client::{Client, cause, unexpected, unreachable, without_query};
use super::{HubError, HubSettings, Progress, hex, is_commit, is_hex};

const MAX_REDIRECTS: usize = 10;
const COPY_BUFFER: usize = 1 << 17;

/// What the hub says about a revision.
#[derive(Deserialize)]
pub(super) struct Listing {
    /// The commit that the revision stands for.
    pub(super) sha: String,
    pub(super) siblings: Vec<Sibling>,
}

/// One file of a revision.
#[derive(Deserialize)]
pub(super) struct Sibling {
    /// Path in the repository.
    pub(super) rfilename: String,
    /// Mirrors may leave it out.
    size: Option<u64>,
}

/// What the hub says about the contents of one file.
struct Contents {
    etag: String,
    size: u64,
}

/// Downloads one model.
pub(super) struct Download<'a> {
    client: Client<'a>,
    repo: &'a Repo<'a>,
    progress: &'a dyn Progress,
}

impl<'a> Download<'a> {
    pub(super) fn new(
        repo: &'a Repo<'a>,
        settings: &'a HubSettings,
        progress: &'a dyn Progress,
    ) -> Result<Self, HubError> {
        Ok(Self { client: Client::new(repo.id, settings, |agent| agent)?, repo, progress })
    }

    /// Asks which commit the revision is and which files it has.
    pub(super) fn listing(&self, retries: u32) -> Result<Listing, HubError> {
        let mut url = self.client.url(&["api", "models"], &["revision", self.repo.revision]);
        url.set_query(Some("blobs=true")); // adds the sizes
        let listing: Listing = self.client.retry(retries, || {
            let response = self.send("GET", url.clone(), None)?;
            let text = response.into_string().map_err(|error| unreachable(&url, error.to_string()))?;
            serde_json::from_str(&text).map_err(|error| unexpected(&url, format!("not a listing of files: {error}")))
        })?;
        if !is_commit(&listing.sha) {
            return Err(unexpected(&url, format!("'{}' is not a commit hash", listing.sha)));
        }
        Ok(listing)
    }

    /// Makes sure that the snapshot of `commit` has `file`, whole.
    pub(super) fn fetch(&self, commit: &str, file: &Sibling) -> Result<(), HubError> {
        let pointer = self.repo.snapshot(commit).join(&file.rfilename);
        let present = length(&pointer);
        if present.is_some() && file.size.is_none_or(|size| present == Some(size)) {
            return Ok(());
        }
        let attempt = || {
            let url = self.client.url(&[], &["resolve", commit, &file.rfilename]);
            let contents = self.contents(&url, file)?;
            let _lock = self.lock(&contents.etag, &file.rfilename)?;
            let blob = self.repo.blob(&contents.etag);
            if length(&blob) != Some(contents.size) {
                self.transfer(&url, &file.rfilename, &contents)?;
            }
            publish(&blob, &contents, &pointer)
        };
        match self.client.retry(self.client.settings.retries, attempt) {
            // What an earlier run left behind may have been damaged: once more, from the first byte.
            Err(HubError::Corrupt { .. }) => self.client.retry(self.client.settings.retries, attempt),
            result => result,
        }
    }

    /// Asks for hash and size of a file.
    fn contents(&self, url: &Url, file: &Sibling) -> Result<Contents, HubError> {
        let response = self.send("HEAD", url.clone(), None)?;
        // The X-Linked headers describe a file that lies on another host; the others are then about the redirect.
        let etag = response.header("x-linked-etag").or_else(|| response.header("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        {
            return Err(unexpected(url, format!("no usable etag for {}: '{etag}'", file.rfilename)));
        }
        let own_length = response.header("content-length").filter(|_| !is_redirect(&response));
        let size = response.header("x-linked-size").or(own_length).and_then(|size| size.parse().ok()).or(file.size);
        let size = size.ok_or_else(|| unexpected(url, format!("no size for {}", file.rfilename)))?;
        Ok(Contents { etag: etag.to_owned(), size })
    }

    /// Downloads to the partial file, continuing what is there, verifies it and gives it its final name.
    fn transfer(&self, url: &Url, name: &str, contents: &Contents) -> Result<(), HubError> {
        let blob = self.repo.blob(&contents.etag);
        let partial = blob.with_file_name(format!("{}.incomplete", contents.etag));
        let mut transfer = Partial::open(&partial, contents)?;
        let corrupt = |expected: String, found: String| {
            // Best effort: if it stays, the next run finds the same fault and removes it then.
            let _ = fs::remove_file(&partial);
            HubError::Corrupt { file: name.to_owned(), expected, found }
        };
        let bytes = |count: u64| format!("{count} bytes");

        self.progress.start(name, contents.size, transfer.length);
        if transfer.length < contents.size {
            let from = transfer.length;
            let response = self.send("GET", url.clone(), (from > 0).then_some(from))?;
            let range = format!("bytes {from}-{}/{}", contents.size - 1, contents.size);
            match (response.status(), response.header("content-range")) {
                (206, Some(found)) if found == range => {}
                (200, _) if from == 0 => {}
                (200, _) => {
                    transfer.restart()?;
                    self.progress.start(name, contents.size, 0);
                }
                (status, found) => return Err(corrupt(range, format!("HTTP {status}, {found:?}"))),
            }
            let rest = contents.size - transfer.length;
            let announced = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(rest);
            if announced != rest {
                return Err(corrupt(bytes(rest), bytes(announced)));
            }
            // One byte more than announced, so that a body that is too long shows.
            self.copy(url, &mut response.into_reader().take(rest + 1), &mut transfer)?;
        }
        if transfer.length < contents.size {
            return Err(unreachable(url, format!("closed after {} of {} bytes", transfer.length, contents.size)));
        }
        if transfer.length > contents.size {
            return Err(corrupt(bytes(contents.size), format!("more than {}", bytes(contents.size))));
        }
        let found = transfer.hash.finish();
        if let Some(found) = found.filter(|found| !found.eq_ignore_ascii_case(&contents.etag)) {
            return Err(corrupt(format!("hash {}", contents.etag), found));
        }
        transfer.file.sync_all().map_err(HubError::io(&partial))?;
        fs::rename(&partial, &blob).map_err(HubError::io(&blob))?;
        self.progress.finish();
        Ok(())
    }

    /// Appends the body to the partial file. What has arrived before a break stays there.
    fn copy(&self, url: &Url, body: &mut dyn Read, partial: &mut Partial<'_>) -> Result<(), HubError> {
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreachable(url, error.to_string())),
            };
            partial.append(&buffer[..count])?;
            self.client.keep(count as u64);
            self.progress.advance(count as u64);
        }
    }

    /// Sends a request and follows redirects.
    ///
    /// Stops at a redirect that already says what a `HEAD` asks for: its target is a storage host with other etags.
    fn send(&self, method: &str, mut url: Url, from: Option<u64>) -> Result<Response, HubError> {
        for _ in 0..MAX_REDIRECTS {
            // A compressed body has another length and cannot be resumed.
            let mut request = self.client.request(method, &url).set("Accept-Encoding", "identity");
            if let Some(from) = from {
                request = request.set("Range", &format!("bytes={from}-"));
            }
            let response = match request.call() {
                Ok(response) => response,
                // The caller sees that this is no continuation, and starts anew.
                Err(ureq::Error::Status(416, response)) if from.is_some() => return Ok(response),
                Err(ureq::Error::Status(status, response)) => return Err(self.refusal(&url, status, &response)),
                Err(ureq::Error::Transport(error)) => return Err(unreachable(&url, cause(&error))),
            };
            let described = method == "HEAD" && response.header("x-linked-etag").is_some();
            if !is_redirect(&response) || described {
                return Ok(response);
            }
            let target = response.header("location").and_then(|target| url.join(target).ok());
            url = target.ok_or_else(|| unexpected(&url, "a redirect to nowhere".to_owned()))?;
        }
        Err(unexpected(&url, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// What an error status means.
    fn refusal(&self, url: &Url, status: u16, response: &Response) -> HubError {
        let id = self.repo.id.to_owned();
        let is_file = url.path().contains("/resolve/");
        let denied = |hint| HubError::Denied { id: id.clone(), url: self.client.url(&[], &[]).to_string(), hint };
        match (status, response.header("x-error-code").unwrap_or_default()) {
            // A storage host knows no repositories. 403 is how it says that its signed address has run out; the next
            // attempt gets a new one.
            _ if !self.client.is_hub(url) => unreachable(url, format!("HTTP {status}")),
            (_, "GatedRepo") if self.client.settings.token.is_none() => {
                denied("set HF_TOKEN and accept the licence at")
            }
            (_, "GatedRepo") => denied("accept the licence with the account of your HF_TOKEN at"),
            (_, "RevisionNotFound") => HubError::RevisionNotFound { id, revision: self.repo.revision.to_owned() },
            (_, "EntryNotFound") => HubError::FileNotFound { id, url: without_query(url) },
            (_, "RepoNotFound") => HubError::RepoNotFound(id),
            (404, _) if is_file => HubError::FileNotFound { id, url: without_query(url) },
            (404, _) => HubError::RepoNotFound(id),
            (401 | 403, _) if self.client.settings.token.is_none() => denied("set HF_TOKEN; the model's page is"),
            (401 | 403, _) => denied("HF_TOKEN is not valid or may not read it; the model's page is"),
            (408 | 429 | 500..=599, _) => unreachable(url, format!("HTTP {status}")),
            _ => unexpected(url, format!("HTTP {status}")),
        }
    }

    /// Waits for other processes that download the same contents.
    fn lock(&self, etag: &str, name: &str) -> Result<File, HubError> {
        let path = self.repo.locks.join(format!("{etag}.lock"));
        let open = || {
            fs::create_dir_all(&self.repo.locks)?;
            fs::create_dir_all(self.repo.blob(""))?;
            OpenOptions::new().write(true).create(true).truncate(false).open(&path)
        };
        let file = open().map_err(HubError::io(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                self.progress.warn(&format!("waiting for another process that is downloading {name}"));
                file.lock().map_err(HubError::io(&path))?;
            }
            // File systems without locks exist; two writers at once then end in a hash that does not match.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            result => result.map_err(|error| HubError::io(&path)(error.into()))?,
        }
        Ok(file)
    }
}

/// The partial file of a transfer, with the hash of what is in it.
struct Partial<'a> {
    file: File,
    path: &'a Path,
    contents: &'a Contents,
    length: u64,
    hash: Hash,
}

impl<'a> Partial<'a> {
    /// Opens or creates the file and reads what is there, to go on from its end.
    fn open(path: &'a Path, contents: &'a Contents) -> Result<Self, HubError> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(HubError::io(path))?;
        let mut partial = Self { file, path, contents, length: 0, hash: Hash::new(contents) };
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            match partial.file.read(&mut buffer).map_err(HubError::io(path))? {
                0 => break,
                count => {
                    partial.hash.update(&buffer[..count]);
                    partial.length += count as u64;
                }
            }
        }
        if partial.length > contents.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(HubError::io(self.path))?;
        self.length = 0;
        self.hash = Hash::new(self.contents);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io(self.path))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// The hash that an etag is.
enum Hash {
    /// Large files.
    Sha256(Sha256),
    /// Files in git itself: the name of the blob object.
    GitBlob(Sha1),
    /// A mirror with etags of its own: only the size can be checked.
    Unknown,
}

impl Hash {
    fn new(contents: &Contents) -> Self {
        if is_hex(&contents.etag, 64) {
            Self::Sha256(Sha256::new())
        } else if is_hex(&contents.etag, 40) {
            Self::GitBlob(Sha1::new_with_prefix(format!("blob {}\0", contents.size)))
        } else {
            Self::Unknown
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::GitBlob(hash) => hash.update(bytes),
            Self::Unknown => {}
        }
    }

    fn finish(self) -> Option<String> {
        match self {
            Self::Sha256(hash) => Some(hex(&hash.finalize())),
            Self::GitBlob(hash) => Some(hex(&hash.finalize())),
            Self::Unknown => None,
        }
    }
}

/// Makes the snapshot's file stand for the blob: a relative link as Python makes it, or the bytes themselves where
/// links cannot be made.
fn publish(blob: &Path, contents: &Contents, pointer: &Path) -> Result<(), HubError> {
    let target = Path::new("../../blobs").join(&contents.etag);
    replace(pointer, |temporary| {
        symlink(&target, temporary).or_else(|_| fs::hard_link(blob, temporary)).or_else(|_| {
            fs::copy(blob, temporary)?;
            File::open(temporary)?.sync_all()
        })
    })
}

#[cfg(unix)]
use std::os::unix::fs::symlink;
#[cfg(windows)]
use std::os::windows::fs::symlink_file as symlink;

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
}

fn is_redirect(response: &Response) -> bool {
    matches!(response.status(), 301 | 302 | 303 | 307 | 308)
}
