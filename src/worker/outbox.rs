//! What the engine has for one router, until the router takes it.
//!
//! The engine never waits: it adds to the outbox and goes on. Each message carries all that came
//! since the last one, one step's tokens when the router keeps up. A router that leaves too much
//! lying is hung up on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::worker_message::Message;
use sconce_proto::worker::{EngineStats, Rejected, StepOutput, TokenOutput, WorkerMessage};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

// Tokens, log-probabilities included, that a router may leave lying; one message carries them all
// and stays below a third of the message limit.
const MAX_TOKENS: usize = 65_536;
const MAX_NOTICES: usize = 65_536;
// Numbers of embeddings: 64 MiB.
const MAX_VALUES: usize = 16 << 20;

/// The engine's end.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    shared: Arc<Mutex<Shared>>,
    hung_up: CancellationToken,
}

/// The router's end: what gRPC sends. Dropped when the router goes away.
#[derive(Debug)]
pub(crate) struct Messages {
    shared: Arc<Mutex<Shared>>,
    _hang_up: DropGuard,
}

#[derive(Debug, Default)]
struct Shared {
    notices: VecDeque<Message>,
    outputs: Vec<TokenOutput>,
    /// Tokens in `outputs`, log-probabilities included.
    num_tokens: usize,
    /// Numbers of embeddings in `notices`.
    num_values: usize,
    stats: Option<EngineStats>,
    end: Option<Option<Status>>,
    waker: Option<Waker>,
}

/// Returns both ends of an outbox.
pub(crate) fn outbox() -> (Outbox, Messages) {
    let shared = Arc::<Mutex<Shared>>::default();
    let hung_up = CancellationToken::new();
    let messages = Messages { shared: Arc::clone(&shared), _hang_up: hung_up.clone().drop_guard() };
    (Outbox { shared, hung_up }, messages)
}

impl Outbox {
    /// Adds a message of its own.
    pub(crate) fn notify(&self, notice: Message) {
        let mut shared = lock(&self.shared);
        shared.num_values += num_values(&notice);
        shared.notices.push_back(notice);
        self.wake(shared);
    }

    /// Tells that this model does not do what a request asks for.
    pub(crate) fn refuse(&self, request_id: u64, message: &str) {
        let (reason, message) = (Reason::Invalid.into(), message.to_owned());
        self.notify(Message::Rejected(Rejected { request_id, reason, message }));
    }

    /// Adds a step's tokens, and leaves `outputs` empty.
    pub(crate) fn add(&self, outputs: &mut Vec<TokenOutput>, stats: EngineStats) {
        let mut shared = lock(&self.shared);
        let num_logprobs = |output: &TokenOutput| {
            let of_prompt = output.prompt_logprobs.iter().map(|logprob| 1 + logprob.top.len());
            let of_token = output.logprobs.as_ref().map_or(0, |logprobs| logprobs.top.len());
            of_token + of_prompt.sum::<usize>()
        };
        shared.num_tokens += outputs.iter().map(|output| 1 + num_logprobs(output)).sum::<usize>();
        shared.outputs.append(outputs);
        shared.stats = Some(stats);
        self.wake(shared);
    }

    /// Ends the stream once what is here has been taken.
    pub(crate) fn finish(&self) {
        self.end(None);
    }

    /// Ends the stream with an error.
    pub(crate) fn fail(&self, status: Status) {
        self.end(Some(status));
    }

    /// Returns once the router is gone, or was hung up on.
    pub(crate) async fn hung_up(&self) {
        self.hung_up.cancelled().await;
    }

    pub(crate) fn is_hung_up(&self) -> bool {
        self.hung_up.is_cancelled()
    }

    fn end(&self, status: Option<Status>) {
        let mut shared = lock(&self.shared);
        if shared.end.is_none() {
            shared.end = Some(status);
        }
        self.wake(shared);
    }

    fn wake(&self, mut shared: MutexGuard<'_, Shared>) {
        if shared.num_tokens > MAX_TOKENS
            || shared.notices.len() > MAX_NOTICES
            || shared.num_values > MAX_VALUES
        {
            shared.drop_everything();
            shared.end = Some(Some(Status::resource_exhausted("the router reads too slowly")));
            self.hung_up.cancel();
        }
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Shared {
    fn drop_everything(&mut self) {
        self.notices = VecDeque::new();
        self.outputs = Vec::new();
        self.num_tokens = 0;
        self.num_values = 0;
        self.stats = None;
    }

    fn next(&mut self) -> Option<Message> {
        if let Some(notice) = self.notices.pop_front() {
            self.num_values -= num_values(&notice);
            return Some(notice);
        }
        if self.outputs.is_empty() && self.stats.is_none() {
            return None;
        }
        self.num_tokens = 0;
        let outputs = std::mem::take(&mut self.outputs);
        Some(Message::Step(StepOutput { outputs, stats: self.stats.take() }))
    }
}

fn num_values(notice: &Message) -> usize {
    match notice {
        Message::Embedded(embedded) => embedded.values.len(),
        Message::Welcome(_)
        | Message::Step(_)
        | Message::Rejected(_)
        | Message::Alive(_)
        | Message::Draining(_) => 0,
    }
}

impl Stream for Messages {
    type Item = Result<WorkerMessage, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = lock(&self.shared);
        if let Some(message) = shared.next() {
            return Poll::Ready(Some(Ok(WorkerMessage { message: Some(message) })));
        }
        match shared.end.take() {
            Some(status) => {
                shared.end = Some(None);
                Poll::Ready(status.map(Err))
            }
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Whoever panicked left whole values.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn tokens(count: usize) -> Vec<TokenOutput> {
        vec![TokenOutput { token: Some(1), ..Default::default() }; count]
    }

    #[tokio::test]
    async fn what_waits_is_sent_as_one_message() {
        let (outbox, mut messages) = outbox();
        for num_steps in 1..=3 {
            let stats = EngineStats { num_steps, ..Default::default() };
            outbox.add(&mut tokens(2), stats);
        }
        outbox.finish();

        let message = messages.next().await.unwrap().unwrap();
        let Some(Message::Step(step)) = message.message else { panic!("{message:?}") };

        assert_eq!(step.outputs.len(), 6);
        assert_eq!(step.stats.unwrap().num_steps, 3);
        assert!(messages.next().await.is_none());
        assert!(!outbox.is_hung_up());
    }

    #[tokio::test]
    async fn a_router_that_reads_nothing_is_hung_up_on() {
        let (outbox, mut messages) = outbox();
        for _ in 0..=MAX_TOKENS / 1000 {
            outbox.add(&mut tokens(1000), EngineStats::default());
        }

        assert!(outbox.is_hung_up());
        let end = messages.next().await.unwrap().unwrap_err();
        assert_eq!(end.code(), tonic::Code::ResourceExhausted);
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn a_router_that_goes_away_is_noticed() {
        let (outbox, messages) = outbox();

        drop(messages);

        outbox.hung_up().await;
    }
}
