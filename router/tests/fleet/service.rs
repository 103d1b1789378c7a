//! A router in this process that follows a scripted launcher, and a client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use sconce_proto::fleet::RoutingTable;
use sconce_proto::worker::router_message::Message as FromRouter;
use sconce_router::config::{AuthMode, Config};
use sconce_router::dispatch::Dispatcher;
use sconce_router::server::Server;
use sconce_router::shutdown::Stage;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::launcher::Launcher;
use crate::worker::{LONG, Received, Worker};

pub(crate) struct Service {
    pub(crate) launcher: Launcher,
    pub(crate) router: Router,
}

/// A router without its launcher.
pub(crate) struct Router {
    pub(crate) address: SocketAddr,
    pub(crate) database: PathBuf,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) client: reqwest::Client,
    pub(crate) stage: watch::Sender<Stage>,
    pub(crate) serving: JoinHandle<()>,
    _directory: TempDir,
}

/// A router that follows a launcher with this table, and has got it.
pub(crate) async fn start(table: RoutingTable) -> Service {
    start_with(table, |_| {}).await
}

pub(crate) async fn start_with(table: RoutingTable, change: impl FnOnce(&mut Config)) -> Service {
    let directory = tempfile::tempdir().unwrap();
    let launcher = Launcher::start(directory.path().join("launcher.sock"), table);
    let address = launcher.address();
    let router = start_router(directory, |config| {
        config.launcher = Some(address);
        change(config);
    });
    let mut service = Service { launcher, router: router.await };
    service.launcher.followed().await;
    service
}

pub(crate) async fn start_router(directory: TempDir, change: impl FnOnce(&mut Config)) -> Router {
    let mut config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        database: directory.path().join("sconce.db").into(),
        auth: AuthMode::Open,
        ..Config::default()
    };
    change(&mut config);
    let database = directory.path().join("sconce.db");
    let dispatcher = Dispatcher::new(&config);
    let (stage, stages) = watch::channel(Stage::Serve);
    let server = Server::bind(config, dispatcher.clone(), stages).await.unwrap();
    Router {
        address: server.address(),
        database,
        dispatcher,
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
        serving: tokio::spawn(server.serve()),
        stage,
        _directory: directory,
    }
}

impl Router {
    /// Waits until a worker's status is as wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&[sconce_router::dispatch::WorkerStatus]) -> bool,
    ) {
        let poll = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            while !wanted(&self.dispatcher.status()) {
                ticks.tick().await;
            }
        };
        if timeout(LONG, poll).await.is_err() {
            panic!("never {what}: {:?}", self.dispatcher.status());
        }
    }

    /// Waits until so many workers are ready.
    pub(crate) async fn ready(&self, num: usize) {
        self.until("ready", |workers| workers.iter().filter(|worker| worker.ready).count() == num)
            .await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        self.client.get(self.url(path)).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) fn request(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).json(body)
    }

    /// Asks for a completion; its answer is awaited apart.
    pub(crate) fn complete(&self, model: &str, change: Value) -> JoinHandle<Response> {
        let mut body = json!({"model": model, "prompt": "hi", "max_tokens": 8});
        if let (Some(body), Value::Object(change)) = (body.as_object_mut(), change) {
            body.extend(change);
        }
        let request = self.request("/v1/completions", &body);
        tokio::spawn(async move { request.send().await.unwrap() })
    }

    /// Asks for a completion of one user, of workers that answer by themselves.
    pub(crate) async fn version_for(&self, model: &str, user: &str) -> String {
        let response = wait(self.complete(model, json!({"user": user}))).await;
        assert_eq!(response.status(), 200);
        version(&response)
    }
}

/// The version that an answer says it is from.
pub(crate) fn version(response: &Response) -> String {
    let header = response.headers().get("x-sconce-version");
    header.map(|version| version.to_str().unwrap().to_owned()).unwrap_or_default()
}

pub(crate) async fn wait(response: JoinHandle<Response>) -> Response {
    timeout(LONG, response).await.expect("no answer came").unwrap()
}

/// Has a worker answer everything with a text. Ends with the test.
pub(crate) fn answering(worker: Worker, text: &'static str) {
    serving(worker, move |request| request.answer(text));
}

/// Has a worker do this with every request. Ends with the test.
pub(crate) fn serving(worker: Worker, mut serve: impl FnMut(Received) + Send + 'static) {
    tokio::spawn(async move {
        // All of it: its socket goes with its directory.
        let mut worker = worker;
        while let Some((message, session)) = worker.received.recv().await {
            if let FromRouter::Submit(submit) = message {
                serve(Received { submit, session, tokenizer: worker.tokenizer.clone() });
            }
        }
    });
}
