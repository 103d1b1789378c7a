//! Requests to the hub: who sees the token, which redirects are followed, what is tried again.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::Semaphore;

use super::Error;
use super::listing::Remote;
use super::partial::Span;
use super::retry::{Backoff, Budgets, requested_pause};
use crate::name::{RepoId, RepoPath, Revision};
use crate::progress::Progress;
use crate::settings::{HubSettings, Parallel};

const MAX_REDIRECTS: usize = 8;
const MAX_JSON_BYTES: usize = 16 << 20;

/// A client of one hub.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    settings: HubSettings,
    progress: Progress,
    budgets: Arc<Budgets>,
    /// Transfers that may begin now.
    connections: Arc<Semaphore>,
}

/// Which redirects a request follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Those to the same host: a repository that was renamed. Others are the answer.
    SameHost,
    /// All of them.
    Anywhere,
}

/// Where a file's content is: at the hub, which may have led to another host.
#[derive(Debug)]
pub(crate) struct Location {
    resolve: Url,
    led_to: Mutex<Option<Url>>,
}

impl Location {
    /// The next request asks the hub again: what it led to may have expired.
    pub(crate) fn forget(&self) {
        *self.led_to.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn current(&self) -> Url {
        let led_to = self.led_to.lock().unwrap_or_else(PoisonError::into_inner);
        led_to.clone().unwrap_or_else(|| self.resolve.clone())
    }
}

impl Client {
    pub(crate) fn new(settings: HubSettings, progress: Progress) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sconce/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.read_timeout)
            .build()
            .map_err(Error::Client)?;
        let connections = Arc::new(Semaphore::new(settings.parallel.max_connections.max(1)));
        Ok(Self { http, settings, progress, budgets: Arc::default(), connections })
    }

    pub(crate) fn backoff(&self) -> Backoff<'_> {
        Backoff::new(self.settings.retries, &self.progress)
    }

    pub(crate) fn parallel(&self) -> Parallel {
        self.settings.parallel
    }

    /// Waits until another transfer may begin. It lasts as long as what is returned.
    pub(crate) async fn connection(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        // Never closed.
        self.connections.acquire().await.ok()
    }

    pub(crate) fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.settings.endpoint.origin()
    }

    /// Where the content of `remote` is.
    pub(crate) fn location(&self, remote: &Remote) -> Location {
        let resolve = self.resolve_url(&remote.repo, &remote.commit, &remote.file);
        Location { resolve, led_to: Mutex::default() }
    }

    /// Asks for the bytes of `span`, or for all. The answer's status is 200, 206 or 416.
    pub(crate) async fn get(
        &self,
        location: &Location,
        span: Option<Span>,
        validator: Option<&str>,
    ) -> Result<Response, Error> {
        let mut headers = HeaderMap::new();
        if let Some(Span { first, last }) = span {
            headers.insert("range", header_value(&format!("bytes={first}-{last}")));
            if let Some(etag) = validator {
                headers.insert("if-range", header_value(etag));
            }
        }
        let url = location.current();
        let response = self.send(Method::GET, &url, headers, Follow::Anywhere).await?;
        if !self.is_hub(response.url()) && response.status().is_success() {
            let mut led_to = location.led_to.lock().unwrap_or_else(PoisonError::into_inner);
            *led_to = Some(response.url().clone());
        }
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        self.accept(response)
    }

    pub(crate) fn resolve_url(&self, repo: &RepoId, revision: &Revision, file: &RepoPath) -> Url {
        let mut tail = vec!["resolve", revision.as_ref()];
        tail.extend(file.as_ref().split('/'));
        self.url(&[], repo, &tail)
    }

    /// A `/` inside of a segment (a branch's name) is escaped.
    pub(crate) fn url(&self, head: &[&str], repo: &RepoId, tail: &[&str]) -> Url {
        let mut url = self.settings.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(head).extend(repo.as_ref().split('/')).extend(tail);
        }
        url
    }

    pub(crate) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
    ) -> Result<(T, HeaderMap), Error> {
        let mut response = self.small(Method::GET, url, Follow::SameHost).await?;
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport(url))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_JSON_BYTES {
                return Err(Error::Protocol { url: plain(url), what: "body: it is too long" });
            }
        }
        let value = serde_json::from_slice(&body)
            .map_err(|_| Error::Protocol { url: plain(url), what: "JSON body" })?;
        Ok((value, headers))
    }

    /// A request with a small answer: tried again when it fails, but not for long.
    pub(crate) async fn small(
        &self,
        method: Method,
        url: &Url,
        follow: Follow,
    ) -> Result<Response, Error> {
        let mut backoff = self.backoff();
        let mut was_unreachable = false;
        loop {
            let sent = self.send(method.clone(), url, HeaderMap::new(), follow);
            let answer = match sent.await {
                Ok(response) => self.accept(response),
                Err(error) => Err(error),
            };
            match answer {
                Ok(response) => return Ok(response),
                // A host that twice cannot be connected to is not there, and somebody is waiting
                // for a mirror.
                Err(error) if is_connect(&error) && was_unreachable => return Err(error),
                Err(error) => {
                    was_unreachable = is_connect(&error);
                    backoff.wait(error).await?;
                }
            }
        }
    }

    /// Sends one request, following redirects. The token goes to the hub's own host only, and no
    /// longer once a redirect left it.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        follow: Follow,
    ) -> Result<Response, Error> {
        let mut url = url.clone();
        let mut token = self.settings.token.as_ref();
        for _ in 0..=MAX_REDIRECTS {
            if self.is_hub(&url) {
                self.budgets.wait(&url, &self.progress).await;
            } else {
                token = None;
            }
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .headers(headers.clone())
                .header(ACCEPT_ENCODING, "identity");
            if let Some(token) = token {
                request = request.bearer_auth(token.secret());
            }
            let response = request.send().await.map_err(transport(&url))?;
            if self.is_hub(&url) {
                let max_pause = self.settings.retries.max_pause;
                let said = (response.status(), response.headers());
                self.budgets.note(&url, said, max_pause);
            }
            let Some(next) = redirect(&url, &response)? else { return Ok(response) };
            if follow == Follow::SameHost && next.origin() != url.origin() {
                return Ok(response);
            }
            url = next;
        }
        Err(Error::Redirect { url: plain(&url), reason: "redirected too often" })
    }

    /// Turns a status that is no answer into an error.
    fn accept(&self, response: Response) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let url = plain(response.url());
        let is_hub = self.is_hub(response.url());
        // A storage host says 403 when the signature in its URL is too old; the hub signs anew.
        let is_stale = status == StatusCode::FORBIDDEN && !is_hub;
        let is_busy = status == StatusCode::REQUEST_TIMEOUT
            || status == StatusCode::TOO_MANY_REQUESTS
            || status.is_server_error();
        if is_stale || is_busy {
            let retry_after = requested_pause(response.headers());
            return Err(Error::Busy { url, status: status.as_u16(), retry_after });
        }
        let reason = self.reason(status, response.headers());
        Err(Error::Refused { url, status: status.as_u16(), reason })
    }

    /// The hub's words, and what they mean to who has a token, or none.
    fn reason(&self, status: StatusCode, headers: &HeaderMap) -> String {
        let code = header(headers, "x-error-code").unwrap_or("");
        let said = header(headers, "x-error-message").unwrap_or("");
        let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
        let has_token = self.settings.token.is_some();
        let ours = match (status.as_u16(), code) {
            (_, "GatedRepo") if has_token => {
                "the repository asks for its terms to be accepted on its page, by the account that \
                 the token in use belongs to"
            }
            (_, "GatedRepo") => {
                "the repository asks for its terms to be accepted on its page, and for HF_TOKEN"
            }
            (_, "EntryNotFound") => "the repository has no such file",
            (_, "RevisionNotFound") => "the repository has no such revision",
            (401 | 403, _) | (_, "RepoNotFound") if has_token => {
                "no such repository, or it is private and the token in use does not open it"
            }
            (401 | 403, _) | (_, "RepoNotFound") => {
                "no such repository, or it is private and wants HF_TOKEN"
            }
            (404, _) => "not found",
            _ => status.canonical_reason().unwrap_or("unexpected"),
        };
        if said.is_empty() { ours.to_owned() } else { format!("{ours} ({said})") }
    }
}

fn redirect(url: &Url, response: &Response) -> Result<Option<Url>, Error> {
    let follows = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    if !follows {
        return Ok(None);
    }
    let refuse = |reason| Error::Redirect { url: plain(url), reason };
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let next = location
        .and_then(|location| url.join(location).ok())
        .ok_or_else(|| refuse("a redirect without a valid Location"))?;
    match (url.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(next)),
        _ => Err(refuse("redirected from https to something else")),
    }
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// For text that is ASCII already.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The URL without what may be secret in it.
pub(crate) fn plain(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

pub(crate) fn transport(url: &Url) -> impl FnOnce(reqwest::Error) -> Error + use<> {
    let url = plain(url);
    move |source| Error::Transport { url, source: source.without_url() }
}

fn is_connect(error: &Error) -> bool {
    matches!(error, Error::Transport { source, .. } if source.is_connect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::Retries;

    fn client(endpoint: &str) -> Client {
        let settings = HubSettings {
            endpoint: endpoint.parse().unwrap(),
            cache: "/nowhere".into(),
            token: None,
            token_source: None,
            network: crate::settings::Network::Online,
            read_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            retries: Retries::default(),
            parallel: Parallel::default(),
        };
        Client::new(settings, Progress::Silent).unwrap()
    }

    #[test]
    fn urls_keep_the_endpoints_path_and_escape_branches() {
        let repo = "o/r".parse().unwrap();
        let revision = "refs/pr/1".parse().unwrap();
        let file = "sub/a+b.json".parse().unwrap();

        let url = client("https://host/api/hub").resolve_url(&repo, &revision, &file);

        assert_eq!(url.as_str(), "https://host/api/hub/o/r/resolve/refs%2Fpr%2F1/sub/a+b.json");
    }

    #[test]
    fn errors_never_show_a_signature_or_a_password() {
        let url = Url::parse("https://me:secret@cdn/x?X-Amz-Signature=secret#secret").unwrap();

        assert_eq!(plain(&url), "https://cdn/x");
    }
}
