//! What a router does for batches, whoever made them: it takes steps and lines that nobody has, as
//! many as there is room for, and keeps its claim to them for as long as it lives.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::check::check;
use super::finish::finish;
use super::run::{Origin, Outcome, answer};
use super::{Endpoint, capacity, unix_millis, unix_seconds};
use crate::app::{App, Principal, Urgency};
use crate::auth::{Authenticator, Holder};
use crate::metrics;
use crate::store::{self, Alive, BatchRow, LeasedLine, LineId, LineResult, Store};

/// How often is looked for what others have left.
const TICK: Duration = Duration::from_secs(1);
/// Batches whose lines are taken at the same time.
const MAX_BATCHES: i64 = 256;
/// Steps of batches that are taken at the same time.
const MAX_STEPS: usize = 4;
/// After so long, what could not be done now is tried again.
const LATER: Duration = Duration::from_secs(2);
/// How often a finished answer is tried to be recorded while the database fails.
const MAX_RECORDS: usize = 10;
/// How long the end of the process waits until everything is given back.
const MAX_GIVING_BACK: Duration = Duration::from_secs(5);

/// What steps and lines need.
pub(super) struct Context {
    pub(super) app: App,
    pub(super) store: Store,
    /// Names this router's claims.
    pub(super) id: String,
}

/// Takes steps and lines until the router drains, then finishes those that it has until `ended`, and
/// gives the others back. Dropped before its end, it leaves its claims to run out.
pub(crate) async fn run(app: App, who: Authenticator, ended: impl Future<Output = ()>) {
    let mut draining = pin!(app.draining());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    let store = loop {
        tokio::select! {
            () = &mut draining => return,
            _ = ticks.tick() => {}
            () = app.batches.woken() => {}
        }
        match app.batches.existing().await {
            Ok(Some(store)) => break store.clone(),
            Ok(None) => {}
            Err(error) if !is_failing => {
                is_failing = true;
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "batches wait for the database");
            }
            Err(_) => {}
        }
    };
    let id = format!("router_{}", uuid::Uuid::now_v7().simple());
    let context = Arc::new(Context { app: app.clone(), store, id });
    let mut executor = Executor::new(context, who);
    let mut changes = app.dispatcher.changes();
    ticks.reset_immediately();
    loop {
        tokio::select! {
            () = &mut draining => break,
            _ = ticks.tick() => executor.tick().await,
            () = app.batches.woken() => executor.withdraw().await,
            changed = changes.changed() => if changed.is_err() { break },
            Some(ended) = executor.lines.join_next_with_id() => executor.line_ended(ended).await,
            Some(ended) = executor.steps.join_next_with_id() => executor.step_ended(&ended),
        }
        executor.take().await;
    }
    tokio::select! {
        () = executor.drain(&mut ticks) => {}
        () = ended => {}
    }
    executor.give_back().await;
}

struct Executor {
    context: Arc<Context>,
    who: Authenticator,
    lines: JoinSet<()>,
    /// The lines under way, by their tasks.
    under_way: HashMap<Id, UnderWay>,
    steps: JoinSet<()>,
    /// The batches whose steps are under way, by their tasks.
    stepping: HashMap<Id, String>,
    /// Shows others that this router runs. Nothing is taken without it.
    alive: Option<Alive>,
    renewed_at: Instant,
    /// Whose batch comes first: another one each time.
    turn: usize,
    is_failing: bool,
}

struct UnderWay {
    line: LineId,
    model: Arc<str>,
    task: AbortHandle,
}

impl Executor {
    fn new(context: Arc<Context>, who: Authenticator) -> Self {
        Self {
            context,
            who,
            lines: JoinSet::new(),
            under_way: HashMap::new(),
            steps: JoinSet::new(),
            stepping: HashMap::new(),
            alive: None,
            renewed_at: Instant::now(),
            turn: 0,
            is_failing: false,
        }
    }

    /// Keeps what this router has, and frees what others have lost.
    async fn tick(&mut self) {
        let kept = self.keep().await;
        self.note(kept);
    }

    async fn keep(&mut self) -> Result<(), store::Error> {
        self.appear().await?;
        self.renew().await?;
        let store = &self.context.store;
        let num_lost = store.free_dead(&self.context.id).await?;
        let num_late = store.reclaim_lines(unix_millis()).await?;
        metrics::batch_leases_lost(num_lost + num_late);
        store.expire_batches(unix_seconds()).await?;
        let ttl = self.context.app.batches.limits().ttl.as_secs();
        store.forget_batches(unix_seconds().saturating_sub_unsigned(ttl)).await?;
        metrics::batch_lines_waiting(store.num_waiting_lines().await?);
        self.withdraw_unwanted().await
    }

    /// Shows that this router runs, once and again when what shows it is lost.
    async fn appear(&mut self) -> Result<(), store::Error> {
        let is_alive = match &mut self.alive {
            Some(alive) => alive.holds().await,
            None => false,
        };
        if !is_alive {
            self.alive = None;
            self.alive = Some(self.context.store.appear(&self.context.id).await?);
        }
        Ok(())
    }

    /// Keeps the leases of what is under way, in time.
    async fn renew(&mut self) -> Result<(), store::Error> {
        if self.renewed_at.elapsed() < self.context.app.batches.limits().lease / 3 {
            return Ok(());
        }
        let (store, claim) = (&self.context.store, self.context.lease());
        let lease = claim.as_store(&self.context.id);
        store.renew_lines(lease).await?;
        for batch in self.stepping.values() {
            store.renew_batch(batch, lease).await?;
        }
        self.renewed_at = Instant::now();
        Ok(())
    }

    /// Stops computing what nobody would take the answer of any more.
    async fn withdraw(&mut self) {
        let withdrawn = self.withdraw_unwanted().await;
        self.note(withdrawn);
    }

    async fn withdraw_unwanted(&mut self) -> Result<(), store::Error> {
        let mut wanted = self.context.store.wanted_lines(&self.context.id).await?;
        for under_way in self.under_way.values() {
            match wanted.iter().position(|line| *line == under_way.line) {
                Some(at) => {
                    wanted.swap_remove(at);
                }
                // Its batch was cancelled or has expired, or it is another router's. The worker is told.
                None => under_way.task.abort(),
            }
        }
        // What no task is left of, because it could not be recorded or given back.
        for line in &wanted {
            let given = (line, self.context.id.as_str());
            self.context.store.release_line(given, (0, unix_millis())).await?;
        }
        Ok(())
    }

    /// Takes what there is and room is for.
    async fn take(&mut self) {
        if self.alive.is_none() {
            return;
        }
        let taken = match self.take_steps().await {
            Ok(()) => self.take_lines().await,
            Err(error) => Err(error),
        };
        self.note(taken);
    }

    async fn take_steps(&mut self) -> Result<(), store::Error> {
        while self.steps.len() < MAX_STEPS {
            let lease = self.context.lease();
            let taken = self.context.store.lease_batch(lease.as_store(&self.context.id)).await?;
            let Some(batch) = taken else { return Ok(()) };
            let id = batch.id.clone();
            let task = self.steps.spawn(step(Arc::clone(&self.context), batch));
            self.stepping.insert(task.id(), id);
        }
        Ok(())
    }

    async fn take_lines(&mut self) -> Result<(), store::Error> {
        if self.num_free() == 0 {
            return Ok(());
        }
        let mut batches = self.context.store.running_batches(MAX_BATCHES).await?;
        if batches.is_empty() {
            return Ok(());
        }
        // Every batch is first in turn, so that none waits for another's end.
        self.turn = (self.turn + 1) % batches.len();
        batches.rotate_left(self.turn);
        let num = batches.len();
        for (at, batch) in batches.iter().enumerate() {
            self.take_lines_of(batch, num - at).await?;
        }
        Ok(())
    }

    /// Takes lines of one of several batches: of what is left, its part.
    async fn take_lines_of(
        &mut self,
        batch: &BatchRow,
        num_batches: usize,
    ) -> Result<(), store::Error> {
        // Whose key was revoked gets no more, and what runs of it is withdrawn.
        let Some(origin) = self.origin(batch).await? else { return Ok(()) };
        let models: Vec<String> = serde_json::from_str(&batch.models).unwrap_or_default();
        for model in models {
            let room = self.room(&model).min(self.num_free());
            if room == 0 {
                continue;
            }
            let limit = i64::try_from(room.div_ceil(num_batches)).unwrap_or(i64::MAX);
            let lease = self.context.lease();
            let lease = lease.as_store(&self.context.id);
            let lines = self.context.store.lease_lines((&batch.id, &model), limit, lease).await?;
            let model: Arc<str> = model.into();
            for line in lines {
                let id = (line.batch.clone(), line.position);
                let run = run_line(Arc::clone(&self.context), origin.clone(), line);
                let task = self.lines.spawn(run);
                let under_way = UnderWay { line: id, model: Arc::clone(&model), task };
                self.under_way.insert(under_way.task.id(), under_way);
            }
        }
        metrics::batch_lines_running(self.under_way.len());
        Ok(())
    }

    /// On whose behalf a batch is run. One whose key was revoked is cancelled.
    async fn origin(&mut self, batch: &BatchRow) -> Result<Option<Origin>, store::Error> {
        let Some(endpoint) = Endpoint::of(&batch.endpoint) else { return Ok(None) };
        let principal = match self.who.holder(&batch.owner) {
            Holder::Active(principal) => Principal { urgency: Urgency::Batch, ..principal },
            Holder::Revoked => {
                tracing::info!(batch = batch.id, "cancelled: its key is revoked");
                let id = (batch.owner.as_str(), batch.id.as_str());
                self.context.store.cancel_batch(id, unix_seconds()).await?;
                return Ok(None);
            }
            Holder::Unknown => return Ok(None),
        };
        Ok(Some(Origin { principal, input_file: batch.input_file.clone(), endpoint }))
    }

    fn num_free(&self) -> usize {
        self.context.app.batches.limits().max_running.saturating_sub(self.under_way.len())
    }

    /// How many more lines of a model may be begun.
    fn room(&self, model: &str) -> usize {
        let of_model = |under_way: &&UnderWay| &*under_way.model == model;
        let num_lines = self.under_way.values().filter(of_model).count();
        let routing = &self.context.app.routing;
        let workers = routing.workers(model);
        if workers.is_empty() && routing.loads(model) {
            // One request is enough to have the model loaded.
            return 1_usize.saturating_sub(num_lines);
        }
        capacity::room(&workers, num_lines)
    }

    async fn line_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(UnderWay { line, .. }) = self.under_way.remove(&id) else { return };
        metrics::batch_lines_running(self.under_way.len());
        if ended.is_err_and(|error| error.is_panic()) {
            tracing::error!(batch = line.0, line = line.1, "a line's handler panicked");
            let ready_at = unix_millis().saturating_add(millis(LATER));
            let given = (&line, self.context.id.as_str());
            let released = self.context.store.release_line(given, (1, ready_at)).await;
            self.note(released);
        }
    }

    fn step_ended(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.stepping.remove(&id);
        if ended.is_err() {
            tracing::error!("a step of a batch panicked; it is taken again when its lease ends");
        }
    }

    /// Logs when the database begins to fail, and when it has recovered.
    fn note(&mut self, done: Result<(), store::Error>) {
        match done {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!("batches go on");
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "batches wait for the database");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Has others go on with what this router has.
    async fn give_back(&mut self) {
        self.lines.shutdown().await;
        self.steps.shutdown().await;
        let released = timeout(MAX_GIVING_BACK, self.context.store.release_all(&self.context.id));
        match released.await {
            Ok(Ok(())) => {
                if let Some(alive) = self.alive.take() {
                    alive.end().await;
                }
            }
            // They go on when others see that this router has ended.
            Ok(Err(_)) | Err(_) => tracing::warn!("lines of batches can't be given back"),
        }
    }

    /// Finishes what is under way, for as long as the process lets it.
    async fn drain(&mut self, ticks: &mut tokio::time::Interval) {
        while !self.lines.is_empty() || !self.steps.is_empty() {
            tokio::select! {
                _ = ticks.tick() => self.tick().await,
                Some(ended) = self.lines.join_next_with_id() => self.line_ended(ended).await,
                Some(ended) = self.steps.join_next_with_id() => self.step_ended(&ended),
            }
        }
    }
}

impl Context {
    fn lease(&self) -> Claim {
        let now = unix_millis();
        Claim { now, until: now.saturating_add(millis(self.app.batches.limits().lease)) }
    }
}

/// From when to when a claim holds.
#[derive(Clone, Copy)]
struct Claim {
    now: i64,
    until: i64,
}

impl Claim {
    fn as_store(self, holder: &str) -> store::Lease<'_> {
        store::Lease { holder, now: self.now, until: self.until }
    }
}

/// Takes a batch's next step.
async fn step(context: Arc<Context>, batch: BatchRow) {
    let done = match batch.status.as_str() {
        "validating" => check(&context, &batch).await,
        _ => finish(&context, &batch).await,
    };
    if let Err(error) = done {
        warn(&error, "a step of a batch failed; it is taken again");
        let until = unix_millis().saturating_add(millis(LATER));
        // What fails here ends with the lease.
        let _ = context.store.release_batch((&batch.id, &context.id), until).await;
    }
    context.app.batches.wake();
}

/// Answers a line, and records what came of it.
async fn run_line(context: Arc<Context>, origin: Origin, line: LeasedLine) {
    let outcome = answer(&context, &origin, &line).await;
    let id = (line.batch, line.position);
    let later = unix_millis().saturating_add(millis(LATER));
    let num_lost = match outcome {
        Outcome::Answered(result) => return record(&context, &id, &result).await,
        Outcome::Later => 0,
        Outcome::Lost => 1,
    };
    metrics::batch_line_retried();
    if let Err(error) = context.store.release_line((&id, &context.id), (num_lost, later)).await {
        warn(&error, "a line can't be given back now");
    }
}

async fn record(context: &Context, id: &LineId, result: &LineResult) {
    let mut pauses = interval(LATER);
    pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..MAX_RECORDS {
        pauses.tick().await;
        match context.store.record_line((id, &context.id), result, unix_seconds()).await {
            Ok(true) => return metrics::batch_line_done(result.is_error),
            // It was lost, cancelled or has expired.
            Ok(false) => return,
            Err(error) => {
                warn(&error, "an answer can't be recorded now");
            }
        }
    }
}

fn warn(error: &(dyn std::error::Error + 'static), message: &'static str) {
    tracing::warn!(error, "{message}");
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
