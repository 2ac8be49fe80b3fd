//! Objects of large file storage: git LFS's batch protocol, with the hub's own transfer in parts for large ones.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Response;
use url::Url;

use super::files::LocalFile;
use super::{JSON, Upload};
use crate::checkpoint::hub::client::{unexpected, without_query};
use crate::checkpoint::hub::settings::DEFAULT_ENDPOINT;
use crate::checkpoint::hub::{DEFAULT_REVISION, HubError};

pub(super) const MEDIA: &str = "application/vnd.git-lfs+json";
/// Key among the headers of an upload in parts; the others are the parts' numbers.
const CHUNK_SIZE: &str = "chunk_size";

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

/// What is to be done for an object.
#[derive(Deserialize)]
struct Object {
    oid: String,
    /// None if storage has it.
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    message: String,
}

#[derive(Default, Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    header: Option<BTreeMap<String, Value>>,
}

impl Upload<'_> {
    /// Makes sure that storage has the contents of a file, and returns their name.
    pub(super) fn send_object(&self, file: &LocalFile) -> Result<String, HubError> {
        let oid = file.sha256()?;
        // One request per object: the addresses in the answer are valid for a limited time.
        let Actions { upload, verify } = self.actions(file, &oid)?;
        let Some(upload) = upload else {
            self.progress.start(&file.name, file.size, file.size);
            self.progress.finish();
            return Ok(oid);
        };
        let url = self.href(&upload.href)?;
        self.progress.start(&file.name, file.size, 0);
        let header = upload.header.unwrap_or_default();
        match header.get(CHUNK_SIZE) {
            None => drop(self.put(&url, file, 0..file.size)?),
            Some(size) => self.put_parts(&url, size, &header, file, &oid)?,
        }
        if let Some(verify) = verify {
            self.post_until_answered(&self.href(&verify.href)?, JSON, &json!({"oid": oid, "size": file.size}))?;
        }
        self.progress.finish();
        Ok(oid)
    }

    /// Asks where the object is to be sent.
    fn actions(&self, file: &LocalFile, oid: &str) -> Result<Actions, HubError> {
        let (organization, name) = self.id.split_once('/').unwrap_or_default();
        let repository = format!("{name}.git");
        let url = self.client.address([organization, repository.as_str(), "info", "lfs", "objects", "batch"]);
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": oid, "size": file.size}],
            "hash_algo": "sha256",
            "ref": {"name": DEFAULT_REVISION},
        });
        let batch: Batch = self.ask(&url, MEDIA, &body)?;
        let object = batch.objects.into_iter().find(|object| object.oid == oid);
        let object = object.ok_or_else(|| unexpected(&url, format!("it says nothing of {}", file.name)))?;
        match object.error {
            Some(error) => Err(HubError::Refused {
                url: without_query(&url),
                why: format!("{}: {}", file.name, error.message.split_whitespace().collect::<Vec<_>>().join(" ")),
            }),
            None => Ok(object.actions.unwrap_or_default()),
        }
    }

    /// Sends an object in parts, and has the hub put them together.
    fn put_parts(
        &self,
        completion: &Url,
        size: &Value,
        header: &BTreeMap<String, Value>,
        file: &LocalFile,
        oid: &str,
    ) -> Result<(), HubError> {
        let size = size.as_u64().or_else(|| size.as_str()?.parse().ok()).filter(|size| *size > 0);
        let size = size.ok_or_else(|| unexpected(completion, "no usable size of parts".to_owned()))?;
        let numbered = |(key, url): (&String, &Value)| Some((key.parse().ok()?, url.as_str()?.to_owned()));
        let urls: BTreeMap<u64, String> = header.iter().filter_map(numbered).collect();
        let count = file.size.div_ceil(size);
        if !urls.keys().copied().eq(1..=count) {
            return Err(unexpected(completion, format!("no addresses for {count} parts of {}", file.name)));
        }

        let mut parts = Vec::new();
        for (number, url) in urls {
            let url = Url::parse(&url).map_err(|error| unexpected(completion, format!("part {number}: {error}")))?;
            let start = (number - 1) * size;
            let response = self.put(&url, file, start..file.size.min(start + size))?;
            let etag = response.header("etag").filter(|etag| !etag.is_empty());
            let etag = etag.ok_or_else(|| unexpected(&url, format!("no etag for part {number}")))?;
            parts.push(json!({"partNumber": number, "etag": etag}));
        }
        // As with the parts, the address carries the permission.
        let body = json!({"oid": oid, "parts": parts}).to_string();
        let complete = || {
            let request = self.client.agent.request_url("POST", completion);
            self.send(request, completion, MEDIA, &body)
        };
        self.client.retry(self.client.settings.retries, complete).map(drop)
    }

    /// Sends bytes of a file to storage. The address carries the permission; the token stays out of it.
    fn put(&self, url: &Url, file: &LocalFile, range: Range<u64>) -> Result<Response, HubError> {
        let is_repeated = Cell::new(false);
        self.client.retry(self.client.settings.retries, || {
            if is_repeated.replace(true) {
                self.progress.start(&file.name, file.size, range.start);
            }
            let mut slice = file.slice(range.clone(), self.progress)?;
            // With the length announced, ureq sends the bytes as they are, which storage hosts insist on.
            let length = (range.end - range.start).to_string();
            let request = self.client.agent.request_url("PUT", url).set("Content-Length", &length);
            let result = request.send(&mut slice);
            match slice.failure {
                Some(error) => Err(HubError::source(&file.path)(error)),
                None => self.accepted(url, result),
            }
        })
    }

    /// The address of an action. A mirror passes on answers in which the hub's own address stands for it.
    fn href(&self, href: &str) -> Result<Url, HubError> {
        let endpoint = self.client.settings.endpoint.trim_end_matches('/');
        let rest = href.strip_prefix(DEFAULT_ENDPOINT).filter(|rest| rest.starts_with('/'));
        let address = rest.map_or_else(|| href.to_owned(), |rest| format!("{endpoint}{rest}"));
        Url::parse(&address)
            .map_err(|error| unexpected(&self.client.url(&[], &[]), format!("an action leads nowhere: {error}")))
    }
}
