//! What requests to the hub have in common: addresses, the token, retries, and what a failure is called.

use std::cell::Cell;
use std::time::Duration;

use url::Url;

use super::{HubError, HubSettings};

const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// Talks to the hub about one model.
pub(super) struct Client<'a> {
    pub(super) agent: ureq::Agent,
    pub(super) settings: &'a HubSettings,
    endpoint: Url,
    id: &'a str,
    /// Bytes of all transfers that a retry need not repeat: tells whether the last attempt got anywhere.
    kept: Cell<u64>,
}

impl<'a> Client<'a> {
    /// `adapt` changes how connections are made.
    pub(super) fn new(
        id: &'a str,
        settings: &'a HubSettings,
        adapt: impl FnOnce(ureq::AgentBuilder) -> ureq::AgentBuilder,
    ) -> Result<Self, HubError> {
        let invalid = |name, why: String| HubError::InvalidSetting { name, why };
        let endpoint = Url::parse(&settings.endpoint)
            .ok()
            .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
            .ok_or_else(|| invalid("HF_ENDPOINT", format!("'{}' is not an http(s) address", settings.endpoint)))?;
        if settings.token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(invalid("HF_TOKEN", "it contains spaces or special characters".to_owned()));
        }
        // Redirects are not left to ureq: it compares only host names before it passes a token on, not ports.
        let mut agent = ureq::AgentBuilder::new()
            .redirects(0)
            .timeout_connect(settings.timeout)
            .timeout_read(settings.timeout)
            .timeout_write(settings.timeout)
            .user_agent(concat!("phi3v/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &settings.proxy {
            let proxy = ureq::Proxy::new(proxy).map_err(|_| invalid("HTTPS_PROXY", "not an address".to_owned()))?;
            agent = agent.proxy(proxy);
        }
        Ok(Self { agent: adapt(agent).build(), settings, endpoint, id, kept: Cell::new(0) })
    }

    /// A request that carries the token if it goes to the hub's own address.
    pub(super) fn request(&self, method: &str, url: &Url) -> ureq::Request {
        let request = self.agent.request_url(method, url);
        match &self.settings.token {
            Some(token) if self.is_hub(url) => request.set("Authorization", &format!("Bearer {token}")),
            _ => request,
        }
    }

    /// Whether an address is the hub's own, not a storage host's.
    pub(super) fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// `{endpoint}/{before}/{org}/{name}/{after}`, each part escaped.
    pub(super) fn url(&self, before: &[&str], after: &[&str]) -> Url {
        self.address(before.iter().copied().chain(self.id.split('/')).chain(after.iter().copied()))
    }

    /// `{endpoint}/{parts}`, each part escaped.
    pub(super) fn address<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// Notes progress that a retry will build on.
    pub(super) fn keep(&self, bytes: u64) {
        self.kept.set(self.kept.get() + bytes);
    }

    /// Repeats `attempt` while the network fails, giving up after `retries` repetitions that kept no byte.
    pub(super) fn retry<T>(&self, retries: u32, attempt: impl Fn() -> Result<T, HubError>) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            let before = self.kept.get();
            match attempt() {
                Err(error) if error.is_network() => {
                    failures = if self.kept.get() > before { 1 } else { failures + 1 };
                    if failures > retries {
                        return Err(error);
                    }
                    let wait = self.settings.backoff.saturating_mul(1 << (failures - 1).min(10));
                    std::thread::sleep(wait.min(MAX_BACKOFF));
                }
                result => return result,
            }
        }
    }
}

/// The address for a message: signed storage addresses carry long secrets in their query.
pub(super) fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

pub(super) fn unreachable(url: &Url, why: String) -> HubError {
    HubError::Unreachable { url: without_query(url), why }
}

pub(super) fn unexpected(url: &Url, why: String) -> HubError {
    HubError::Unexpected { url: without_query(url), why }
}

/// A transport error without the address that ureq puts before it.
pub(super) fn cause(error: &ureq::Transport) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{}: {source}", error.kind()),
        None => format!("{}: {}", error.kind(), error.message().unwrap_or("no details")),
    }
}
