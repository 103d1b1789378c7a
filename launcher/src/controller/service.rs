//! Calls: from routers, which follow the routing table, and from commands, which change what is
//! served.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use sconce_proto::fleet as proto;
use sconce_proto::fleet::fleet_server::Fleet;
use sconce_proto::fleet::launcher_server::Launcher;
use sconce_proto::fleet::routing_server::Routing;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use super::pulls::Going;
use super::routers::Routers;
use super::{Handle, Message, Updates, status};
use crate::catalogue::Catalogue;
use crate::fleet::{Event, Force, Limits, Order, Plan, Reason, Refusal, RouterReport, Scale};
use crate::name::{ModelName, VersionId};
use crate::progress::{Amount, Progress, Transfers};
use crate::pull::Puller;
use crate::settings::Settings;

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The router, which the launcher's end takes away.
pub(crate) type SharedRouters = Arc<Mutex<Option<Routers>>>;

/// Entries of the history that are told unless a request says otherwise.
const MAX_HISTORY: usize = 100;

/// What calls are answered by.
#[derive(Clone)]
pub(super) struct Service {
    handle: Handle,
    routers: SharedRouters,
}

impl Service {
    pub(super) fn new(handle: Handle, routers: SharedRouters) -> Self {
        Self { handle, routers }
    }
}

#[tonic::async_trait]
impl Routing for Service {
    type WatchStream = Streamed<proto::RoutingTable>;

    async fn watch(
        &self,
        request: Request<Streaming<proto::RouterReport>>,
    ) -> Answer<Self::WatchStream> {
        let mut reports = request.into_inner();
        let first = reports.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("no report came"))?;
        self.handle.report(first).await?;
        let handle = self.handle.clone();
        let listening = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                if handle.report(report).await.is_err() {
                    return;
                }
            }
        }));
        let tables = WatchStream::new(self.handle.tables.clone()).filter_map(move |table| {
            // Reports are taken for as long as somebody follows the table.
            let _ = &listening;
            std::future::ready(table.map(Ok))
        });
        Ok(Response::new(Box::pin(tables)))
    }
}

#[tonic::async_trait]
impl Launcher for Service {
    type RestartRouterStream = Streamed<proto::Progress>;

    async fn restart_router(
        &self,
        _: Request<proto::RestartRouterRequest>,
    ) -> Answer<Self::RestartRouterStream> {
        let routers = self.routers.clone();
        Ok(streamed(move |updates| async move {
            let _ = updates.send(Ok(said("starting a router beside the present one")));
            let mut routers = routers.lock().await;
            let routers = routers.as_mut().ok_or_else(ending)?;
            let address = routers.exchange().await.map_err(|error| failed(&error))?;
            Ok(format!("a new router serves http://{address}; the one before drains"))
        }))
    }
}

#[tonic::async_trait]
impl Fleet for Service {
    type EventsStream = Streamed<proto::FleetStatus>;
    type StartStream = Streamed<proto::Progress>;
    type UnloadStream = Streamed<proto::Progress>;
    type PromoteStream = Streamed<proto::Progress>;
    type RollbackStream = Streamed<proto::Progress>;
    type ScaleStream = Streamed<proto::Progress>;
    type PullStream = Streamed<proto::Progress>;

    async fn status(&self, _: Request<proto::StatusRequest>) -> Answer<proto::FleetStatus> {
        let status = self.handle.statuses.borrow().clone();
        Ok(Response::new(self.handle.with_store(status).await?))
    }

    async fn events(&self, _: Request<proto::StatusRequest>) -> Answer<Self::EventsStream> {
        let handle = self.handle.clone();
        let statuses = WatchStream::new(handle.statuses.clone()).map(drop);
        let pulls = WatchStream::from_changes(handle.pulls.changes()).map(drop);
        let statuses = futures::stream::select(statuses, pulls).then(move |()| {
            let handle = handle.clone();
            async move {
                let status = handle.statuses.borrow().clone();
                handle.with_store(status).await
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }

    async fn start(&self, request: Request<proto::StartRequest>) -> Answer<Self::StartStream> {
        let proto::StartRequest { model, replicas, route, reason } = request.into_inner();
        let version = self.handle.resolve(&model).await?;
        let version = self.handle.add(&ModelName::Version(version)).await?;
        if route
            && model.parse::<VersionId>().is_err()
            && self.handle.current(&model).await?.is_none()
        {
            let scale = Scale { min: replicas.max(1), max: replicas.max(1) };
            let order = Order::Route { name: model, version, scale, hidden: false };
            return Ok(updates(self.handle.order(order).await?));
        }
        let replicas = (replicas > 0).then_some(replicas);
        let reason = reason_of(reason)?;
        let order = Order::Start { version, replicas, reason };
        Ok(updates(self.handle.order(order).await?))
    }

    async fn unload(&self, request: Request<proto::UnloadRequest>) -> Answer<Self::UnloadStream> {
        let proto::UnloadRequest { model, force, reason } = request.into_inner();
        let version = self.handle.resolve(&model).await?;
        let force = if force { Force::Force } else { Force::Gentle };
        let reason = reason_of(reason)?;
        Ok(updates(self.handle.order(Order::Unload { version, force, reason }).await?))
    }

    async fn promote(
        &self,
        request: Request<proto::PromoteRequest>,
    ) -> Answer<Self::PromoteStream> {
        let request = request.into_inner();
        let plan = Plan::of_request(&request, &Limits::default())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(golden) = &plan.golden {
            super::golden::check(golden).await.map_err(Status::invalid_argument)?;
        }
        let version = self.handle.resolve(&request.version).await?;
        let version = self.handle.add(&ModelName::Version(version)).await?;
        let name = match request.name.is_empty() {
            true => self.handle.name_of(&version).await?,
            false => request.name,
        };
        let reason = reason_of(request.reason)?;
        let order = Order::Promote { name, version, plan, reason };
        Ok(updates(self.handle.order(order).await?))
    }

    async fn rollback(
        &self,
        request: Request<proto::RollbackRequest>,
    ) -> Answer<Self::RollbackStream> {
        let proto::RollbackRequest { name, reason } = request.into_inner();
        let reason = reason_of(reason)?;
        Ok(updates(self.handle.order(Order::Rollback { name, reason }).await?))
    }

    async fn scale(&self, request: Request<proto::ScaleRequest>) -> Answer<Self::ScaleStream> {
        let proto::ScaleRequest { name, min, max, reason } = request.into_inner();
        let (scale, reason) = (Scale { min, max }, reason_of(reason)?);
        Ok(updates(self.handle.order(Order::Scale { name, scale, reason }).await?))
    }

    async fn pull(&self, request: Request<proto::PullRequest>) -> Answer<Self::PullStream> {
        let name = parse(&request.into_inner().model)?;
        if let ModelName::Path(path) = &name {
            let message = format!("{} is a path, which nobody has to pull", path.display());
            return Err(Status::invalid_argument(message));
        }
        let going = self.handle.pulls.begin(&name.to_string());
        let message = || format!("{name} is being pulled already");
        let going = going.ok_or_else(|| Status::already_exists(message()))?;
        Ok(streamed(move |updates| async move {
            match pull(&name, &going, &updates).await {
                Ok((message, amount)) => {
                    going.finish(amount);
                    Ok(message)
                }
                Err(Some(error)) => {
                    going.fail(&format!("{error:#}"));
                    Err(failed(&error))
                }
                Err(None) => Err(Status::cancelled("whoever asked for it has gone")),
            }
        }))
    }

    async fn remove(&self, request: Request<proto::RemoveRequest>) -> Answer<proto::RemoveReply> {
        let version = self.handle.resolve(&request.into_inner().version).await?;
        match self.handle.order(Order::Remove { version: version.clone() }).await {
            // One that nobody has asked for yet can go too.
            Ok(_) | Err(Outcome(_, Some(Refusal::UnknownVersion(_)))) => {}
            Err(refused) => return Err(refused.into()),
        }
        self.handle.models.forget(&version);
        let name = ModelName::Version(version);
        let removed = tokio::task::spawn_blocking(move || {
            let settings = Settings::from_env()?;
            let puller = Puller::new(settings, Catalogue::built_in()?, Progress::Silent);
            anyhow::Ok(puller.remove(&name)?)
        });
        let removed = removed.await.map_err(|error| Status::internal(error.to_string()))?;
        let removed = removed.map_err(|error| failed(&error))?;
        let freed_bytes = removed.iter().map(|removed| removed.freed).sum();
        Ok(Response::new(proto::RemoveReply { freed_bytes }))
    }

    async fn history(
        &self,
        request: Request<proto::HistoryRequest>,
    ) -> Answer<proto::HistoryReply> {
        let proto::HistoryRequest { name, limit } = request.into_inner();
        let (answer, answered) = oneshot::channel();
        self.handle.send(Message::History(answer)).await?;
        let mut entries = answered.await.map_err(|_| ending())?;
        entries.retain(|entry| name.is_empty() || entry.name == name);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        entries.truncate(if limit == 0 { MAX_HISTORY } else { limit });
        Ok(Response::new(proto::HistoryReply { entries }))
    }
}

/// Between two looks at how far a pull is.
const PULL_EVERY: Duration = Duration::from_millis(250);

/// Brings a model into the store, and tells how far that is. `None`: whoever asked for it has gone;
/// what came stays for the next pull.
async fn pull(
    name: &ModelName,
    going: &Going,
    updates: &Sender,
) -> Result<(String, Amount), Option<anyhow::Error>> {
    let transfers = Transfers::default();
    let settings = Settings::from_env().map_err(|error| Some(error.into()))?;
    let catalogue = Catalogue::built_in().map_err(|error| Some(error.into()))?;
    let puller = Puller::new(settings, catalogue, Progress::Told(transfers.clone()));
    let mut pulling = std::pin::pin!(puller.pull(name, crate::store::Check::IfTouched));
    let mut every = tokio::time::interval(PULL_EVERY);
    let state = proto::VersionState::Pulling.into();
    let progress = proto::Progress { state, ..said(&format!("pulling {name}")) };
    let _ = updates.send(Ok(progress.clone()));
    let pulled = loop {
        tokio::select! {
            pulled = &mut pulling => break pulled,
            () = updates.closed() => return Err(None),
            _ = every.tick() => {
                let Amount { done, total } = transfers.sum();
                if going.set(Amount { done, total }) {
                    let (bytes, total_bytes) = (done, total);
                    let _ = updates.send(Ok(proto::Progress { bytes, total_bytes, ..progress.clone() }));
                }
            }
        }
    };
    let pulled = pulled.map_err(|error| Some(error.into()))?;
    let amount = transfers.sum();
    going.set(amount);
    let version = pulled.manifest().map(|manifest| manifest.id.to_string());
    Ok((format!("{} is here", version.unwrap_or_else(|| name.to_string())), amount))
}

/// Why a call failed, and if the core refused an order, which way.
pub(super) struct Outcome(Status, Option<Refusal>);

impl From<Outcome> for Status {
    fn from(outcome: Outcome) -> Self {
        outcome.0
    }
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self(status, None)
    }
}

impl Handle {
    async fn send(&self, message: Message) -> Result<(), Status> {
        self.messages.send(message).await.map_err(|_| ending())
    }

    async fn report(&self, report: proto::RouterReport) -> Result<(), Status> {
        self.send(Message::Event(Event::Report(RouterReport::from(report)))).await
    }

    async fn order(&self, order: Order) -> Result<Updates, Outcome> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Order(order, answer)).await?;
        let taken = answered.await.map_err(|_| ending())?;
        taken.map_err(|refusal| Outcome(refused(&refusal), Some(refusal)))
    }

    async fn current(&self, name: &str) -> Result<Option<VersionId>, Status> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Current(name.to_owned(), answer)).await?;
        answered.await.map_err(|_| ending())
    }

    /// What a name stands for: as clients mean it, or as on the command line.
    async fn resolve(&self, name: &str) -> Result<VersionId, Status> {
        if let Some(version) = self.current(name).await? {
            return Ok(version);
        }
        let name = parse(name)?;
        if let ModelName::Version(version) = &name {
            return Ok(version.clone());
        }
        Ok(self.models.find(&name).map_err(|error| failed(&error.into()))?.id)
    }

    /// Has a version of the store be one that can be served.
    pub(super) async fn add(&self, name: &ModelName) -> Result<VersionId, Status> {
        let known = match name {
            // A path of the command line is in no store.
            ModelName::Version(version) => self.models.prepared(version).ok().map(|_| version),
            _ => None,
        };
        let version = match known {
            Some(version) => version.clone(),
            None => self.models.prepare(name).await.map_err(|error| failed(&error))?,
        };
        let needs = self.models.prepared(&version).map_err(|error| failed(&error.into()))?.needs;
        self.order(Order::Add { version: version.clone(), needs }).await?;
        Ok(version)
    }

    /// The name whose traffic a version is to have where none is given: that by which it was pulled
    /// if clients use that, or the only one of its model that they use.
    async fn name_of(&self, version: &VersionId) -> Result<String, Status> {
        if let Ok(manifest) = self.models.find(&ModelName::Version(version.clone()))
            && self.current(&manifest.name).await?.is_some()
        {
            return Ok(manifest.name);
        }
        let routes = self.statuses.borrow().routes.clone();
        let is_of_model = |route: &&proto::Route| {
            let versions = route.shares.iter().map(|share| share.version.parse::<VersionId>());
            let mut models = versions.flatten().map(|other| other.model);
            route.name.parse::<VersionId>().is_err() && models.any(|model| model == version.model)
        };
        let names: Vec<_> = routes.iter().filter(is_of_model).map(|it| it.name.clone()).collect();
        match &names[..] {
            [name] => Ok(name.clone()),
            [] => {
                let manifest = self.models.find(&ModelName::Version(version.clone()));
                Ok(manifest.map_err(|error| failed(&error.into()))?.name)
            }
            names => {
                let names = names.join(", ");
                let message =
                    format!("name: {version} could have the traffic of {names}: say which");
                Err(Status::invalid_argument(message))
            }
        }
    }

    async fn with_store(&self, status: proto::FleetStatus) -> Result<proto::FleetStatus, Status> {
        let store = self.models.store().clone();
        let described = tokio::task::spawn_blocking(move || status::with_store(status, &store));
        let mut status = described.await.map_err(|error| Status::internal(error.to_string()))?;
        status.models.extend(self.pulls.models());
        Ok(status)
    }
}

fn updates(updates: Updates) -> Response<Streamed<proto::Progress>> {
    Response::new(Box::pin(UnboundedReceiverStream::new(updates)))
}

type Sender = mpsc::UnboundedSender<Result<proto::Progress, Status>>;

/// The progress of what is done here, and its end.
fn streamed<F>(work: impl FnOnce(Sender) -> F) -> Response<Streamed<proto::Progress>>
where
    F: Future<Output = Result<String, Status>> + Send + 'static,
{
    let (sender, updates) = mpsc::unbounded_channel();
    let work = work(sender.clone());
    tokio::spawn(async move {
        let ended = work.await;
        let last = ended.map(|message| proto::Progress { done: true, ..said(&message) });
        // Whoever has gone does not want to know; the work is done all the same.
        let _ = sender.send(last);
    });
    self::updates(updates)
}

fn said(message: &str) -> proto::Progress {
    proto::Progress { message: message.to_owned(), ..proto::Progress::default() }
}

fn parse(name: &str) -> Result<ModelName, Status> {
    name.parse().map_err(|error: crate::name::Error| Status::invalid_argument(error.to_string()))
}

/// Bytes that a reason's two texts may have, each.
const MAX_REASON: usize = 1000;

fn reason_of(reason: Option<proto::Reason>) -> Result<Reason, Status> {
    let reason = reason.unwrap_or_default();
    if reason.who.len() > MAX_REASON || reason.why.len() > MAX_REASON {
        let message = format!("reason: its texts have at most {MAX_REASON} bytes each");
        return Err(Status::invalid_argument(message));
    }
    Ok(reason.into())
}

fn ending() -> Status {
    Status::unavailable("the launcher is ending")
}

fn failed(error: &anyhow::Error) -> Status {
    let message = format!("{error:#}");
    match crate::exit::status(error) {
        3 => Status::not_found(message),
        4 => Status::failed_precondition(message),
        7 => Status::resource_exhausted(message),
        _ => Status::aborted(message),
    }
}

fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::UnknownVersion(_) | Refusal::UnknownName(_) => Status::not_found(message),
        Refusal::NameTaken { .. } | Refusal::AlreadyThere { .. } => Status::already_exists(message),
        Refusal::InUse { .. }
        | Refusal::UnderWay { .. }
        | Refusal::NoVersionBefore(_)
        | Refusal::NothingToCompare(_) => Status::failed_precondition(message),
        Refusal::DoesNotFit { .. } => Status::resource_exhausted(message),
        Refusal::Invalid { .. } | Refusal::InvalidName => Status::invalid_argument(message),
    }
}
