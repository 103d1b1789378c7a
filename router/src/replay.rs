//! Answers that are kept, so that a client can come back for them: streams that survive a broken
//! connection, and requests that are answered once however often they are sent.
//!
//! A kept answer is made by a task of its own, which puts its events into a bounded log; who asked
//! for it reads from there, and so does whoever comes back. Nothing of an endpoint knows of it: it
//! is a layer around those that generate.

mod key;
mod layer;
mod log;
mod reader;
mod recording;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::response::Response;
use rand::RngCore;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::config::Limits;
use crate::error::ApiError;
use crate::metrics;
use crate::shutdown::Stage;
use key::{Digest, Scope};
use recording::{Budget, Ending, Recording, Watcher};

pub(crate) use layer::keep;
pub(crate) use reader::{Reader, Wording};

/// Why an answer can't be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Unknown, forgotten, or another key's.
    #[error("there is no stream of this id; streams are kept for a while only")]
    NoStream,
    /// A stream's first events had to make room for later ones.
    #[error("events up to number {num_dropped} of this stream are not kept any more")]
    EventsGone {
        /// The last of them.
        num_dropped: u64,
    },
    /// One of several readers of a stream was too slow.
    #[error("this reader fell behind another reader of the same stream")]
    FellBehind,
    /// The idempotency key came with another body before.
    #[error("this idempotency key was used for a request with another body")]
    KeyReused,
    /// The answer to the first request of this idempotency key was too long.
    #[error("the answer to this request was given before, and was too long to be kept")]
    AnswerGone,
    /// All answers that are kept are being made.
    #[error("the server keeps as many answers as it can; no other fits now")]
    Full,
}

/// The answers that are kept. Cheap to clone; when the last clone is dropped, they are forgotten and
/// those that are being made are cancelled.
#[derive(Clone)]
pub(crate) struct Replays(Arc<Shared>);

struct Shared {
    limits: Kept,
    answers: Mutex<Answers>,
    budget: Arc<Budget>,
    stage: watch::Receiver<Stage>,
}

struct Kept {
    max_answers: usize,
    grace: Duration,
    idempotency_window: Duration,
    keep_alive: Duration,
}

#[derive(Default)]
struct Answers {
    by_id: HashMap<String, Answer>,
    /// Ids of answers that a repeated request gets.
    by_scope: HashMap<Scope, String>,
}

struct Answer {
    recording: Arc<Recording>,
    owner: Arc<str>,
    wording: Wording,
    /// Which repetitions get it, and the body that they must have.
    once: Option<(Scope, Digest)>,
    _task: AbortOnDropHandle<()>,
}

/// Whose an answer is and who gets it.
struct Recipient {
    owner: Arc<str>,
    wording: Wording,
    once: Option<(Scope, Digest)>,
}

/// How far an answer has come that is made in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing has been generated.
    Queued,
    /// Something has.
    Begun,
}

/// Whether a request is the first of its idempotency key.
enum Once {
    First(Reader),
    Repeated(Reader),
}

/// The task of one answer, and where it is kept.
struct Keeper {
    recording: Arc<Recording>,
    shared: Weak<Shared>,
}

impl Replays {
    pub(crate) fn new(limits: &Limits, stage: watch::Receiver<Stage>) -> Self {
        let kept = Kept {
            max_answers: limits.max_kept_answers,
            grace: limits.stream_grace,
            idempotency_window: limits.idempotency_window,
            keep_alive: limits.keep_alive,
        };
        let budget = Budget::new(limits.max_kept_answer_bytes, limits.max_kept_bytes);
        let (answers, budget) = (Mutex::default(), Arc::new(budget));
        Self(Arc::new(Shared { limits: kept, answers, budget, stage }))
    }

    /// A reader of the stream of this id, if it is the owner's.
    pub(crate) fn find(&self, owner: &str, id: &str) -> Result<Reader, Error> {
        let answers = self.0.answers();
        let own = answers.by_id.get(id).filter(|answer| *answer.owner == *owner);
        let streamed = |answer: &&Answer| {
            answer.recording.head().is_some_and(|head| recording::is_event_stream(&head))
        };
        own.filter(streamed).map(|answer| self.reader(answer)).ok_or(Error::NoStream)
    }

    /// Keeps a stream. Without room, gives it back.
    fn stream(&self, recipient: Recipient, response: Response) -> Result<Reader, Box<Response>> {
        let mut answers = self.0.answers();
        if self.0.is_room(&mut answers) {
            Ok(self.start(
                &mut answers,
                (recipient, self.recording()),
                std::future::ready(response),
            ))
        } else {
            Err(response.into())
        }
    }

    /// Keeps the answer to a request with an idempotency key, which is made unless it is there.
    fn once<F: Future<Output = Response> + Send + 'static>(
        &self,
        recipient: Recipient,
        answer: impl FnOnce() -> F,
    ) -> Result<Once, Error> {
        let mut answers = self.0.answers();
        if let Some((scope, digest)) = &recipient.once
            && let Some(known) = answers.by_scope.get(scope).and_then(|id| answers.by_id.get(id))
        {
            return match &known.once {
                Some((_, known_digest)) if known_digest == digest => {
                    Ok(Once::Repeated(self.reader(known)))
                }
                Some(_) | None => Err(Error::KeyReused),
            };
        }
        if !self.0.is_room(&mut answers) {
            return Err(Error::Full);
        }
        Ok(Once::First(self.start(&mut answers, (recipient, self.recording()), answer())))
    }

    /// Makes an answer for nobody in particular, to its end. Its events are kept as long as there is
    /// room, whether anyone reads them or not.
    pub(crate) fn background(
        &self,
        (owner, id): (Arc<str>, String),
        answer: impl Future<Output = Response> + Send + 'static,
    ) -> Result<Reader, Error> {
        let mut answers = self.0.answers();
        if !self.0.is_room(&mut answers) {
            return Err(Error::Full);
        }
        let recipient = Recipient { owner, wording: Wording::OpenAi, once: None };
        let recording = Recording::unattended(id, Arc::clone(&self.0.budget));
        Ok(self.start(&mut answers, (recipient, recording), answer))
    }

    /// A reader of an answer that is made in the background, whether it has begun or not.
    pub(crate) fn follow(&self, owner: &str, id: &str) -> Result<Reader, Error> {
        let answers = self.0.answers();
        let own = answers.by_id.get(id).filter(|answer| *answer.owner == *owner);
        own.map(|answer| self.reader(answer)).ok_or(Error::NoStream)
    }

    /// How far an answer of this owner has come, if it is being made.
    pub(crate) fn progress(&self, owner: &str, id: &str) -> Option<Progress> {
        let answers = self.0.answers();
        let answer = answers.by_id.get(id).filter(|answer| *answer.owner == *owner)?;
        match (answer.recording.has_ended(), answer.recording.kept()) {
            (true, _) => None,
            (false, (_, 0)) => Some(Progress::Queued),
            (false, _) => Some(Progress::Begun),
        }
    }

    /// Cancels an answer that is being made; whoever reads it gets this error.
    pub(crate) fn cancel(&self, owner: &str, id: &str, error: &ApiError) {
        let mut answers = self.0.answers();
        let is_owned = |answer: &&Answer| *answer.owner == *owner && !answer.recording.has_ended();
        if let Some(answer) = answers.by_id.get(id).filter(is_owned) {
            answer.recording.push_now(answer.wording.write(error).as_bytes());
            answers.remove(id);
        }
    }

    /// Waits until nothing is being made in the background.
    pub(crate) async fn finished(&self) {
        let unattended = || {
            let answers = self.0.answers();
            let mut made = answers.by_id.values().map(|answer| &answer.recording);
            made.find(|it| it.is_unattended() && !it.has_ended()).cloned()
        };
        while let Some(recording) = unattended() {
            recording.ended().await;
        }
    }

    fn reader(&self, answer: &Answer) -> Reader {
        let keep_alive = self.0.limits.keep_alive;
        Reader::new(Arc::clone(&answer.recording), (answer.wording, keep_alive))
    }

    fn recording(&self) -> Recording {
        Recording::new(new_id(), Arc::clone(&self.0.budget))
    }

    /// Starts the task that makes and keeps an answer. Its first reader is there before it.
    fn start(
        &self,
        answers: &mut Answers,
        (recipient, recording): (Recipient, Recording),
        answer: impl Future<Output = Response> + Send + 'static,
    ) -> Reader {
        let Recipient { owner, wording, once } = recipient;
        let (id, recording) = (recording.id.clone(), Arc::new(recording));
        let reader = Reader::new(Arc::clone(&recording), (wording, self.0.limits.keep_alive));
        let Kept { grace, idempotency_window, .. } = self.0.limits;
        let keep = match &once {
            Some((scope, _)) => {
                answers.by_scope.insert(scope.clone(), id.clone());
                idempotency_window.max(grace)
            }
            None if recording.is_unattended() => idempotency_window,
            None => grace,
        };
        let keeper = Keeper { recording: Arc::clone(&recording), shared: Arc::downgrade(&self.0) };
        let made = keeper.make(answer, (grace, self.0.stage.clone()));
        let made = made.in_current_span();
        let task = tokio::spawn(async move { keeper.keep(made.await, keep).await });
        let task = AbortOnDropHandle::new(task);
        answers.by_id.insert(id, Answer { recording, owner, wording, once, _task: task });
        reader
    }
}

impl Shared {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more answer can be kept. Forgets an old one for it, if there is one.
    fn is_room(&self, answers: &mut Answers) -> bool {
        answers.by_id.len() < self.limits.max_answers || answers.forget_one()
    }
}

impl Answers {
    fn remove(&mut self, id: &str) {
        self.forget_scope(id);
        self.by_id.remove(id);
    }

    /// Lets the next request with the answer's idempotency key be the first again.
    fn forget_scope(&mut self, id: &str) {
        let once = self.by_id.get(id).and_then(|answer| answer.once.as_ref());
        if let Some((scope, _)) = once
            && self.by_scope.get(scope).is_some_and(|known| known == id)
        {
            self.by_scope.remove(scope);
        }
    }

    /// Forgets an answer that has ended and that nobody reads: of the owner who has most of them,
    /// the oldest.
    fn forget_one(&mut self) -> bool {
        let idle = |answer: &Answer| answer.recording.idle_since();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for answer in self.by_id.values().filter(|answer| idle(answer).is_some()) {
            *counts.entry(&answer.owner).or_default() += 1;
        }
        let oldest = self
            .by_id
            .iter()
            .filter_map(|(id, answer)| Some((idle(answer)?, counts.get(&*answer.owner)?, id)))
            .max_by(|(a_since, a_count, _), (b_since, b_count, _)| {
                a_count.cmp(b_count).then(b_since.cmp(a_since))
            })
            .map(|(_, _, id)| id.clone());
        oldest.is_some_and(|id| {
            self.remove(&id);
            true
        })
    }
}

impl Keeper {
    /// Takes the answer in, unless everyone goes away who wants it. Whether it came to its end.
    fn make(
        &self,
        answer: impl Future<Output = Response> + Send + 'static,
        (grace, stage): (Duration, watch::Receiver<Stage>),
    ) -> impl Future<Output = bool> + Send + 'static {
        let keeper = Self { recording: Arc::clone(&self.recording), shared: self.shared.clone() };
        async move {
            let _ending = Ending(&keeper.recording);
            tokio::select! {
                () = keeper.recording.fill(answer, &keeper) => true,
                () = keeper.recording.abandoned(grace, stage) => {
                    metrics::stream_abandoned();
                    false
                }
            }
        }
    }

    /// Forgets the answer: at once, or when it has lain there for so long.
    async fn keep(self, is_complete: bool, keep: Duration) {
        if !is_complete {
            if let Some(shared) = self.shared.upgrade() {
                shared.answers().remove(&self.recording.id);
            }
            return;
        }
        loop {
            self.recording.unread(keep).await;
            let Some(shared) = self.shared.upgrade() else { return };
            let mut answers = shared.answers();
            // Someone may have come since.
            if self.recording.idle_since().is_some() {
                answers.remove(&self.recording.id);
                return;
            }
        }
    }
}

impl Watcher for Keeper {
    fn failed(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.answers().forget_scope(&self.recording.id);
        }
    }

    fn make_room(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.answers().forget_one())
    }
}

/// An id that nobody can guess: 192 random bits.
fn new_id() -> String {
    let mut bytes = [0; 24];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().fold("stream_".to_owned(), |id, byte| format!("{id}{byte:02x}"))
}
