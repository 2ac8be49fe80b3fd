//! Locating a model: folders, hub ids, the cache, and every way in which a download can go wrong.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use phi3v::checkpoint::hub::{HubError, HubSettings, Progress, locate};

use self::server::{Fault, Hub, git_blob, sha256};
use crate::loopback::Request;

pub(crate) mod server;

const MODEL: &str = "org/name";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";
const WEIGHTS: &str = "model.safetensors";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &[u8] = br#"{"metadata": {}, "weight_map": {
    "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;

/// Bytes that differ at every place where a resumed transfer could go wrong.
pub(crate) fn weights(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

/// A hub with a one-file model of 300 kB, and an empty cache.
struct Setup {
    hub: Hub,
    settings: HubSettings,
    weights: Vec<u8>,
    _cache: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let weights = weights(300_000);
        Self::with(&[("config.json", b"{}"), ("tokenizer.json", b"{\"t\": 1}"), (WEIGHTS, &weights)])
    }

    fn sharded() -> Self {
        Self::with(&[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{\"t\": 1}"),
            ("model.safetensors.index.json", INDEX),
            (SHARDS[0], &weights(5000)),
            (SHARDS[1], &weights(6000)),
        ])
    }

    fn with(files: &[(&str, &[u8])]) -> Self {
        let hub = Hub::start(COMMIT, files);
        let cache = tempfile::tempdir().unwrap();
        let mut settings = HubSettings::from_vars(|_| None);
        settings.cache = cache.path().to_owned();
        settings.endpoint = hub.endpoint.clone();
        settings.token = None;
        settings.timeout = Duration::from_secs(2);
        settings.retries = 2;
        settings.backoff = Duration::from_millis(1);
        let weights = files.iter().find(|(name, _)| *name == WEIGHTS).map_or(Vec::new(), |(_, body)| body.to_vec());
        Self { hub, settings, weights, _cache: cache }
    }

    fn locate(&self) -> Result<PathBuf, HubError> {
        locate(MODEL, None, &self.settings, &())
    }

    fn repo(&self) -> PathBuf {
        self.settings.cache.join("models--org--name")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    fn blob_of_weights(&self) -> PathBuf {
        self.repo().join("blobs").join(sha256(&self.weights))
    }

    fn partial(&self) -> PathBuf {
        self.blob_of_weights().with_extension("incomplete")
    }

    fn fault(&self, faults: &[Fault]) {
        self.hub.state().faults = faults.iter().cloned().collect();
    }
}

/// The transfers from the storage host in a log.
fn transfers(log: &[Request]) -> Vec<&Request> {
    log.iter().filter(|request| request.host == "storage").collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Keeps what it was told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) starts: Mutex<Vec<(String, u64, u64)>>,
    pub(crate) advanced: Mutex<u64>,
    pub(crate) finished: Mutex<usize>,
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl Progress for Recorder {
    fn start(&self, file: &str, total: u64, already: u64) {
        self.starts.lock().unwrap().push((file.to_owned(), total, already));
    }

    fn advance(&self, bytes: u64) {
        *self.advanced.lock().unwrap() += bytes;
    }

    fn finish(&self) {
        *self.finished.lock().unwrap() += 1;
    }

    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_owned());
    }
}

// ---- what is fetched, and where it lies -----------------------------------------------------------------------------

#[test]
fn a_fresh_download_fills_the_cache_as_python_does() {
    let setup = Setup::new();
    let recorder = Recorder::default();
    let folder = locate(MODEL, None, &setup.settings, &recorder).unwrap();

    assert_eq!(folder, setup.snapshot());
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), setup.weights);
    assert_eq!(fs::read_to_string(setup.repo().join("refs/main")).unwrap(), COMMIT);
    let mut blobs = vec![git_blob(b"{}"), git_blob(b"{\"t\": 1}"), sha256(&setup.weights)];
    blobs.sort();
    assert_eq!(names(&setup.repo().join("blobs")), blobs);
    #[cfg(unix)]
    assert_eq!(fs::read_link(folder.join(WEIGHTS)).unwrap(), Path::new("../../blobs").join(sha256(&setup.weights)));

    assert!(recorder.starts.lock().unwrap().contains(&(WEIGHTS.to_owned(), 300_000, 0)));
    assert_eq!(*recorder.advanced.lock().unwrap(), 300_000 + 2 + 8);
    assert_eq!(*recorder.finished.lock().unwrap(), 3);
}

#[test]
fn only_what_belongs_to_the_model_is_fetched() {
    let setup = Setup::sharded();
    for name in ["consolidated.safetensors", "pytorch_model.bin", "cat.png", "onnx/model.onnx", "original/a.json"] {
        setup.hub.state().files.insert(name.to_owned(), b"unwanted".to_vec());
    }
    let mut wanted =
        vec!["LICENSE", "README.md", "chat_template.jinja", "merges.txt", "modeling.py", "tokenizer.model"];
    for name in &wanted {
        setup.hub.state().files.insert((*name).to_owned(), name.as_bytes().to_vec());
    }
    wanted.extend(["config.json", "tokenizer.json", "model.safetensors.index.json", SHARDS[0], SHARDS[1]]);
    wanted.sort_unstable();
    assert_eq!(names(&setup.locate().unwrap()), wanted);
}

#[test]
fn a_second_call_asks_for_the_revision_and_fetches_nothing() {
    let setup = Setup::new();
    let first = setup.locate().unwrap();
    setup.hub.take_log();
    assert_eq!(setup.locate().unwrap(), first);
    let log = setup.hub.take_log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].path.starts_with("/api/models/org/name/revision/main"));
}

#[test]
fn a_branch_that_moved_fetches_what_changed() {
    let setup = Setup::new();
    setup.locate().unwrap();
    setup.hub.take_log();
    setup.hub.state().commit = NEXT_COMMIT.to_owned();
    setup.hub.state().files.insert("config.json".to_owned(), b"{\"new\": 1}".to_vec());
    let folder = setup.locate().unwrap();
    assert!(folder.ends_with(NEXT_COMMIT));
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{\"new\": 1}");
    assert!(transfers(&setup.hub.take_log()).is_empty(), "the weights are the same blob");
    assert_eq!(fs::read(setup.snapshot().join("config.json")).unwrap(), b"{}", "the old snapshot stays");
}

#[test]
fn a_cached_commit_needs_no_network() {
    let setup = Setup::new();
    setup.locate().unwrap();
    setup.hub.take_log();
    assert_eq!(locate(MODEL, Some(COMMIT), &setup.settings, &()).unwrap(), setup.snapshot());
    assert!(setup.hub.take_log().is_empty());
    // One that is not whole is completed. A commit needs no note of where it is.
    fs::remove_file(setup.blob_of_weights()).unwrap();
    locate(MODEL, Some(COMMIT), &setup.settings, &()).unwrap();
    assert_eq!(transfers(&setup.hub.take_log()).len(), 1);
    assert_eq!(names(&setup.repo().join("refs")), ["main"]);
}

#[test]
fn a_revision_is_one_escaped_part_of_the_address() {
    let setup = Setup::new();
    locate(MODEL, Some("refs/pr/1"), &setup.settings, &()).unwrap();
    assert!(setup.hub.take_log()[0].path.starts_with("/api/models/org/name/revision/refs%2Fpr%2F1"));
    assert_eq!(fs::read_to_string(setup.repo().join("refs/refs/pr/1")).unwrap(), COMMIT);
}

#[test]
fn a_cached_file_of_the_wrong_size_is_fetched_again() {
    let setup = Setup::new();
    setup.locate().unwrap();
    fs::write(setup.blob_of_weights(), b"short").unwrap();
    setup.locate().unwrap();
    assert_eq!(fs::read(setup.snapshot().join(WEIGHTS)).unwrap(), setup.weights);
}

// ---- access ---------------------------------------------------------------------------------------------------------

#[test]
fn the_token_goes_to_the_hub_and_never_to_the_storage_host() {
    let mut setup = Setup::new();
    setup.settings.token = Some("hf_secret".to_owned());
    setup.locate().unwrap();
    let log = setup.hub.take_log();
    for request in &log {
        let token = request.headers.get("authorization").map(String::as_str);
        let expected = if request.host == "hub" { Some("Bearer hf_secret") } else { None };
        assert_eq!(token, expected, "{request:?}");
    }
    assert_eq!(transfers(&log).len(), 1);
}

#[test]
fn a_gated_model_says_where_to_accept_the_licence() {
    let mut setup = Setup::new();
    setup.hub.state().refuse_files = Some((401, "GatedRepo"));
    let message = setup.locate().unwrap_err().to_string();
    let page = format!("set HF_TOKEN and accept the licence at {}/org/name", setup.hub.endpoint);
    assert!(message.ends_with(&page), "{message}");

    setup.settings.token = Some("hf_secret".to_owned());
    setup.hub.state().refuse_files = Some((403, "GatedRepo"));
    let message = setup.locate().unwrap_err().to_string();
    assert!(message.contains("accept the licence with the account of your HF_TOKEN"), "{message}");
    assert!(!message.contains("hf_secret"));
    assert!(!setup.repo().join("refs").exists());
}

#[test]
fn what_is_not_there_is_told_apart() {
    let setup = Setup::new();
    let refused_with = |status, code| {
        setup.hub.state().refuse = Some((status, code));
        setup.locate().unwrap_err()
    };
    assert!(matches!(refused_with(404, "RepoNotFound"), HubError::RepoNotFound(_)));
    assert!(
        matches!(refused_with(401, "RepoNotFound"), HubError::RepoNotFound(_)),
        "what the hub says without a token"
    );
    assert!(matches!(refused_with(404, "RevisionNotFound"), HubError::RevisionNotFound { .. }));
    assert!(matches!(refused_with(403, ""), HubError::Denied { .. }));
    assert!(matches!(refused_with(418, ""), HubError::Unexpected { .. }));
    setup.hub.state().refuse = None;
    setup.hub.state().refuse_files = Some((404, "EntryNotFound"));
    assert!(matches!(setup.locate(), Err(HubError::FileNotFound { .. })));
}

// ---- broken transfers -----------------------------------------------------------------------------------------------

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let setup = Setup::new();
    setup.fault(&[Fault::Cut(100_000), Fault::Cut(50_000)]);
    let folder = setup.locate().unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), setup.weights);
    let log = setup.hub.take_log();
    let ranges: Vec<_> = transfers(&log).iter().map(|request| request.range()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=150000-")]);
    let sent: usize = transfers(&log).iter().map(|request| request.sent).sum();
    assert_eq!(sent, setup.weights.len(), "no byte twice");
}

#[test]
fn a_transfer_that_stays_broken_publishes_nothing_and_a_later_run_resumes() {
    let setup = Setup::new();
    setup.fault(&[Fault::Cut(100_000), Fault::Cut(0), Fault::Status(503)]);
    let error = setup.locate().unwrap_err();
    assert!(error.is_network(), "{error}");
    assert!(!error.to_string().contains("signature"), "{error}");
    assert!(!setup.blob_of_weights().exists() && !setup.snapshot().join(WEIGHTS).exists());
    assert!(!setup.repo().join("refs").exists());
    assert_eq!(fs::metadata(setup.partial()).unwrap().len(), 100_000);
    assert!(setup.hub.state().faults.is_empty(), "it tried three times");
    setup.hub.take_log();

    let recorder = Recorder::default();
    let folder = locate(MODEL, None, &setup.settings, &recorder).unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), setup.weights);
    let log = setup.hub.take_log();
    assert_eq!(transfers(&log)[0].range(), Some("bytes=100000-"));
    assert_eq!(*recorder.starts.lock().unwrap(), [(WEIGHTS.to_owned(), 300_000, 100_000)]);
    assert_eq!(*recorder.advanced.lock().unwrap(), 200_000);
    assert!(!setup.partial().exists());
}

#[test]
fn a_file_that_changed_meanwhile_starts_from_its_first_byte() {
    let mut setup = Setup::new();
    setup.settings.retries = 0;
    setup.fault(&[Fault::Cut(100_000)]);
    setup.locate().unwrap_err();
    let changed = vec![7; 300_000];
    setup.hub.state().files.insert(WEIGHTS.to_owned(), changed.clone());
    setup.hub.take_log();
    let folder = setup.locate().unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), changed);
    assert_eq!(transfers(&setup.hub.take_log())[0].range(), None);
}

#[test]
fn a_storage_host_that_ignores_the_range_starts_over() {
    let setup = Setup::new();
    setup.fault(&[Fault::Cut(100_000), Fault::IgnoreRange]);
    let folder = setup.locate().unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), setup.weights);
    assert_eq!(transfers(&setup.hub.take_log()).len(), 2);
}

#[test]
fn an_end_without_a_length_is_no_end() {
    let setup = Setup::new();
    setup.fault(&[Fault::CutUnannounced(100_000)]);
    let folder = setup.locate().unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), setup.weights);
    assert_eq!(transfers(&setup.hub.take_log())[1].range(), Some("bytes=100000-"));
}

#[test]
fn another_range_than_asked_for_is_not_appended() {
    let setup = Setup::new();
    // A mirror with etags of its own: no hash would find the fault.
    setup.hub.state().etag = Some("no-hash");
    setup.fault(&[Fault::Cut(100_000), Fault::OtherRange]);
    let folder = setup.locate().unwrap();
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), setup.weights);
}

#[test]
fn a_signed_address_that_ran_out_is_asked_for_again() {
    let setup = Setup::new();
    setup.fault(&[Fault::Status(403), Fault::Status(404)]);
    setup.locate().unwrap();
}

#[test]
fn damage_in_a_partial_file_is_found_and_mended() {
    let setup = Setup::new();
    for left_behind in [vec![0; 100_000], vec![0; 300_000], vec![0; 300_001]] {
        fs::create_dir_all(setup.repo().join("blobs")).unwrap();
        fs::write(setup.partial(), left_behind).unwrap();
        let folder = setup.locate().unwrap();
        assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), setup.weights);
        fs::remove_dir_all(setup.repo()).unwrap();
    }
}

#[test]
fn wrong_bytes_are_never_kept() {
    let mut flipped = weights(300_000);
    flipped[150_000] ^= 1;
    let too_long = [weights(300_000), vec![0]].concat();
    for wrong in [flipped, weights(299_999), too_long, Vec::new()] {
        let setup = Setup::new();
        setup.fault(&[Fault::Wrong(wrong.clone()), Fault::Wrong(wrong)]);
        let error = setup.locate().unwrap_err();
        assert!(matches!(error, HubError::Corrupt { .. }), "{error}");
        assert!(!setup.blob_of_weights().exists() && !setup.partial().exists());
        assert!(!setup.snapshot().join(WEIGHTS).exists() && !setup.repo().join("refs").exists());
    }
}

#[test]
fn a_small_file_is_verified_too() {
    let setup = Setup::new();
    setup.hub.state().etag = Some("0000000000000000000000000000000000000000");
    assert!(matches!(setup.locate(), Err(HubError::Corrupt { .. })));
}

#[test]
fn two_downloads_at_once_share_the_work() {
    let setup = Setup::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| setup.locate())).collect();
        for run in runs {
            assert_eq!(fs::read(run.join().unwrap().unwrap().join(WEIGHTS)).unwrap(), setup.weights);
        }
    });
    assert_eq!(transfers(&setup.hub.take_log()).len(), 1);
    assert_eq!(names(&setup.snapshot()), ["config.json", WEIGHTS, "tokenizer.json"]);
    assert_eq!(names(&setup.repo().join("refs")), ["main"]);
}

// ---- without the hub ------------------------------------------------------------------------------------------------

#[test]
fn offline_uses_the_cache_and_nothing_else() {
    let mut setup = Setup::new();
    setup.settings.offline = true;
    let message = setup.locate().unwrap_err().to_string();
    assert!(message.starts_with("offline and not in the cache: org/name at main"), "{message}");
    setup.settings.offline = false;
    setup.locate().unwrap();
    setup.hub.take_log();
    setup.settings.offline = true;
    assert_eq!(setup.locate().unwrap(), setup.snapshot());
    assert_eq!(locate(MODEL, Some(COMMIT), &setup.settings, &()).unwrap(), setup.snapshot());
    assert!(matches!(locate(MODEL, Some("other"), &setup.settings, &()), Err(HubError::Offline { .. })));
    assert!(setup.hub.take_log().is_empty());
}

#[test]
fn offline_refuses_a_snapshot_that_is_not_whole() {
    let mut setup = Setup::sharded();
    let folder = setup.locate().unwrap();
    setup.settings.offline = true;
    let lacking = || match setup.locate() {
        Err(HubError::Offline { missing, .. }) => missing,
        other => panic!("{other:?}"),
    };
    let blob = fs::canonicalize(folder.join(SHARDS[1])).unwrap();
    fs::rename(&blob, blob.with_extension("away")).unwrap();
    assert_eq!(lacking(), SHARDS[1], "a dangling link");
    fs::remove_file(folder.join(SHARDS[1])).unwrap();
    assert_eq!(lacking(), SHARDS[1], "a shard that only the index names");
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    assert_eq!(lacking(), "model.safetensors.index.json", "a shard without an index");
    fs::remove_file(folder.join(SHARDS[0])).unwrap();
    assert_eq!(lacking(), "*.safetensors");
    fs::remove_file(setup.repo().join("blobs").join(git_blob(b"{\"t\": 1}"))).unwrap();
    assert_eq!(lacking(), "tokenizer.json", "a dangling link beside the weights");
    fs::remove_file(folder.join("config.json")).unwrap();
    assert_eq!(lacking(), "config.json");
    fs::write(setup.repo().join("refs/main"), "../../../etc").unwrap();
    assert_eq!(lacking(), "refs/main", "a reference that is no commit");
}

#[test]
fn a_hub_that_is_down_means_the_cached_copy_with_a_warning() {
    let mut setup = Setup::new();
    setup.hub.state().refuse = Some((503, ""));
    assert!(setup.locate().unwrap_err().is_network());
    assert_eq!(setup.hub.take_log().len(), 3, "it tries again when there is nothing else");
    setup.hub.state().refuse = None;
    setup.locate().unwrap();
    setup.hub.take_log();

    setup.hub.state().refuse = Some((503, ""));
    let recorder = Recorder::default();
    assert_eq!(locate(MODEL, None, &setup.settings, &recorder).unwrap(), setup.snapshot());
    assert_eq!(setup.hub.take_log().len(), 1);
    // A port that nobody listens on.
    setup.settings.endpoint = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    assert_eq!(locate(MODEL, None, &setup.settings, &recorder).unwrap(), setup.snapshot());
    let warnings = recorder.warnings.lock().unwrap();
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|warning| warning.contains("Using the cached copy of org/name")), "{warnings:?}");

    fs::remove_file(setup.blob_of_weights()).unwrap();
    assert!(setup.locate().unwrap_err().is_network(), "a copy that is not whole does not count");
}

// ---- what a hub must not be able to do, and what a user may type ----------------------------------------------------

#[test]
fn no_name_leads_out_of_the_cache() {
    for name in ["../evil.json", "/evil.json", "a/../../evil.json", "..\\evil.json"] {
        let setup = Setup::new();
        setup.hub.state().files.insert(name.to_owned(), b"{}".to_vec());
        assert!(matches!(setup.locate(), Err(HubError::UnsafeName(found)) if found == name));
        assert!(!setup.repo().exists());
    }
    let setup = Setup::sharded();
    let index = br#"{"weight_map": {"a": "../../x.safetensors"}}"#.to_vec();
    setup.hub.state().files.insert("model.safetensors.index.json".to_owned(), index);
    assert!(matches!(setup.locate(), Err(HubError::UnsafeName(_))));

    let setup = Setup::new();
    setup.hub.state().etag = Some("../../../evil");
    assert!(matches!(setup.locate(), Err(HubError::Unexpected { .. })));
    assert!(!setup.repo().exists());
    setup.hub.state().etag = None;
    setup.hub.state().commit = "../../evil".to_owned();
    assert!(matches!(setup.locate(), Err(HubError::Unexpected { .. })));
}

#[test]
fn a_repository_without_a_model_is_refused_before_any_download() {
    for lacking in ["config.json", WEIGHTS] {
        let setup = Setup::new();
        setup.hub.state().files.remove(lacking);
        assert!(matches!(setup.locate(), Err(HubError::NotAModel { .. })));
        assert_eq!(setup.hub.take_log().len(), 1);
    }
    for index in ["{}", "[", r#"{"weight_map": {}}"#] {
        let setup = Setup::sharded();
        setup.hub.state().files.insert("model.safetensors.index.json".to_owned(), index.into());
        assert!(matches!(setup.locate(), Err(HubError::BadIndex { .. })));
    }
    let setup = Setup::sharded();
    setup.hub.state().files.remove(SHARDS[1]);
    assert!(matches!(setup.locate(), Err(HubError::NotAModel { missing, .. }) if missing == SHARDS[1]));
    assert!(transfers(&setup.hub.take_log()).is_empty());
}

#[test]
fn folders_and_ids_are_told_apart() {
    let setup = Setup::new();
    let locate = |model: &str, revision| locate(model, revision, &setup.settings, &());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let (file, gguf) = (folder.path().join("model.bin"), folder.path().join("model.gguf"));
    [&file, &gguf].iter().for_each(|path| fs::write(path, b"").unwrap());

    assert_eq!(locate(path, None).unwrap(), folder.path());
    assert_eq!(locate(gguf.to_str().unwrap(), None).unwrap(), gguf);
    assert!(matches!(locate(path, Some("main")), Err(HubError::RevisionOfFolder { .. })));
    assert!(matches!(locate(file.to_str().unwrap(), None), Err(HubError::NotAFolder(_))));
    for model in ["./nothing", "/no/where", "~/nothing", "a/b/c", "models\\phi", "org/name/"] {
        assert!(matches!(locate(model, None), Err(HubError::NoSuchFolder(_))), "{model}");
    }
    for model in ["", "phi", "org/", "org/-name", "org/na--me", "org/na me", "org/name.git", "örg/name"] {
        assert!(matches!(locate(model, None), Err(HubError::InvalidId(_))), "{model}");
    }
    for revision in ["", "../main", "a//b", "a\\b", "a\nb", "/main"] {
        assert!(matches!(locate(MODEL, Some(revision)), Err(HubError::InvalidRevision(_))), "{revision}");
    }
    assert!(setup.hub.take_log().is_empty());
}

#[test]
fn settings_that_cannot_work_are_named_without_the_token() {
    let mut setup = Setup::new();
    setup.settings.token = Some("hf_sec ret".to_owned());
    let message = setup.locate().unwrap_err().to_string();
    assert!(message.contains("HF_TOKEN") && !message.contains("hf_sec"), "{message}");
    setup.settings.token = None;
    setup.settings.endpoint = "hub.example".to_owned();
    assert!(setup.locate().unwrap_err().to_string().contains("HF_ENDPOINT"));
}

#[test]
fn the_environment_is_read_as_python_reads_it() {
    let read = |vars: &[(&str, &str)]| {
        let vars: Vec<_> = vars.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        HubSettings::from_vars(|name| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    };
    let home = std::env::home_dir().unwrap();
    assert_eq!(read(&[]).cache, home.join(".cache/huggingface/hub"));
    assert_eq!(read(&[]).endpoint, "https://huggingface.co");
    assert_eq!(read(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
    assert_eq!(read(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/h")]).cache, home.join("h/hub"));
    assert_eq!(read(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/l")]).cache, Path::new("/l"));
    assert_eq!(read(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/l")]).cache, Path::new("/c"));
    assert_eq!(read(&[("HF_HOME", ""), ("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    fs::write(folder.path().join("token"), "hf_file\n").unwrap();
    fs::write(folder.path().join("other"), "hf_other\n").unwrap();
    let other = format!("{path}/other");
    assert_eq!(read(&[("HF_HOME", path)]).token.as_deref(), Some("hf_file"));
    assert_eq!(read(&[("HF_HOME", path), ("HF_TOKEN_PATH", &other)]).token.as_deref(), Some("hf_other"));
    assert_eq!(read(&[("HF_HOME", path), ("HF_TOKEN", " hf_env ")]).token.as_deref(), Some("hf_env"));

    for (value, offline) in [("1", true), ("TRUE", true), ("Yes", true), ("on", true), ("0", false), ("off", false)] {
        assert_eq!(read(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
    }
    let proxied = [("https_proxy", "http://p:1"), ("NO_PROXY", "localhost, .example.org")];
    assert_eq!(read(&proxied).proxy.as_deref(), Some("http://p:1"));
    assert_eq!(read(&[&proxied[..], &[("HF_ENDPOINT", "https://hub.example.org")]].concat()).proxy, None);
}
