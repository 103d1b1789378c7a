//! A router in this process, and a client that can misbehave.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::StreamExt;
use sconce_router::app::Principal;
use sconce_router::config::{AuthMode, Config};
use sconce_router::dispatch::Dispatcher;
use sconce_router::keys::Keys;
use sconce_router::server::Server;
use sconce_router::server::route::{NeedsKey, Policy, Public, Route, routes};
use sconce_router::shutdown::Stage;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes; a wait that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Router {
    pub(crate) address: SocketAddr,
    pub(crate) database: PathBuf,
    pub(crate) stage: watch::Sender<Stage>,
    pub(crate) serving: JoinHandle<()>,
    /// What `/stream` sends on.
    pub(crate) frames: broadcast::Sender<&'static str>,
    pub(crate) key: String,
    directory: TempDir,
}

/// The configuration of a test: a free port, a fresh directory.
pub(crate) fn config(directory: &TempDir) -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        database: directory.path().join("sconce.db").into(),
        ..Config::default()
    }
}

/// Starts a router with a key, the real routes and those of [`test_routes`].
pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Router {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    change(&mut config);
    let database = directory.path().join("sconce.db");
    let key = match config.auth {
        AuthMode::Keys => make_key(&database).await,
        AuthMode::Open => String::new(),
    };
    let (stage, stages) = watch::channel(Stage::Serve);
    let dispatcher = Dispatcher::new(&config);
    let server = Server::bind(config, dispatcher, stages).await.unwrap();
    let address = server.address();
    let (frames, _) = broadcast::channel(64);
    let mut all = routes();
    all.extend(test_routes(&frames));
    let serving = tokio::spawn(server.serve_routes(all));
    Router { address, database, stage, serving, frames, key, directory }
}

async fn make_key(database: &std::path::Path) -> String {
    let keys = Keys::open(database).await.unwrap();
    let created = keys.create("test").await.unwrap();
    created.key.expose().to_owned()
}

fn test_routes(frames: &broadcast::Sender<&'static str>) -> Vec<Route> {
    let source = frames.clone();
    let stream = move || {
        let receiver = source.subscribe();
        async move { Response::new(Body::from_stream(events(receiver))) }
    };
    let endless = || async {
        let block = Bytes::from(vec![b'x'; 64 << 10]);
        let blocks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(block.clone()));
        Response::new(Body::from_stream(blocks))
    };
    async fn crash() {
        panic!("a handler's bug");
    }
    async fn echo(body: Bytes) -> String {
        body.len().to_string()
    }
    async fn who(principal: Principal) -> String {
        principal.key_id.to_string()
    }
    vec![
        Public::get("/stream", stream),
        Public::get("/endless", endless),
        Public::get("/crash", crash),
        Public::post("/echo", echo),
        NeedsKey::get("/who", who),
        NeedsKey::post("/locked", echo),
    ]
}

/// Every frame that is sent, until `end`.
fn events(
    receiver: broadcast::Receiver<&'static str>,
) -> impl futures::Stream<Item = Result<&'static str, std::io::Error>> {
    tokio_stream::wrappers::BroadcastStream::new(receiver)
        .filter_map(async |frame| frame.ok())
        .take_while(|frame| std::future::ready(*frame != "end"))
        .map(Ok)
}

impl Router {
    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// One request on a connection of its own; everything until the server closes it.
    pub(crate) async fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        let mut client = self.connect().await;
        client.send(request).await;
        client.rest().await
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> String {
        let mut request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        self.exchange(request + "\r\n").await
    }

    /// Ends the router and waits until it has.
    pub(crate) async fn end(self, stage: Stage) -> TempDir {
        self.stage.send_replace(stage);
        timeout(LONG, self.serving).await.unwrap().unwrap();
        self.directory
    }
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    /// Sends what the server takes; it may have hung up.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// Everything until the server closes the connection.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = timeout(LONG, self.0.read_to_end(&mut bytes)).await.expect("the server hung up");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads until the answer contains `text`.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            if shown.contains(text) {
                return shown;
            }
            let read = timeout(LONG, self.0.read(&mut chunk)).await.expect("an answer").unwrap();
            assert!(read > 0, "closed before {text:?}: {shown:?}");
            bytes.extend_from_slice(&chunk[..read]);
        }
    }
}

/// The status of a raw answer; 0 when there is none.
pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

pub(crate) fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The error body, after checking that it has Anthropic's shape.
pub(crate) fn message_error(answer: &str) -> serde_json::Value {
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(body).expect(answer);
    assert_eq!(body["type"], "error");
    assert_eq!(header(answer, "request-id"), body["request_id"].as_str());
    assert!(body["error"]["message"].is_string());
    body["error"].clone()
}

/// The error body, after checking that it has OpenAI's shape.
pub(crate) fn error(answer: &str) -> serde_json::Value {
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(body).expect(answer);
    let error = body["error"].as_object().expect(answer);
    let mut fields: Vec<_> = error.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["code", "message", "param", "type"]);
    body["error"].clone()
}
