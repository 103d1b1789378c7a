//! What is said of the hub: where it is, and the token for it. Never the token.

use std::os::unix::fs::PermissionsExt;

use super::Finding;
use crate::settings::{HubSettings, Network, Token, TokenSource};

pub(super) fn hub(settings: &HubSettings) -> Vec<Finding> {
    vec![network(settings), endpoint(settings), token(settings), cache(settings)]
}

fn network(settings: &HubSettings) -> Finding {
    match settings.network {
        Network::Online => Finding::ok("network", "may be used"),
        Network::Offline => Finding::warn(
            "network",
            "offline, as HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE say: only what is here is served",
            "unset them to pull models",
        ),
    }
}

fn endpoint(settings: &HubSettings) -> Finding {
    const CHECK: &str = "HF_ENDPOINT";
    let endpoint = &settings.endpoint;
    let shown = endpoint.origin().ascii_serialization();
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        let what = format!("{shown} has a password in its URL, which other programs print");
        return Finding::warn(CHECK, what, "use HF_TOKEN instead");
    }
    let is_local = match endpoint.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    };
    if endpoint.scheme() == "http" && !is_local {
        return match settings.token {
            Some(_) => Finding::fail(
                CHECK,
                format!("{shown} is not encrypted, and the token would be sent to it"),
                "use https, or unset HF_TOKEN",
            ),
            None => Finding::warn(CHECK, format!("{shown} is not encrypted"), "use https"),
        };
    }
    Finding::ok(CHECK, shown)
}

fn token(settings: &HubSettings) -> Finding {
    const CHECK: &str = "HF_TOKEN";
    if settings.token.as_ref().is_some_and(Token::is_malformed) {
        return Finding::fail(
            CHECK,
            "has white space or control characters in it: no server takes it",
            "copy it again from the hub's page of access tokens",
        );
    }
    match (&settings.token, &settings.token_source) {
        (None, _) => Finding::ok(CHECK, "none: public models only"),
        (Some(_), Some(TokenSource::File(path))) => {
            let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
            match mode {
                Ok(mode) if mode & 0o077 != 0 => Finding::warn(
                    CHECK,
                    format!("from {}, which others can read", path.display()),
                    format!("chmod 600 {}", path.display()),
                ),
                Ok(_) | Err(_) => Finding::ok(CHECK, format!("from {}", path.display())),
            }
        }
        (Some(_), Some(TokenSource::Variable) | None) => Finding::ok(CHECK, "from the environment"),
    }
}

fn cache(settings: &HubSettings) -> Finding {
    const CHECK: &str = "hub cache";
    let shown = settings.cache.display();
    let nearest = settings.cache.ancestors().find(|folder| folder.is_dir());
    let can_write = nearest
        .is_some_and(|folder| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok());
    match can_write {
        true => Finding::ok(CHECK, shown.to_string()),
        false => Finding::fail(CHECK, format!("{shown} can't be written"), "set HF_HOME"),
    }
}
