//! What all HTTP requests have in common.

/// The proxy for an address by the usual variables, which `text` looks up, in either case. `NO_PROXY` is a list of hosts and domains, or `*`.
pub(crate) fn proxy_for(address: &str, text: impl Fn(&str) -> Option<String>) -> Option<String> {
    let either = |name: &str| text(name).or_else(|| text(&name.to_uppercase()));
    let address = url::Url::parse(address).ok()?;
    let host = address.host_str()?;
    let exempt = |entry: &str| {
        let domain = entry.trim().trim_start_matches('.');
        domain == "*" || host == domain || (!domain.is_empty() && host.ends_with(&format!(".{domain}")))
    };
    if either("no_proxy").is_some_and(|list| list.split(',').any(exempt)) {
        return None;
    }
    either(&format!("{}_proxy", address.scheme())).or_else(|| either("all_proxy"))
}
