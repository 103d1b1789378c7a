//! Sends what a workload asks when a schedule says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::live::Live;
use crate::machine::cpu_time;
use crate::measure::{Keep, Record, Target};
use crate::request::Shape;
use crate::schedule::{Load, Until};
use crate::tokens::{MAX_CHECKED, Texts};
use crate::workload::{Session, Workload};

/// What is asked of whom.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) shape: Shape,
    pub(crate) workload: Workload,
    /// Between an answer and the next request of the same conversation.
    pub(crate) think: Duration,
    /// Whether texts are to be counted after the run.
    pub(crate) counts: bool,
    /// Whether answers are to be told.
    pub(crate) keeps_texts: bool,
}

/// How much of it, and when.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) load: Load,
    pub(crate) until: Until,
    /// Most requests at a time, where a rate is given. One too many waits, and is late.
    pub(crate) max_concurrency: Option<usize>,
    pub(crate) seed: u64,
    /// The number of the first conversation: those before have been used.
    pub(crate) first_session: usize,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) records: Vec<Record>,
    /// Until the last answer had ended.
    pub(crate) wall: Duration,
    /// What this process computed in that time.
    pub(crate) cpu: Duration,
    /// Someone did not want to wait for the end.
    pub(crate) is_interrupted: bool,
}

/// What the tasks of a run share.
struct Shared {
    plan: Arc<Plan>,
    live: Arc<Live>,
    start: Instant,
    /// Requests whose texts were kept.
    num_kept: AtomicUsize,
    records: mpsc::UnboundedSender<Record>,
}

/// Runs a stage until it is over, or SIGINT comes: then what has not been answered is given up.
pub(crate) async fn run(plan: &Arc<Plan>, stage: &Stage, live: &Arc<Live>) -> Outcome {
    let (records, mut arrived) = mpsc::unbounded_channel();
    let cpu = cpu_time();
    let start = Instant::now();
    let shared = Arc::new(Shared {
        plan: Arc::clone(plan),
        live: Arc::clone(live),
        start,
        num_kept: AtomicUsize::new(0),
        records,
    });
    let is_interrupted = tokio::select! {
        () = drive(stage, &shared) => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    let (wall, cpu) = (start.elapsed(), cpu_time() - cpu);
    drop(shared);
    let mut records: Vec<Record> = std::iter::from_fn(|| arrived.try_recv().ok()).collect();
    records.sort_by_key(|record| (record.sent, record.session, record.turn));
    Outcome { records, wall, cpu, is_interrupted }
}

async fn drive(stage: &Stage, shared: &Arc<Shared>) {
    match &stage.load {
        Load::Concurrency(count) => closed_loop(*count, stage, shared).await,
        Load::Rate(arrivals) => {
            open_loop(&arrivals.times(stage.until, stage.seed), stage, shared).await;
        }
        Load::Trace { speed } => {
            let Workload::Trace(trace) = &shared.plan.workload else { return };
            let end = stage.until.duration.unwrap_or(Duration::MAX);
            let most = stage.until.num_requests.unwrap_or(usize::MAX);
            let times = trace.times().map(|time| time.div_f64(*speed));
            let times: Vec<_> = times.take(most).take_while(|time| *time < end).collect();
            open_loop(&times, stage, shared).await;
        }
    }
}

/// So many conversations at any time.
async fn closed_loop(count: usize, stage: &Stage, shared: &Arc<Shared>) {
    let most = stage.until.num_requests.unwrap_or(usize::MAX);
    let end = stage.until.duration.unwrap_or(Duration::MAX);
    let next = Arc::new(AtomicUsize::new(0));
    let first = stage.first_session;
    let mut tasks = JoinSet::new();
    for _ in 0..count.min(most) {
        let (shared, next) = (Arc::clone(shared), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= most || shared.start.elapsed() >= end {
                    return;
                }
                let session = shared.plan.workload.session(first + index);
                shared.converse(first + index, &session, None).await;
            }
        });
    }
    tasks.join_all().await;
}

/// Conversations at their times, whatever became of those before.
async fn open_loop(times: &[Duration], stage: &Stage, shared: &Arc<Shared>) {
    let places = stage.max_concurrency.map(|most| Arc::new(Semaphore::new(most)));
    let mut tasks = JoinSet::new();
    for (index, intended) in times.iter().enumerate() {
        let index = stage.first_session + index;
        // Made up before it is due.
        let session = shared.plan.workload.session(index);
        tokio::time::sleep_until((shared.start + *intended).into()).await;
        let (shared, places, intended) = (Arc::clone(shared), places.clone(), *intended);
        tasks.spawn(async move {
            // Nobody closes it; a place is held until the conversation has ended.
            let _place = match &places {
                Some(places) => places.acquire().await.ok(),
                None => None,
            };
            shared.converse(index, &session, Some(intended)).await;
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.join_all().await;
}

impl Shared {
    /// Sends the requests of a conversation, each with the answers before it.
    async fn converse(&self, number: usize, session: &Session, intended: Option<Duration>) {
        let Plan { target, shape, think, counts, keeps_texts, .. } = &*self.plan;
        let mut before = session.before.clone();
        let mut due = intended;
        for (turn, asked) in session.turns.iter().enumerate() {
            let is_last = turn + 1 == session.turns.len();
            let body = shape.body(&before, asked);
            let sent = self.start.elapsed();
            let mut record = Record {
                session: number,
                turn,
                kind: asked.kind,
                num_texts: asked.texts().len() as u64,
                intended: due.unwrap_or(sent),
                sent,
                ..Record::default()
            };
            if *counts && self.num_kept.fetch_add(1, Ordering::Relaxed) < MAX_CHECKED {
                record.texts = Some(Texts::asked(&body));
            }
            self.live.started();
            let keep = if is_last && !keeps_texts { Keep::Nothing } else { Keep::Text };
            let text = target.call(&body, &mut record, keep, &self.live).await;
            if *keeps_texts {
                record.text.clone_from(&text);
            }
            let (failed, ended) = (record.error.is_some(), record.ended());
            // The receiver outlives all of these.
            let _ = self.records.send(record);
            if failed || is_last {
                return;
            }
            before.push(json!({"role": "user", "content": asked.text}));
            before.push(json!({"role": "assistant", "content": text}));
            due = Some(ended + *think);
            tokio::time::sleep_until((self.start + ended + *think).into()).await;
        }
    }
}
