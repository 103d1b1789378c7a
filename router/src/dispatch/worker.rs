//! One worker as the router knows it, and the task that stays connected to it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use sconce_proto::MAX_MESSAGE_BYTES;
use sconce_proto::worker::worker_client::WorkerClient;
use sconce_proto::worker::{
    DescribeRequest, Embed, EngineStats, ModelInfo, Submit, Task, TokenizerPiece, TokenizerRequest,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::connect::connect;
use super::embeddings::Embeddings;
use super::outputs::Outputs;
use super::session::{Command, Session};
use super::status::WorkerStatus;
use crate::model::{self, Model};

/// Longest time that a living worker takes to answer a call.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const TOKENIZER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TOKENIZER_BYTES: usize = 128 << 20;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LOADING_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// A worker, and whether it can take requests.
pub(super) struct Worker {
    address: String,
    /// What it serves, or served before it was lost.
    model: ArcSwapOption<Model>,
    /// The way into its session, while it takes requests.
    link: ArcSwapOption<Link>,
    state: Mutex<State>,
}

struct State {
    standing: Standing,
    since: SystemTime,
    /// Why it is not ready.
    error: Option<String>,
    stats: Option<EngineStats>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// There is no session: the worker is starting, dead or frozen.
    Lost,
    /// It answered a probe with a decode step.
    Ready,
    /// It finishes what it runs and takes nothing more.
    Draining,
}

/// The way into a worker's session. One per session.
pub(super) struct Link {
    model: Arc<Model>,
    commands: mpsc::UnboundedSender<Command>,
    pub(super) num_in_flight: AtomicU32,
    /// Requests in the worker's engine, of all routers, as it said last.
    pub(super) num_in_engine: AtomicU32,
}

/// Why a session could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("can't connect")]
    Connect(#[source] tonic::transport::Error),
    #[error("the model is still being loaded")]
    Loading,
    #[error("a call failed: {0}")]
    Call(Status),
    #[error("no answer to {0} in time")]
    Silent(&'static str),
    #[error("the worker ended the session")]
    Closed,
    #[error("the worker reads too slowly")]
    Slow,
    #[error("the worker broke the protocol: {0}")]
    Violation(&'static str),
    #[error("the worker restarted in between")]
    Epoch,
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error("a task of the router failed")]
    Task(#[from] tokio::task::JoinError),
}

impl Link {
    pub(super) fn new(model: Arc<Model>, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { model, commands, num_in_flight: AtomicU32::new(0), num_in_engine: AtomicU32::new(0) }
    }

    pub(super) fn serves(&self, model: &Model) -> bool {
        self.model.info.model == model.info.model && self.model.info.version == model.info.version
    }

    pub(super) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    pub(super) fn load(&self) -> u32 {
        let in_flight = self.num_in_flight.load(Ordering::Relaxed);
        in_flight.max(self.num_in_engine.load(Ordering::Relaxed))
    }

    /// Hands a request to the session's task, or back when the task has ended.
    pub(super) fn submit(&self, submit: Box<Submit>, n: u32) -> Result<Outputs, Box<Submit>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let outputs = Outputs {
            id: submit.request_id,
            receiver,
            commands: self.commands.clone(),
            num_unfinished: n,
        };
        self.num_in_flight.fetch_add(1, Ordering::Relaxed);
        match self.commands.send(Command::Submit { submit, outputs: sender }) {
            Err(mpsc::error::SendError(Command::Submit { submit, .. })) => Err(submit),
            // Only a `Submit` was sent; nothing else can come back.
            Ok(()) | Err(mpsc::error::SendError(_)) => Ok(outputs),
        }
    }

    /// Hands inputs to the session's task, or back when the task has ended.
    pub(super) fn embed(
        &self,
        embed: Box<Embed>,
        num_inputs: usize,
    ) -> Result<Embeddings, Box<Embed>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let embeddings = Embeddings {
            id: embed.request_id,
            receiver,
            commands: self.commands.clone(),
            num_inputs,
            num_outputs: self.model.info.num_outputs as usize,
            is_over: false,
        };
        self.num_in_flight.fetch_add(1, Ordering::Relaxed);
        match self.commands.send(Command::Embed { embed, vectors: sender }) {
            Err(mpsc::error::SendError(Command::Embed { embed, .. })) => Err(embed),
            // Only an `Embed` was sent; nothing else can come back.
            Ok(()) | Err(mpsc::error::SendError(_)) => Ok(embeddings),
        }
    }
}

impl Worker {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            model: ArcSwapOption::empty(),
            link: ArcSwapOption::empty(),
            state: Mutex::new(State {
                standing: Standing::Lost,
                since: SystemTime::now(),
                error: Some("not connected yet".to_owned()),
                stats: None,
            }),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn model(&self) -> Option<Arc<Model>> {
        self.model.load_full()
    }

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.load_full()
    }

    pub(super) fn status(&self) -> WorkerStatus {
        let model = self.model();
        let num_in_flight =
            self.link().map_or(0, |link| link.num_in_flight.load(Ordering::Relaxed));
        let state = self.state();
        WorkerStatus {
            address: self.address.to_string(),
            model: model.map(|model| (model.info.model.clone(), model.info.version.clone())),
            ready: state.standing == Standing::Ready,
            since: state.since,
            num_in_flight,
            stats: state.stats,
            error: state.error.clone(),
        }
    }

    /// Stays connected until it is aborted.
    pub(super) async fn run(self: Arc<Self>, models: Arc<ModelCache>) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let lost = self.serve(&models).await;
            if self.lose(&lost) {
                backoff = FIRST_BACKOFF;
            }
            if matches!(lost, Lost::Loading) {
                backoff = LOADING_BACKOFF;
            }
            #[expect(clippy::disallowed_methods, reason = "nothing says when the worker is back")]
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// One connection: until it breaks.
    async fn serve(self: &Arc<Self>, models: &ModelCache) -> Lost {
        match self.open(models).await {
            Ok(session) => session.run().await,
            Err(lost) => lost,
        }
    }

    async fn open(self: &Arc<Self>, models: &ModelCache) -> Result<Session, Lost> {
        let connect = connect(&self.address, CALL_TIMEOUT);
        let channel = in_time("the connection", connect).await?.map_err(Lost::Connect)?;
        let mut client = WorkerClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let described = in_time("Describe", client.describe(DescribeRequest {})).await?;
        let info = described.map_err(Lost::from)?.into_inner();
        check(&info)?;
        let epoch = info.epoch;
        let model = match models.find(&info) {
            Some(model) => model,
            None => models.load(info, &mut client).await?,
        };
        self.model.store(Some(Arc::clone(&model)));
        Session::open(Arc::clone(self), model, epoch, client).await
    }

    /// The worker answered with a decode step: from now on it is chosen.
    pub(super) fn admit(&self, link: &Arc<Link>) {
        self.link.store(Some(Arc::clone(link)));
        self.enter(Standing::Ready, None);
        info!(worker = %self.address, model = link.model.info.model, "worker ready");
    }

    /// The worker refuses requests and finishes what it runs.
    pub(super) fn retire(&self) {
        self.link.store(None);
        if self.enter(Standing::Draining, Some("draining".to_owned())) {
            info!(worker = %self.address, "worker draining");
        }
    }

    /// Keeps what the engine said last.
    pub(super) fn update(&self, stats: EngineStats) {
        self.state().stats = Some(stats);
    }

    /// Notes why there is no session. Returns whether there was one.
    fn lose(&self, lost: &Lost) -> bool {
        self.link.store(None);
        let error = describe(lost);
        let before = self.state().error.replace(error.clone());
        let had_session = self.enter(Standing::Lost, Some(error.clone()));
        if had_session {
            warn!(worker = %self.address, error, "worker lost");
        } else if before.as_deref() != Some(&error) {
            info!(worker = %self.address, error, "worker not ready");
        }
        had_session
    }

    /// Returns whether this is another state than before.
    fn enter(&self, standing: Standing, error: Option<String>) -> bool {
        let mut now = self.state();
        let changed = now.standing != standing;
        now.error = error;
        if changed {
            now.standing = standing;
            now.since = SystemTime::now();
        }
        changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and every value is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable => Self::Loading,
            _ => Self::Call(status),
        }
    }
}

/// The error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Awaits `future`, at most so long as a living worker needs.
pub(super) async fn in_time<T>(
    what: &'static str,
    future: impl Future<Output = T>,
) -> Result<T, Lost> {
    timeout(CALL_TIMEOUT, future).await.map_err(|_| Lost::Silent(what))
}

/// Refuses a description that the rest of the router could not work with.
fn check(info: &ModelInfo) -> Result<(), Lost> {
    let violation = |what| Err(Lost::Violation(what));
    if info.model.is_empty() || info.model.len() > 256 {
        return violation("the model's name is empty or longer than 256 bytes");
    }
    if info.version.len() > 256 {
        return violation("the model's version is longer than 256 bytes");
    }
    if info.max_model_len == 0 || info.vocab_size == 0 || info.max_num_seqs == 0 {
        return violation("a limit of the model is 0");
    }
    let embeds = |task: &i32| *task == Task::Embed as i32 || *task == Task::Classify as i32;
    if info.tasks.iter().any(embeds) && info.num_outputs == 0 {
        return violation("the model embeds, and its vectors have no elements");
    }
    if info.eos_token_ids.iter().any(|token| *token >= info.vocab_size) {
        return violation("an end token is outside the vocabulary");
    }
    Ok(())
}

/// Models that are in use, so that a restarted worker, or a second one of the same version, costs
/// no second tokenizer.
#[derive(Default)]
pub(super) struct ModelCache {
    models: Mutex<Vec<Weak<Model>>>,
}

impl ModelCache {
    fn find(&self, info: &ModelInfo) -> Option<Arc<Model>> {
        let same = |model: &Arc<Model>| describes_the_same(&model.info, info);
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.iter().filter_map(Weak::upgrade).find(same)
    }

    async fn load(
        &self,
        info: ModelInfo,
        client: &mut WorkerClient<Channel>,
    ) -> Result<Arc<Model>, Lost> {
        let tokenizer = timeout(TOKENIZER_TIMEOUT, fetch_tokenizer(client))
            .await
            .map_err(|_| Lost::Silent("Tokenizer"))??;
        let load = move || Model::load(info, &tokenizer);
        let model = Arc::new(tokio::task::spawn_blocking(load).await??);
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.retain(|model| model.strong_count() > 0);
        models.push(Arc::downgrade(&model));
        Ok(model)
    }
}

/// Whether both are one version of one model, with the same limits. The tokenizer belongs to the
/// version.
fn describes_the_same(a: &ModelInfo, b: &ModelInfo) -> bool {
    let timeless = |info: &ModelInfo| ModelInfo { epoch: 0, created: 0, ..info.clone() };
    timeless(a) == timeless(b)
}

async fn fetch_tokenizer(client: &mut WorkerClient<Channel>) -> Result<Vec<u8>, Lost> {
    let mut pieces = client.tokenizer(TokenizerRequest {}).await?.into_inner();
    let mut tokenizer = Vec::new();
    while let Some(TokenizerPiece { data }) = pieces.message().await? {
        if tokenizer.len() + data.len() > MAX_TOKENIZER_BYTES {
            return Err(Lost::Violation("the tokenizer is larger than 128 MiB"));
        }
        tokenizer.extend_from_slice(&data);
    }
    Ok(tokenizer)
}
