//! A hub that speaks the protocol, keeps count, and misbehaves when told to.
//!
//! Large files (`.gguf`, `.safetensors`) live on a second host, as they do on the real one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use sconce_launcher::digest::Sha256Hash;
use serde_json::json;
use tokio::net::TcpListener;

/// The only commit of every repository.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

const CHUNK: usize = 16 << 10;

/// What the second host does to one request instead of answering it well.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Says that all comes, and hangs up after so many bytes.
    Cut(usize),
    /// Answers with a status.
    Status(u16),
    /// Answers with a status and `Retry-After`.
    RetryAfter(u16, u64),
    /// Sends other bytes of the right length.
    WrongBytes,
    /// Sends the right length with one bit flipped.
    Flip(usize),
    /// Sends less, and says so.
    Short(usize),
    /// Sends more, without saying how much.
    Long(usize),
    /// Ignores `Range`.
    NoRange,
    /// Answers a range with another one.
    WrongRange,
    /// Has another ETag from now on.
    NewEtag,
    /// Sends some bytes and then nothing, without hanging up.
    Stall(usize),
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) host: Host,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
    pub(crate) authorization: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Hub,
    Cdn,
}

#[derive(Default)]
struct Inner {
    cdn: String,
    files: BTreeMap<(String, String), Bytes>,
    faults: VecDeque<Fault>,
    etag: u32,
    commit: Option<String>,
    announced: Option<String>,
    refusal: Option<(u16, &'static str)>,
    seen: Vec<Seen>,
    num_bytes: u64,
}

type Shared = Arc<Mutex<Inner>>;

/// The hub and its second host.
pub(crate) struct StandIn {
    url: String,
    inner: Shared,
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let inner = Shared::default();
        let url = serve(Router::new().fallback(hub), &inner).await;
        let cdn = serve(Router::new().fallback(cdn), &inner).await;
        inner.lock().unwrap().cdn = cdn;
        Self { url, inner }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn put(&self, repo: &str, file: &str, content: &[u8]) {
        let key = (repo.to_owned(), file.to_owned());
        self.inner.lock().unwrap().files.insert(key, Bytes::copy_from_slice(content));
    }

    /// The next requests for content are answered like this, one fault each.
    pub(crate) fn misbehave(&self, faults: &[Fault]) {
        self.inner.lock().unwrap().faults.extend(faults.iter().cloned());
    }

    /// Announces every file as `etag`, whatever it holds.
    pub(crate) fn announce(&self, etag: &str) {
        self.inner.lock().unwrap().announced = Some(etag.to_owned());
    }

    /// Every branch is at another commit from now on.
    pub(crate) fn move_to(&self, commit: &str) {
        self.inner.lock().unwrap().commit = Some(commit.to_owned());
    }

    /// Answers everything with a status and an `X-Error-Code`.
    pub(crate) fn refuse(&self, status: u16, code: &'static str) {
        self.inner.lock().unwrap().refusal = Some((status, code));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    pub(crate) fn seen_at(&self, host: Host) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.host == host).collect()
    }

    /// Bytes of content that left the second host.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.inner.lock().unwrap().num_bytes
    }
}

async fn serve(router: Router<Shared>, inner: &Shared) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = router.with_state(inner.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn note(inner: &mut Inner, host: Host, request: &Request) {
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    inner.seen.push(Seen {
        host,
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        range: header("range"),
        if_range: header("if-range"),
        authorization: header("authorization"),
    });
}

async fn hub(State(shared): State<Shared>, request: Request) -> Response {
    let mut inner = shared.lock().unwrap();
    note(&mut inner, Host::Hub, &request);
    if let Some((status, code)) = inner.refusal {
        return answer(status, &[("x-error-code", code)], Body::empty());
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let commit = inner.commit.clone().unwrap_or_else(|| COMMIT.to_owned());
    match &parts[..] {
        ["api", "models", owner, repo, "revision", _] => {
            let id = format!("{owner}/{repo}");
            json_answer(&json!({ "id": id, "sha": commit }), &[])
        }
        ["api", "models", owner, repo, "tree", _] => {
            tree(&inner, &format!("{owner}/{repo}"), request.uri().query().unwrap_or(""))
        }
        [owner, repo, "resolve", _, file @ ..] => {
            let key = (format!("{owner}/{repo}"), file.join("/"));
            let Some(content) = inner.files.get(&key).cloned() else {
                return answer(404, &[("x-error-code", "EntryNotFound")], Body::empty());
            };
            resolve(&inner, &key.1, content, &commit)
        }
        _ => answer(404, &[("x-error-code", "RepoNotFound")], Body::empty()),
    }
}

/// Two files a page.
fn tree(inner: &Inner, repo: &str, query: &str) -> Response {
    let page: usize =
        query.split('&').find_map(|pair| pair.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
    let files: Vec<_> = inner.files.iter().filter(|((of, _), _)| of == repo).collect();
    let entries: Vec<_> = files
        .iter()
        .skip(page * 2)
        .take(2)
        .map(|((_, path), content)| {
            let size = content.len();
            if is_large(path) {
                let sha256 = Sha256Hash::of(content).to_string();
                json!({ "type": "file", "path": path, "size": size, "oid": "0".repeat(40),
                        "lfs": { "oid": sha256, "size": size } })
            } else {
                json!({ "type": "file", "path": path, "size": size, "oid": git_hash(content) })
            }
        })
        .collect();
    let next = format!("</api/models/{repo}/tree/x?cursor={}>; rel=\"next\"", page + 1);
    let has_more = (page + 1) * 2 < files.len();
    let link = [("link", next.as_str())];
    json_answer(&json!(entries), if has_more { &link } else { &[] })
}

fn resolve(inner: &Inner, file: &str, content: Bytes, commit: &str) -> Response {
    let size = content.len().to_string();
    if !is_large(file) {
        let etag = format!("\"{}\"", git_hash(&content));
        return answer(
            200,
            &[("x-repo-commit", commit), ("etag", &etag), ("content-length", &size)],
            Body::from(content),
        );
    }
    let sha256 = Sha256Hash::of(&content).to_string();
    let etag = format!("\"{}\"", inner.announced.as_ref().unwrap_or(&sha256));
    let location = format!("{}/{sha256}?signature=secret", inner.cdn);
    let headers = [
        ("x-repo-commit", commit),
        ("x-linked-etag", &etag),
        ("x-linked-size", &size),
        ("location", &location),
    ];
    answer(302, &headers, Body::empty())
}

async fn cdn(State(shared): State<Shared>, request: Request) -> Response {
    let mut inner = shared.lock().unwrap();
    note(&mut inner, Host::Cdn, &request);
    let fault = inner.faults.pop_front();
    if matches!(fault, Some(Fault::NewEtag)) {
        inner.etag += 1;
    }
    let wanted = request.uri().path().trim_start_matches('/').to_owned();
    let content = inner
        .files
        .values()
        .find(|content| Sha256Hash::of(content).to_string() == wanted)
        .cloned()
        .unwrap();
    let etag = format!("\"cdn-{}\"", inner.etag);
    drop(inner);
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_current = header("if-range").is_none_or(|validator| validator == etag);
    let from: usize = header("range")
        .filter(|_| is_current && !matches!(fault, Some(Fault::NoRange)))
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    content_answer(&shared, &content, from, (&etag, fault))
}

fn content_answer(
    shared: &Shared,
    content: &Bytes,
    from: usize,
    (etag, fault): (&str, Option<Fault>),
) -> Response {
    let total = content.len();
    let full = content.slice(from..);
    let mut length = Some(full.len());
    let mut body = full.clone();
    let mut end = End::Clean;
    let mut first = from;
    match fault {
        Some(Fault::Status(status)) => return answer(status, &[], Body::empty()),
        Some(Fault::RetryAfter(status, seconds)) => {
            return answer(status, &[("retry-after", &seconds.to_string())], Body::empty());
        }
        Some(Fault::Cut(after)) => (body, end) = (full.slice(..after), End::HangUp),
        Some(Fault::Stall(after)) => (body, end) = (full.slice(..after), End::Stall),
        Some(Fault::WrongBytes) => body = full.iter().map(|byte| !byte).collect(),
        Some(Fault::Flip(bit)) => {
            let mut bytes = full.to_vec();
            let place = bit / 8 % bytes.len();
            bytes[place] ^= 1 << (bit % 8);
            body = bytes.into();
        }
        Some(Fault::Short(len)) => (body, length) = (full.slice(..len), Some(len)),
        Some(Fault::Long(extra)) => {
            (body, length) = ([&full[..], &vec![0; extra]].concat().into(), None);
        }
        Some(Fault::WrongRange) => first = from + 1,
        Some(Fault::NoRange | Fault::NewEtag) | None => {}
    }
    let range = format!("bytes {first}-{}/{total}", total - 1);
    let mut headers = vec![("etag", etag)];
    let length = length.map(|length| length.to_string());
    if let Some(length) = &length {
        headers.push(("content-length", length));
    }
    if from > 0 {
        headers.push(("content-range", &range));
    }
    answer(if from > 0 { 206 } else { 200 }, &headers, stream(shared.clone(), body, end))
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Clean,
    HangUp,
    Stall,
}

/// Sends chunk by chunk, counting what was taken.
fn stream(shared: Shared, body: Bytes, end: End) -> Body {
    let chunks = futures::stream::unfold((shared, body), move |(shared, mut body)| async move {
        if body.is_empty() {
            return match end {
                End::Clean => None,
                // What was sent must leave before the connection breaks.
                End::HangUp => {
                    pause(Duration::from_millis(20)).await;
                    Some((Err(std::io::Error::other("hung up")), (shared, body)))
                }
                End::Stall => {
                    pause(Duration::from_secs(60)).await;
                    None
                }
            };
        }
        let chunk = body.split_to(body.len().min(CHUNK));
        shared.lock().unwrap().num_bytes += chunk.len() as u64;
        Some((Ok(chunk), (shared, body)))
    });
    Body::from_stream(chunks)
}

#[expect(clippy::disallowed_methods, reason = "a host that is slow")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

fn answer(status: u16, headers: &[(&str, &str)], body: Body) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}

fn json_answer(value: &serde_json::Value, headers: &[(&str, &str)]) -> Response {
    answer(200, headers, Body::from(value.to_string()))
}

fn is_large(file: &str) -> bool {
    file.ends_with(".gguf") || file.ends_with(".safetensors") || file.ends_with(".bin")
}

fn git_hash(content: &[u8]) -> String {
    use sha1::Digest;

    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
