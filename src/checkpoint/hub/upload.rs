//! Publication of a folder on the hub, as one commit.
//!
//! The hub says of each file whether git itself holds it (small text) or large file storage, which works with objects
//! named by their sha256. Objects go to storage first, see `upload/objects.rs`; the commit then names them. So nothing
//! shows on the hub until everything is there, and a run after an interruption finds the objects that have arrived.
//!
//! The requests are those of Python's `huggingface_hub` without its `hf_xet`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::Response;
use url::Url;

use self::files::LocalFile;
use super::client::{Client, cause, unexpected, unreachable, without_query};
use super::{DEFAULT_REVISION, HubError, HubSettings, Progress, is_id};

mod files;
mod objects;

const SUMMARY: &str = "Upload model with phi3v";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
/// Files that the hub lets one request name.
const MAX_NAMES: usize = 256;
/// The contents of these files are held in memory; the hub itself takes no more than 10 MB per file this way.
const MAX_REGULAR: u64 = 32 << 20;
/// Times the usual time-out: the hub looks through what has arrived before it answers.
const PATIENCE: u32 = 10;

/// Publishes all files of `folder` as one commit to the model repository `id`, which is created if need be. Returns
/// the commit's address.
///
/// Hidden files and folders stay out, as do links to folders.
///
/// # Errors
///
/// See [`HubError`]. Whatever the error, nothing has been published, except that a commit whose answer got lost may
/// have been; repeating it does no harm.
pub fn upload(folder: &Path, id: &str, settings: &HubSettings, progress: &dyn Progress) -> Result<String, HubError> {
    check_upload(id, settings)?;
    let files = files::of_model(folder)?;
    // No connection is used twice: one that idles while a large file is sent elsewhere may be dead without a sign.
    let adapt = |agent: ureq::AgentBuilder| {
        agent.max_idle_connections(0).timeout_read(settings.timeout.saturating_mul(PATIENCE))
    };
    let upload = Upload { client: Client::new(id, settings, adapt)?, id, progress };
    upload.run(&files).map_err(HubError::of_upload)
}

/// Finds what is wrong with an upload before there is anything to upload.
///
/// # Errors
///
/// When the id cannot be one, there is no token, or the network is not to be used.
pub fn check_upload(id: &str, settings: &HubSettings) -> Result<(), HubError> {
    if !is_id(id) {
        return Err(HubError::InvalidTarget(id.to_owned()));
    }
    if settings.offline {
        return Err(HubError::UploadOffline(id.to_owned()));
    }
    if settings.token.is_none() {
        return Err(HubError::NoToken);
    }
    Ok(())
}

/// How the hub wants a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wish {
    path: String,
    upload_mode: Mode,
    /// By the repository's `.gitignore`.
    #[serde(default)]
    should_ignore: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Regular,
    Lfs,
}

struct Upload<'a> {
    client: Client<'a>,
    id: &'a str,
    progress: &'a dyn Progress,
}

impl Upload<'_> {
    fn run(&self, files: &[LocalFile]) -> Result<String, HubError> {
        // A token for this repository alone may not create any; whether there is one shows in the next request.
        let not_created = match self.create() {
            Err(error @ HubError::WriteDenied { .. }) => Some(error),
            result => result.map(|()| None)?,
        };
        let wishes = self.wishes(files).map_err(|error| not_created.unwrap_or(error))?;

        let mut regular = Vec::new();
        let header = json!({"key": "header", "value": {"summary": SUMMARY, "description": ""}});
        let mut body = format!("{header}\n");
        for (file, wish) in files.iter().zip(wishes) {
            let line = match wish.upload_mode {
                _ if wish.should_ignore => {
                    self.progress.warn(&format!("{} is left out: the repository's .gitignore names it", file.name));
                    continue;
                }
                // Storage takes no empty objects.
                Mode::Lfs if file.size > 0 => {
                    let oid = self.send_object(file)?;
                    json!({"key": "lfsFile",
                        "value": {"path": file.name, "algo": "sha256", "oid": oid, "size": file.size}})
                }
                Mode::Lfs | Mode::Regular => {
                    regular.push(file);
                    let content = BASE64.encode(self.contents(file)?);
                    json!({"key": "file", "value": {"content": content, "path": file.name, "encoding": "base64"}})
                }
            };
            body.push_str(&format!("{line}\n"));
        }
        let address = self.commit(&body)?;
        for file in regular {
            self.progress.start(&file.name, file.size, file.size);
            self.progress.finish();
        }
        Ok(address)
    }

    /// Creates the repository unless it exists.
    fn create(&self) -> Result<(), HubError> {
        let url = self.client.address(["api", "repos", "create"]);
        let (organization, name) = self.id.split_once('/').unwrap_or_default();
        let body = json!({"name": name, "organization": organization, "type": "model"}).to_string();
        let created = self.client.retry(self.client.settings.retries, || match self.post(&url, JSON, &body) {
            // The hub creates one repository of an account at a time.
            Err(HubError::Conflict { why, .. }) if why.contains("in progress") => Err(unreachable(&url, why)),
            result => result,
        });
        match created {
            Err(HubError::Conflict { .. }) => Ok(()), // it exists
            result => result.map(drop),
        }
    }

    /// Asks how the hub wants each of the files.
    fn wishes(&self, files: &[LocalFile]) -> Result<Vec<Wish>, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            files: Vec<Wish>,
        }
        let url = self.client.url(&["api", "models"], &["preupload", DEFAULT_REVISION]);
        let mut wishes = Vec::new();
        for files in files.chunks(MAX_NAMES) {
            let entry = |file: &LocalFile| {
                Ok(json!({"path": file.name, "size": file.size, "sample": BASE64.encode(file.sample()?)}))
            };
            let entries: Vec<Value> = files.iter().map(entry).collect::<Result<_, HubError>>()?;
            let answer: Answer = self.ask(&url, JSON, &json!({"files": entries}))?;
            let mut answers: BTreeMap<_, _> = answer.files.into_iter().map(|wish| (wish.path.clone(), wish)).collect();
            for file in files {
                let wish = answers.remove(&file.name);
                wishes.push(wish.ok_or_else(|| unexpected(&url, format!("it says nothing of {}", file.name)))?);
            }
        }
        Ok(wishes)
    }

    /// All of a file that goes into the commit itself.
    fn contents(&self, file: &LocalFile) -> Result<Vec<u8>, HubError> {
        if file.size > MAX_REGULAR {
            let url = self.client.url(&[], &[]);
            let why = format!("it wants {}, {} bytes, as a regular file", file.name, file.size);
            return Err(unexpected(&url, why));
        }
        fs::read(&file.path).map_err(HubError::source(&file.path))
    }

    /// Makes the commit. Not repeated after a failure, since the commit may have been made: the same again would be
    /// an empty one.
    fn commit(&self, body: &str) -> Result<String, HubError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            commit_url: String,
        }
        let url = self.client.url(&["api", "models"], &["commit", DEFAULT_REVISION]);
        let answer: Answer = parse(&url, &self.post(&url, LINES, body)?)?;
        Ok(answer.commit_url)
    }

    /// Posts until there is an answer. For requests that do no harm when they come twice.
    fn ask<T: DeserializeOwned>(&self, url: &Url, media: &str, body: &Value) -> Result<T, HubError> {
        parse(url, &self.post_until_answered(url, media, body)?)
    }

    fn post_until_answered(&self, url: &Url, media: &str, body: &Value) -> Result<String, HubError> {
        let body = body.to_string();
        self.client.retry(self.client.settings.retries, || self.post(url, media, &body))
    }

    fn post(&self, url: &Url, media: &str, body: &str) -> Result<String, HubError> {
        self.send(self.client.request("POST", url), url, media, body)
    }

    fn send(&self, request: ureq::Request, url: &Url, media: &str, body: &str) -> Result<String, HubError> {
        let accept = if media == objects::MEDIA { media } else { "*/*" };
        let request = request.set("Content-Type", media).set("Accept", accept);
        let response = self.accepted(url, request.send_string(body))?;
        response.into_string().map_err(|error| unreachable(url, error.to_string()))
    }

    /// The response if it is a good one.
    fn accepted(&self, url: &Url, result: Result<Response, ureq::Error>) -> Result<Response, HubError> {
        match result {
            Ok(response) if (200..300).contains(&response.status()) => Ok(response),
            // Following would repeat the body elsewhere; most likely the endpoint is spelled with http.
            Ok(response) => {
                let target = response.header("location").unwrap_or("nowhere");
                let target = url.join(target).map_or_else(|_| "nowhere".to_owned(), |target| without_query(&target));
                Err(unexpected(url, format!("HTTP {}, a redirect to {target}", response.status())))
            }
            Err(ureq::Error::Status(status, response)) => Err(self.refusal(url, status, response)),
            Err(ureq::Error::Transport(error)) => Err(unreachable(url, cause(&error))),
        }
    }

    /// What an error status means.
    fn refusal(&self, url: &Url, status: u16, response: Response) -> HubError {
        let at_hub = self.client.is_hub(url);
        let id = self.id.to_owned();
        let why = match said(response) {
            Some(message) => format!("HTTP {status}, {message}"),
            None => format!("HTTP {status}"),
        };
        match status {
            408 | 429 | 500..=599 => unreachable(url, why),
            413 => HubError::TooLarge { url: without_query(url), why },
            401..=403 if at_hub => {
                let tokens = self.client.address(["settings", "tokens"]).to_string();
                HubError::WriteDenied { id, why, tokens }
            }
            404 if at_hub => HubError::RepoNotFound(id),
            409 if at_hub => HubError::Conflict { id, why },
            _ => HubError::Refused { url: without_query(url), why },
        }
    }
}

/// The hub's own words about an error, as one short line. Storage hosts have none: they answer in pages of XML.
fn said(response: Response) -> Option<String> {
    const MAX_CHARACTERS: usize = 200;
    let in_header = response.header("x-error-message").map(str::to_owned);
    let message = in_header.or_else(|| {
        let body: Value = serde_json::from_str(&response.into_string().ok()?).ok()?;
        Some(body["error"].as_str()?.to_owned())
    })?;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|character| !character.is_control()).take(MAX_CHARACTERS).collect();
    Some(line).filter(|line| !line.is_empty())
}

fn parse<T: DeserializeOwned>(url: &Url, text: &str) -> Result<T, HubError> {
    serde_json::from_str(text).map_err(|error| unexpected(url, error.to_string()))
}
