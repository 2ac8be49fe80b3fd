//! A hub on loopback that takes uploads: the routes of one, storage on a second port, faults on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::hub::server::sha256;
use crate::loopback::{Answer, Log, Request, serve};

pub(crate) const TOKEN: &str = "hf_secret";
/// Where parts are put together.
pub(crate) const COMPLETION: &str = "/api/complete?signature=secret";

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection closes after this many bytes of the request's body.
    Cut(u64),
    /// A refusal after the whole body.
    Status(u16, &'static str),
}

/// What the hub holds and how it behaves.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) repos: BTreeSet<String>,
    /// Bodies in storage by their sha256.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    /// Parts that wait to be put together, by address.
    pub(crate) parts: BTreeMap<String, Vec<u8>>,
    pub(crate) commits: Vec<BTreeMap<String, Vec<u8>>>,
    pub(crate) verified: Vec<String>,
    /// Larger objects come in parts of this size.
    pub(crate) part_size: usize,
    /// Used up by requests whose address contains the text, one by one.
    pub(crate) faults: VecDeque<(&'static str, Fault)>,
    /// Files that `.gitignore` names.
    pub(crate) ignored: BTreeSet<&'static str>,
    /// The addresses say huggingface.co, as those that a mirror passes on.
    pub(crate) behind_mirror: bool,
}

/// A running hub with its storage host.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
    log: Log,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State { part_size: 1 << 20, ..State::default() }));
        let log = Log::default();
        let storage = serve("storage", &state, &log, |state, request, body| {
            with_faults(state, request, body, |state, body| store(state, request, body))
        });
        let endpoint = serve("hub", &state, &log, move |state, request, body| {
            with_faults(state, request, body, |state, body| {
                let is_open = request.path == COMPLETION; // its address is signed
                if !is_open && request.headers.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
                    return answer(401, json!({"error": "Invalid username or password."}));
                }
                hub_answer(state, request, &body, &storage)
            })
        });
        Self { endpoint, state, log }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

fn answer(status: u16, body: Value) -> Answer {
    Answer::new(status, vec![], body.to_string().into_bytes())
}

/// Reads the body and answers, unless the next fault is about this request.
fn with_faults(
    state: &mut State,
    request: &Request,
    body: &mut dyn Read,
    handle: impl FnOnce(&mut State, Vec<u8>) -> Answer,
) -> Option<Answer> {
    let is_next = state.faults.front().is_some_and(|(part, _)| request.path.contains(*part));
    let fault = if is_next { state.faults.pop_front() } else { None };
    let mut bytes = Vec::new();
    if let Some((_, Fault::Cut(length))) = fault {
        body.take(length).read_to_end(&mut bytes).unwrap();
        return None;
    }
    body.read_to_end(&mut bytes).unwrap();
    if request.headers.get("content-length").is_some_and(|length| *length != bytes.len().to_string()) {
        return None; // the client gave up
    }
    match fault {
        Some((_, Fault::Status(status, message))) => Some(answer(status, json!({"error": message}))),
        _ => Some(handle(state, bytes)),
    }
}

/// A single object, or one part.
fn store(state: &mut State, request: &Request, body: Vec<u8>) -> Answer {
    assert_eq!(request.method, "PUT");
    assert!(request.headers.contains_key("content-length"), "storage hosts take no chunks");
    let (path, _) = request.path.split_once("?signature=").unwrap();
    let etag = format!("\"{}\"", &sha256(&body)[..8]);
    match path.strip_prefix("/object/") {
        // The address is made for these contents.
        Some(oid) if oid != sha256(&body) => return answer(400, json!({})),
        Some(oid) => drop(state.objects.insert(oid.to_owned(), body)),
        None => drop(state.parts.insert(path.to_owned(), body)),
    }
    Answer::new(200, vec![("ETag", etag)], Vec::new())
}

fn hub_answer(state: &mut State, request: &Request, body: &[u8], storage: &str) -> Answer {
    assert_eq!(request.method, "POST");
    let host = request.headers["host"].as_str();
    let own = if state.behind_mirror { "https://huggingface.co".to_owned() } else { format!("http://{host}") };
    let lines: Vec<Value> = serde_json::Deserializer::from_slice(body).into_iter().map(Result::unwrap).collect();
    if request.path == "/api/repos/create" {
        return create(state, &lines[0], &own);
    }
    if !state.repos.contains("org/name") {
        return answer(404, json!({"error": "Repository not found"}));
    }
    match request.path.as_str() {
        "/api/models/org/name/preupload/main" => preupload(state, &lines[0]),
        "/org/name.git/info/lfs/objects/batch" => {
            assert_eq!(request.headers["content-type"], "application/vnd.git-lfs+json");
            assert_eq!(request.headers["accept"], "application/vnd.git-lfs+json");
            batch(state, &lines[0], storage, &own)
        }
        COMPLETION => complete(state, &lines[0]),
        "/api/verify" => verify(state, &lines[0]),
        "/api/models/org/name/commit/main" => {
            assert_eq!(request.headers["content-type"], "application/x-ndjson");
            commit(state, &lines, &own)
        }
        _ => answer(404, json!({"error": "Not found"})),
    }
}

fn create(state: &mut State, wanted: &Value, own: &str) -> Answer {
    assert_eq!(wanted["type"], "model");
    let id = format!("{}/{}", wanted["organization"].as_str().unwrap(), wanted["name"].as_str().unwrap());
    let url = format!("{own}/{id}");
    match state.repos.insert(id) {
        true => answer(200, json!({"url": url})),
        false => answer(409, json!({"error": "You already created this model repo"})),
    }
}

fn preupload(state: &State, wanted: &Value) -> Answer {
    let files = wanted["files"].as_array().unwrap().iter().map(|file| {
        let path = file["path"].as_str().unwrap();
        let sample = BASE64.decode(file["sample"].as_str().unwrap()).unwrap();
        assert_eq!(sample.len() as u64, file["size"].as_u64().unwrap().min(512));
        let mode = if std::str::from_utf8(&sample).is_ok() && !path.ends_with(".bin") { "regular" } else { "lfs" };
        json!({"path": path, "uploadMode": mode, "shouldIgnore": state.ignored.contains(path)})
    });
    answer(200, json!({"files": files.collect::<Vec<_>>()}))
}

fn batch(state: &State, wanted: &Value, storage: &str, own: &str) -> Answer {
    assert_eq!(wanted["operation"], "upload");
    assert_eq!(wanted["transfers"], json!(["basic", "multipart"]));
    let objects = wanted["objects"].as_array().unwrap().iter().map(|object| {
        let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
        let mut answer = json!({"oid": oid, "size": size});
        if state.objects.contains_key(oid) {
            return answer;
        }
        let upload = if size > state.part_size {
            let mut header = json!({"chunk_size": state.part_size.to_string()});
            for number in 1..=size.div_ceil(state.part_size) {
                header[format!("{number:05}")] = json!(format!("{storage}/part/{oid}/{number}?signature=secret"));
            }
            json!({"href": format!("{own}{COMPLETION}"), "header": header})
        } else {
            json!({"href": format!("{storage}/object/{oid}?signature=secret")})
        };
        answer["actions"] = json!({"upload": upload, "verify": {"href": format!("{own}/api/verify")}});
        answer
    });
    answer(200, json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()}))
}

fn complete(state: &mut State, wanted: &Value) -> Answer {
    let oid = wanted["oid"].as_str().unwrap();
    let mut whole = Vec::new();
    for (index, part) in wanted["parts"].as_array().unwrap().iter().enumerate() {
        assert_eq!(part["partNumber"], index + 1);
        let body = state.parts.remove(&format!("/part/{oid}/{}", index + 1)).unwrap();
        assert_eq!(part["etag"], format!("\"{}\"", &sha256(&body)[..8]));
        whole.extend(body);
    }
    if sha256(&whole) != oid {
        return answer(400, json!({"error": "another hash"}));
    }
    state.objects.insert(oid.to_owned(), whole);
    answer(200, json!({}))
}

fn verify(state: &mut State, wanted: &Value) -> Answer {
    let oid = wanted["oid"].as_str().unwrap();
    match state.objects.get(oid) {
        Some(body) if wanted["size"] == body.len() => {
            state.verified.push(oid.to_owned());
            Answer::new(200, vec![], Vec::new())
        }
        _ => answer(404, json!({"error": "no such object"})),
    }
}

fn commit(state: &mut State, lines: &[Value], own: &str) -> Answer {
    assert_eq!(lines[0]["key"], "header");
    assert!(!lines[0]["value"]["summary"].as_str().unwrap().is_empty());
    let mut files = BTreeMap::new();
    for line in &lines[1..] {
        let value = &line["value"];
        let body = if line["key"] == "file" {
            assert_eq!(value["encoding"], "base64");
            BASE64.decode(value["content"].as_str().unwrap()).unwrap()
        } else {
            assert_eq!((&line["key"], &value["algo"]), (&json!("lfsFile"), &json!("sha256")));
            let body = state.objects[value["oid"].as_str().unwrap()].clone();
            assert_eq!(value["size"], body.len());
            body
        };
        files.insert(value["path"].as_str().unwrap().to_owned(), body);
    }
    state.commits.push(files);
    answer(200, json!({"success": true, "commitOid": "1234", "commitUrl": format!("{own}/org/name/commit/1234")}))
}
