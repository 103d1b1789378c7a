//! The hub's HTTP interface: what is in a repository, and what a file must be.

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, LINK, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::Error;
use super::retry::{Backoff, requested_pause};
use crate::digest::ContentId;
use crate::name::{RepoId, RepoPath, Revision};
use crate::settings::{HubSettings, Retries};

const MAX_REDIRECTS: usize = 8;
const MAX_JSON_BYTES: usize = 16 << 20;
const MAX_PAGES: usize = 100;

/// A client of one hub.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    settings: HubSettings,
}

/// A file as the hub announces it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) repo: RepoId,
    pub(crate) commit: Revision,
    pub(crate) file: RepoPath,
    pub(crate) id: ContentId,
    pub(crate) size: u64,
}

/// Which redirects a request follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// Those to the same host: a repository that was renamed. Others are the answer.
    SameHost,
    /// All of them.
    Anywhere,
}

impl Client {
    pub(crate) fn new(settings: HubSettings) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sconce/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .read_timeout(settings.read_timeout)
            .build()
            .map_err(Error::Client)?;
        Ok(Self { http, settings })
    }

    pub(crate) fn retries(&self) -> Retries {
        self.settings.retries
    }

    /// Asks what `file` is at `revision`.
    pub(crate) async fn announce(
        &self,
        repo: &RepoId,
        revision: &Revision,
        file: &RepoPath,
    ) -> Result<Remote, Error> {
        let url = self.resolve_url(repo, revision, file);
        let response = self.small(Method::HEAD, &url, Follow::SameHost).await?;
        let headers = response.headers();
        let protocol = |what| Error::Protocol { url: plain(&url), what };
        let commit: Revision = header(headers, "x-repo-commit")
            .and_then(|commit| commit.parse().ok())
            .filter(Revision::is_commit)
            .ok_or_else(|| protocol("X-Repo-Commit"))?;
        check_commit(revision, &commit)?;
        let id = header(headers, "x-linked-etag")
            .or_else(|| header(headers, "etag"))
            .and_then(|etag| unquote(etag).parse().ok())
            .ok_or_else(|| protocol("content hash (X-Linked-Etag or ETag)"))?;
        let size = header(headers, "x-linked-size")
            .or_else(|| {
                response.status().is_success().then(|| header(headers, "content-length"))?
            })
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| protocol("size (X-Linked-Size or Content-Length)"))?;
        Ok(Remote { repo: repo.clone(), commit, file: file.clone(), id, size })
    }

    /// Lists the files at `revision` that are of a kind that is fetched.
    pub(crate) async fn list(
        &self,
        repo: &RepoId,
        revision: &Revision,
    ) -> Result<Vec<Remote>, Error> {
        #[derive(Deserialize)]
        struct Model {
            sha: String,
        }
        let url = self.url(&["api", "models"], repo, &["revision", revision.as_ref()]);
        let (model, _) = self.json::<Model>(&url).await?;
        let commit: Revision = model
            .sha
            .parse()
            .ok()
            .filter(Revision::is_commit)
            .ok_or_else(|| Error::Protocol { url: plain(&url), what: "commit" })?;
        check_commit(revision, &commit)?;

        let mut url = self.url(&["api", "models"], repo, &["tree", commit.as_ref()]);
        url.set_query(Some("recursive=true&expand=false"));
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let (entries, headers) = self.json::<Vec<TreeEntry>>(&url).await?;
            files.extend(entries.iter().filter_map(|entry| entry.remote(repo, &commit)));
            match next_page(&headers).and_then(|next| url.join(next).ok()) {
                None => return Ok(files),
                Some(next) if next.origin() == self.settings.endpoint.origin() => url = next,
                Some(next) => {
                    let reason = "the next page is on another host";
                    return Err(Error::Redirect { url: plain(&next), reason });
                }
            }
        }
        Err(Error::Protocol { url: plain(&url), what: "end of its list of files" })
    }

    /// Asks for the bytes of `remote` from `from` on. The answer's status is 200, 206 or 416.
    pub(crate) async fn get(
        &self,
        remote: &Remote,
        from: u64,
        validator: Option<&str>,
    ) -> Result<Response, Error> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert("range", header_value(&format!("bytes={from}-")));
            if let Some(etag) = validator {
                headers.insert("if-range", header_value(etag));
            }
        }
        let url = self.resolve_url(&remote.repo, &remote.commit, &remote.file);
        let response = self.send(Method::GET, &url, headers, Follow::Anywhere).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        self.accept(response).await
    }

    fn resolve_url(&self, repo: &RepoId, revision: &Revision, file: &RepoPath) -> Url {
        let mut tail = vec!["resolve", revision.as_ref()];
        tail.extend(file.as_ref().split('/'));
        self.url(&[], repo, &tail)
    }

    /// A `/` inside of a segment (a branch's name) is escaped.
    fn url(&self, head: &[&str], repo: &RepoId, tail: &[&str]) -> Url {
        let mut url = self.settings.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(head).extend(repo.as_ref().split('/')).extend(tail);
        }
        url
    }

    async fn json<T: serde::de::DeserializeOwned>(
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
    async fn small(&self, method: Method, url: &Url, follow: Follow) -> Result<Response, Error> {
        let mut backoff = Backoff::new(self.settings.retries);
        let mut was_unreachable = false;
        loop {
            let sent = self.send(method.clone(), url, HeaderMap::new(), follow);
            let answer = match sent.await {
                Ok(response) => self.accept(response).await,
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
            if url.origin() != self.settings.endpoint.origin() {
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
            let Some(next) = redirect(&url, &response)? else { return Ok(response) };
            if follow == Follow::SameHost && next.origin() != url.origin() {
                return Ok(response);
            }
            url = next;
        }
        Err(Error::Redirect { url: plain(&url), reason: "redirected too often" })
    }

    /// Turns a status that is no answer into an error.
    async fn accept(&self, response: Response) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let url = plain(response.url());
        let is_hub = response.url().origin() == self.settings.endpoint.origin();
        // A storage host says 403 when the signature in its URL is too old; the hub signs anew.
        let is_stale = status == StatusCode::FORBIDDEN && !is_hub;
        let is_busy = status == StatusCode::REQUEST_TIMEOUT
            || status == StatusCode::TOO_MANY_REQUESTS
            || status.is_server_error();
        if is_stale || is_busy {
            let retry_after = requested_pause(response.headers());
            return Err(Error::Busy { url, status: status.as_u16(), retry_after });
        }
        let reason = reason(status, response.headers());
        Err(Error::Refused { url, status: status.as_u16(), reason })
    }
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<LfsEntry>,
}

#[derive(Deserialize)]
struct LfsEntry {
    oid: String,
    size: u64,
}

impl TreeEntry {
    fn remote(&self, repo: &RepoId, commit: &Revision) -> Option<Remote> {
        let (oid, size) = match &self.lfs {
            Some(lfs) => (lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid), lfs.size),
            None => (self.oid.as_str(), self.size),
        };
        let file = (self.kind == "file").then(|| self.path.parse().ok())??;
        let id = oid.parse().ok()?;
        Some(Remote { repo: repo.clone(), commit: commit.clone(), file, id, size })
    }
}

fn check_commit(asked: &Revision, got: &Revision) -> Result<(), Error> {
    if asked.is_commit() && asked != got {
        return Err(Error::WrongCommit { asked: asked.clone(), got: got.clone() });
    }
    Ok(())
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

fn reason(status: StatusCode, headers: &HeaderMap) -> String {
    let code = header(headers, "x-error-code").unwrap_or("");
    let said = header(headers, "x-error-message").unwrap_or("");
    let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
    let ours = match (status.as_u16(), code) {
        (_, "GatedRepo") => "the repository asks for its terms to be accepted, and for HF_TOKEN",
        (_, "EntryNotFound") => "the repository has no such file",
        (_, "RevisionNotFound") => "the repository has no such revision",
        (401 | 403, _) | (_, "RepoNotFound") => {
            "no such repository, or it is private and wants HF_TOKEN"
        }
        (404, _) => "not found",
        _ => status.canonical_reason().unwrap_or("unexpected"),
    };
    if said.is_empty() { ours.to_owned() } else { format!("{ours} ({said})") }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// For text that is ASCII already.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn unquote(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

fn next_page(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).find_map(|link| {
        let (url, parameters) = link.strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then_some(url)
    })
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
        };
        Client::new(settings).unwrap()
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

    #[test]
    fn the_next_page_is_found_in_the_link_header() {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, HeaderValue::from_static("</tree?cursor=x>; rel=\"next\""));

        assert_eq!(next_page(&headers), Some("/tree?cursor=x"));
    }
}
