//! The environment that Python's `huggingface_hub` reads, read in one place into plain values.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::http::proxy_for;

pub(super) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where the hub and the cache are, and how patiently to ask.
///
/// Has no `Debug`, so that the token does not end up in a log.
#[derive(Clone)]
pub struct HubSettings {
    /// Folder with the `models--*` folders.
    pub cache: PathBuf,
    /// Folder into which the demo model is unpacked.
    pub unpacked: PathBuf,
    /// Sent to `endpoint` and to no other host.
    pub token: Option<String>,
    /// Address of the hub.
    pub endpoint: String,
    /// Never use the network.
    pub offline: bool,
    /// Address of an HTTP proxy.
    pub proxy: Option<String>,
    /// Limit for connecting, and for each wait for more bytes.
    pub timeout: Duration,
    /// Attempts after a failed one that brought nothing; an attempt that brought bytes starts the count anew.
    pub retries: u32,
    /// Wait before the first retry; doubles with each further one.
    pub backoff: Duration,
}

impl HubSettings {
    /// Reads the same environment variables as Python's `huggingface_hub`.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name))
    }

    /// Like [`HubSettings::from_env`], with the variables looked up by `var`. An empty variable counts as unset.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
        let path = |name: &str| var(name).map(expand_home);

        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| expand_home("~/.cache".into()));
        let home = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = text("HF_TOKEN")
            .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| fs::read_to_string(token_file).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let offline = text("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()));
        let proxy = proxy_for(&endpoint, text);
        Self {
            cache,
            unpacked: caches.join("phi3v"),
            token,
            endpoint,
            offline,
            proxy,
            timeout: Duration::from_secs(20),
            retries: 5,
            backoff: Duration::from_millis(500),
        }
    }
}

/// `~` and `~/x` with the user's home in place of `~`.
fn expand_home(path: OsString) -> PathBuf {
    let path = PathBuf::from(path);
    match path.strip_prefix("~") {
        Ok(rest) => std::env::home_dir().unwrap_or_default().join(rest),
        Err(_) => path,
    }
}
