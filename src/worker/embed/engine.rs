//! The thread that owns an embedder.
//!
//! It takes commands, computes a batch of what has come from all routers, and puts each request's
//! vectors into its router's outbox. With nothing to do it blocks on its commands.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sconce_proto::worker::embedded::End;
use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::worker_message::Message;
use sconce_proto::worker::{Alive, Draining, Embedded, EngineStats, Rejected};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::Checked;
use crate::engine::embed::{EmbedBatch, EmbedInput, EmbedQueue, Refusal};
use crate::engine::sequence::RequestId;
use crate::runner::Embedder;
use crate::worker::engine::{Command, Error, SessionId, describe};
use crate::worker::outbox::Outbox;

/// How long a step may take: a request that comes meanwhile waits so long, and so does a probe.
const STEP: Duration = Duration::from_millis(200);
const PROBE_TOKENS: u32 = 128;
/// Tokens that are computed together however long it takes: alone they would take longer.
const SMALLEST_STEP: u32 = 512;

/// The engine of a process that serves an embedder.
pub(crate) struct EmbedEngine {
    queue: EmbedQueue,
    runner: Box<dyn Embedder>,
    commands: mpsc::Receiver<Command>,
    sessions: HashMap<SessionId, Session>,
    requests: HashMap<RequestId, Ticket>,
    next_request: u64,
    /// Who waits for a step, and the nonce that says so.
    probes: Vec<(SessionId, u64)>,
    draining: bool,
    start: Instant,
    batch: EmbedBatch,
    /// What comes of the batch.
    values: Vec<f32>,
    num_prompt_tokens: u64,
    num_steps: u64,
    /// Requests that have not ended, for whoever asks from outside.
    num_unfinished: Arc<AtomicU32>,
}

struct Session {
    outbox: Outbox,
    requests: HashMap<u64, RequestId>,
}

/// A live request: whose it is, and how many of its inputs are to be computed.
struct Ticket {
    session: SessionId,
    id: u64,
    num_left: usize,
}

impl EmbedEngine {
    pub(crate) fn new(
        queue: EmbedQueue,
        runner: Box<dyn Embedder>,
        commands: mpsc::Receiver<Command>,
        num_unfinished: Arc<AtomicU32>,
    ) -> Self {
        Self {
            queue,
            runner,
            commands,
            sessions: HashMap::new(),
            requests: HashMap::new(),
            next_request: 1,
            probes: Vec::new(),
            draining: false,
            start: Instant::now(),
            batch: EmbedBatch::default(),
            values: Vec::new(),
            num_prompt_tokens: 0,
            num_steps: 0,
            num_unfinished,
        }
    }

    /// Computes an input that nobody asked for: a model that can't do this serves nobody. Limits
    /// the steps to come to what takes [`STEP`], and returns what the longest input will take.
    pub(crate) fn first_step(&mut self) -> Result<Duration, Error> {
        let longest = self.runner.limits().max_model_len;
        let num_tokens = longest.min(PROBE_TOKENS);
        // The first one pays for memory that the system has yet to give.
        self.compute_nothing(num_tokens as usize)?;
        let before = Instant::now();
        self.compute_nothing(num_tokens as usize)?;
        let per_token = before.elapsed() / num_tokens;
        let fit = STEP.as_nanos() / per_token.as_nanos().max(1);
        let fit = usize::try_from(fit).unwrap_or(usize::MAX);
        self.queue.limit_tokens(fit.max(longest.min(SMALLEST_STEP) as usize));
        Ok(per_token * longest)
    }

    fn compute_nothing(&mut self, num_tokens: usize) -> Result<(), Error> {
        self.batch.clear();
        let input = EmbedInput { token_ids: vec![0; num_tokens], second_start: None };
        self.batch.push(RequestId(0), 0, &input);
        self.values.clear();
        Ok(self.runner.forward(&self.batch, &mut self.values)?)
    }

    /// Runs until the process lets go of it, or it is drained. The last line of a failure names
    /// the requests that were here.
    pub(crate) fn run(mut self) -> Result<(), crate::worker::Error> {
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
                Err(crate::worker::Error::Panicked)
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
        while self.receive() {
            for request in self.queue.expire(self.start.elapsed()) {
                self.end(request, End::Deadline);
            }
            if self.queue.plan(&mut self.batch) {
                self.step()?;
            } else if !self.probes.is_empty() {
                self.compute_nothing(1)?;
            }
            self.report();
        }
        Ok(())
    }

    /// Takes the commands that are here, and waits for one when there is nothing else to do.
    /// Returns false when the engine has done its work.
    fn receive(&mut self) -> bool {
        self.take_commands();
        if self.queue.is_empty() && self.probes.is_empty() {
            if self.draining {
                return false;
            }
            match self.commands.blocking_recv() {
                Some(command) => self.obey(command),
                None => return false,
            }
            self.take_commands();
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
            Command::Submit { session, checked } => {
                if let Some(owner) = self.sessions.get(&session) {
                    owner.outbox.refuse(checked.id, "the model does not generate");
                }
            }
            Command::Embed { session, checked } => self.submit(session, *checked),
            Command::Cancel { session, id } => {
                let request = self.sessions.get(&session).and_then(|s| s.requests.get(&id));
                if let Some(request) = request.copied() {
                    self.queue.cancel(request);
                    self.end(request, End::Cancelled);
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
        self.sessions.insert(session, Session { outbox, requests: HashMap::new() });
    }

    fn submit(&mut self, session: SessionId, checked: Checked) {
        let Checked { id, inputs, patience, urgency } = checked;
        let Some(owner) = self.sessions.get_mut(&session) else { return };
        if owner.requests.contains_key(&id) {
            let status = tonic::Status::invalid_argument("a request id was used twice");
            owner.outbox.fail(status);
            return self.close(session);
        }
        let deadline = patience.map(|patience| self.start.elapsed() + patience);
        let (request, num_left) = (RequestId(self.next_request), inputs.len());
        self.next_request += 1;
        match self.queue.submit(request, (inputs, urgency), deadline) {
            Ok(()) => {
                owner.requests.insert(id, request);
                self.requests.insert(request, Ticket { session, id, num_left });
                self.count();
            }
            Err(refusal) => {
                let message = refusal.to_string();
                debug!(session = session.0, id, message, "refused");
                let reason = match refusal {
                    Refusal::QueueFull { .. } => Reason::QueueFull,
                    Refusal::Draining => Reason::Draining,
                };
                let rejected = Rejected { request_id: id, reason: reason.into(), message };
                owner.outbox.notify(Message::Rejected(rejected));
            }
        }
    }

    fn close(&mut self, session: SessionId) {
        let Some(closed) = self.sessions.remove(&session) else { return };
        closed.outbox.finish();
        for request in closed.requests.values() {
            self.queue.cancel(*request);
            self.requests.remove(request);
        }
        self.count();
        let num_cancelled = closed.requests.len();
        info!(session = session.0, num_cancelled, "session ended");
    }

    fn drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.queue.drain();
        for session in self.sessions.values() {
            session.outbox.notify(Message::Draining(Draining {}));
        }
        info!(num_requests = self.requests.len(), "draining");
    }

    /// Computes the batch, and gives each request its share.
    fn step(&mut self) -> Result<(), Error> {
        self.values.clear();
        self.runner.forward(&self.batch, &mut self.values)?;
        self.num_prompt_tokens += self.batch.token_ids.len() as u64;
        self.num_steps += 1;
        let num_outputs = self.runner.num_outputs();
        let mut shares: HashMap<RequestId, Vec<f32>> = HashMap::new();
        for (input, values) in self.batch.inputs.iter().zip(self.values.chunks_exact(num_outputs)) {
            shares.entry(input.request).or_default().extend_from_slice(values);
        }
        for (request, values) in shares {
            self.deliver(request, values, num_outputs);
        }
        Ok(())
    }

    fn deliver(&mut self, request: RequestId, values: Vec<f32>, num_outputs: usize) {
        let Some(ticket) = self.requests.get_mut(&request) else { return };
        ticket.num_left = ticket.num_left.saturating_sub(values.len() / num_outputs);
        let end = if ticket.num_left == 0 { End::Complete } else { End::NotEnded };
        let embedded = Embedded { request_id: ticket.id, values, end: end.into() };
        if let Some(session) = self.sessions.get(&ticket.session) {
            session.outbox.notify(Message::Embedded(embedded));
        }
        if end == End::Complete {
            self.forget(request);
        }
    }

    /// Ends a request before all of it was computed.
    fn end(&mut self, request: RequestId, end: End) {
        let Some(ticket) = self.requests.get(&request) else { return };
        let embedded = Embedded { request_id: ticket.id, values: Vec::new(), end: end.into() };
        if let Some(session) = self.sessions.get(&ticket.session) {
            session.outbox.notify(Message::Embedded(embedded));
        }
        self.forget(request);
    }

    fn forget(&mut self, request: RequestId) {
        let Some(ticket) = self.requests.remove(&request) else { return };
        if let Some(session) = self.sessions.get_mut(&ticket.session) {
            session.requests.remove(&ticket.id);
        }
        self.count();
    }

    /// Answers probes after a step, and tells every router how much there is to do.
    fn report(&mut self) {
        for (session, nonce) in std::mem::take(&mut self.probes) {
            if let Some(session) = self.sessions.get(&session) {
                session.outbox.notify(Message::Alive(Alive { nonce }));
            }
        }
        let stats = self.stats();
        let mut gone = Vec::new();
        for (id, session) in &self.sessions {
            session.outbox.add(&mut Vec::new(), stats);
            if session.outbox.is_hung_up() {
                gone.push(*id);
            }
        }
        for session in gone {
            warn!(session = session.0, "the router is gone or reads too slowly");
            self.close(session);
        }
    }

    fn count(&self) {
        let num_unfinished = u32::try_from(self.requests.len()).unwrap_or(u32::MAX);
        self.num_unfinished.store(num_unfinished, Ordering::Relaxed);
    }

    fn stats(&self) -> EngineStats {
        let (all, waiting) = (self.requests.len(), self.queue.num_waiting());
        EngineStats {
            num_running: u32::try_from(all.saturating_sub(waiting)).unwrap_or(u32::MAX),
            num_waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            num_prompt_tokens: self.num_prompt_tokens,
            num_steps: self.num_steps,
            ..EngineStats::default()
        }
    }

    /// The requests that are here, as `session/request`. Ids only.
    fn names(&self) -> String {
        let tickets = self.requests.values();
        let mut names: Vec<_> = tickets.map(|ticket| (ticket.session.0, ticket.id)).collect();
        names.sort_unstable();
        let names: Vec<_> = names.iter().map(|(session, id)| format!("{session}/{id}")).collect();
        names.join(" ")
    }
}
