//! A launcher that says what a test tells it to, over the real protocol on a real socket.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use sconce_proto::fleet::fleet_server::{self, FleetServer};
use sconce_proto::fleet::routing_server::{self, RoutingServer};
use sconce_proto::fleet::{
    FleetStatus, HistoryReply, HistoryRequest, Progress, PromoteRequest, PullRequest, RemoveReply,
    RemoveRequest, Replica, RollbackRequest, Route, RouterReport, RoutingTable, ScaleRequest,
    Share, StartRequest, StatusRequest, UnloadRequest,
};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

use crate::worker::LONG;

/// A running launcher. Dies when dropped.
pub(crate) struct Launcher {
    socket: PathBuf,
    tables: watch::Sender<RoutingTable>,
    reports: mpsc::UnboundedReceiver<RouterReport>,
    /// What commands are told.
    pub(crate) status: watch::Sender<FleetStatus>,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// Whoever follows now; dropping it hangs up on them.
    calls: watch::Sender<()>,
    serving: JoinHandle<()>,
}

/// What was asked of the launcher, and how it is answered.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) what: What,
    answer: mpsc::UnboundedSender<Result<Progress, Status>>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum What {
    Start(StartRequest),
    Unload(UnloadRequest),
    Pull(PullRequest),
    Remove(RemoveRequest),
}

impl Asked {
    pub(crate) fn say(&self, message: &str, done: bool) {
        let progress = Progress { message: message.into(), done, ..Progress::default() };
        let _ = self.answer.send(Ok(progress));
    }

    pub(crate) fn fail(self, status: Status) {
        let _ = self.answer.send(Err(status));
    }

    /// Waits until nobody wants to hear of it any more.
    pub(crate) async fn dropped(&self) {
        timeout(LONG, self.answer.closed()).await.expect("someone still listens");
    }
}

#[derive(Clone)]
struct Service {
    status: watch::Receiver<FleetStatus>,
    asked: mpsc::UnboundedSender<Asked>,
    tables: watch::Receiver<RoutingTable>,
    reports: mpsc::UnboundedSender<RouterReport>,
    calls: watch::Receiver<()>,
}

impl Launcher {
    pub(crate) fn start(socket: PathBuf, table: RoutingTable) -> Self {
        let _ = std::fs::remove_file(&socket);
        let (tables, followed) = watch::channel(table);
        let (calls, held) = watch::channel(());
        let (sender, reports) = mpsc::unbounded_channel();
        let listener = UnixListener::bind(&socket).unwrap();
        let (status, told) = watch::channel(FleetStatus::default());
        let (asking, asked) = mpsc::unbounded_channel();
        let service =
            Service { status: told, asked: asking, tables: followed, reports: sender, calls: held };
        let serving = tokio::spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(RoutingServer::new(service.clone()))
                .add_service(FleetServer::new(service));
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        Self { socket, tables, reports, status, asked, calls, serving }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// Sends another table, of the next generation.
    pub(crate) fn change(&self, change: impl FnOnce(&mut RoutingTable)) {
        self.tables.send_modify(|table| {
            change(table);
            table.generation += 1;
        });
    }

    /// The generation of its table.
    pub(crate) fn generation(&self) -> u64 {
        self.tables.borrow().generation
    }

    /// The next report that is as wanted.
    pub(crate) async fn report(
        &mut self,
        what: &str,
        wanted: impl Fn(&RouterReport) -> bool,
    ) -> RouterReport {
        let mut last = None;
        let found = async {
            loop {
                let report = self.reports.recv().await.expect("the launcher has died");
                if wanted(&report) {
                    return report;
                }
                last = Some(report);
            }
        };
        let found = timeout(LONG, found).await;
        found.unwrap_or_else(|_| panic!("never reported {what}: {last:?}"))
    }

    /// Waits until the router follows the newest table.
    pub(crate) async fn followed(&mut self) {
        let generation = self.generation();
        self.report("the table", |report| report.generation == generation).await;
    }

    /// What is asked of it next.
    pub(crate) async fn asked(&mut self) -> Asked {
        timeout(LONG, self.asked.recv()).await.expect("nothing was asked").unwrap()
    }

    /// Whether nothing wanted was reported for a while.
    pub(crate) async fn is_silent_about(
        &mut self,
        unwanted: impl Fn(&RouterReport) -> bool,
    ) -> bool {
        let found = async {
            loop {
                let report = self.reports.recv().await.expect("the launcher has died");
                if unwanted(&report) {
                    return;
                }
            }
        };
        timeout(Duration::from_millis(1500), found).await.is_err()
    }

    /// Dies, and hangs up on everyone.
    pub(crate) fn die(self) -> PathBuf {
        self.serving.abort();
        drop(self.calls);
        self.socket
    }
}

#[tonic::async_trait]
impl routing_server::Routing for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<RoutingTable, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<RouterReport>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut inbound = request.into_inner();
        let first =
            inbound.message().await?.ok_or_else(|| Status::invalid_argument("no report"))?;
        let reports = self.reports.clone();
        let _ = reports.send(first);
        tokio::spawn(async move {
            while let Some(Ok(report)) = inbound.next().await {
                if reports.send(report).is_err() {
                    return;
                }
            }
        });
        let mut calls = self.calls.clone();
        let died = async move { while calls.changed().await.is_ok() {} };
        let tables = WatchStream::new(self.tables.clone()).map(Ok).take_until(Box::pin(died));
        Ok(Response::new(tables.boxed()))
    }
}

impl Service {
    fn ask(&self, what: What) -> mpsc::UnboundedReceiver<Result<Progress, Status>> {
        let (answer, answers) = mpsc::unbounded_channel();
        let _ = self.asked.send(Asked { what, answer });
        answers
    }

    fn progress(&self, what: What) -> Result<Response<ProgressStream>, Status> {
        Ok(Response::new(UnboundedReceiverStream::new(self.ask(what)).boxed()))
    }
}

type ProgressStream = Pin<Box<dyn Stream<Item = Result<Progress, Status>> + Send>>;

#[tonic::async_trait]
impl fleet_server::Fleet for Service {
    type EventsStream = Pin<Box<dyn Stream<Item = Result<FleetStatus, Status>> + Send>>;
    type StartStream = ProgressStream;
    type UnloadStream = ProgressStream;
    type PromoteStream = ProgressStream;
    type RollbackStream = ProgressStream;
    type ScaleStream = ProgressStream;
    type PullStream = ProgressStream;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<FleetStatus>, Status> {
        Ok(Response::new(self.status.borrow().clone()))
    }

    async fn events(
        &self,
        _: Request<StatusRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(WatchStream::new(self.status.clone()).map(Ok).boxed()))
    }

    async fn start(
        &self,
        request: Request<StartRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        self.progress(What::Start(request.into_inner()))
    }

    async fn unload(
        &self,
        request: Request<UnloadRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        self.progress(What::Unload(request.into_inner()))
    }

    async fn pull(
        &self,
        request: Request<PullRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        self.progress(What::Pull(request.into_inner()))
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<RemoveReply>, Status> {
        let mut answers = self.ask(What::Remove(request.into_inner()));
        let answer = answers.recv().await.ok_or_else(|| Status::internal("no answer"))?;
        answer.map(|_| Response::new(RemoveReply { freed_bytes: 1 }))
    }

    async fn promote(
        &self,
        _: Request<PromoteRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        Err(Status::unimplemented("no router asks for it"))
    }

    async fn rollback(
        &self,
        _: Request<RollbackRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        Err(Status::unimplemented("no router asks for it"))
    }

    async fn scale(&self, _: Request<ScaleRequest>) -> Result<Response<ProgressStream>, Status> {
        Err(Status::unimplemented("no router asks for it"))
    }

    async fn history(&self, _: Request<HistoryRequest>) -> Result<Response<HistoryReply>, Status> {
        Err(Status::unimplemented("no router asks for it"))
    }
}

/// A table of generation 1.
pub(crate) fn table(replicas: &[(&str, &str)], routes: Vec<Route>) -> RoutingTable {
    let replicas = replicas.iter().map(|(address, version)| replica(address, version)).collect();
    RoutingTable { generation: 1, replicas, routes }
}

pub(crate) fn replica(address: &str, version: &str) -> Replica {
    Replica { address: address.into(), version: version.into(), draining: false }
}

/// A name that stands for these versions, and waits for none of them.
pub(crate) fn route(name: &str, shares: &[(&str, u32)]) -> Route {
    let share =
        |(version, weight): &(&str, u32)| Share { version: (*version).into(), weight: *weight };
    Route { name: name.into(), shares: shares.iter().map(share).collect(), ..Route::default() }
}

/// The same, with so many requests waiting so long.
pub(crate) fn holding(route: Route, max_held: u32, max_hold_ms: u32) -> Route {
    Route { max_held, max_hold_ms, ..route }
}
