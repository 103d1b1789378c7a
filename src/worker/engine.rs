//! The thread that owns scheduler and executor.
//!
//! It takes commands, plans a step, has it computed, and puts each router's share into that router's
//! outbox. Where the executor takes two steps, the next one is planned and begun before this one is
//! waited for. With nothing to do the thread blocks on its commands.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::worker_message::Message;
use sconce_proto::worker::{Alive, Draining, EngineStats, Rejected, TokenOutput};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::embed;
use super::outbox::Outbox;
use super::submit::Checked;
use crate::engine::output::Output;
use crate::engine::plan::StepPlan;
use crate::engine::request::{Request, SamplingParams};
use crate::engine::scheduler::{Refusal, Scheduler};
use crate::engine::sequence::RequestId;
use crate::runner::{self, Executor};

mod convert;
mod steps;

use steps::Begun;

// Steps without anything to compute, one after the other, while requests wait.
const MAX_FRUITLESS_STEPS: u32 = 1000;

// Nobody's prompts share blocks with a probe's.
const PROBE_SALT: u128 = u128::from_le_bytes(*b"sconce/probe/v1\0");

/// Names a session between its task and the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// What a session, or the process, asks of the engine.
pub(crate) enum Command {
    Open {
        session: SessionId,
        outbox: Outbox,
    },
    Submit {
        session: SessionId,
        checked: Box<Checked>,
    },
    Embed {
        session: SessionId,
        checked: Box<embed::Checked>,
    },
    Cancel {
        session: SessionId,
        id: u64,
    },
    /// Answered by the next step.
    Probe {
        session: SessionId,
        nonce: u64,
    },
    /// The session has ended, and with it its requests.
    Close {
        session: SessionId,
    },
    /// Takes no more requests; the engine ends after its last one.
    Drain,
}

/// Why an engine failed. Fatal: the process ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The executor failed.
    #[error(transparent)]
    Step(#[from] runner::Error),
    /// Requests wait and nothing is planned: a bug in the scheduler.
    #[error("requests are waiting and no step can be planned")]
    Stuck,
    /// The executor did not sample what was planned: a bug in the executor.
    #[error("{sampled} tokens were sampled and do not fit the {planned} samples")]
    Samples {
        /// Planned.
        planned: usize,
        /// Sampled.
        sampled: usize,
    },
    /// The executor did not score what was planned: a bug in the executor.
    #[error("{scored} of {planned} tokens of prompts were scored")]
    Scores {
        /// Planned.
        planned: usize,
        /// Scored.
        scored: usize,
    },
}

/// The engine of one process.
pub(crate) struct Engine {
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    commands: mpsc::Receiver<Command>,
    sessions: HashMap<SessionId, Session>,
    requests: HashMap<RequestId, Ticket>,
    next_request: u64,
    /// Who waits for a step, and the nonce that says so.
    probes: Vec<(SessionId, u64)>,
    /// What probes computed, which nobody asked for.
    hidden: EngineStats,
    draining: bool,
    start: Instant,
    /// Steps begun and not finished, earliest first.
    in_flight: VecDeque<Begun>,
    /// Plans to be used again, in turn: each has most of the block tables.
    spare_plans: VecDeque<StepPlan>,
    /// When the last step was finished.
    finished: Instant,
    outputs: Vec<Output>,
    /// Requests that have not ended, for whoever asks from outside.
    num_unfinished: Arc<AtomicU32>,
}

struct Session {
    outbox: Outbox,
    requests: HashMap<u64, RequestId>,
    /// This step's share.
    batch: Vec<TokenOutput>,
}

/// A live request: whose it is.
struct Ticket {
    /// `None`: a probe's.
    owner: Option<(SessionId, u64)>,
    /// Completions that have not ended.
    num_unfinished: u32,
    /// When it came.
    arrived: Duration,
}

impl Engine {
    pub(crate) fn new(
        scheduler: Scheduler,
        executor: Box<dyn Executor>,
        commands: mpsc::Receiver<Command>,
        num_unfinished: Arc<AtomicU32>,
    ) -> Self {
        let start = Instant::now();
        Self {
            scheduler,
            executor,
            commands,
            sessions: HashMap::new(),
            requests: HashMap::new(),
            next_request: 0,
            probes: Vec::new(),
            hidden: EngineStats::default(),
            draining: false,
            start,
            in_flight: VecDeque::new(),
            spare_plans: VecDeque::new(),
            finished: start,
            outputs: Vec::new(),
            num_unfinished,
        }
    }

    /// Computes one token that nobody asked for: a model that can't do this serves nobody.
    pub(crate) fn first_step(&mut self) -> Result<(), Error> {
        self.submit_probe();
        while !self.scheduler.is_idle() {
            if !self.step()? {
                return Err(Error::Stuck);
            }
            self.report();
        }
        Ok(())
    }

    /// Runs until the process lets go of it, or it is drained. The last line of a failure names
    /// the requests that were here.
    pub(crate) fn run(mut self) -> Result<(), super::Error> {
        match catch_unwind(AssertUnwindSafe(|| self.work())) {
            Ok(Ok(())) => {
                self.sessions.values().for_each(|session| session.outbox.finish());
                Ok(())
            }
            Ok(Err(error)) => {
                error!(error = %describe(&error), requests = %self.names(), "the engine failed");
                self.hang_up();
                Err(error.into())
            }
            Err(_) => {
                error!(requests = %self.names(), "the engine panicked");
                self.hang_up();
                // Its threads may be in any state: the end of the process ends them.
                std::mem::forget(self);
                Err(super::Error::Panicked)
            }
        }
    }

    /// Tells every router that its requests are lost.
    fn hang_up(&self) {
        for session in self.sessions.values() {
            session.outbox.fail(tonic::Status::internal("the engine failed"));
        }
    }

    fn work(&mut self) -> Result<(), Error> {
        let mut num_fruitless = 0;
        while self.receive() {
            let fruitless = !self.step()? && !self.scheduler.is_idle();
            num_fruitless = if fruitless { num_fruitless + 1 } else { 0 };
            self.report();
            if num_fruitless > MAX_FRUITLESS_STEPS {
                return Err(Error::Stuck);
            }
        }
        Ok(())
    }

    /// Takes the commands that are here, and waits for one when there is nothing else to do.
    /// Returns false when the engine has done its work.
    fn receive(&mut self) -> bool {
        self.take_commands();
        if self.scheduler.is_idle() && self.probes.is_empty() {
            if self.draining {
                return false;
            }
            match self.commands.blocking_recv() {
                Some(command) => self.obey(command),
                None => return false,
            }
            self.take_commands();
        }
        if self.scheduler.is_idle() && !self.probes.is_empty() {
            return self.submit_probe();
        }
        true
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open { session, outbox } => self.open(session, outbox),
            Command::Submit { session, checked } => self.submit(session, *checked),
            Command::Embed { session, checked } => {
                if let Some(owner) = self.sessions.get(&session) {
                    owner.outbox.refuse(checked.id, "the model does not embed");
                }
            }
            Command::Cancel { session, id } => {
                let request = self.sessions.get(&session).and_then(|s| s.requests.get(&id));
                if let Some(request) = request {
                    self.scheduler.cancel(*request);
                }
            }
            Command::Probe { session, nonce } => self.probes.push((session, nonce)),
            Command::Close { session } => self.close(session),
            Command::Drain => self.drain(),
        }
    }

    fn open(&mut self, session: SessionId, outbox: Outbox) {
        if self.draining {
            outbox.notify(Message::Draining(Draining {}));
        }
        let opened = Session { outbox, requests: HashMap::new(), batch: Vec::new() };
        self.sessions.insert(session, opened);
    }

    fn submit(&mut self, session: SessionId, checked: Checked) {
        let Checked { id, request, patience, grammar: _ } = checked;
        let Some(owner) = self.sessions.get_mut(&session) else { return };
        if owner.requests.contains_key(&id) {
            let status = tonic::Status::invalid_argument("a request id was used twice");
            owner.outbox.fail(status);
            return self.close(session);
        }
        let arrived = self.start.elapsed();
        let deadline = patience.map(|patience| arrived + patience);
        let (n, name) = (request.n, RequestId(self.next_request));
        self.next_request += 1;
        match self.scheduler.submit(name, request, deadline) {
            Ok(()) => {
                owner.requests.insert(id, name);
                let ticket = Ticket { owner: Some((session, id)), num_unfinished: n, arrived };
                self.requests.insert(name, ticket);
                self.count();
            }
            Err(refusal) => {
                let reason = reason(&refusal).into();
                let message = refusal.to_string();
                debug!(session = session.0, id, message, "refused");
                let rejected = Rejected { request_id: id, reason, message };
                owner.outbox.notify(Message::Rejected(rejected));
            }
        }
    }

    /// With nothing else to compute, a hidden sequence makes the step that answers probes. Returns
    /// false when the engine is drained, and its end is the answer.
    fn submit_probe(&mut self) -> bool {
        let sampling = SamplingParams { ignore_eos: true, ..SamplingParams::default() };
        let (cache_salt, priority) = (PROBE_SALT, 0);
        let request = Request {
            prompt: vec![0],
            n: 1,
            sampling,
            cache_salt,
            priority,
            report_progress: false,
        };
        let name = RequestId(self.next_request);
        self.next_request += 1;
        if let Err(refusal) = self.scheduler.submit(name, request, None) {
            debug!(%refusal, "no probe");
            return false;
        }
        let arrived = self.start.elapsed();
        self.requests.insert(name, Ticket { owner: None, num_unfinished: 1, arrived });
        self.hidden.num_prompt_tokens += 1;
        self.hidden.num_generated_tokens += 1;
        self.hidden.num_steps += 1;
        true
    }

    fn close(&mut self, session: SessionId) {
        let Some(closed) = self.sessions.remove(&session) else { return };
        closed.outbox.finish();
        for request in closed.requests.values() {
            self.scheduler.cancel(*request);
        }
        let num_cancelled = closed.requests.len();
        info!(session = session.0, num_cancelled, "session ended");
    }

    fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.scheduler.drain();
        for session in self.sessions.values() {
            session.outbox.notify(Message::Draining(Draining {}));
        }
        info!(num_requests = self.requests.len(), "draining");
    }

    fn answer_probes(&mut self) {
        let probes = std::mem::take(&mut self.probes);
        for (session, nonce) in probes {
            if let Some(session) = self.sessions.get(&session) {
                session.outbox.notify(Message::Alive(Alive { nonce }));
            }
        }
    }

    /// Gives each session its share of what the step brought.
    fn report(&mut self) {
        self.scheduler.take_outputs(&mut self.outputs);
        let outputs = std::mem::take(&mut self.outputs);
        for output in &outputs {
            self.route(output);
        }
        self.outputs = outputs;
        self.outputs.clear();
        self.count();
        let idle = self.scheduler.is_idle();
        let stats = self.stats();
        let mut gone = Vec::new();
        for (id, session) in &mut self.sessions {
            if idle || !session.batch.is_empty() {
                session.outbox.add(&mut session.batch, stats);
            }
            if session.outbox.is_hung_up() {
                gone.push(*id);
            }
        }
        for session in gone {
            warn!(session = session.0, "the router is gone or reads too slowly");
            self.close(session);
        }
    }

    fn route(&mut self, output: &Output) {
        let Some(ticket) = self.requests.get_mut(&output.request) else { return };
        if output.finish.is_some() {
            ticket.num_unfinished -= 1;
        }
        let ended = ticket.num_unfinished == 0;
        if let Some((session, id)) = ticket.owner
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.batch.push(convert::output(output, (id, ticket.arrived)));
            if ended {
                session.requests.remove(&id);
            }
        }
        if ended {
            self.requests.remove(&output.request);
        }
    }

    fn count(&self) {
        let num_unfinished = u32::try_from(self.requests.len()).unwrap_or(u32::MAX);
        self.num_unfinished.store(num_unfinished, Ordering::Relaxed);
    }

    fn stats(&self) -> EngineStats {
        let stats = self.scheduler.stats();
        let hidden = &self.hidden;
        EngineStats {
            num_running: stats.num_running,
            num_waiting: stats.num_waiting,
            num_blocks: stats.num_blocks,
            num_used_blocks: stats.num_used_blocks,
            num_preemptions: stats.num_preemptions,
            num_prompt_tokens: stats.num_prompt_tokens.saturating_sub(hidden.num_prompt_tokens),
            num_cached_tokens: stats.num_cached_tokens,
            num_generated_tokens: stats
                .num_generated_tokens
                .saturating_sub(hidden.num_generated_tokens),
            num_steps: stats.num_steps.saturating_sub(hidden.num_steps),
            num_draft_tokens: stats.num_draft_tokens,
            num_accepted_tokens: stats.num_accepted_tokens,
        }
    }

    /// The requests that are here, as `session/request`. Ids only.
    fn names(&self) -> String {
        let mut names: Vec<_> = self.requests.values().filter_map(|ticket| ticket.owner).collect();
        names.sort_by_key(|(session, id)| (session.0, *id));
        let names: Vec<_> =
            names.iter().map(|(session, id)| format!("{}/{id}", session.0)).collect();
        names.join(" ")
    }
}

/// The error with its causes.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::QueueFull { .. } => Reason::QueueFull,
        Refusal::Draining => Reason::Draining,
        Refusal::TooLarge { .. } | Refusal::TooMany { .. } => Reason::TooLarge,
    }
}
