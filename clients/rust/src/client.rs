//! The client: one server, one key, one pool of connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::{Batch, BatchRequest};
use crate::chat::{Chat, ChatChunk, ChatRequest};
use crate::completion::{Completion, CompletionRequest};
use crate::embedding::{EmbeddingRequest, Embeddings};
use crate::error::{ApiError, Error};
use crate::file::{DeletedFile, File, FileContent, FileUpload, Form};
use crate::model::{Model, Models};
use crate::page::{ListQuery, Page};
use crate::retry::{Retries, retry_after};
use crate::stream::{Chunks, Events};

/// Bytes of an error's body that are looked at.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A client of one server. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    base: Url,
    headers: HeaderMap,
    retries: Retries,
    timeout: Duration,
    max_event_bytes: usize,
    max_body_bytes: usize,
}

/// How a client is set up.
///
/// ```
/// use std::time::Duration;
///
/// use sconce_client::{Client, Error, Retries};
///
/// let client = Client::builder("https://api.example/openai")
///     .api_key("sk-with-its\n")
///     .retries(Retries { max_retries: 5, ..Retries::default() })
///     .idle_timeout(Duration::from_secs(60))
///     .build();
/// // No header can carry the end of a line.
/// assert!(matches!(client, Err(Error::Key)));
///
/// let client = Client::new("http://127.0.0.1:8000").unwrap();
/// assert_eq!(client.base_url().path(), "/v1");
/// assert!(matches!(Client::new("ftp://a.example"), Err(Error::Url(_))));
/// ```
#[derive(Clone)]
pub struct Builder {
    base: String,
    api_key: Option<String>,
    retries: Retries,
    connect_timeout: Duration,
    timeout: Duration,
    idle_timeout: Duration,
    max_event_bytes: usize,
    max_body_bytes: usize,
}

impl Builder {
    /// The key that requests carry, if the server wants one.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into()).filter(|key| !key.is_empty());
        self
    }

    /// How often and how patiently requests are tried again. Two times, unless told otherwise.
    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Tries after the first; 0 leaves that to the caller.
    #[must_use]
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.retries.max_retries = max_retries;
        self
    }

    /// Longest time until there is a connection: 10 seconds, unless told otherwise.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest time for a whole answer that is not streamed: 10 minutes, unless told otherwise.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Longest silence of a server, within a stream or before it: 10 minutes, unless told otherwise.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Largest event of a stream that is read: 8 MiB, unless told otherwise.
    #[must_use]
    pub fn max_event_bytes(mut self, limit: usize) -> Self {
        self.max_event_bytes = limit;
        self
    }

    /// Largest answer that is read in one piece: 256 MiB, unless told otherwise.
    #[must_use]
    pub fn max_body_bytes(mut self, limit: usize) -> Self {
        self.max_body_bytes = limit;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Key`], or [`Error::Request`] when there is no TLS to be had.
    pub fn build(self) -> Result<Client, Error> {
        let base = base(&self.base).ok_or_else(|| Error::Url(self.base.clone()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.api_key {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            let mut value = value.map_err(|_| Error::Key)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("sconce-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.idle_timeout)
            // A small request must not wait for the acknowledgement of the one before it.
            .tcp_nodelay(true)
            // The key is for this server: a redirect may lead to another, and turns a POST into a GET.
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(usize::MAX)
            // Reading the system's certificates takes longer than the rest of a start.
            .tls_built_in_root_certs(base.scheme() == "https")
            .build()
            .map_err(Error::before)?;
        Ok(Client {
            inner: Arc::new(Inner {
                http,
                base,
                headers,
                retries: self.retries,
                timeout: self.timeout,
                max_event_bytes: self.max_event_bytes,
                max_body_bytes: self.max_body_bytes,
            }),
        })
    }
}

/// The address that paths are put behind: `/v1`, where none is given.
fn base(text: &str) -> Option<Url> {
    let mut url = Url::parse(text.trim_end_matches('/')).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return None;
    }
    if url.path() == "/" {
        url.set_path("/v1");
    }
    url.set_query(None);
    url.set_fragment(None);
    Some(url)
}

impl Client {
    /// A client without a key. `base` is where the API is, such as `http://127.0.0.1:8000` or
    /// `https://api.example/openai/v1`: an address without a path means `/v1` on it.
    ///
    /// # Errors
    /// See [`Builder::build`].
    pub fn new(base: impl Into<String>) -> Result<Self, Error> {
        Self::builder(base).build()
    }

    /// A client that is set up otherwise. See [`Self::new`] for `base`.
    pub fn builder(base: impl Into<String>) -> Builder {
        let minutes = Duration::from_secs(600);
        Builder {
            base: base.into(),
            api_key: None,
            retries: Retries::default(),
            connect_timeout: Duration::from_secs(10),
            timeout: minutes,
            idle_timeout: minutes,
            max_event_bytes: 8 << 20,
            max_body_bytes: 256 << 20,
        }
    }

    /// Where the API is.
    pub fn base_url(&self) -> &Url {
        &self.inner.base
    }

    /// Answers a chat.
    ///
    /// ```no_run
    /// # async fn run(client: sconce_client::Client) -> Result<(), sconce_client::Error> {
    /// use sconce_client::ChatRequest;
    ///
    /// let mut request = ChatRequest::new("smollm2:135m").system("Be brief.").user("Why is the sky blue?");
    /// request.temperature = Some(0.0);
    /// // What has no type here goes along by its name.
    /// request.extra.insert("top_k".to_owned(), 20.into());
    /// let answer = client.chat(&request).await?;
    /// println!("{} ({} tokens)", answer.text(), answer.usage.map_or(0, |it| it.completion_tokens));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn chat(&self, request: &ChatRequest) -> Result<Chat, Error> {
        self.post("chat/completions", request).await
    }

    /// Answers a chat, piece by piece.
    pub async fn chat_stream(&self, request: &ChatRequest) -> Result<Chunks<ChatChunk>, Error> {
        self.events("chat/completions", &Streamed::new(request)).await.map(Chunks::new)
    }

    /// Completes a text.
    pub async fn complete(&self, request: &CompletionRequest) -> Result<Completion, Error> {
        self.post("completions", request).await
    }

    /// Completes a text, piece by piece.
    pub async fn complete_stream(
        &self,
        request: &CompletionRequest,
    ) -> Result<Chunks<Completion>, Error> {
        self.events("completions", &Streamed::new(request)).await.map(Chunks::new)
    }

    /// Embeds texts. The vectors are in the texts' order.
    ///
    /// ```no_run
    /// # async fn run(client: sconce_client::Client) -> Result<(), sconce_client::Error> {
    /// use sconce_client::EmbeddingRequest;
    ///
    /// let request = EmbeddingRequest::new("minilm", ["The cat eats fish.", "Rain falls."]);
    /// for it in client.embed(&request).await?.data {
    ///     println!("{} dimensions", it.embedding.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn embed(&self, request: &EmbeddingRequest) -> Result<Embeddings, Error> {
        let mut reply: Embeddings = self.post("embeddings", request).await?;
        reply.data.sort_by_key(|embedding| embedding.index);
        Ok(reply)
    }

    /// The server's models.
    pub async fn models(&self) -> Result<Vec<Model>, Error> {
        Ok(self.get::<Models>("models").await?.data)
    }

    /// Uploads a file. The client's timeout is for all of it.
    pub async fn upload(&self, file: FileUpload) -> Result<File, Error> {
        let body = Body::Form(Box::new(Form::new(file)));
        self.whole(Call { method: Method::POST, url: self.url("files"), body }).await
    }

    /// What the server knows of a file.
    pub async fn file(&self, id: &str) -> Result<File, Error> {
        self.whole(Call::bare(Method::GET, self.item("files", id, &[]))).await
    }

    /// Some of the server's files.
    pub async fn files(&self, query: &ListQuery) -> Result<Page<File>, Error> {
        self.get(&query.path("files")).await
    }

    /// Deletes a file.
    pub async fn delete_file(&self, id: &str) -> Result<DeletedFile, Error> {
        self.whole(Call::bare(Method::DELETE, self.item("files", id, &[]))).await
    }

    /// What is in a file, piece by piece.
    pub async fn file_content(&self, id: &str) -> Result<FileContent, Error> {
        let call = Call::bare(Method::GET, self.item("files", id, &["content"]));
        Ok(FileContent::new(self.send(&call, &mut 0).await?))
    }

    /// Makes a batch of an uploaded file.
    ///
    /// ```no_run
    /// # async fn run(client: sconce_client::Client) -> Result<(), sconce_client::Error> {
    /// use std::time::Duration;
    ///
    /// use sconce_client::{BatchRequest, FileUpload};
    ///
    /// let file = client.upload(FileUpload::from_path("requests.jsonl", "batch")).await?;
    /// let request = BatchRequest::new(file.id, "/v1/chat/completions");
    /// let mut batch = client.create_batch(&request).await?;
    /// while !batch.status.is_final() {
    ///     tokio::time::sleep(Duration::from_secs(5)).await;
    ///     batch = client.batch(&batch.id).await?;
    /// }
    /// if let Some(output) = batch.output_file_id {
    ///     let mut content = client.file_content(&output).await?;
    ///     while let Some(piece) = content.next().await {
    ///         println!("{} bytes", piece?.len());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_batch(&self, request: &BatchRequest) -> Result<Batch, Error> {
        self.post("batches", request).await
    }

    /// How far a batch is.
    pub async fn batch(&self, id: &str) -> Result<Batch, Error> {
        self.whole(Call::bare(Method::GET, self.item("batches", id, &[]))).await
    }

    /// Some of the server's batches.
    pub async fn batches(&self, query: &ListQuery) -> Result<Page<Batch>, Error> {
        self.get(&query.path("batches")).await
    }

    /// Cancels a batch. What is answered already stays.
    pub async fn cancel_batch(&self, id: &str) -> Result<Batch, Error> {
        self.whole(Call::bare(Method::POST, self.item("batches", id, &["cancel"]))).await
    }

    /// What a GET of `path`, below the base, is answered with.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.whole(Call::bare(Method::GET, self.url(path))).await
    }

    /// What a POST of `body` to `path`, below the base, is answered with. Either may be a
    /// [`serde_json::Value`].
    ///
    /// ```no_run
    /// # async fn run(client: sconce_client::Client) -> Result<(), sconce_client::Error> {
    /// use serde_json::{Value, json};
    ///
    /// let body = json!({"model": "minilm", "query": "cats", "documents": ["a kitten", "rain"]});
    /// let ranked: Value = client.post("rerank", &body).await?;
    /// println!("{}", ranked["results"][0]["index"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn post<B, T>(&self, path: &str, body: &B) -> Result<T, Error>
    where
        B: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        self.whole(self.post_call(path, body)?).await
    }

    /// The events that a POST of `body` to `path`, below the base, is answered with. The body must
    /// ask for a stream itself.
    pub async fn events<B: Serialize + ?Sized>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Events, Error> {
        let call = self.post_call(path, body)?;
        let mut retry = 0;
        let response = self.send(&call, &mut retry).await?;
        Ok(Events::new(self.clone(), call, retry, response))
    }

    pub(crate) fn max_event_bytes(&self) -> usize {
        self.inner.max_event_bytes
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.inner.base.clone();
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let joined =
            format!("{}/{}", url.path().trim_end_matches('/'), path.trim_start_matches('/'));
        url.set_path(&joined);
        url.set_query(query);
        url
    }

    /// Where something of this id is, or what belongs to it. Whatever is in the id stays in its place.
    fn item(&self, list: &str, id: &str, rest: &[&str]) -> Url {
        let mut url = self.url(list);
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(id).extend(rest);
        }
        url
    }

    fn post_call<B: Serialize + ?Sized>(&self, path: &str, body: &B) -> Result<Call, Error> {
        let body = serde_json::to_vec(body).map_err(|e| Error::unexpected("a body of JSON", &e))?;
        let body = Body::Json(body.into());
        Ok(Call { method: Method::POST, url: self.url(path), body })
    }

    async fn whole<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let mut retry = 0;
        let read = async {
            loop {
                let response = self.send(&call, &mut retry).await?;
                match read_body(response, self.inner.max_body_bytes).await {
                    Ok(body) => break Ok(body),
                    Err(error) => self.pause(error, &mut retry).await?,
                }
            }
        };
        let body = tokio::time::timeout(self.inner.timeout, read).await;
        let body = body.unwrap_or(Err(Error::Timeout))?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::unexpected("what was asked for", &error))
    }

    /// Sends `call` until an answer begins, or there is nothing left to try.
    pub(crate) async fn send(&self, call: &Call, retry: &mut u32) -> Result<Response, Error> {
        loop {
            match self.send_once(call).await {
                Ok(response) => return Ok(response),
                Err(error) => self.pause(error, retry).await?,
            }
        }
    }

    async fn send_once(&self, call: &Call) -> Result<Response, Error> {
        let Inner { http, headers, .. } = &*self.inner;
        let request = http.request(call.method.clone(), call.url.clone()).headers(headers.clone());
        let request = call.body.attach(request).await?;
        let response = request.send().await.map_err(Error::before)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let request_id = response.headers().get("x-request-id");
        let request_id = request_id.and_then(|id| id.to_str().ok()).map(str::to_owned);
        // What can't be read of it says as little as nothing.
        let body = read_body(response, MAX_ERROR_BYTES).await.unwrap_or_default();
        let error = Box::new(ApiError::from_body(&body, status));
        Err(Error::Status { status, error, retry_after, request_id })
    }

    /// Waits until `error`'s request may be sent again; returns the error if it may not.
    #[expect(clippy::disallowed_methods, reason = "patience is what a server asks for")]
    pub(crate) async fn pause(&self, error: Error, retry: &mut u32) -> Result<(), Error> {
        if !error.is_transient() {
            return Err(error);
        }
        let asked = match &error {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let Some(delay) = self.inner.retries.delay(*retry, asked) else { return Err(error) };
        *retry += 1;
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// A request that can be sent again.
#[derive(Debug)]
pub(crate) struct Call {
    method: Method,
    url: Url,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Json(Bytes),
    Form(Box<Form>),
}

impl Call {
    fn bare(method: Method, url: Url) -> Self {
        Self { method, url, body: Body::Json(Bytes::new()) }
    }
}

impl Body {
    async fn attach(&self, request: RequestBuilder) -> Result<RequestBuilder, Error> {
        match self {
            Self::Json(bytes) => Ok(request.body(bytes.clone())),
            Self::Form(form) => {
                let (body, length) = form.body().await?;
                let mut headers = HeaderMap::new();
                if let Ok(kind) = HeaderValue::from_str(&form.content_type()) {
                    headers.insert(CONTENT_TYPE, kind);
                }
                headers.insert(CONTENT_LENGTH, length.into());
                Ok(request.headers(headers).body(body))
            }
        }
    }
}

/// A request whose answer is to be streamed.
#[derive(Serialize)]
struct Streamed<'a, R> {
    #[serde(flatten)]
    request: &'a R,
    stream: bool,
}

impl<'a, R> Streamed<'a, R> {
    fn new(request: &'a R) -> Self {
        Self { request, stream: true }
    }
}

async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(Error::within)? {
        if body.len() + piece.len() > limit {
            return Err(Error::TooLong { limit });
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_means_the_first_version() {
        let url = |text: &str, path: &str| Client::new(text).map(|c| c.url(path).to_string()).ok();

        assert_eq!(url("http://h:1", "models").unwrap(), "http://h:1/v1/models");
        assert_eq!(url("http://h:1/v1/", "/models").unwrap(), "http://h:1/v1/models");
        assert_eq!(url("https://h/openai?x=1", "a/b?c=d").unwrap(), "https://h/openai/a/b?c=d");
        for text in ["", "h:1", "ftp://h", "http://", "/v1"] {
            assert_eq!(url(text, "models"), None, "{text}");
        }
        let builder = Client::builder("http://h").api_key("sk\n1");
        assert!(matches!(builder.build(), Err(Error::Key)));
    }
}
