//! The conversation with one worker: every request of this router goes through it, and one task
//! delivers every output.
//!
//! The session's end is the fence against a worker that was frozen and wakes up: its old outputs
//! can only come over the old stream, which nobody reads any more. Request ids are never reused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sconce_proto::PROTOCOL;
use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::router_message::Message as ToWorker;
use sconce_proto::worker::worker_client::WorkerClient;
use sconce_proto::worker::worker_message::Message as FromWorker;
use sconce_proto::worker::{
    Cancel, Embed, Embedded, EngineStats, Finish, Hello, ModelInfo, Probe, Rejected, RouterMessage,
    StepOutput, Submit, TokenOutput, WorkerMessage, embedded,
};
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::{debug, warn};

use super::Error;
use super::worker::{Link, Lost, Worker, in_time};
use crate::metrics::{self, Engine, ModelMetrics};
use crate::model::Model;

// Together below three seconds: the time in which a frozen engine is found.
const PROBE_INTERVAL: Duration = Duration::from_millis(900);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

// A worker whose decode steps are long is given so many of them, but never more than that.
const PROBE_STEPS: u32 = 4;
const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(60);

// A timer so late means that this process was stopped or starved, and says nothing about the
// worker: its answer may be waiting to be read.
const LATE: Duration = Duration::from_millis(200);
const GRACE: Duration = Duration::from_millis(500);

// Messages on their way to a worker. A worker that leaves so many unread is stuck.
const MAX_OUTBOUND: usize = 16_384;

type OutputSender = mpsc::UnboundedSender<Result<TokenOutput, Error>>;
type VectorSender = mpsc::UnboundedSender<Result<Embedded, Error>>;

/// What a request's owner asks of the session.
pub(super) enum Command {
    Submit { submit: Box<Submit>, outputs: OutputSender, cost: u64 },
    Embed { embed: Box<Embed>, vectors: VectorSender, cost: u64 },
    Cancel { id: u64, at: Instant },
    Stop,
}

/// An open session.
pub(super) struct Session {
    worker: Arc<Worker>,
    model: Arc<Model>,
    /// How long the worker may take to answer a probe.
    probe_timeout: Duration,
    link: Arc<Link>,
    metrics: Arc<ModelMetrics>,
    /// The worker's share of the model's figures, from its first report on.
    engine: Option<Engine>,
    inbound: Option<Streaming<WorkerMessage>>,
    outbound: mpsc::Sender<RouterMessage>,
    commands: mpsc::UnboundedReceiver<Command>,
    requests: HashMap<u64, InFlight>,
    embeds: HashMap<u64, EmbedInFlight>,
    probe: ProbeState,
    standing: Standing,
}

#[derive(PartialEq, Eq)]
enum Standing {
    /// It has yet to answer its first probe.
    Probed,
    Admitted,
    Draining,
}

/// A request that has not ended.
struct InFlight {
    outputs: OutputSender,
    /// What it adds to its worker's load.
    cost: u64,
    /// Which of its completions have ended.
    ended: Vec<bool>,
    num_unfinished: u32,
    /// Tokens of its prompt whose log-probabilities may yet come.
    num_unscored: usize,
    cancelled_at: Option<Instant>,
}

/// Inputs of which some have no vector yet.
struct EmbedInFlight {
    vectors: VectorSender,
    cost: u64,
    num_left: usize,
    cancelled_at: Option<Instant>,
}

enum ProbeState {
    /// The next probe is due then.
    Due(Deadline),
    /// The probe is out, and must be answered by then.
    Sent { nonce: u64, deadline: Deadline },
}

impl Session {
    /// Says Hello. The worker must be the process that was described: its epoch says so.
    pub(super) async fn open(
        worker: Arc<Worker>,
        model: Arc<Model>,
        epoch: u64,
        mut client: WorkerClient<Channel>,
    ) -> Result<Self, Lost> {
        let (outbound, messages) = mpsc::channel(MAX_OUTBOUND);
        let router = format!("{}", std::process::id());
        let hello = ToWorker::Hello(Hello { protocol: PROTOCOL, router });
        outbound.try_send(message(hello)).map_err(|_| Lost::Slow)?;
        let call = client.session(ReceiverStream::new(messages));
        let mut inbound = in_time("Session", call).await??.into_inner();
        let welcome = match in_time("Hello", inbound.message()).await?? {
            Some(WorkerMessage { message: Some(FromWorker::Welcome(welcome)) }) => welcome,
            Some(_) => return Err(Lost::Violation("the first message is not Welcome")),
            None => return Err(Lost::Closed),
        };
        if welcome.epoch != epoch {
            return Err(Lost::Epoch);
        }
        let (sender, commands) = mpsc::unbounded_channel();
        Ok(Self {
            metrics: metrics::of(&model.info.model, model.version_name()),
            engine: None,
            link: Arc::new(Link::new(Arc::clone(&model), sender)),
            worker,
            model,
            probe_timeout: probe_timeout(welcome.step_ms),
            inbound: Some(inbound),
            outbound,
            commands,
            requests: HashMap::new(),
            embeds: HashMap::new(),
            probe: ProbeState::Due(Deadline::now()),
            standing: Standing::Probed,
        })
    }

    /// Runs until the worker is lost. Dropping what is left ends the requests' streams.
    pub(super) async fn run(mut self) -> Lost {
        let Some(mut inbound) = self.inbound.take() else { return Lost::Closed };
        self.worker.begin(&self.link);
        loop {
            let step = tokio::select! {
                received = inbound.message() => match received {
                    Ok(Some(WorkerMessage { message: Some(message) })) => self.receive(message),
                    Ok(Some(WorkerMessage { message: None })) => {
                        Err(Lost::Violation("a message of no known kind"))
                    }
                    Ok(None) => Err(Lost::Closed),
                    Err(status) => Err(Lost::Call(status)),
                },
                // The link holds a sender, so the channel is open.
                Some(command) = self.commands.recv() => self.obey(command),
                () = sleep_until(self.probe.deadline()) => self.probe(),
            };
            if let Err(lost) = step {
                return lost;
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Lost> {
        match command {
            Command::Submit { submit, outputs, cost } => {
                self.submit(*submit, outputs, cost);
                Ok(())
            }
            Command::Embed { embed, vectors, cost } => {
                self.embed(*embed, vectors, cost);
                Ok(())
            }
            Command::Cancel { id, at } => self.cancel(id, at),
            Command::Stop => {
                self.stop();
                Ok(())
            }
        }
    }

    fn submit(&mut self, submit: Submit, outputs: OutputSender, cost: u64) {
        let is_scored =
            submit.sampling.as_ref().is_some_and(|sampling| sampling.num_prompt_logprobs.is_some());
        let request = InFlight {
            outputs,
            cost,
            ended: vec![false; submit.n as usize],
            num_unfinished: submit.n,
            num_unscored: if is_scored { submit.prompt.len().saturating_sub(1) } else { 0 },
            cancelled_at: None,
        };
        let id = submit.request_id;
        self.requests.insert(id, request);
        if self.outbound.try_send(message(ToWorker::Submit(submit))).is_err() {
            self.refuse(id, Error::QueueFull { max_queue: self.model.info.max_queue });
        }
    }

    fn embed(&mut self, embed: Embed, vectors: VectorSender, cost: u64) {
        let num_left = embed.inputs.len();
        let id = embed.request_id;
        self.embeds.insert(id, EmbedInFlight { vectors, cost, num_left, cancelled_at: None });
        if self.outbound.try_send(message(ToWorker::Embed(embed))).is_err() {
            self.refuse(id, Error::QueueFull { max_queue: self.model.info.max_queue });
        }
    }

    fn cancel(&mut self, id: u64, at: Instant) -> Result<(), Lost> {
        let token = self.requests.get_mut(&id).map(|request| &mut request.cancelled_at);
        let vector = self.embeds.get_mut(&id).map(|request| &mut request.cancelled_at);
        // It may have ended while the cancel was on its way.
        let Some(cancelled_at) = token.or(vector) else { return Ok(()) };
        *cancelled_at = Some(at);
        let cancel = ToWorker::Cancel(Cancel { request_id: id });
        self.outbound.try_send(message(cancel)).map_err(|_| Lost::Slow)
    }

    /// A probe is due, or was not answered in time.
    fn probe(&mut self) -> Result<(), Lost> {
        match self.probe {
            ProbeState::Sent { nonce, deadline } if deadline.elapsed() > LATE => {
                self.probe = ProbeState::Sent { nonce, deadline: Deadline::now() + GRACE };
                Ok(())
            }
            ProbeState::Sent { .. } => Err(Lost::Silent("a probe")),
            ProbeState::Due(_) => {
                let nonce = rand::random();
                let deadline = Deadline::now() + self.probe_timeout;
                self.probe = ProbeState::Sent { nonce, deadline };
                let probe = ToWorker::Probe(Probe { nonce });
                self.outbound.try_send(message(probe)).map_err(|_| Lost::Slow)
            }
        }
    }

    fn receive(&mut self, message: FromWorker) -> Result<(), Lost> {
        match message {
            FromWorker::Welcome(_) => Err(Lost::Violation("a second Welcome")),
            FromWorker::Alive(alive) => {
                self.alive(alive.nonce);
                Ok(())
            }
            FromWorker::Rejected(rejected) => {
                self.rejected(rejected);
                Ok(())
            }
            FromWorker::Draining(_) => {
                self.retire();
                Ok(())
            }
            FromWorker::Embedded(embedded) => self.deliver_vectors(embedded),
            FromWorker::Step(StepOutput { outputs, stats }) => {
                for output in outputs {
                    self.deliver(output)?;
                }
                if let Some(stats) = stats {
                    self.update(stats);
                }
                Ok(())
            }
        }
    }

    fn alive(&mut self, nonce: u64) {
        let ProbeState::Sent { nonce: sent, .. } = self.probe else { return };
        if sent != nonce {
            return;
        }
        self.probe = ProbeState::Due(Deadline::now() + PROBE_INTERVAL);
        if self.standing == Standing::Probed {
            self.standing = Standing::Admitted;
            self.worker.admit(&self.link);
        }
    }

    fn rejected(&mut self, rejected: Rejected) {
        let id = rejected.request_id;
        let reason = rejected.reason();
        let Rejected { message, .. } = rejected;
        let error = match reason {
            Reason::QueueFull => Error::QueueFull { max_queue: self.model.info.max_queue },
            Reason::Draining => {
                self.retire();
                Error::NoWorker { model: self.model.info.model.clone() }
            }
            Reason::Unknown | Reason::Invalid => {
                warn!(worker = %self.worker.address(), id, message, "the worker refused a request");
                Error::Refused(message)
            }
            Reason::TooLarge => Error::Refused(message),
            Reason::Grammar => Error::Grammar(message),
        };
        self.refuse(id, error);
    }

    fn retire(&mut self) {
        self.standing = Standing::Draining;
        self.worker.retire();
    }

    /// Ends every request; the worker is told by the end of the session.
    fn stop(&mut self) {
        let ids: Vec<u64> = self.requests.keys().chain(self.embeds.keys()).copied().collect();
        ids.into_iter().for_each(|id| self.refuse(id, Error::Stopping));
    }

    fn refuse(&mut self, id: u64, error: Error) {
        if let Some(request) = self.requests.remove(&id) {
            self.link.ended(request.cost);
            let _ = request.outputs.send(Err(error));
        } else if let Some(request) = self.embeds.remove(&id) {
            self.link.ended(request.cost);
            let _ = request.vectors.send(Err(error));
        }
    }

    fn deliver_vectors(&mut self, embedded: Embedded) -> Result<(), Lost> {
        let id = embedded.request_id;
        let Some(request) = self.embeds.get_mut(&id) else {
            debug!(worker = %self.worker.address(), id, "vectors of no request");
            return Ok(());
        };
        let end = check_vectors(&embedded, request, &self.model.info).map_err(Lost::Violation)?;
        let delivered = match end {
            embedded::End::Deadline => Err(Error::Deadline),
            embedded::End::NotEnded | embedded::End::Complete | embedded::End::Cancelled => {
                Ok(embedded)
            }
        };
        // The receiver is gone after a cancel.
        let _ = request.vectors.send(delivered);
        if end != embedded::End::NotEnded {
            if let Some(at) = request.cancelled_at {
                self.metrics.cancelled(at.elapsed());
            }
            self.link.ended(request.cost);
            self.embeds.remove(&id);
        }
        Ok(())
    }

    fn deliver(&mut self, output: TokenOutput) -> Result<(), Lost> {
        let id = output.request_id;
        let Some(request) = self.requests.get_mut(&id) else {
            debug!(worker = %self.worker.address(), id, "an output of no request");
            return Ok(());
        };
        let finish = check(&output, request, &self.model.info).map_err(Lost::Violation)?;
        if finish != Finish::NotFinished {
            request.ended[output.index as usize] = true;
            request.num_unfinished -= 1;
        }
        let output = match finish {
            Finish::NotFinished
            | Finish::StopToken
            | Finish::Length
            | Finish::Cancelled
            | Finish::GrammarEnd => Ok(output),
            Finish::Deadline => Err(Error::Deadline),
            Finish::GrammarLimit => Err(Error::GrammarLimit),
            Finish::BadWord => Err(Error::BadWord),
        };
        // The receiver is gone after a cancel.
        let _ = request.outputs.send(output);
        if request.num_unfinished == 0 {
            if let Some(at) = request.cancelled_at {
                self.metrics.cancelled(at.elapsed());
            }
            self.link.ended(request.cost);
            self.requests.remove(&id);
        }
        Ok(())
    }

    fn update(&mut self, stats: EngineStats) {
        let in_engine = stats.num_running.saturating_add(stats.num_waiting);
        self.link.num_in_engine.store(in_engine, Ordering::Relaxed);
        self.worker.update(stats);
        match &mut self.engine {
            Some(engine) => engine.report(&stats),
            None => self.engine = Some(Engine::join(Arc::clone(&self.metrics), &stats)),
        }
    }
}

impl ProbeState {
    fn deadline(&self) -> Deadline {
        match self {
            Self::Due(at) => *at,
            Self::Sent { deadline, .. } => *deadline,
        }
    }
}

/// What the router's other parts rely on: a token of the vocabulary, a completion that was asked
/// for and has not ended.
fn check(
    output: &TokenOutput,
    request: &mut InFlight,
    info: &ModelInfo,
) -> Result<Finish, &'static str> {
    let finish = Finish::try_from(output.finish).map_err(|_| "an unknown kind of end")?;
    match request.ended.get(output.index as usize) {
        None => return Err("an output of a completion that was not asked for"),
        Some(true) => return Err("an output after the completion's end"),
        Some(false) => {}
    }
    if finish == Finish::Cancelled && request.cancelled_at.is_none() {
        return Err("a request ended as cancelled, and nobody had cancelled it");
    }
    match output.token {
        Some(token) if token >= info.vocab_size => return Err("a token outside the vocabulary"),
        None if finish == Finish::NotFinished
            && output.num_computed.is_none()
            && output.prompt_logprobs.is_empty() =>
        {
            return Err("an output without token, end, progress and prompt");
        }
        _ => {}
    }
    let of_prompt = output.prompt_logprobs.iter();
    for top in of_prompt.clone().map(|it| &it.top).chain(output.logprobs.iter().map(|it| &it.top)) {
        if top.len() > info.max_logprobs as usize {
            return Err("more log-probabilities than the worker's limit");
        }
        if top.iter().any(|top| top.token >= info.vocab_size) {
            return Err("a log-probability of a token outside the vocabulary");
        }
    }
    if of_prompt.clone().any(|logprob| logprob.token >= info.vocab_size) {
        return Err("a token of the prompt outside the vocabulary");
    }
    let num_left = request.num_unscored.checked_sub(output.prompt_logprobs.len());
    request.num_unscored = num_left.ok_or("more log-probabilities than the prompt has tokens")?;
    Ok(finish)
}

/// What the router's other parts rely on: whole vectors of numbers, one for each input.
fn check_vectors(
    embedded: &Embedded,
    request: &mut EmbedInFlight,
    info: &ModelInfo,
) -> Result<embedded::End, &'static str> {
    let end = embedded::End::try_from(embedded.end).map_err(|_| "an unknown kind of end")?;
    let num_outputs = info.num_outputs as usize;
    if num_outputs == 0 || !embedded.values.len().is_multiple_of(num_outputs) {
        return Err("a vector of another width than the model's");
    }
    let num_left = request.num_left.checked_sub(embedded.values.len() / num_outputs);
    request.num_left = num_left.ok_or("more vectors than inputs")?;
    if end == embedded::End::Complete && request.num_left > 0 {
        return Err("fewer vectors than inputs");
    }
    if end == embedded::End::Cancelled && request.cancelled_at.is_none() {
        return Err("a request ended as cancelled, and nobody had cancelled it");
    }
    Ok(end)
}

/// How long a worker with such steps may take to answer a probe.
fn probe_timeout(step_ms: u32) -> Duration {
    let steps = Duration::from_millis(step_ms.into()) * PROBE_STEPS;
    steps.clamp(PROBE_TIMEOUT, MAX_PROBE_TIMEOUT)
}

fn message(message: ToWorker) -> RouterMessage {
    RouterMessage { message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_engine_is_found_in_three_seconds_and_a_slow_one_is_waited_for() {
        assert!(PROBE_INTERVAL + probe_timeout(0) < Duration::from_secs(3));
        assert_eq!(probe_timeout(500), probe_timeout(0));
        assert_eq!(probe_timeout(1500), Duration::from_secs(6));
        assert_eq!(probe_timeout(u32::MAX), MAX_PROBE_TIMEOUT);
    }
}
