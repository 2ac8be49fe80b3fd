//! Publishing a folder: what arrives at the hub, and every way in which an upload can go wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use phi3v::checkpoint::hub::{HubError, HubSettings, Progress, upload};
use tempfile::TempDir;

use self::server::{COMPLETION, Fault, Hub, TOKEN};
use crate::hub::server::sha256;
use crate::hub::{Recorder, weights};
use crate::loopback::Request;

pub(crate) mod server;

const MODEL: &str = "org/name";
const WEIGHTS: &str = "model.safetensors";
const SIZE: usize = 300_000;

/// A hub without repositories, and a folder with one weight file.
struct Setup {
    hub: Hub,
    settings: HubSettings,
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let hub = Hub::start();
        let mut settings = HubSettings::from_vars(|_| None);
        settings.endpoint = hub.endpoint.clone();
        settings.token = Some(TOKEN.to_owned());
        settings.timeout = Duration::from_secs(5);
        settings.retries = 2;
        settings.backoff = Duration::from_millis(1);
        let setup = Self { hub, settings, folder: tempfile::tempdir().unwrap() };
        setup.write("config.json", b"{}");
        setup.write(WEIGHTS, &weights(SIZE));
        setup
    }

    fn write(&self, name: &str, body: &[u8]) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }

    fn upload(&self) -> Result<String, HubError> {
        upload(self.folder.path(), MODEL, &self.settings, &())
    }

    fn fault(&self, faults: &[(&'static str, Fault)]) {
        self.hub.state().faults = faults.iter().cloned().collect();
    }

    /// The files of the only commit.
    fn published(&self) -> BTreeMap<String, Vec<u8>> {
        let commits = self.hub.state().commits.clone();
        assert_eq!(commits.len(), 1);
        commits.into_iter().next().unwrap()
    }
}

/// The transfers to the storage host in a log.
fn transfers(log: &[Request]) -> Vec<&Request> {
    log.iter().filter(|request| request.host == "storage").collect()
}

// ---- what arrives ---------------------------------------------------------------------------------------------------

#[test]
fn a_folder_becomes_one_commit() {
    let setup = Setup::new();
    setup.write("README.md", "# Modell für Bilder\n".as_bytes());
    setup.write("sub/folder/a.txt", b"deep");
    setup.write("empty.bin", b"");
    setup.write(".hidden", b"no");
    setup.write(".git/config", b"no");
    setup.write("sub/.cache/x", b"no");
    let recorder = Recorder::default();
    let address = upload(setup.folder.path(), MODEL, &setup.settings, &recorder).unwrap();

    assert_eq!(address, format!("{}/org/name/commit/1234", setup.hub.endpoint));
    let published = setup.published();
    let names: Vec<_> = published.keys().map(String::as_str).collect();
    assert_eq!(names, ["README.md", "config.json", "empty.bin", WEIGHTS, "sub/folder/a.txt"]);
    for (name, body) in &published {
        assert_eq!(fs::read(setup.folder.path().join(name)).unwrap(), *body, "{name}");
    }
    assert_eq!(setup.hub.state().verified, [sha256(&weights(SIZE))]);
    assert_eq!(recorder.starts.lock().unwrap()[0], (WEIGHTS.to_owned(), SIZE as u64, 0));
    assert_eq!(*recorder.advanced.lock().unwrap(), SIZE as u64);
    assert_eq!(*recorder.finished.lock().unwrap(), 5);
}

#[test]
fn a_large_object_goes_in_parts() {
    for mirror in [false, true] {
        let setup = Setup::new();
        // Eleven parts, so that their order by text is another one.
        setup.hub.state().part_size = SIZE.div_ceil(11) + 1;
        setup.hub.state().behind_mirror = mirror;
        setup.upload().unwrap();
        assert_eq!(setup.published()[WEIGHTS], weights(SIZE));
        assert_eq!(transfers(&setup.hub.take_log()).len(), 11);
        assert_eq!(setup.hub.state().verified.len(), 1);
    }
}

#[test]
fn a_repository_that_exists_gets_one_more_commit() {
    let setup = Setup::new();
    setup.hub.state().repos.insert(MODEL.to_owned());
    setup.upload().unwrap();
    assert_eq!(setup.published()[WEIGHTS], weights(SIZE));
    assert_eq!(setup.hub.state().repos.len(), 1);
}

#[test]
fn a_token_that_may_not_create_can_still_write() {
    let setup = Setup::new();
    let refusal = ("/create", Fault::Status(403, "no rights to create"));
    setup.fault(std::slice::from_ref(&refusal));
    let message = setup.upload().unwrap_err().to_string();
    assert!(message.starts_with("may not write to org/name: HTTP 403, no rights to create;"), "{message}");
    setup.hub.state().repos.insert(MODEL.to_owned());
    setup.fault(&[refusal]);
    setup.upload().unwrap();
    assert_eq!(setup.published().len(), 2);
}

#[test]
fn an_object_that_the_hub_has_is_not_sent() {
    let setup = Setup::new();
    setup.write("copy.safetensors", &weights(SIZE));
    setup.upload().unwrap();
    assert_eq!(transfers(&setup.hub.take_log()).len(), 1, "the same contents under two names");
    assert_eq!(setup.published()["copy.safetensors"], setup.published()[WEIGHTS]);

    let recorder = Recorder::default();
    upload(setup.folder.path(), MODEL, &setup.settings, &recorder).unwrap();
    assert!(transfers(&setup.hub.take_log()).is_empty());
    assert!(recorder.starts.lock().unwrap().contains(&(WEIGHTS.to_owned(), SIZE as u64, SIZE as u64)));
    assert_eq!(*recorder.finished.lock().unwrap(), 3);
}

#[test]
fn what_the_repository_ignores_stays_out() {
    let setup = Setup::new();
    setup.write("training.log", b"noise");
    setup.hub.state().ignored.insert("training.log");
    let recorder = Recorder::default();
    upload(setup.folder.path(), MODEL, &setup.settings, &recorder).unwrap();
    assert_eq!(setup.published().len(), 2);
    assert!(recorder.warnings.lock().unwrap()[0].contains("training.log"));
}

#[test]
fn more_files_than_one_request_takes() {
    let setup = Setup::new();
    for number in 0..300 {
        setup.write(&format!("notes/{number}.txt"), b"note");
    }
    setup.upload().unwrap();
    assert_eq!(setup.published().len(), 302);
    let asked = setup.hub.take_log().iter().filter(|request| request.path.contains("/preupload/")).count();
    assert_eq!(asked, 2);
}

#[cfg(unix)]
#[test]
fn a_snapshot_of_links_is_uploaded_as_files() {
    let setup = Setup::new();
    setup.write(".blobs/1", b"{\"t\": 1}");
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, setup.folder.path().join(name)).unwrap();
    link(".blobs/1", "tokenizer.json");
    link(".", "circle");
    setup.upload().unwrap();
    assert_eq!(setup.published()["tokenizer.json"], b"{\"t\": 1}");
    assert_eq!(setup.published().len(), 3);
}

// ---- broken transfers -----------------------------------------------------------------------------------------------

#[test]
fn what_fails_once_is_tried_again() {
    let once = || Fault::Status(500, "oops");
    let setup = Setup::new();
    setup.hub.state().part_size = SIZE / 2;
    let steps = ["/create", "/preupload", "/batch", "/part", "/complete", "/verify"];
    setup.fault(&steps.map(|step| (step, once())));
    setup.upload().unwrap();
    assert!(setup.hub.state().faults.is_empty());
    assert_eq!(setup.published()[WEIGHTS], weights(SIZE));

    let setup = Setup::new();
    let busy = "Cannot create repo: another conflicting operation is in progress";
    setup.fault(&[("/create", Fault::Status(409, busy)), ("/batch", Fault::Status(429, "")), ("/object/", once())]);
    setup.upload().unwrap();
    assert!(setup.hub.state().faults.is_empty());
    assert_eq!(setup.published()[WEIGHTS], weights(SIZE));
}

#[test]
fn a_connection_that_breaks_within_a_file_is_made_again() {
    let setup = Setup::new();
    setup.fault(&[("/object/", Fault::Cut(100_000)), ("/object/", Fault::Cut(0))]);
    let recorder = Recorder::default();
    upload(setup.folder.path(), MODEL, &setup.settings, &recorder).unwrap();
    assert_eq!(setup.published()[WEIGHTS], weights(SIZE));
    assert_eq!(transfers(&setup.hub.take_log()).len(), 3);
    let starts = recorder.starts.lock().unwrap();
    assert_eq!(starts.iter().filter(|start| **start == (WEIGHTS.to_owned(), SIZE as u64, 0)).count(), 3);
}

#[test]
fn a_part_that_breaks_is_sent_again_alone() {
    let setup = Setup::new();
    setup.hub.state().part_size = SIZE / 3;
    setup.fault(&[("/2?", Fault::Cut(50_000))]);
    let recorder = Recorder::default();
    upload(setup.folder.path(), MODEL, &setup.settings, &recorder).unwrap();
    assert_eq!(setup.published()[WEIGHTS], weights(SIZE));
    assert_eq!(transfers(&setup.hub.take_log()).len(), 4);
    assert_eq!(recorder.starts.lock().unwrap()[1], (WEIGHTS.to_owned(), SIZE as u64, SIZE as u64 / 3));
}

#[test]
fn a_transfer_that_stays_broken_publishes_nothing_and_a_later_run_goes_on() {
    let setup = Setup::new();
    setup.write("zero.safetensors", &[0xff; 1000]);
    let second = format!("/object/{}", sha256(&[0xff; 1000])).leak();
    setup.fault(&[(second, Fault::Cut(10)), (second, Fault::Cut(20)), (second, Fault::Status(503, ""))]);
    let error = setup.upload().unwrap_err();
    assert!(error.is_network());
    let message = error.to_string();
    assert!(message.contains("try again") && !message.contains("signature"), "{message}");
    assert!(setup.hub.state().faults.is_empty(), "it tried three times");
    assert!(setup.hub.state().commits.is_empty());
    setup.hub.take_log();
    setup.upload().unwrap();
    assert_eq!(transfers(&setup.hub.take_log()).len(), 1, "the first file has arrived before");
    assert_eq!(setup.published().len(), 3);
}

#[test]
fn a_file_that_shrinks_meanwhile_is_no_failure_of_the_network() {
    struct Shrinks(PathBuf);
    impl Progress for Shrinks {
        fn start(&self, _file: &str, _total: u64, _already: u64) {
            fs::OpenOptions::new().write(true).open(&self.0).unwrap().set_len(1000).unwrap();
        }
        fn advance(&self, _bytes: u64) {}
        fn finish(&self) {}
        fn warn(&self, _message: &str) {}
    }
    let setup = Setup::new();
    let shrinks = Shrinks(setup.folder.path().join(WEIGHTS));
    let error = upload(setup.folder.path(), MODEL, &setup.settings, &shrinks).unwrap_err();
    assert!(matches!(&error, HubError::Source { path, .. } if *path == shrinks.0), "{error}");
    assert!(setup.hub.state().commits.is_empty());
}

#[test]
fn a_commit_is_not_made_twice() {
    let setup = Setup::new();
    setup.fault(&[("/commit", Fault::Cut(10))]);
    assert!(setup.upload().unwrap_err().is_network());
    let commits = setup.hub.take_log().iter().filter(|request| request.path.contains("/commit/")).count();
    assert_eq!(commits, 1);
}

// ---- access and refusals --------------------------------------------------------------------------------------------

#[test]
fn the_token_goes_to_the_hub_and_never_to_the_storage_host() {
    let setup = Setup::new();
    setup.hub.state().part_size = SIZE / 2;
    setup.write("small.safetensors", &[0xff; 1000]);
    setup.upload().unwrap();
    let log = setup.hub.take_log();
    assert_eq!(transfers(&log).len(), 3);
    for request in &log {
        let at_hub = request.host == "hub" && request.path != COMPLETION;
        assert_eq!(request.headers.contains_key("authorization"), at_hub, "{request:?}");
        assert!(at_hub || !format!("{request:?}").contains(TOKEN), "{request:?}");
    }
}

#[test]
fn a_wrong_token_is_told_apart_and_not_shown() {
    let mut setup = Setup::new();
    setup.settings.token = Some("hf_wrong".to_owned());
    let error = setup.upload().unwrap_err();
    assert!(matches!(error, HubError::WriteDenied { .. }));
    let message = error.to_string();
    let expected = format!(
        "may not write to org/name: HTTP 401, Invalid username or password.; see which token HF_TOKEN is at {}/settings/tokens",
        setup.hub.endpoint
    );
    assert_eq!(message, expected);
    assert!(transfers(&setup.hub.take_log()).is_empty());
}

#[test]
fn what_the_hub_refuses_is_told_apart() {
    let refused_with = |step, status, message| {
        let setup = Setup::new();
        setup.fault(&[(step, Fault::Status(status, message))]);
        let error = setup.upload().unwrap_err();
        assert!(setup.hub.state().commits.is_empty());
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.contains("signature"), "{text}");
        error
    };
    assert!(matches!(refused_with("/preupload", 404, ""), HubError::RepoNotFound(_)));
    assert!(matches!(refused_with("/commit", 409, "a commit\nhappened"), HubError::Conflict { .. }));
    assert!(matches!(refused_with("/commit", 413, ""), HubError::TooLarge { .. }));
    assert!(matches!(refused_with("/commit", 403, "quota"), HubError::WriteDenied { .. }));
    assert!(matches!(refused_with("/object/", 403, ""), HubError::Refused { .. }));
    let error = refused_with("/commit", 400, "Invalid metadata\n in README.md").to_string();
    assert!(error.ends_with("refused the upload: HTTP 400, Invalid metadata in README.md"), "{error}");
}

#[test]
fn nothing_is_asked_of_the_hub_before_the_cheap_checks() {
    let mut setup = Setup::new();
    for id in ["", "name", "org/", "org/-name", "a/b/c", "org/name.git"] {
        let result = upload(setup.folder.path(), id, &setup.settings, &());
        assert!(matches!(result, Err(HubError::InvalidTarget(_))), "{id}");
    }
    let of_folder = |folder: &Path| upload(folder, MODEL, &setup.settings, &());
    assert!(matches!(of_folder(&setup.folder.path().join("no")), Err(HubError::NoSuchFolder(_))));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(of_folder(empty.path()), Err(HubError::NotAModel { missing, .. }) if missing == "config.json"));

    setup.settings.token = None;
    let message = setup.upload().unwrap_err().to_string();
    assert!(message.contains("set HF_TOKEN or run `hf auth login`"), "{message}");
    setup.settings.token = Some(TOKEN.to_owned());
    setup.settings.offline = true;
    assert!(matches!(setup.upload(), Err(HubError::UploadOffline(_))));
    assert!(setup.hub.take_log().is_empty());
}
