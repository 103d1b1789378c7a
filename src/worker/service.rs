//! What a router can ask of the worker, as gRPC delivers it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sconce_proto::PROTOCOL;
use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::router_message::Message as FromRouter;
use sconce_proto::worker::worker_message::Message as ToRouter;
use sconce_proto::worker::{
    DescribeRequest, DrainReply, DrainRequest, Embed, Hello, ModelInfo, Rejected, RouterMessage,
    Submit, TokenizerPiece, TokenizerRequest, Welcome, worker_server,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SetOnce, mpsc};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::embed;
use super::engine::{Command, SessionId};
use super::grammars::{Compiled, Compiling, Grammars};
use super::outbox::{Messages, Outbox, outbox};
use super::submit::{self, Checked};

const MAX_SESSIONS: usize = 64;
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const PIECE_BYTES: usize = 1 << 20;
// A router that asks while the model is being loaded is answered when that is done, and so loses no
// time by asking again; within what it takes for the longest answer of a living worker.
const LOADING_PATIENCE: Duration = Duration::from_secs(1);

/// How far the process has come.
#[derive(Default)]
pub(crate) struct Startup {
    /// What it serves. Routers read it while the weights are still being loaded.
    pub(crate) served: SetOnce<Served>,
    /// Milliseconds of the first step. Sessions begin after it.
    pub(crate) step_ms: SetOnce<u32>,
    /// Nothing more comes: whoever waits is told so.
    pub(crate) stop: CancellationToken,
}

/// What the worker serves.
pub(crate) struct Served {
    pub(crate) info: ModelInfo,
    pub(crate) tokenizer: Arc<[u8]>,
    pub(crate) grammars: Grammars,
}

/// The service. Answers from the start; without a model, that there is none yet.
pub(crate) struct Service {
    startup: Arc<Startup>,
    engine: mpsc::Sender<Command>,
    num_unfinished: Arc<AtomicU32>,
    sessions: Arc<Semaphore>,
    next_session: AtomicU64,
}

impl Service {
    pub(crate) fn new(
        startup: Arc<Startup>,
        engine: mpsc::Sender<Command>,
        num_unfinished: Arc<AtomicU32>,
    ) -> Self {
        Self {
            startup,
            engine,
            num_unfinished,
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
            next_session: AtomicU64::new(1),
        }
    }

    async fn served(&self) -> Result<&Served, Status> {
        self.startup.reached(&self.startup.served).await
    }
}

impl Startup {
    /// Waits until the process has come so far, for a while.
    async fn reached<'a, T>(&self, point: &'a SetOnce<T>) -> Result<&'a T, Status> {
        tokio::select! {
            biased;
            reached = timeout(LOADING_PATIENCE, point.wait()) => reached.map_err(|_| loading()),
            () = self.stop.cancelled() => Err(stopped()),
        }
    }
}

type Pieces = Pin<Box<dyn Stream<Item = Result<TokenizerPiece, Status>> + Send>>;

#[tonic::async_trait]
impl worker_server::Worker for Service {
    type TokenizerStream = Pieces;
    type SessionStream = Messages;

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<ModelInfo>, Status> {
        Ok(Response::new(self.served().await?.info.clone()))
    }

    async fn tokenizer(&self, _: Request<TokenizerRequest>) -> Result<Response<Pieces>, Status> {
        self.served().await?;
        let startup = Arc::clone(&self.startup);
        let mut start = 0;
        // One piece at a time is copied: a router that stops reading costs nothing.
        let pieces = std::iter::from_fn(move || {
            let rest = &startup.served.get()?.tokenizer[start..];
            let data = rest[..rest.len().min(PIECE_BYTES)].to_vec();
            start += data.len();
            (!data.is_empty()).then_some(Ok(TokenizerPiece { data }))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn session(
        &self,
        request: Request<Streaming<RouterMessage>>,
    ) -> Result<Response<Messages>, Status> {
        let info = self.served().await?.info.clone();
        let step_ms = *self.startup.reached(&self.startup.step_ms).await?;
        let permit = Arc::clone(&self.sessions).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_SESSIONS} routers are connected already"))
        })?;
        let mut inbound = request.into_inner();
        let hello = timeout(HELLO_TIMEOUT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello in time"))??;
        let Some(RouterMessage { message: Some(FromRouter::Hello(hello)) }) = hello else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        check_protocol(&hello)?;
        let (outbox, messages) = outbox();
        outbox.notify(ToRouter::Welcome(Welcome { epoch: info.epoch, step_ms }));
        let id = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        info!(session = id.0, router = printable(&hello.router), "session began");
        let open = Command::Open { session: id, outbox: outbox.clone() };
        self.engine.send(open).await.map_err(|_| stopped())?;
        let grammars = self.served().await?.grammars.clone();
        let engine = self.engine.clone();
        let session = Session { id, info, engine, outbox, grammars, _permit: permit };
        // Ends with its router, or when it was hung up on.
        tokio::spawn(session.run(inbound));
        Ok(Response::new(messages))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        self.engine.send(Command::Drain).await.map_err(|_| stopped())?;
        let patience = Duration::from_millis(request.into_inner().deadline_ms.into());
        // The engine ends with its last request.
        let num_unfinished = match timeout(patience, self.engine.closed()).await {
            Ok(()) => 0,
            Err(_) => self.num_unfinished.load(Ordering::Relaxed),
        };
        Ok(Response::new(DrainReply { num_unfinished }))
    }
}

fn check_protocol(hello: &Hello) -> Result<(), Status> {
    if hello.protocol == PROTOCOL {
        return Ok(());
    }
    let given = hello.protocol;
    Err(Status::failed_precondition(format!("protocol {given} is not {PROTOCOL}")))
}

fn loading() -> Status {
    Status::unavailable("the model is still being loaded")
}

fn stopped() -> Status {
    Status::unavailable("the worker is stopping")
}

/// A router's name for the log: short, and in one line.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// The task that reads what a router sends.
struct Session {
    id: SessionId,
    info: ModelInfo,
    engine: mpsc::Sender<Command>,
    outbox: Outbox,
    grammars: Grammars,
    _permit: OwnedSemaphorePermit,
}

/// Why no more is read of a session.
#[derive(Debug)]
enum End {
    Router,
    Engine,
    Violation(&'static str),
}

impl Session {
    async fn run(self, inbound: Streaming<RouterMessage>) {
        let end = tokio::select! {
            end = self.read(inbound) => end,
            () = self.outbox.hung_up() => End::Router,
        };
        if let End::Violation(what) = end {
            warn!(session = self.id.0, what, "the router broke the protocol");
            self.outbox.fail(Status::invalid_argument(what));
        }
        // The engine has ended, and the session with it.
        let _ = self.engine.send(Command::Close { session: self.id }).await;
    }

    async fn read(&self, mut inbound: Streaming<RouterMessage>) -> End {
        let mut compiling = Compiling::default();
        loop {
            let received = tokio::select! {
                received = inbound.message() => received,
                Some((compiled, is_cancelled)) = compiling.next() => {
                    if !self.go_on(compiled, is_cancelled).await {
                        return End::Engine;
                    }
                    continue;
                }
            };
            let message = match received {
                Ok(Some(RouterMessage { message: Some(message) })) => message,
                Ok(Some(RouterMessage { message: None })) => {
                    return End::Violation("a message of no known kind");
                }
                Ok(None) => return End::Router,
                Err(status) => {
                    debug!(session = self.id.0, code = ?status.code(), "session broke");
                    return End::Router;
                }
            };
            let is_sent = match message {
                FromRouter::Hello(_) => return End::Violation("a second Hello"),
                FromRouter::Submit(submit) => self.take(submit, &mut compiling).await,
                FromRouter::Embed(embed) => self.take_embed(embed).await,
                FromRouter::Cancel(cancel) => {
                    compiling.cancel(cancel.request_id) || self.cancel(cancel.request_id).await
                }
                FromRouter::Probe(probe) => {
                    let probe = Command::Probe { session: self.id, nonce: probe.nonce };
                    self.engine.send(probe).await.is_ok()
                }
            };
            if !is_sent {
                return End::Engine;
            }
        }
    }

    /// Sends a request to the engine, or to have its grammar compiled first. False when the engine
    /// has ended.
    async fn take(&self, submit: Submit, compiling: &mut Compiling) -> bool {
        let id = submit.request_id;
        match submit::check(submit, &self.info) {
            Ok(checked) if checked.grammar.is_none() => self.submit(checked).await,
            Ok(_) if compiling.len() >= self.info.max_queue.max(1) as usize => {
                self.reject(id, Reason::QueueFull, "too many grammars are being compiled".into());
                true
            }
            Ok(checked) => {
                compiling.push(self.grammars.clone(), checked);
                true
            }
            Err(invalid) => self.refuse(id, &invalid),
        }
    }

    async fn take_embed(&self, embed: Embed) -> bool {
        let id = embed.request_id;
        match embed::check(embed, &self.info) {
            Ok(checked) => {
                let embed = Command::Embed { session: self.id, checked: Box::new(checked) };
                self.engine.send(embed).await.is_ok()
            }
            Err(invalid) => self.refuse(id, &invalid),
        }
    }

    /// What the router should not have let through. The engine has not ended: true.
    fn refuse(&self, id: u64, invalid: &submit::Invalid) -> bool {
        let message = invalid.to_string();
        warn!(session = self.id.0, id, message, "invalid request");
        self.reject(id, Reason::Invalid, message);
        true
    }
    /// A grammar is compiled, or can't be. False when the engine has ended.
    async fn go_on(&self, Compiled { id, result }: Compiled, is_cancelled: bool) -> bool {
        match result {
            Ok(checked) => self.submit(checked).await && (!is_cancelled || self.cancel(id).await),
            Err(invalid) => {
                debug!(session = self.id.0, id, "a grammar was refused");
                self.reject(id, Reason::Grammar, invalid.to_string());
                true
            }
        }
    }

    async fn submit(&self, checked: Checked) -> bool {
        let submit = Command::Submit { session: self.id, checked: Box::new(checked) };
        // Full when the engine is busy: the router waits in gRPC's window.
        self.engine.send(submit).await.is_ok()
    }

    async fn cancel(&self, id: u64) -> bool {
        self.engine.send(Command::Cancel { session: self.id, id }).await.is_ok()
    }

    fn reject(&self, id: u64, reason: Reason, message: String) {
        let rejected = Rejected { request_id: id, reason: reason.into(), message };
        self.outbox.notify(ToRouter::Rejected(rejected));
    }
}
