//! A worker that does nothing on its own: the test says every message of every session.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sconce_proto::worker::router_message::Message as FromRouter;
use sconce_proto::worker::worker_message::Message as ToRouter;
use sconce_proto::worker::worker_server::{self, WorkerServer};
use sconce_proto::worker::{
    Alive, DescribeRequest, DrainReply, DrainRequest, EngineStats, Finish, ModelInfo,
    RouterMessage, StepOutput, Submit, TokenOutput, TokenizerPiece, TokenizerRequest, Welcome,
    WorkerMessage,
};
use sconce_router::config::Config;
use sconce_router::dispatch::{Dispatcher, WorkerStatus};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

// Longer than anything here takes; a wait that reaches it has failed.
const LONG: Duration = Duration::from_secs(20);

/// The worker's half of a session; an error ends it.
type Outbound = mpsc::UnboundedSender<Result<WorkerMessage, Status>>;

/// A process that listens. Dies when dropped.
pub(crate) struct Worker {
    pub(crate) address: String,
    info: Arc<Mutex<ModelInfo>>,
    loading: Arc<AtomicBool>,
    sessions: mpsc::UnboundedReceiver<Session>,
    serving: JoinHandle<()>,
    connections: Arc<Mutex<Vec<Outbound>>>,
}

/// A session that a router has opened and not been greeted in yet.
pub(crate) struct Session {
    inbound: Streaming<RouterMessage>,
    outbound: Outbound,
}

struct Service {
    info: Arc<Mutex<ModelInfo>>,
    loading: Arc<AtomicBool>,
    sessions: mpsc::UnboundedSender<Session>,
    connections: Arc<Mutex<Vec<Outbound>>>,
}

/// A dispatcher for the workers at these addresses.
pub(crate) fn dispatcher(addresses: &[&str]) -> Dispatcher {
    let workers = addresses.iter().map(|address| (*address).to_owned()).collect();
    Dispatcher::new(&Config { workers, ..Config::default() })
}

/// Waits until a worker's status is as wanted.
pub(crate) async fn until(
    dispatcher: &Dispatcher,
    what: &str,
    wanted: impl Fn(&[WorkerStatus]) -> bool,
) {
    let poll = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !wanted(&dispatcher.status()) {
            ticks.tick().await;
        }
    };
    if timeout(LONG, poll).await.is_err() {
        panic!("never {what}: {:?}", dispatcher.status());
    }
}

pub(crate) fn info(model: &str) -> ModelInfo {
    ModelInfo {
        model: model.to_owned(),
        version: "1".to_owned(),
        max_model_len: 100,
        vocab_size: 4,
        max_num_seqs: 8,
        block_size: 16,
        num_blocks: 64,
        epoch: 7,
        max_queue: 3,
        max_logprobs: 2,
        ..ModelInfo::default()
    }
}

impl Worker {
    /// Listens on a socket in `directory`.
    pub(crate) fn start(directory: &TempDir, name: &str, info: ModelInfo) -> Self {
        let socket = directory.path().join(name);
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, sessions) = mpsc::unbounded_channel();
        let info = Arc::new(Mutex::new(info));
        let connections = Arc::default();
        let loading = Arc::<AtomicBool>::default();
        let service = Service {
            info: Arc::clone(&info),
            loading: Arc::clone(&loading),
            sessions: sender,
            connections: Arc::clone(&connections),
        };
        let serving = tokio::spawn(async move {
            let server =
                tonic::transport::Server::builder().add_service(WorkerServer::new(service));
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        let address = format!("unix:{}", socket.display());
        Self { address, info, loading, sessions, serving, connections }
    }

    /// Says from now on that it is another process.
    pub(crate) fn describe_as(&self, change: impl FnOnce(&mut ModelInfo)) {
        change(&mut self.info.lock().unwrap());
    }

    /// Takes no sessions while its weights are being loaded.
    pub(crate) fn set_loading(&self, loading: bool) {
        self.loading.store(loading, Ordering::Relaxed);
    }

    /// The next session that a router opens.
    pub(crate) async fn session(&mut self) -> Session {
        timeout(LONG, self.sessions.recv()).await.expect("nobody came").unwrap()
    }

    /// The next session, greeted and with its first probe answered.
    pub(crate) async fn ready_session(&mut self) -> Session {
        let mut session = self.session().await;
        session.hello().await;
        session.welcome(7);
        session.answer_probe().await;
        session
    }

    /// Breaks every connection and listens no more.
    pub(crate) fn die(self) {
        self.serving.abort();
        for session in self.connections.lock().unwrap().drain(..) {
            let _ = session.send(Err(Status::unavailable("killed")));
        }
    }
}

impl Session {
    pub(crate) async fn receive(&mut self) -> Option<FromRouter> {
        let message = timeout(LONG, self.inbound.message()).await.expect("the router is silent");
        message.ok().flatten().map(|message| message.message.unwrap())
    }

    /// The next message that is no probe. Answers probes.
    pub(crate) async fn next(&mut self) -> Option<FromRouter> {
        loop {
            match self.receive().await? {
                FromRouter::Probe(probe) => self.alive(probe.nonce),
                other => return Some(other),
            }
        }
    }

    pub(crate) async fn hello(&mut self) {
        let Some(FromRouter::Hello(hello)) = self.receive().await else { panic!("no Hello") };
        assert_eq!(hello.protocol, sconce_proto::PROTOCOL);
    }

    pub(crate) fn welcome(&self, epoch: u64) {
        self.say(ToRouter::Welcome(Welcome { epoch, step_ms: 0 }));
    }

    pub(crate) async fn answer_probe(&mut self) {
        let Some(FromRouter::Probe(probe)) = self.receive().await else { panic!("no probe") };
        self.alive(probe.nonce);
    }

    pub(crate) fn alive(&self, nonce: u64) {
        self.say(ToRouter::Alive(Alive { nonce }));
    }

    pub(crate) async fn submitted(&mut self) -> Submit {
        match self.next().await {
            Some(FromRouter::Submit(submit)) => submit,
            other => panic!("expected a request and got {other:?}"),
        }
    }

    /// Waits until the router has hung up.
    pub(crate) async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }

    pub(crate) fn say(&self, message: ToRouter) {
        let _ = self.outbound.send(Ok(WorkerMessage { message: Some(message) }));
    }

    pub(crate) fn say_nothing_known(&self) {
        let _ = self.outbound.send(Ok(WorkerMessage { message: None }));
    }

    pub(crate) fn step(&self, outputs: Vec<TokenOutput>) {
        self.say(ToRouter::Step(StepOutput { outputs, stats: None }));
    }

    pub(crate) fn stats(&self, num_running: u32) {
        let stats = Some(EngineStats { num_running, ..EngineStats::default() });
        self.say(ToRouter::Step(StepOutput { outputs: Vec::new(), stats }));
    }
}

pub(crate) fn token(request_id: u64, token: u32) -> TokenOutput {
    TokenOutput { request_id, token: Some(token), ..TokenOutput::default() }
}

pub(crate) fn end(request_id: u64, finish: Finish) -> TokenOutput {
    TokenOutput { request_id, finish: finish.into(), ..TokenOutput::default() }
}

#[tonic::async_trait]
impl worker_server::Worker for Service {
    type TokenizerStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<TokenizerPiece, Status>> + Send>>;
    type SessionStream = UnboundedReceiverStream<Result<WorkerMessage, Status>>;

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<ModelInfo>, Status> {
        Ok(Response::new(self.info.lock().unwrap().clone()))
    }

    async fn tokenizer(
        &self,
        _: Request<TokenizerRequest>,
    ) -> Result<Response<Self::TokenizerStream>, Status> {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false },
            "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "c": 2, "d": 3 }, "merges": [] },
        });
        let pieces: Vec<_> = json
            .to_string()
            .as_bytes()
            .chunks(50)
            .map(|data| Ok(TokenizerPiece { data: data.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn session(
        &self,
        request: Request<Streaming<RouterMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.loading.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the model is still being loaded"));
        }
        let (outbound, messages) = mpsc::unbounded_channel();
        self.connections.lock().unwrap().push(outbound.clone());
        let _ = self.sessions.send(Session { inbound: request.into_inner(), outbound });
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        Ok(Response::new(DrainReply::default()))
    }
}
