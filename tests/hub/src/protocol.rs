//! The hub itself: revisions, lists of files, and where each file's content is.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use crate::content::pause;
use crate::fault::Fault;
use crate::repos::{git_hash, is_large, sha256};
use crate::{Host, Inner, Shared, answer};

/// A file, where it was asked for.
struct Place<'a> {
    repo: &'a str,
    commit: &'a str,
    file: &'a str,
}

pub(crate) async fn hub(State(shared): State<Shared>, request: Request) -> Response {
    let fault = shared.arrive(Host::Hub, &request);
    match fault {
        Some(Fault::Slow(millis)) => pause(Duration::from_millis(millis)).await,
        Some(Fault::Silent) => pause(Duration::from_secs(60)).await,
        _ => {}
    }
    let uri = request.uri().to_string();
    if let Some(response) = fault.as_ref().and_then(|fault| broken(fault, &uri)) {
        return response;
    }
    let inner = shared.lock();
    let mut response = well(&inner, &request, fault.as_ref());
    if let Some(limit) = &inner.rate_limit {
        response.headers_mut().insert("ratelimit", limit.parse().unwrap());
    }
    response
}

/// Faults that either host can have, instead of an answer.
pub(crate) fn broken(fault: &Fault, uri: &str) -> Option<Response> {
    let status = |status: u16, headers: &[(&str, &str)]| answer(status, headers, Body::empty());
    Some(match fault {
        Fault::Status(code) => status(*code, &[]),
        Fault::RetryAfter(code, when) => status(*code, &[("retry-after", when)]),
        Fault::RateLimit(code, seconds) => {
            status(*code, &[("ratelimit", &format!("\"resolvers\";r=0;t={seconds}"))])
        }
        Fault::RedirectLoop => status(302, &[("location", uri), ("x-repo-commit", crate::COMMIT)]),
        Fault::RedirectAway => status(302, &[("location", "ftp://127.0.0.1/x")]),
        _ => return None,
    })
}

fn well(inner: &Inner, request: &Request, fault: Option<&Fault>) -> Response {
    if let Some((status, code)) = &inner.refusal {
        return refuse(*status, code);
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let (owner, repo) = match &parts[..] {
        ["api", "models", owner, repo, ..] | [owner, repo, "resolve", ..] => (*owner, *repo),
        _ => return refuse(404, "RepoNotFound"),
    };
    let id = format!("{owner}/{repo}");
    if let Some(to) = inner.renamed.get(&id) {
        let location = path.replacen(&id, to, 1);
        return answer(307, &[("location", &location)], Body::empty());
    }
    let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let Some(known) = inner.repos.get(&id) else {
        // Who may not know whether it exists is not told.
        return refuse(if token.is_none() { 401 } else { 404 }, "RepoNotFound");
    };
    match &parts[..] {
        ["api", "models", _, _, "revision", revision] => match known.at(&plain(revision)) {
            Some((commit, files)) => revision_answer(&id, commit, files.keys(), fault),
            None => refuse(404, "RevisionNotFound"),
        },
        ["api", "models", _, _, "tree", revision] => match known.at(&plain(revision)) {
            Some((commit, files)) => {
                let files: Vec<_> = files.iter().collect();
                let at = Place { repo: &id, commit, file: request.uri().query().unwrap_or("") };
                tree(inner, &at, &files, fault)
            }
            None => refuse(404, "RevisionNotFound"),
        },
        [_, _, "resolve", revision, file @ ..] => {
            let wanted = known.gate.as_ref().map(|token| format!("Bearer {token}"));
            if wanted.is_some() && token != wanted.as_deref() {
                return refuse(if token.is_none() { 401 } else { 403 }, "GatedRepo");
            }
            let Some((commit, files)) = known.at(&plain(revision)) else {
                return refuse(404, "RevisionNotFound");
            };
            let at = Place { repo: &id, commit, file: &file.join("/") };
            match files.get(at.file) {
                Some(content) => resolve(inner, &at, content, fault),
                None => {
                    let headers = [("x-error-code", "EntryNotFound"), ("x-repo-commit", commit)];
                    answer(404, &headers, Body::empty())
                }
            }
        }
        _ => refuse(404, ""),
    }
}

fn refuse(status: u16, code: &str) -> Response {
    answer(status, &[("x-error-code", code), ("x-error-message", code)], Body::empty())
}

/// A revision's `/` comes escaped.
fn plain(revision: &str) -> String {
    revision.replace("%2F", "/")
}

fn revision_answer<'a>(
    id: &str,
    commit: &str,
    files: impl Iterator<Item = &'a String>,
    fault: Option<&Fault>,
) -> Response {
    let commit = match fault {
        Some(Fault::Commit(other)) => other,
        _ => commit,
    };
    let siblings: Vec<_> = files.map(|file| json!({ "rfilename": file })).collect();
    json_answer(&json!({ "id": id, "sha": commit, "siblings": siblings }), &[], fault)
}

/// A page of the list of files; `at.file` is the query.
fn tree(
    inner: &Inner,
    at: &Place<'_>,
    files: &[(&String, &Bytes)],
    fault: Option<&Fault>,
) -> Response {
    let page: usize =
        at.file.split('&').find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
    let of_page = files.iter().skip(page * inner.page_size).take(inner.page_size);
    let entries: Vec<_> =
        of_page.map(|(path, content)| entry(inner, path, content, fault)).collect();
    let number = if matches!(fault, Some(Fault::PageLoop)) { page } else { page + 1 };
    let leads_away = matches!(fault, Some(Fault::PageAway));
    let host = if leads_away { &inner.cdn } else { &inner.hub };
    let next = format!(
        "<{host}/api/models/{}/tree/{}?recursive=true&expand=false&cursor={number}>; rel=\"next\"",
        at.repo, at.commit
    );
    let has_more = (page + 1) * inner.page_size < files.len() || number == page || leads_away;
    let link = [("link", next.as_str())];
    json_answer(&json!(entries), if has_more { &link } else { &[] }, fault)
}

fn entry(inner: &Inner, path: &str, content: &Bytes, fault: Option<&Fault>) -> serde_json::Value {
    let size = match fault {
        Some(Fault::Size(size)) => *size,
        _ => content.len() as u64,
    };
    if !is_large(path) {
        return json!({ "type": "file", "path": path, "size": size, "oid": git_hash(content) });
    }
    let sha256 = match fault {
        Some(Fault::Etag(etag)) => etag.clone(),
        _ => inner.announced.clone().unwrap_or_else(|| sha256(content)),
    };
    let pointer = git_hash(sha256.as_bytes());
    let mut entry = json!({ "type": "file", "path": path, "size": size, "oid": pointer,
        "lfs": { "oid": sha256, "size": size, "pointerSize": 134 } });
    if inner.has_xet {
        entry["xetHash"] = json!(sha256);
    }
    entry
}

fn resolve(inner: &Inner, at: &Place<'_>, content: &Bytes, fault: Option<&Fault>) -> Response {
    let commit = match fault {
        Some(Fault::Commit(other)) => other,
        _ => at.commit,
    };
    let size = match fault {
        Some(Fault::Size(size)) => size.to_string(),
        _ => content.len().to_string(),
    };
    let mut headers = Vec::new();
    if !matches!(fault, Some(Fault::NoCommit)) {
        headers.push(("x-repo-commit", commit));
    }
    if !is_large(at.file) {
        let etag = format!("\"{}\"", git_hash(content));
        headers.extend([("etag", etag.as_str()), ("content-length", &size)]);
        return answer(200, &headers, Body::from(content.clone()));
    }
    let name = sha256(content);
    let announced = match fault {
        Some(Fault::Etag(etag)) => etag,
        _ => inner.announced.as_ref().unwrap_or(&name),
    };
    let etag = format!("\"{announced}\"");
    // A signature is as secret as a token.
    let location = format!("{}/{name}?signature=secret", inner.cdn);
    headers.extend([("x-linked-etag", etag.as_str()), ("x-linked-size", &size)]);
    headers.extend([("location", location.as_str()), ("accept-ranges", "bytes")]);
    let xet_auth = format!("<{}/api/xet>; rel=\"xet-auth\"", inner.cdn);
    if inner.has_xet {
        headers.extend([("x-xet-hash", name.as_str()), ("link", &xet_auth)]);
    }
    answer(302, &headers, Body::empty())
}

fn json_answer(
    value: &serde_json::Value,
    headers: &[(&str, &str)],
    fault: Option<&Fault>,
) -> Response {
    let text = value.to_string();
    let (kind, body) = match fault {
        Some(Fault::TruncatedJson) => ("application/json", text[..text.len() / 2].to_owned()),
        Some(Fault::Html) => ("text/html", "<h1>Sign in to the hotel</h1>".to_owned()),
        _ => ("application/json", text),
    };
    answer(200, &[headers, &[("content-type", kind)]].concat(), Body::from(body))
}
