//! Which worker computes a request, and the one session that carries it there.
//!
//! Each worker has one task that connects, opens a session, and delivers what comes back to the
//! requests' own channels. Nothing is locked per token: requests reach the task through a channel,
//! and only the task knows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use sconce_proto::worker::{EmbedInput, SamplingParams, Submit};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Config;
use crate::model::Model;

mod balance;
pub(crate) mod connect;
mod embeddings;
mod outputs;
mod prefixes;
pub(crate) mod replicas;
mod room;
mod session;
mod status;
mod unanswered;
mod worker;

pub use embeddings::Embeddings;
pub use outputs::Outputs;
pub use replicas::Replica;
pub(crate) use room::WorkerRoom;
pub use status::WorkerStatus;
pub(crate) use unanswered::Unanswered;

use balance::Candidate;
use prefixes::{Block, Namer};
use worker::{Link, ModelCache, Worker};

/// The workers and what they serve. Cheap to clone; when the last clone is dropped, the sessions
/// end.
#[derive(Clone)]
pub struct Dispatcher {
    shared: Arc<Shared>,
}

struct Shared {
    workers: ArcSwap<Vec<Arc<Connected>>>,
    models: Arc<ModelCache>,
    queue_timeout: Duration,
    next_request_id: AtomicU64,
    namer: Namer,
    /// Told whenever a worker can or can't take requests.
    changes: Arc<watch::Sender<()>>,
    is_stopping: AtomicBool,
}

/// A worker and the task that keeps its session.
struct Connected {
    worker: Arc<Worker>,
    _task: AbortOnDropHandle<()>,
}

/// What is sent to a worker: one prompt, and how to continue it.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// Completions of it.
    pub n: u32,
    /// How to sample. The seed is always set, so that a stream can be replayed.
    pub sampling: SamplingParams,
    /// The principal's salt.
    pub cache_salt: [u8; 16],
    /// Whether outputs tell how much of the prompt is computed.
    pub report_progress: bool,
    /// Among the principal's requests: lower ones come first.
    pub priority: i32,
}

/// Why a generation could not start, or broke off.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No worker serves the model now: none is connected, or all are starting or draining.
    #[error("no worker serves the model `{model}` at the moment")]
    NoWorker {
        /// As the client named it.
        model: String,
    },
    /// The worker's queue is full.
    #[error("the queue is full: {max_queue} requests are waiting")]
    QueueFull {
        /// The worker's limit.
        max_queue: u32,
    },
    /// The request waited longer than it may.
    #[error("the request waited too long for its turn")]
    Deadline,
    /// The worker can't enforce the grammar.
    #[error("{0}")]
    Grammar(String),
    /// To follow the grammar took more than the worker allows.
    #[error("the grammar is too complex: a token that it allows was not found within the limits")]
    GrammarLimit,
    /// Whatever the text could go on with would complete a bad word.
    #[error("every token that may come next would complete one of the `bad_words`")]
    BadWord,
    /// The worker refused what validation let through.
    #[error("{0}")]
    Refused(String),
    /// The worker died, or its connection broke.
    #[error("the worker was lost while it was generating")]
    WorkerLost,
    /// The router ends, and the request took longer than that may.
    #[error("the server is stopping")]
    Stopping,
}

impl Error {
    /// Whether the request failed by no fault of the client, and not because there are too many.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::NoWorker { .. } | Self::Deadline | Self::WorkerLost => true,
            Self::Stopping
            | Self::QueueFull { .. }
            | Self::Grammar(_)
            | Self::GrammarLimit
            | Self::BadWord
            | Self::Refused(_) => false,
        }
    }
}

impl Dispatcher {
    /// Connects to the configured workers, now and whenever a connection breaks. Needs a Tokio
    /// runtime, and waits for no worker.
    pub fn new(config: &Config) -> Self {
        let shared = Shared {
            workers: ArcSwap::default(),
            models: Arc::default(),
            queue_timeout: config.limits.queue_timeout,
            next_request_id: AtomicU64::new(1),
            namer: Namer::default(),
            changes: Arc::new(watch::Sender::new(())),
            is_stopping: AtomicBool::new(false),
        };
        let dispatcher = Self { shared: Arc::new(shared) };
        for address in &config.workers {
            dispatcher.add_worker(address);
        }
        dispatcher
    }

    /// Connects to one more worker, at `unix:/path/to/socket` or `http://host:port`. Does nothing
    /// when it is known already.
    pub fn add_worker(&self, address: &str) {
        self.add(address, None);
    }

    /// Connects to a worker that serves what the routing table calls `version`, unless it is known.
    fn add(&self, address: &str, version: Option<&Arc<str>>) {
        let known = |workers: &[Arc<Connected>]| {
            workers.iter().any(|connected| connected.worker.is(address, version))
        };
        if known(&self.shared.workers.load()) {
            return;
        }
        let changes = Arc::clone(&self.shared.changes);
        let worker = Arc::new(Worker::new(address.to_owned(), version.cloned(), changes));
        let run = Arc::clone(&worker).run(Arc::clone(&self.shared.models));
        let task = AbortOnDropHandle::new(tokio::spawn(run));
        let connected = Arc::new(Connected { worker, _task: task });
        self.shared.workers.rcu(|workers| {
            if known(workers) {
                return Arc::clone(workers);
            }
            Arc::new(workers.iter().chain([&connected]).cloned().collect())
        });
    }

    /// Ends the session with a worker: its streams break off. The caller drains it first.
    pub fn remove_worker(&self, address: &str) {
        self.shared.workers.rcu(|workers| {
            let stays = |connected: &&Arc<Connected>| connected.worker.address() != address;
            workers.iter().filter(stays).cloned().collect::<Vec<_>>()
        });
    }

    /// The models of workers that the command line names, by name. A model stays listed while its
    /// workers restart.
    pub fn models(&self) -> Vec<Arc<Model>> {
        let mut models: Vec<Arc<Model>> = Vec::new();
        for connected in self.shared.workers.load().iter() {
            let Some(model) = connected.worker.own_model() else { continue };
            match models.iter_mut().find(|other| other.info.model == model.info.model) {
                None => models.push(model),
                // Of two versions, the one that can answer.
                Some(other) if connected.worker.link().is_some() => *other = model,
                Some(_) => {}
            }
        }
        models.sort_by(|a, b| a.info.model.cmp(&b.info.model));
        models
    }

    /// The model of that name, of workers that the command line names.
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        let mut found = None;
        for connected in self.shared.workers.load().iter() {
            let Some(model) = connected.worker.own_model() else { continue };
            if model.info.model == name {
                if connected.worker.link().is_some() {
                    return Some(model);
                }
                found.get_or_insert(model);
            }
        }
        found
    }

    /// Sends a generation to a worker of `model`. Returns once it is on its way; a refusal by the
    /// worker is the first output.
    pub fn generate(&self, model: &Arc<Model>, generation: Generation) -> Result<Outputs, Error> {
        self.prepare(model, generation)?.send().map_err(|(error, _)| error)
    }

    /// A generation that is not sent yet.
    pub(crate) fn prepare(
        &self,
        model: &Arc<Model>,
        generation: Generation,
    ) -> Result<Box<Unanswered>, Error> {
        let n = generation.n;
        if n == 0 || n > model.info.max_num_seqs {
            let max = model.info.max_num_seqs;
            return Err(Error::Refused(format!("n must be between 1 and {max}")));
        }
        let submit = Submit {
            request_id: 0,
            prompt: generation.prompt,
            sampling: Some(generation.sampling),
            n,
            cache_salt: generation.cache_salt.to_vec(),
            queue_deadline_ms: self.queue_deadline_ms(),
            report_progress: generation.report_progress,
            priority: generation.priority,
        };
        Ok(Unanswered::new(self, model, submit))
    }

    /// A request for a vector of each input, which is not sent yet.
    pub fn embed(&self, model: &Arc<Model>, inputs: Vec<EmbedInput>, priority: i32) -> Embeddings {
        Embeddings::new(self, model, inputs, priority)
    }

    fn queue_deadline_ms(&self) -> u32 {
        u32::try_from(self.shared.queue_timeout.as_millis()).unwrap_or(u32::MAX)
    }

    /// Every worker, in the order in which they were named.
    pub fn status(&self) -> Vec<WorkerStatus> {
        self.shared.workers.load().iter().map(|connected| connected.worker.status()).collect()
    }

    /// Ends every request with [`Error::Stopping`], those that wait for a worker too. Nothing is sent any
    /// more.
    pub fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        for connected in self.shared.workers.load().iter() {
            connected.worker.stop();
        }
        self.announce();
    }

    /// Whether nothing is sent any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.is_stopping.load(Ordering::SeqCst)
    }

    /// Told whenever a worker can or can't take requests.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changes.subscribe()
    }

    /// Says that something about the workers has changed.
    pub(crate) fn announce(&self) {
        self.shared.changes.send_replace(());
    }

    /// The ways to those who may get a request for `model`. Where all of them get nothing new, the
    /// request was meant for them before that was known, and they wait for it.
    fn links(&self, model: &Model) -> Vec<Arc<Link>> {
        let workers = self.shared.workers.load();
        let links = |is_draining: bool| -> Vec<_> {
            let workers = workers.iter().map(|connected| &connected.worker);
            let workers = workers.filter(|worker| worker.is_draining() == is_draining);
            let links = workers.filter_map(|worker| worker.link());
            links.filter(|link| link.serves(model) && !link.is_closed()).collect()
        };
        let taking = links(false);
        if taking.is_empty() { links(true) } else { taking }
    }
}

/// Who gets a prompt of these blocks, and how many of its tokens were sent there before.
fn pick(
    mut links: Vec<Arc<Link>>,
    submit: &Submit,
    (blocks, block_size): (&[Block], u32),
) -> Option<(Arc<Link>, u64)> {
    let candidates: Vec<_> = links
        .iter()
        .map(|link| Candidate {
            num_matched: link.num_matched(blocks) as u64 * u64::from(block_size),
            load: link.load(),
        })
        .collect();
    let chosen = balance::choose(&candidates, balance::cost(submit, 0), draw)?;
    let num_matched = candidates.get(chosen)?.num_matched;
    Some((links.swap_remove(chosen), num_matched))
}

fn least_loaded(mut links: Vec<Arc<Link>>, cost: u64) -> Option<Arc<Link>> {
    let candidate = |link: &Arc<Link>| Candidate { num_matched: 0, load: link.load() };
    let candidates: Vec<_> = links.iter().map(candidate).collect();
    let chosen = balance::choose(&candidates, cost, draw)?;
    Some(links.swap_remove(chosen))
}

fn draw(below: usize) -> usize {
    rand::random_range(0..below.max(1))
}
