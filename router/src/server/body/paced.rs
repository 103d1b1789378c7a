//! A body that a handler reads as it comes: too much of it, too slow a client or too long a wait ends
//! it, and says why to whoever answers in the end.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::error::refusal::Refusal;

/// What a body keeps to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) max_bytes: usize,
    /// Between two pieces of it.
    pub(super) max_pause: Duration,
    /// For all of it.
    pub(super) max_time: Duration,
}

/// What became of a body.
#[derive(Clone, Default)]
pub(super) struct Outcome(Arc<OnceLock<Result<(), Refusal>>>);

impl Outcome {
    /// Nothing, where it was not read to its end.
    pub(super) fn of(&self) -> Option<Result<(), Refusal>> {
        self.0.get().copied()
    }
}

/// A body and its pace.
pub(super) struct Paced {
    body: Body,
    pace: Pace,
    num_bytes: usize,
    pause: Pin<Box<Sleep>>,
    time: Pin<Box<Sleep>>,
    outcome: Outcome,
}

impl Paced {
    pub(super) fn new(body: Body, pace: Pace) -> (Self, Outcome) {
        let outcome = Outcome::default();
        let pause = Box::pin(wait(pace.max_pause));
        let time = Box::pin(wait(pace.max_time));
        (Self { body, pace, num_bytes: 0, pause, time, outcome: outcome.clone() }, outcome)
    }

    fn end(&self, outcome: Result<(), Refusal>) {
        // The first word counts: what is polled after its end says nothing new.
        let _ = self.outcome.0.set(outcome);
    }

    fn refuse(&self, refusal: Refusal) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        self.end(Err(refusal));
        Poll::Ready(Some(Err(refusal)))
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        // A form ends where it says, and nobody may have asked whether its body does.
        if self.body.is_end_stream() {
            self.end(Ok(()));
        }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let Pace { max_bytes, max_pause, max_time } = self.pace;
        if self.time.as_mut().poll(cx).is_ready() {
            return self.refuse(Refusal::BodyTimeout(max_time));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.pause.as_mut().poll(cx));
            return self.refuse(Refusal::BodyTimeout(max_pause));
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return self.refuse(Refusal::BodyUnreadable),
            None => {
                self.end(Ok(()));
                return Poll::Ready(None);
            }
        };
        self.num_bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.num_bytes > max_bytes {
            return self.refuse(Refusal::BodyTooLarge(max_bytes));
        }
        self.pause.as_mut().reset(Instant::now() + max_pause);
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        // Only the last poll says that it was read to its end.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[expect(clippy::disallowed_methods, reason = "the end of a wait for a client")]
fn wait(duration: Duration) -> Sleep {
    sleep(duration)
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);
    const PACE: Pace = Pace { max_bytes: 4, max_pause: LONG, max_time: LONG };

    /// A body of so many bytes, each on its own.
    fn bytes(num: usize) -> Body {
        let piece = |_| Ok::<_, std::io::Error>(Bytes::from_static(b"a"));
        Body::from_stream(stream::iter((0..num).map(piece)))
    }

    /// A body that never comes.
    fn silence() -> Body {
        Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())
    }

    async fn read(body: Body, pace: Pace) -> (Result<usize, Refusal>, Option<Result<(), Refusal>>) {
        let (paced, outcome) = Paced::new(body, pace);
        let read = paced.collect().await.map(|body| body.to_bytes().len());
        (read, outcome.of())
    }

    #[tokio::test]
    async fn a_body_within_its_limits_is_read_to_its_end() {
        assert_eq!(read(bytes(4), PACE).await, (Ok(4), Some(Ok(()))));
        assert_eq!(read(bytes(0), PACE).await, (Ok(0), Some(Ok(()))));
    }

    #[tokio::test]
    async fn one_that_is_too_large_or_too_slow_is_refused_and_says_why() {
        let soon = Duration::from_millis(1);
        for (body, pace, refusal) in [
            (bytes(5), PACE, Refusal::BodyTooLarge(4)),
            (silence(), Pace { max_pause: soon, ..PACE }, Refusal::BodyTimeout(soon)),
            (silence(), Pace { max_time: soon, ..PACE }, Refusal::BodyTimeout(soon)),
        ] {
            assert_eq!(read(body, pace).await, (Err(refusal), Some(Err(refusal))), "{pace:?}");
        }
    }

    #[tokio::test]
    async fn one_that_nobody_read_has_no_outcome() {
        assert_eq!(Paced::new(silence(), PACE).1.of(), None);
    }
}
