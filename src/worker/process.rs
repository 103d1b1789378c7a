//! The life of a worker process: listen, load, take one step, say so, serve, drain.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use rustix::process::geteuid;
use sconce_proto::MAX_MESSAGE_BYTES;
use sconce_proto::worker::worker_server::WorkerServer;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use super::Error;
use super::cli::{Config, Worker};
use super::embed::EmbedEngine;
use super::engine::{Command, Engine, describe};
use super::listen::Listener;
use super::load::{self, LoadedModel, ms};
use super::needs;
use super::service::{Served, Service, Startup};

/// Name of the thread that owns the engine. Its panics are caught: they end the process in order.
pub const ENGINE_THREAD: &str = "engine";

// Commands on their way to the engine, of all sessions.
const MAX_COMMANDS: usize = 4096;
const WINDOW_BYTES: u32 = 1 << 20;
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(10);
// Time for the last messages to reach their routers.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs a worker until it is told to drain, or fails.
///
/// Prints one line when it can be used: `ready` and a JSON object with what it serves, where, and
/// how long the start took; and `stopped` when it ends in order, for a launcher that did not start it
/// and is told no exit status. The process should end with a failure when this returns an error.
pub async fn run(args: Worker) -> Result<(), Error> {
    let start = Instant::now();
    let config = Config::try_from(args)?;
    if config.describe {
        return needs::print(&config);
    }
    let mut signals = Signals::new()?;
    let listener = Listener::bind(&config.listen)
        .await
        .map_err(|source| Error::Listen { address: format!("{:?}", config.listen), source })?;
    let address = listener
        .address()
        .map_err(|source| Error::Process { what: "can't tell the address", source })?;
    info!(address, "listening");
    let mut process = Process::start(&config, listener).await;
    let result = process.serve(&config, &mut signals, Start { start, address }).await;
    match &result {
        Ok(()) => info!("stopped"),
        Err(error) => warn!(error = %describe(error), "stopped"),
    }
    process.stop_server().await;
    if result.is_ok() {
        take_leave();
    }
    result
}

/// What the ready line tells beside the model.
struct Start {
    start: Instant,
    address: String,
}

struct Process {
    engine: mpsc::Sender<Command>,
    startup: Arc<Startup>,
    /// What loading and the first step took, once they are done.
    loaded: Option<oneshot::Receiver<Vec<(&'static str, f64)>>>,
    /// How the engine's thread ended. Dropped without a word when it died otherwise.
    ended: oneshot::Receiver<Result<(), Error>>,
    health: HealthReporter,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    stop: CancellationToken,
}

impl Process {
    /// Starts the server and the engine's thread, which loads the model first.
    async fn start(config: &Config, listener: Listener) -> Self {
        let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
        let startup = Arc::<Startup>::default();
        let num_unfinished = Arc::new(AtomicU32::new(0));
        let service =
            Service::new(Arc::clone(&startup), commands.clone(), Arc::clone(&num_unfinished));
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::NotServing).await;
        let stop = startup.stop.clone();
        let server = Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(health_service)
            .add_service(
                WorkerServer::new(service)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            );
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            match listener {
                Listener::Unix(listener, _file) => {
                    let incoming = UnixListenerStream::new(listener).filter(is_same_user);
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                }
                Listener::Tcp(listener) => {
                    let incoming = TcpListenerStream::new(listener);
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                }
            }
        });
        let (loaded, ended) =
            spawn_engine(config.clone(), Arc::clone(&startup), (inbox, num_unfinished));
        Self { engine: commands, startup, loaded: Some(loaded), ended, health, server, stop }
    }

    async fn serve(
        &mut self,
        config: &Config,
        signals: &mut Signals,
        start: Start,
    ) -> Result<(), Error> {
        let loaded = self.loaded.take();
        tokio::select! {
            ready = become_ready(&self.startup, loaded, &start) => ready?,
            ended = &mut self.ended => return engine_result(ended),
            failed = &mut self.server => return server_result(failed),
            () = signals.next() => return Ok(()),
        }
        set_health(&self.health, ServingStatus::Serving).await;
        tokio::select! {
            ended = &mut self.ended => return engine_result(ended),
            failed = &mut self.server => return server_result(failed),
            () = signals.next() => info!("stopping when the running requests have ended"),
            () = end_of_stdin(config.exit_with_stdin) => info!("standard input ended: stopping"),
        }
        set_health(&self.health, ServingStatus::NotServing).await;
        // When the engine has ended, its result says how.
        let _ = self.engine.send(Command::Drain).await;
        tokio::select! {
            ended = &mut self.ended => engine_result(ended),
            () = signals.next() => Err(Error::Stopped),
        }
    }

    /// Lets the last messages out, and closes the listener.
    async fn stop_server(mut self) {
        self.stop.cancel();
        if !self.server.is_finished()
            && tokio::time::timeout(LINGER, &mut self.server).await.is_err()
        {
            self.server.abort();
        }
    }
}

/// Waits for the model and its first step, and prints the ready line.
async fn become_ready(
    startup: &Startup,
    loaded: Option<oneshot::Receiver<Vec<(&'static str, f64)>>>,
    start: &Start,
) -> Result<(), Error> {
    let Some(loaded) = loaded else { return Ok(()) };
    // Without an answer the engine has ended, and says why.
    let Ok(mut phases) = loaded.await else { return std::future::pending().await };
    phases.push(("total", ms(start.start)));
    let Some(served) = startup.served.get() else { return std::future::pending().await };
    announce(served, &start.address, &phases)
        .map_err(|source| Error::Process { what: "can't print the ready line", source })
}

type Inbox = (mpsc::Receiver<Command>, Arc<AtomicU32>);
type Ended = oneshot::Receiver<Result<(), Error>>;

fn spawn_engine(
    config: Config,
    startup: Arc<Startup>,
    (inbox, num_unfinished): Inbox,
) -> (oneshot::Receiver<Vec<(&'static str, f64)>>, Ended) {
    let (say_loaded, loaded) = oneshot::channel();
    let (say_ended, ended) = oneshot::channel();
    let work = move || {
        // Nobody else sets it, nor the time of the first step.
        let publish = |served| drop(startup.served.set(served));
        let load::Loaded { model, mut phases } = load::load(&config, publish)?;
        let say_ready = |took: f64, step_ms: f64| {
            phases.push(("first_step", took));
            let _ = startup.step_ms.set(step_ms as u32);
            // The process waits for it, or is ending.
            let _ = say_loaded.send(phases);
        };
        match model {
            LoadedModel::Decoder(executor, scheduler) => {
                let mut engine = Engine::new(*scheduler, executor, inbox, num_unfinished);
                let before = Instant::now();
                engine.first_step()?;
                say_ready(ms(before), ms(before));
                engine.run()
            }
            LoadedModel::Embedder(runner, queue) => {
                let mut engine = EmbedEngine::new(queue, runner, inbox, num_unfinished);
                let before = Instant::now();
                let longest = engine.first_step()?;
                say_ready(ms(before), longest.as_secs_f64() * 1e3);
                engine.run()
            }
        }
    };
    let thread = std::thread::Builder::new().name(ENGINE_THREAD.to_owned());
    // The thread tells its end through the channel; a thread that can't start drops it.
    if let Err(error) = thread.spawn(move || drop(say_ended.send(work()))) {
        tracing::error!(%error, "can't start the engine's thread");
    }
    (loaded, ended)
}

fn engine_result(ended: Result<Result<(), Error>, oneshot::error::RecvError>) -> Result<(), Error> {
    ended.unwrap_or(Err(Error::Panicked))
}

fn server_result(
    ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<(), Error> {
    match ended {
        Ok(result) => result.map_err(Error::Server),
        Err(_) => Err(Error::Panicked),
    }
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    health.set_service_status(sconce_proto::worker::worker_server::SERVICE_NAME, status).await;
}

#[expect(clippy::print_stdout, reason = "whoever started the process reads this line")]
fn announce(served: &Served, address: &str, phases: &[(&'static str, f64)]) -> std::io::Result<()> {
    let info = &served.info;
    let phases: serde_json::Map<_, _> =
        phases.iter().map(|(phase, ms)| ((*phase).to_owned(), json!(ms))).collect();
    let ready = json!({
        "model": info.model, "version": info.version, "address": address, "epoch": info.epoch,
        "max_model_len": info.max_model_len, "num_blocks": info.num_blocks, "phases_ms": phases,
    });
    info!(model = info.model, version = info.version, phases = %ready["phases_ms"], "ready");
    println!("ready {ready}");
    std::io::stdout().flush()
}

/// The last word of a process that ends in order.
fn take_leave() {
    let mut out = std::io::stdout().lock();
    // Whoever would have read it may have ended.
    let _ = writeln!(out, "stopped").and_then(|()| out.flush());
}

/// Whether the router at the other end runs as this user, or as root.
fn is_same_user(stream: &std::io::Result<tokio::net::UnixStream>) -> bool {
    let Ok(stream) = stream else { return true };
    let allowed =
        stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
    if !allowed {
        warn!("another user's process was turned away");
    }
    allowed
}

/// Returns when standard input ends, if that is asked for.
async fn end_of_stdin(asked: bool) {
    if !asked {
        return std::future::pending().await;
    }
    let (say, ended) = oneshot::channel();
    // A thread of its own: a read that never ends must not hold up the runtime's end.
    let reader = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let copied = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(say.send(copied));
    });
    if reader.is_err() || ended.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a user, a launcher or a service manager says.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| Error::Process { what: "can't listen for signals", source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
