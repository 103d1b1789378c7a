//! A router in this process with one scripted worker, and a client.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use sconce_proto::worker::ModelInfo;
use sconce_router::config::{AuthMode, Config, Limits};
use sconce_router::dispatch::Dispatcher;
use sconce_router::server::Server;
use sconce_router::shutdown::Stage;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::worker::{LONG, Worker};

pub(crate) struct Service {
    pub(crate) worker: Worker,
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
    pub(crate) stage: watch::Sender<Stage>,
    _serving: JoinHandle<()>,
    _directory: TempDir,
}

/// An answer that is not streamed.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

pub(crate) async fn start() -> Service {
    start_with(|_| {}, |_| {}).await
}

pub(crate) async fn start_with(
    model: impl FnOnce(&mut ModelInfo),
    limits: impl FnOnce(&mut Limits),
) -> Service {
    start_configured(model, |config| limits(&mut config.limits)).await
}

pub(crate) async fn start_configured(
    model: impl FnOnce(&mut ModelInfo),
    change: impl FnOnce(&mut Config),
) -> Service {
    let worker = Worker::start(model);
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        database: directory.path().join("sconce.db").into(),
        auth: AuthMode::Open,
        workers: vec![worker.address()],
        ..Config::default()
    };
    change(&mut config);
    let dispatcher = Dispatcher::new(&config);
    let (stage, stages) = watch::channel(Stage::Serve);
    let server = Server::bind(config, dispatcher.clone(), stages).await.unwrap();
    let address = server.address();
    let serving = tokio::spawn(server.serve());
    let ready = async {
        let mut poll = tokio::time::interval(Duration::from_millis(5));
        while !dispatcher.status().iter().all(|worker| worker.ready) {
            poll.tick().await;
        }
    };
    timeout(LONG, ready).await.expect("the worker did not become ready");
    Service {
        worker,
        address,
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
        stage,
        _serving: serving,
        _directory: directory,
    }
}

impl Service {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request; its answer is awaited apart, so that the worker can speak in between.
    pub(crate) fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> JoinHandle<Response> {
        let request = self.client.post(self.url(path)).header("content-type", "application/json");
        let request = request.body(body);
        tokio::spawn(async move { request.send().await.unwrap() })
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).header("content-type", "application/json")
    }

    /// A request that says nothing of its body.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub(crate) fn chat(&self, change: Value) -> JoinHandle<Response> {
        let body = json!({"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}]});
        self.post("/v1/chat/completions", merged(body, change).to_string())
    }

    pub(crate) fn message(&self, change: Value) -> JoinHandle<Response> {
        let body = json!({
            "model": "org/tiny", "max_tokens": 100,
            "messages": [{"role": "user", "content": "hi"}],
        });
        self.post("/v1/messages", merged(body, change).to_string())
    }

    pub(crate) fn respond(&self, change: Value) -> JoinHandle<Response> {
        let body = json!({"model": "org/tiny", "input": "hi"});
        self.post("/v1/responses", merged(body, change).to_string())
    }

    pub(crate) fn complete(&self, change: Value) -> JoinHandle<Response> {
        let body = json!({"model": "org/tiny", "prompt": "hi"});
        self.post("/v1/completions", merged(body, change).to_string())
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        self.client.get(self.url(path)).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn get_with(&self, path: &str, header: (&str, &str)) -> Answer {
        let request = self.client.get(self.url(path)).header(header.0, header.1);
        answer(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.client.get(self.url(path)).send().await.unwrap()).await
    }

    /// Sends a request without a body for something to happen.
    pub(crate) async fn act(&self, path: &str) -> Answer {
        answer(self.client.post(self.url(path)).send().await.unwrap()).await
    }

    pub(crate) async fn fetch(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        answer(self.client.delete(self.url(path)).send().await.unwrap()).await
    }
}

fn merged(mut body: Value, change: Value) -> Value {
    if let (Some(body), Value::Object(change)) = (body.as_object_mut(), change) {
        body.extend(change);
    }
    body
}

pub(crate) async fn wait(response: JoinHandle<Response>) -> Response {
    timeout(LONG, response).await.expect("no answer came").unwrap()
}

pub(crate) async fn answer(response: Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = timeout(LONG, response.text()).await.expect("the answer did not end").unwrap();
    let body = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body:?}"));
    Answer { status, headers, body }
}
