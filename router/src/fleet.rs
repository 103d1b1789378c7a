//! The launcher's service that manages models, for the endpoints that do.
//!
//! Operations outlive the requests that begin them: what a client has begun goes on when it hangs up,
//! and is followed to its end here, so that the launcher is not told to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sconce_proto::MAX_MESSAGE_BYTES;
use sconce_proto::fleet::fleet_client::FleetClient;
use sconce_proto::fleet::{
    FleetStatus, Progress, PullRequest, Reason, RemoveRequest, StartRequest, StatusRequest,
    UnloadRequest,
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::dispatch::connect::{connect, describe};

/// Longest time until the launcher takes a call, or says the first thing of an operation.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Operations that are followed at once.
const MAX_OPERATIONS: usize = 32;

/// The launcher, as far as endpoints may use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fleet {
    launcher: Option<Arc<str>>,
    operations: Arc<Mutex<HashMap<Operation, AbortOnDropHandle<()>>>>,
}

/// What is being done to what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Operation {
    kind: Kind,
    model: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Load,
    Unload,
    Pull,
}

/// Why models can't be managed, or not so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The router was started without one.
    #[error("this router follows no launcher, which is what manages models; see --launcher")]
    NoLauncher,
    /// It can't be asked now.
    #[error("the launcher can't be reached")]
    Unreachable,
    /// There is no such model.
    #[error("{0}")]
    NotFound(String),
    /// It is there already, in use, or in a state in which that can't be done.
    #[error("{0}")]
    Conflict(String),
    /// There is no room for it.
    #[error("{0}")]
    DoesNotFit(String),
    /// The request makes no sense to it.
    #[error("{0}")]
    Invalid(String),
    /// Too much is being done already.
    #[error("{MAX_OPERATIONS} operations on models are running already")]
    Busy,
    /// It failed.
    #[error("the launcher failed: {0}")]
    Failed(String),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound(message),
            Code::AlreadyExists | Code::FailedPrecondition => Self::Conflict(message),
            Code::ResourceExhausted => Self::DoesNotFit(message),
            Code::InvalidArgument => Self::Invalid(message),
            Code::Unavailable => Self::Unreachable,
            _ => Self::Failed(message),
        }
    }
}

impl Fleet {
    pub(crate) fn new(launcher: Option<&str>) -> Self {
        Self { launcher: launcher.map(Into::into), operations: Arc::default() }
    }

    /// What is served, what could be, and how it is.
    pub(crate) async fn status(&self) -> Result<FleetStatus, Error> {
        let mut client = self.client().await?;
        in_time(client.status(StatusRequest {})).await
    }

    /// The status now, and again whenever it changes.
    pub(crate) async fn events(&self) -> Result<Streaming<FleetStatus>, Error> {
        let mut client = self.client().await?;
        in_time(client.events(StatusRequest {})).await
    }

    /// Begins to load a model, by a name or a version.
    pub(crate) async fn load(&self, model: &str, who: &str) -> Result<(), Error> {
        let mut client = self.client().await?;
        let request = StartRequest {
            model: model.to_owned(),
            replicas: 0,
            route: true,
            reason: Some(reason(who)),
        };
        let progress = in_time(client.start(request)).await?;
        self.begun(Kind::Load, model, progress).await
    }

    /// Begins to unload a model, also while it has traffic: requests for it wait for the next load, or
    /// are refused. One that this router has begun to pull is not pulled any further.
    pub(crate) async fn unload(&self, model: &str, who: &str) -> Result<(), Error> {
        if self.stop(&Operation { kind: Kind::Pull, model: model.to_owned() }) {
            return Ok(());
        }
        let mut client = self.client().await?;
        let request =
            UnloadRequest { model: model.to_owned(), force: true, reason: Some(reason(who)) };
        let progress = in_time(client.unload(request)).await?;
        self.begun(Kind::Unload, model, progress).await
    }

    /// Begins to bring a model into the store.
    pub(crate) async fn pull(&self, model: &str) -> Result<(), Error> {
        let mut client = self.client().await?;
        let progress = in_time(client.pull(PullRequest { model: model.to_owned() })).await?;
        self.begun(Kind::Pull, model, progress).await
    }

    /// Removes a version from the store.
    pub(crate) async fn remove(&self, version: &str) -> Result<(), Error> {
        let mut client = self.client().await?;
        let request = RemoveRequest { version: version.to_owned() };
        in_time(client.remove(request)).await.map(drop)
    }

    async fn client(&self) -> Result<FleetClient<Channel>, Error> {
        let address = self.launcher.as_ref().ok_or(Error::NoLauncher)?;
        let channel = timeout(CALL_TIMEOUT, connect(address, CALL_TIMEOUT)).await;
        let channel = channel.map_err(|_| Error::Unreachable)?.map_err(|error| {
            tracing::warn!(launcher = %address, error = describe(&error), "can't ask the launcher");
            Error::Unreachable
        })?;
        Ok(FleetClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Waits for the first thing that is said of an operation, and follows the rest.
    async fn begun(
        &self,
        kind: Kind,
        model: &str,
        mut progress: Streaming<Progress>,
    ) -> Result<(), Error> {
        let first = match timeout(CALL_TIMEOUT, progress.message()).await {
            Ok(first) => first?,
            // It has begun, and has nothing to say yet.
            Err(_) => Some(Progress::default()),
        };
        if first.is_none_or(|first| first.done) {
            return Ok(());
        }
        let operation = Operation { kind, model: model.to_owned() };
        let model = operation.model.clone();
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.retain(|_, handle| !handle.is_finished());
        if operations.len() >= MAX_OPERATIONS {
            return Err(Error::Busy);
        }
        let follow = async move {
            let end = loop {
                match progress.message().await {
                    Ok(Some(said)) if !said.done => {}
                    Ok(_) => break Ok(()),
                    Err(status) => break Err(status),
                }
            };
            match end {
                Ok(()) => tracing::info!(?kind, model, "done by the launcher"),
                Err(status) => {
                    let error = status.message();
                    tracing::warn!(?kind, model, error, "the launcher failed");
                }
            }
        };
        operations.insert(operation, AbortOnDropHandle::new(tokio::spawn(follow)));
        Ok(())
    }

    /// Stops an operation. Whether there was one.
    fn stop(&self, operation: &Operation) -> bool {
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.remove(operation).is_some_and(|handle| !handle.is_finished())
    }
}

async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    let answered = timeout(CALL_TIMEOUT, call).await.map_err(|_| Error::Unreachable)?;
    Ok(answered?.into_inner())
}

/// Who asked, for the launcher's history.
fn reason(who: &str) -> Reason {
    Reason { who: who.to_owned(), why: "over HTTP".to_owned() }
}
