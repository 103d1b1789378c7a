//! Checks what a request is aimed at before anything else looks at it: the form of its target, its
//! `Host`, and the size of both and of the other headers.
//!
//! Routing reads only the path, so a strange host can't lead a request past a policy. It is still
//! refused: on a loopback address, a foreign host name is what DNS rebinding looks like.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Uri, Version};

use crate::app::App;
use crate::config::{Config, Limits};
use crate::error::refusal::Refusal;

/// The layer of every request.
pub(super) async fn check(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    check_size(request.uri(), request.headers(), &app.config.limits)?;
    check_form(request.uri())?;
    check_host(request.version(), request.headers(), &app.config)?;
    Ok(next.run(request).await)
}

fn check_size(uri: &Uri, headers: &HeaderMap, limits: &Limits) -> Result<(), Refusal> {
    let uri_bytes = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if uri_bytes > limits.max_uri_bytes {
        return Err(Refusal::UriTooLong(limits.max_uri_bytes));
    }
    // Each field comes with a colon, a space and a line's end.
    let field_bytes = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + 4
    };
    let header_bytes: usize = headers.iter().map(field_bytes).sum();
    if headers.len() > limits.max_headers || header_bytes > limits.max_header_bytes {
        return Err(Refusal::HeadersTooLarge {
            max_headers: limits.max_headers,
            max_bytes: limits.max_header_bytes,
        });
    }
    Ok(())
}

/// Only `GET /path`: neither `GET http://host/path`, which is for proxies, nor `OPTIONS *`.
fn check_form(uri: &Uri) -> Result<(), Refusal> {
    if uri.authority().is_some() || uri.scheme().is_some() || !uri.path().starts_with('/') {
        return Err(Refusal::Target);
    }
    Ok(())
}

fn check_host(version: Version, headers: &HeaderMap, config: &Config) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        // Required since HTTP/1.1 (RFC 9112, 3.2).
        (None, _) if version < Version::HTTP_11 => return Ok(()),
        _ => return Err(Refusal::Target),
    };
    let name = host.to_str().ok().and_then(host_name).ok_or(Refusal::Target)?;
    if allowed(&name, config) { Ok(()) } else { Err(Refusal::Host) }
}

/// The name in `name`, `name:port` or `[address]:port`, in lower case.
fn host_name(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    let rest = host.strip_prefix(authority.host())?;
    let port_fits = match rest.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()),
        None => rest.is_empty(),
    };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let well_formed = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(is_name_byte),
    };
    (port_fits && well_formed).then(|| name.to_ascii_lowercase())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn allowed(name: &str, config: &Config) -> bool {
    let listed = config.allowed_hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
    let open = config.allowed_hosts.is_empty() && !config.listen.ip().to_canonical().is_loopback();
    listed || open || is_loopback_name(name)
}

fn is_loopback_name(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(host: &'static str, config: &Config) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, http::HeaderValue::from_static(host));
        check_host(Version::HTTP_11, &headers, config)
    }

    #[test]
    fn a_loopback_listener_answers_for_loopback_names_only() {
        let config = Config::default();

        for ours in ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"] {
            assert_eq!(verdict(ours, &config), Ok(()), "{ours}");
        }
        for foreign in ["evil.example", "localhost.evil.example:8000", "localhost.", "10.0.0.1"] {
            assert_eq!(verdict(foreign, &config), Err(Refusal::Host), "{foreign}");
        }
    }

    #[test]
    fn a_malformed_host_is_refused_everywhere() {
        let config = Config { listen: ([0, 0, 0, 0], 80).into(), ..Config::default() };

        for host in ["", "a/b?c", "a b", "a@b", "a:b", "a:99999", "a:+1", "a:", "[::1", "::1", "a#"]
        {
            assert_eq!(verdict(host, &config), Err(Refusal::Target), "{host:?}");
        }
        assert_eq!(verdict("any.example:443", &config), Ok(()));
    }

    #[test]
    fn a_list_of_hosts_closes_a_public_listener() {
        let config = Config {
            listen: ([0, 0, 0, 0], 80).into(),
            allowed_hosts: vec!["api.example".to_owned()],
            ..Config::default()
        };

        assert_eq!(verdict("API.example:8000", &config), Ok(()));
        assert_eq!(verdict("localhost", &config), Ok(()));
        assert_eq!(verdict("evil.example", &config), Err(Refusal::Host));
    }

    #[test]
    fn http_1_1_needs_exactly_one_host() {
        let config = Config::default();
        let mut headers = HeaderMap::new();

        assert_eq!(check_host(Version::HTTP_11, &headers, &config), Err(Refusal::Target));
        assert_eq!(check_host(Version::HTTP_10, &headers, &config), Ok(()));

        headers.append(HOST, http::HeaderValue::from_static("localhost"));
        headers.append(HOST, http::HeaderValue::from_static("localhost"));
        assert_eq!(check_host(Version::HTTP_11, &headers, &config), Err(Refusal::Target));
    }
}
