//! A hub on loopback: the routes that a download uses, storage on a second port, faults on demand, a log of requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::loopback::{Answer, Log, Request, serve};

/// What goes wrong with one body from the storage host.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection closes after this many bytes.
    Cut(usize),
    /// A refusal.
    Status(u16),
    /// Another body than announced.
    Wrong(Vec<u8>),
    /// The same, without a `Content-Length` that would show it.
    CutUnannounced(usize),
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// Another range than asked for, and so labelled.
    OtherRange,
}

/// What the hub holds and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Answer to every request at the hub, if set: status and `X-Error-Code`.
    pub(crate) refuse: Option<(u16, &'static str)>,
    /// The same for files only.
    pub(crate) refuse_files: Option<(u16, &'static str)>,
    /// Used up one by one by bodies from the storage host.
    pub(crate) faults: VecDeque<Fault>,
    /// The etag of every file, if set.
    pub(crate) etag: Option<&'static str>,
}

/// A running hub with its storage host. The threads end with the test process.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
    log: Log,
}

impl Hub {
    pub(crate) fn start(commit: &str, files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, body)| ((*name).to_owned(), body.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { commit: commit.to_owned(), files, ..State::default() }));
        let log = Log::default();
        let storage = serve("storage", &state, &log, |state, request, _| Some(storage_answer(state, request)));
        let endpoint = serve("hub", &state, &log, move |state, request, _| Some(hub_answer(state, request, &storage)));
        Self { endpoint, state, log }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Takes the log so far.
    pub(crate) fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What git calls a file with these contents.
pub(crate) fn git_blob(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

fn hub_answer(state: &mut State, request: &Request, storage: &str) -> Answer {
    if let Some((status, code)) = state.refuse {
        return Answer::new(status, vec![("X-Error-Code", code.to_owned())], Vec::new());
    }
    let path = request.path.split('?').next().unwrap_or_default();
    if path.starts_with("/api/models/org/name/revision/") {
        return Answer::new(200, vec![], listing(state).to_string().into_bytes());
    }
    if path.starts_with("/api/models/org/name/tree/") {
        return Answer::new(200, vec![("Content-Type", "application/json".to_owned())], tree(state).into_bytes());
    }
    let Some((_, file)) = path.strip_prefix("/org/name/resolve/").and_then(|rest| rest.split_once('/')) else {
        return Answer::new(404, vec![("X-Error-Code", "RepoNotFound".to_owned())], Vec::new());
    };
    if let Some((status, code)) = state.refuse_files {
        return Answer::new(status, vec![("X-Error-Code", code.to_owned())], Vec::new());
    }
    let Some(body) = state.files.get(file).cloned() else {
        return Answer::new(404, vec![("X-Error-Code", "EntryNotFound".to_owned())], Vec::new());
    };
    let commit = ("X-Repo-Commit", state.commit.clone());
    let etag = |own: String| format!("\"{}\"", state.etag.map_or(own, str::to_owned));
    if is_large(file) {
        let linked = ("X-Linked-Etag", etag(sha256(&body)));
        let headers = vec![
            ("Location", format!("{storage}/{file}?signature=secret")),
            linked,
            ("X-Linked-Size", body.len().to_string()),
            ("ETag", "\"of-the-redirect\"".to_owned()),
            commit,
        ];
        Answer::new(302, headers, b"moved".to_vec())
    } else {
        Answer::new(200, vec![("ETag", etag(git_blob(&body))), commit], body)
    }
}

fn listing(state: &State) -> serde_json::Value {
    let sibling = |(name, body): (&String, &Vec<u8>)| serde_json::json!({"rfilename": name, "size": body.len()});
    let siblings: Vec<_> = state.files.iter().map(sibling).collect();
    serde_json::json!({"id": "org/name", "sha": state.commit, "siblings": siblings})
}

/// The listing that newer versions of Python's client ask for.
fn tree(state: &State) -> String {
    let entry = |(name, body): (&String, &Vec<u8>)| {
        let mut entry = serde_json::json!({"type": "file", "path": name, "size": body.len(), "oid": git_blob(body)});
        if is_large(name) {
            entry["lfs"] = serde_json::json!({"oid": sha256(body), "size": body.len(), "pointerSize": 130});
        }
        entry
    };
    serde_json::Value::Array(state.files.iter().map(entry).collect()).to_string()
}

fn storage_answer(state: &mut State, request: &Request) -> Answer {
    let name = request.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let Some(body) = state.files.get(name).cloned() else { return Answer::new(404, vec![], Vec::new()) };
    let fault = state.faults.pop_front();
    let whole = match &fault {
        Some(Fault::Status(status)) => return Answer::new(*status, vec![], Vec::new()),
        Some(Fault::Wrong(wrong)) => wrong.clone(),
        _ => body,
    };
    let from: Option<usize> =
        request.range().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let mut answer = match from.filter(|_| !matches!(fault, Some(Fault::IgnoreRange))) {
        None => Answer::new(200, vec![], whole),
        Some(from) if from >= whole.len() => Answer::new(416, vec![], Vec::new()),
        Some(from) => {
            let shift = usize::from(matches!(fault, Some(Fault::OtherRange)));
            let (from, end) = (from - shift, whole.len() - shift);
            let range = format!("bytes {from}-{}/{}", end - 1, whole.len());
            Answer::new(206, vec![("Content-Range", range)], whole[from..end].to_vec())
        }
    };
    answer.headers.push(("ETag", "\"md5-of-the-storage-host\"".to_owned()));
    if let Some(Fault::Cut(until) | Fault::CutUnannounced(until)) = fault {
        answer.until = answer.until.min(until);
        answer.announced = matches!(fault, Some(Fault::Cut(_)));
    }
    answer
}
