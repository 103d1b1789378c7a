//! A hub that speaks the protocol, keeps count, and misbehaves when told to.
//!
//! Two hosts, as the real one has: the hub itself, which knows revisions, lists files and sends
//! small ones, and a second host for the content of large ones (`.gguf`, `.safetensors`, `.bin`). A
//! fault is told beforehand and takes one request. It knows nothing of who its client is: our
//! launcher and Python's `huggingface_hub` are tested against the same answers.

#![expect(clippy::unwrap_used, reason = "a test server that fails is a test that fails")]

mod content;
mod fault;
mod protocol;
mod repos;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use fault::Fault;
pub use repos::{COMMIT, sha256};

use repos::Repo;

/// Which of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// The hub itself.
    Hub,
    /// The host of large files' content.
    Cdn,
}

/// A request that arrived.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Where.
    pub host: Host,
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// Its `Range`.
    pub range: Option<String>,
    /// Its `If-Range`.
    pub if_range: Option<String>,
    /// Its `Authorization`.
    pub authorization: Option<String>,
}

#[derive(Default)]
struct Inner {
    /// The hub's URL.
    hub: String,
    /// The second host's URL.
    cdn: String,
    repos: BTreeMap<String, Repo>,
    /// Repositories' old names.
    renamed: BTreeMap<String, String>,
    /// Large files by their sha256.
    contents: BTreeMap<String, Bytes>,
    hub_faults: VecDeque<Fault>,
    cdn_faults: VecDeque<Fault>,
    /// Part of the second host's ETags.
    etag: u32,
    /// What every large file is announced as.
    announced: Option<String>,
    /// What every request to the hub is answered with.
    refusal: Option<(u16, String)>,
    /// What the hub says of everybody's budget.
    rate_limit: Option<String>,
    has_xet: bool,
    page_size: usize,
    seen: Vec<Seen>,
    num_bytes: u64,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Inner>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Notes a request, and takes the fault that it meets.
    fn arrive(&self, host: Host, request: &Request) -> Option<Fault> {
        let header = |name: &str| {
            request.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let mut inner = self.lock();
        inner.seen.push(Seen {
            host,
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            range: header("range"),
            if_range: header("if-range"),
            authorization: header("authorization"),
        });
        match host {
            Host::Hub => inner.hub_faults.pop_front(),
            Host::Cdn => inner.cdn_faults.pop_front(),
        }
    }
}

/// The hub and its second host.
pub struct StandIn {
    url: String,
    shared: Shared,
}

impl StandIn {
    /// Serves on two ports of this machine until the runtime ends.
    pub async fn start() -> Self {
        let inner = Inner { page_size: 2, ..Inner::default() };
        let shared = Shared(Arc::new(Mutex::new(inner)));
        let url = serve(Router::new().fallback(protocol::hub), &shared).await;
        let cdn = serve(Router::new().fallback(content::cdn), &shared).await;
        // Another name, not only another port: clients follow redirects on the same host at once.
        let cdn = cdn.replace("127.0.0.1", "localhost");
        {
            let mut inner = shared.lock();
            (inner.hub, inner.cdn) = (url.clone(), cdn);
        }
        Self { url, shared }
    }

    /// The hub's URL: `HF_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The second host's URL.
    pub fn cdn_url(&self) -> String {
        self.shared.lock().cdn.clone()
    }

    /// `file` of `repo` at the commit that its main branch is at.
    pub fn put(&self, repo: &str, file: &str, content: &[u8]) {
        let mut inner = self.shared.lock();
        let content = Bytes::copy_from_slice(content);
        if repos::is_large(file) {
            inner.contents.insert(sha256(&content), content.clone());
        }
        inner.repos.entry(repo.to_owned()).or_default().put(file, content);
    }

    /// The main branch of every repository is at another commit from now on, which starts with
    /// the files of the last.
    pub fn move_to(&self, commit: &str) {
        let mut inner = self.shared.lock();
        inner.repos.values_mut().for_each(|repo| repo.move_to(commit));
    }

    /// Gives files of `repo` only to who sends `token`.
    pub fn gate(&self, repo: &str, token: &str) {
        self.shared.lock().repos.entry(repo.to_owned()).or_default().gate = Some(token.to_owned());
    }

    /// `from` is called `to` from now on, and the old name leads there.
    pub fn rename(&self, from: &str, to: &str) {
        let mut inner = self.shared.lock();
        let repo = inner.repos.remove(from).unwrap();
        inner.repos.insert(to.to_owned(), repo);
        inner.renamed.insert(from.to_owned(), to.to_owned());
    }

    /// The next requests to the second host are answered like this, one fault each.
    pub fn misbehave(&self, faults: &[Fault]) {
        self.misbehave_at(Host::Cdn, faults);
    }

    /// The next requests to `host` are answered like this, one fault each.
    pub fn misbehave_at(&self, host: Host, faults: &[Fault]) {
        let mut inner = self.shared.lock();
        let queue = match host {
            Host::Hub => &mut inner.hub_faults,
            Host::Cdn => &mut inner.cdn_faults,
        };
        queue.extend(faults.iter().cloned());
    }

    /// Forgets the faults that no request met.
    pub fn behave(&self) {
        let mut inner = self.shared.lock();
        inner.hub_faults.clear();
        inner.cdn_faults.clear();
        inner.announced = None;
        inner.refusal = None;
        inner.rate_limit = None;
    }

    /// Announces every large file as `etag`, whatever it holds.
    pub fn announce(&self, etag: &str) {
        self.shared.lock().announced = Some(etag.to_owned());
    }

    /// Answers everything with a status and an `X-Error-Code`.
    pub fn refuse(&self, status: u16, code: &str) {
        self.shared.lock().refusal = Some((status, code.to_owned()));
    }

    /// Sends `RateLimit: value` with every answer of the hub.
    pub fn limit(&self, value: &str) {
        self.shared.lock().rate_limit = Some(value.to_owned());
    }

    /// Says of large files that they can be had by chunks too.
    pub fn offer_xet(&self) {
        self.shared.lock().has_xet = true;
    }

    /// Lists so many files a page; two at first.
    pub fn page(&self, num_files: usize) {
        self.shared.lock().page_size = num_files;
    }

    /// All requests, in the order of their arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// Those to one host.
    pub fn seen_at(&self, host: Host) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.host == host).collect()
    }

    /// Bytes of content that left the second host.
    pub fn num_bytes(&self) -> u64 {
        self.shared.lock().num_bytes
    }
}

async fn serve(router: Router<Shared>, shared: &Shared) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = router.with_state(shared.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn answer(status: u16, headers: &[(&str, &str)], body: Body) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}
