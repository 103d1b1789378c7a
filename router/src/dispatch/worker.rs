//! One worker as the router knows it, and the task that stays connected to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use sconce_proto::MAX_MESSAGE_BYTES;
use sconce_proto::worker::worker_client::WorkerClient;
use sconce_proto::worker::{
    DescribeRequest, Embed, EngineStats, ModelInfo, Submit, Task, TokenizerPiece, TokenizerRequest,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::connect::{connect, describe};
use super::embeddings::Vectors;
use super::outputs::Outputs;
use super::prefixes::{Block, Prefixes};
use super::session::{Command, Session};
use super::status::WorkerStatus;
use crate::metrics::Totals;
use crate::model::{self, Model};

/// Longest time that a living worker takes to answer a call.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const TOKENIZER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TOKENIZER_BYTES: usize = 128 << 20;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LOADING_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

// What a request of another router is taken to cost. Only how many there are is known.
const OTHERS_TOKENS: u64 = 512;
// Versions whose totals are kept, beside those that are served.
const MAX_TOTALS: usize = 256;

/// A worker, and whether it can take requests.
pub(super) struct Worker {
    address: String,
    /// What the routing table calls what it serves; none where the command line names the worker.
    version: Option<Arc<str>>,
    /// What it serves, or served before it was lost.
    model: ArcSwapOption<Model>,
    /// The way into its session, while it takes requests.
    link: ArcSwapOption<Link>,
    /// The way into its session, as long as there is one.
    session: ArcSwapOption<Link>,
    /// The routing table says that it gets nothing new.
    is_draining: AtomicBool,
    /// The routing table does not name it any more.
    is_leaving: AtomicBool,
    /// Told whenever it can or can't take requests.
    changes: Arc<watch::Sender<()>>,
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
    /// What the requests in flight cost together, in tokens.
    num_tokens: AtomicU64,
    prefixes: Mutex<Prefixes>,
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
        let num_blocks = model.info.num_blocks as usize;
        Self {
            model,
            commands,
            num_in_flight: AtomicU32::new(0),
            num_in_engine: AtomicU32::new(0),
            num_tokens: AtomicU64::new(0),
            prefixes: Mutex::new(Prefixes::new(num_blocks)),
        }
    }

    pub(super) fn serves(&self, model: &Model) -> bool {
        self.model.info.model == model.info.model
            && self.model.info.version == model.info.version
            && self.model.version == model.version
    }

    pub(super) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Tokens that it has yet to compute, about, for this router and others.
    pub(super) fn load(&self) -> u64 {
        let in_flight = self.num_in_flight.load(Ordering::Relaxed);
        let others = self.num_in_engine.load(Ordering::Relaxed).saturating_sub(in_flight);
        self.num_tokens.load(Ordering::Relaxed).saturating_add(u64::from(others) * OTHERS_TOKENS)
    }

    /// How many of a prompt's first blocks were sent here before.
    pub(super) fn num_matched(&self, blocks: &[Block]) -> usize {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).num_matched(blocks)
    }

    /// Notes that a prompt is sent here.
    pub(super) fn remember(&self, blocks: &[Block]) {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).insert(blocks);
    }

    /// A request has ended that cost so much.
    pub(super) fn ended(&self, cost: u64) {
        self.num_in_flight.fetch_sub(1, Ordering::Relaxed);
        self.num_tokens.fetch_sub(cost, Ordering::Relaxed);
    }

    /// Hands a request to the session's task, or back when the task has ended.
    pub(super) fn submit(&self, submit: Box<Submit>, cost: u64) -> Result<Outputs, Box<Submit>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let outputs = Outputs {
            id: submit.request_id,
            receiver,
            commands: self.commands.clone(),
            num_unfinished: submit.n,
            unanswered: None,
        };
        self.num_in_flight.fetch_add(1, Ordering::Relaxed);
        self.num_tokens.fetch_add(cost, Ordering::Relaxed);
        match self.commands.send(Command::Submit { submit, outputs: sender, cost }) {
            Err(mpsc::error::SendError(Command::Submit { submit, .. })) => Err(submit),
            // Only a `Submit` was sent; nothing else can come back.
            Ok(()) | Err(mpsc::error::SendError(_)) => Ok(outputs),
        }
    }

    /// Hands inputs to the session's task, or back when the task has ended.
    pub(super) fn embed(&self, embed: Box<Embed>, cost: u64) -> Result<Vectors, Box<Embed>> {
        let num_inputs = embed.inputs.len();
        let (sender, receiver) = mpsc::unbounded_channel();
        let vectors = Vectors {
            id: embed.request_id,
            receiver,
            commands: self.commands.clone(),
            num_inputs,
            num_outputs: self.model.info.num_outputs as usize,
            is_over: false,
        };
        self.num_in_flight.fetch_add(1, Ordering::Relaxed);
        self.num_tokens.fetch_add(cost, Ordering::Relaxed);
        match self.commands.send(Command::Embed { embed, vectors: sender, cost }) {
            Err(mpsc::error::SendError(Command::Embed { embed, .. })) => Err(embed),
            // Only an `Embed` was sent; nothing else can come back.
            Ok(()) | Err(mpsc::error::SendError(_)) => Ok(vectors),
        }
    }
}

impl Worker {
    pub(super) fn new(
        address: String,
        version: Option<Arc<str>>,
        changes: Arc<watch::Sender<()>>,
    ) -> Self {
        Self {
            address,
            version,
            model: ArcSwapOption::empty(),
            link: ArcSwapOption::empty(),
            session: ArcSwapOption::empty(),
            is_draining: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            changes,
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

    /// What the routing table calls what it serves.
    pub(super) fn version(&self) -> Option<&Arc<str>> {
        self.version.as_ref()
    }

    /// Whether it is the worker at that address that serves that.
    pub(super) fn is(&self, address: &str, version: Option<&Arc<str>>) -> bool {
        self.address == address && self.version.as_ref() == version
    }

    /// What it serves, if no routing table says what that is called.
    pub(super) fn own_model(&self) -> Option<Arc<Model>> {
        if self.version.is_some() { None } else { self.model() }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Whether it gets nothing new from now on. What it has goes on.
    pub(super) fn set_draining(&self, is_draining: bool) {
        self.is_draining.store(is_draining, Ordering::SeqCst);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether its session ends with what it runs now.
    pub(super) fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.store(is_leaving, Ordering::Relaxed);
    }

    /// Whether a new request may be sent to it.
    pub(super) fn takes_requests(&self) -> bool {
        !self.is_draining() && self.link.load().as_ref().is_some_and(|link| !link.is_closed())
    }

    /// Requests that were sent to it and have not ended.
    pub(super) fn num_in_flight(&self) -> u32 {
        let session = self.session.load();
        session.as_ref().map_or(0, |link| link.num_in_flight.load(Ordering::Relaxed))
    }

    /// Ends its session's requests with [`Error::Stopping`](super::Error::Stopping).
    pub(super) fn stop(&self) {
        if let Some(session) = &*self.session.load() {
            // A closed channel means that the session has ended, and its requests with it.
            let _ = session.commands.send(Command::Stop);
        }
    }

    pub(super) fn status(&self) -> WorkerStatus {
        let model = self.model();
        let num_in_flight = self.num_in_flight();
        let state = self.state();
        WorkerStatus {
            address: self.address.to_string(),
            model: model.map(|model| (model.info.model.clone(), model.version_name().to_owned())),
            is_draining: self.is_draining(),
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
        let version = self.version.as_ref();
        let model = match models.find(&info, version) {
            Some(model) => model,
            None => models.load((info, version), &mut client).await?,
        };
        self.model.store(Some(Arc::clone(&model)));
        Session::open(Arc::clone(self), model, epoch, client).await
    }

    /// A session has begun, in which the worker is yet to show that it works.
    pub(super) fn begin(&self, link: &Arc<Link>) {
        self.session.store(Some(Arc::clone(link)));
    }

    /// The worker answered with a decode step: from now on it is chosen.
    pub(super) fn admit(&self, link: &Arc<Link>) {
        self.link.store(Some(Arc::clone(link)));
        self.enter(Standing::Ready, None);
        self.changes.send_replace(());
        info!(worker = %self.address, model = link.model.info.model, "worker ready");
    }

    /// The worker refuses requests and finishes what it runs.
    pub(super) fn retire(&self) {
        self.link.store(None);
        self.changes.send_replace(());
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
        self.session.store(None);
        self.changes.send_replace(());
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
    /// Of the routing table's versions. They outlive the models: they count since the start.
    totals: Mutex<HashMap<Arc<str>, Arc<Totals>>>,
}

impl ModelCache {
    /// What was counted of a version.
    pub(super) fn totals(&self, version: &Arc<str>) -> Arc<Totals> {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        if totals.len() >= MAX_TOTALS && !totals.contains_key(version) {
            // Whoever holds the others' counts.
            totals.retain(|_, totals| Arc::strong_count(totals) > 1);
        }
        Arc::clone(totals.entry(Arc::clone(version)).or_default())
    }

    /// Every version of which something was counted.
    pub(super) fn all_totals(&self) -> Vec<(Arc<str>, Arc<Totals>)> {
        let totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.iter().map(|(version, totals)| (Arc::clone(version), Arc::clone(totals))).collect()
    }

    fn find(&self, info: &ModelInfo, version: Option<&Arc<str>>) -> Option<Arc<Model>> {
        let same = |model: &Arc<Model>| {
            model.version.as_ref() == version && describes_the_same(&model.info, info)
        };
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.iter().filter_map(Weak::upgrade).find(same)
    }

    async fn load(
        &self,
        (info, version): (ModelInfo, Option<&Arc<str>>),
        client: &mut WorkerClient<Channel>,
    ) -> Result<Arc<Model>, Lost> {
        let tokenizer = timeout(TOKENIZER_TIMEOUT, fetch_tokenizer(client))
            .await
            .map_err(|_| Lost::Silent("Tokenizer"))??;
        let load = move || Model::load(info, &tokenizer);
        let mut model = tokio::task::spawn_blocking(load).await??;
        if let Some(version) = version {
            model.version = Some(Arc::clone(version));
            model.totals = self.totals(version);
        }
        let model = Arc::new(model);
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
