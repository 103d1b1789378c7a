//! One answer that is kept while it is made and for some time after: what its readers share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http_body_util::BodyExt;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::log::{Log, Next};
use crate::metrics::{self, DetachedStream};
use crate::shutdown::{self, Stage};

/// Bytes that answers may take.
pub(super) struct Budget {
    /// One of them.
    pub(super) max_each: usize,
    /// All together.
    pub(super) max_total: usize,
    total: AtomicUsize,
}

/// An answer that is kept.
pub(crate) struct Recording {
    pub(super) id: String,
    state: Mutex<State>,
    /// Changes with the head, with every event and at the end.
    news: watch::Sender<()>,
    readers: watch::Sender<usize>,
    /// Told when a reader has taken something.
    room: Notify,
    kind: Kind,
    budget: Arc<Budget>,
}

/// Whether an answer waits for its readers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What nobody was given is not dropped.
    Attended,
    /// It goes on, and what has no room is dropped.
    Unattended,
}

struct State {
    head: Option<Parts>,
    log: Log,
    /// Set once nothing more comes.
    ended: Option<Instant>,
}

/// What is told of an answer while it comes in.
pub(super) trait Watcher {
    /// It is not one that a repeated request should get.
    fn failed(&self);

    /// All answers together take too much. Forgets one that nobody reads, if there is one.
    fn make_room(&self) -> bool;
}

/// Says that an answer has ended, however its task did.
pub(super) struct Ending<'a>(pub(super) &'a Recording);

impl Budget {
    pub(super) fn new(max_each: usize, max_total: usize) -> Self {
        Self { max_each, max_total, total: AtomicUsize::new(0) }
    }

    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.total() > self.max_total
    }

    fn changed(&self, before: usize, after: usize) {
        // Wraps around to a subtraction.
        let change = after.wrapping_sub(before);
        let total = self.total.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        metrics::kept_bytes(total);
    }
}

impl Recording {
    pub(super) fn new(id: String, budget: Arc<Budget>) -> Self {
        Self::of_kind(Kind::Attended, id, budget)
    }

    /// An answer that goes on whether anyone reads it or not.
    pub(super) fn unattended(id: String, budget: Arc<Budget>) -> Self {
        Self::of_kind(Kind::Unattended, id, budget)
    }

    fn of_kind(kind: Kind, id: String, budget: Arc<Budget>) -> Self {
        let state = State { head: None, log: Log::default(), ended: None };
        Self {
            id,
            state: Mutex::new(state),
            news: watch::Sender::new(()),
            readers: watch::Sender::new(0),
            room: Notify::new(),
            kind,
            budget,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    pub(super) fn head(&self) -> Option<Parts> {
        self.state().head.clone()
    }

    pub(super) fn is_unattended(&self) -> bool {
        self.kind == Kind::Unattended
    }

    /// Returns once nothing more comes.
    pub(super) async fn ended(&self) {
        let mut news = self.news();
        while !self.has_ended() && news.changed().await.is_ok() {}
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().ended.is_some()
    }

    /// Since when it has ended and nobody reads it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.state().ended.filter(|_| *self.readers.borrow() == 0)
    }

    /// The numbers of the event before the first that is kept, and of the last.
    pub(super) fn kept(&self) -> (u64, u64) {
        let state = self.state();
        (state.log.num_dropped(), state.log.last())
    }

    pub(super) fn attach(&self) {
        self.readers.send_modify(|readers| *readers += 1);
    }

    pub(super) fn detach(&self) {
        self.readers.send_modify(|readers| *readers -= 1);
    }

    /// Gives the events after the one of this number.
    pub(super) fn after(&self, number: u64, max_bytes: usize) -> Next {
        let next = self.state().log.after(number, max_bytes);
        if matches!(next, Next::Events(..)) {
            self.room.notify_one();
        }
        next
    }

    /// Takes an answer in, to its end.
    pub(super) async fn fill(
        &self,
        answer: impl Future<Output = Response>,
        watcher: &impl Watcher,
    ) {
        let (head, body) = answer.await.into_parts();
        let is_stream = is_event_stream(&head);
        if !head.status.is_success() {
            watcher.failed();
        }
        self.state().head = Some(head);
        self.news.send_replace(());
        let whole = if is_stream {
            self.fill_events(body, watcher).await
        } else {
            // Its size is bounded by what was asked for, and it is in memory already.
            let bytes = to_bytes(body, usize::MAX).await;
            bytes.map(|bytes| self.push_now(&bytes)).is_ok()
        };
        while self.budget.is_exceeded() && watcher.make_room() {}
        if !whole {
            watcher.failed();
        }
    }

    /// Whether the stream ended by itself.
    async fn fill_events(&self, mut body: Body, watcher: &impl Watcher) -> bool {
        let mut unread = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let Ok(data) = frame.into_data() else { continue };
            unread.extend_from_slice(&data);
            let mut taken = 0;
            while let Some(event) = first_event(unread.get(taken..).unwrap_or_default()) {
                if is_failure(event) {
                    watcher.failed();
                }
                if has_data(event) {
                    self.push(event, watcher).await;
                }
                taken += event.len();
            }
            unread.drain(..taken);
        }
        true
    }

    /// Keeps an event, once there is room.
    async fn push(&self, event: &[u8], watcher: &impl Watcher) {
        if self.budget.total() + event.len() > self.budget.max_total {
            watcher.make_room();
        }
        while !self.try_push(event) {
            self.room.notified().await;
        }
        self.news.send_replace(());
    }

    fn try_push(&self, event: &[u8]) -> bool {
        let Budget { max_each, max_total, .. } = *self.budget;
        let mut state = self.state();
        let before = state.log.size();
        if self.is_unattended() {
            state.log.give_all();
        }
        // One event always fits: what is left to a stream when others have taken everything.
        let fits = |log: &Log| {
            let others = self.budget.total().saturating_sub(before);
            let size = log.size() + event.len();
            log.is_empty() || (size <= max_each && others + size <= max_total)
        };
        while !fits(&state.log) && state.log.drop_oldest() {}
        let is_room = fits(&state.log);
        if is_room {
            state.log.push(event);
        }
        self.budget.changed(before, state.log.size());
        is_room
    }

    pub(super) fn push_now(&self, bytes: &[u8]) {
        let mut state = self.state();
        let before = state.log.size();
        state.log.push(bytes);
        self.budget.changed(before, state.log.size());
    }

    /// Returns once an answer that is being made has had no reader for so long, if that matters to
    /// it. At a shutdown nobody comes back.
    pub(super) async fn abandoned(&self, grace: Duration, mut stage: watch::Receiver<Stage>) {
        if self.is_unattended() {
            return std::future::pending().await;
        }
        let mut readers = self.readers.subscribe();
        loop {
            let _ = readers.wait_for(|readers| *readers == 0).await;
            let _detached = DetachedStream::new();
            tokio::select! {
                back = timeout(grace, readers.wait_for(|readers| *readers > 0)) => {
                    if back.is_err() {
                        return;
                    }
                }
                () = shutdown::reached(&mut stage, Stage::Drain) => return,
            }
        }
    }

    /// Returns once an answer that has ended has had no reader for so long.
    pub(super) async fn unread(&self, keep: Duration) {
        let mut readers = self.readers.subscribe();
        loop {
            let _ = readers.wait_for(|readers| *readers == 0).await;
            self.trim();
            if timeout(keep, readers.wait_for(|readers| *readers > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Drops an answer that there is no room for, after those who waited for it have it.
    fn trim(&self) {
        let mut state = self.state();
        let before = state.log.size();
        if before > self.budget.max_each || self.budget.is_exceeded() {
            state.log.clear();
            self.budget.changed(before, state.log.size());
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let size = self.state().log.size();
        self.budget.changed(size, 0);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ended = Some(Instant::now());
        state.log.shrink();
        drop(state);
        self.0.news.send_replace(());
    }
}

/// Whether an answer is a stream of events.
pub(super) fn is_event_stream(head: &Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    head.status.is_success() && kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"))
}

/// The first event, with the empty line that ends it.
fn first_event(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
    bytes.get(..end + 2)
}

/// Whether it is more than a comment.
fn has_data(event: &[u8]) -> bool {
    event.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"data:"))
}

/// Whether it is the error with which one of the APIs ends a stream.
fn is_failure(event: &[u8]) -> bool {
    [&b"data: {\"error\":"[..], b"event: error\n", b"event: response.failed\n"]
        .iter()
        .any(|start| event.starts_with(start))
}
