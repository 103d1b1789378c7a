//! The body of a streamed answer: pulls tokens when the connection can take more.
//!
//! Nothing is buffered ahead of the connection but the tokens themselves, which the request's own
//! limits bound. Dropping the body drops the generation, and that cancels it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::{Events, Merge};
use crate::error::ApiError;
use crate::generation::{Delta, TextStream, TokenUsage};
use crate::metrics::OpenStream;

/// A write ends once it has so many bytes, and the next one goes on.
const MAX_WRITE_BYTES: usize = 16 << 10;

/// A connection that takes so many events in one write is behind, and events begin to be merged.
const MAX_EVENTS_APART: usize = 8;

/// The body of a streamed answer.
pub struct EventBody<E> {
    state: State,
    events: E,
    keep_alive: Pin<Box<Interval>>,
    /// What was written and not sent.
    written: Vec<u8>,
    delta: Delta,
    opening: Opening,
    _open: OpenStream,
}

enum State {
    Open(Box<TextStream>),
    /// All that was generated is written, but not the end.
    Settling(Box<Settling>),
    Done,
}

/// What happens before an answer may end.
struct Settling {
    end: Result<(), ApiError>,
    usage: TokenUsage,
    future: BoxFuture<'static, Result<(), ApiError>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    ToBeSent,
    Sent,
}

impl<E: Events> EventBody<E> {
    /// Goes on after `first`, the delta that has arrived already. Without one, the client is told
    /// that the answer is being worked on.
    pub fn new(
        stream: TextStream,
        events: E,
        (first, keep_alive): (Option<Delta>, Duration),
    ) -> Self {
        let keep_alive = keep_alive.max(Duration::from_millis(1));
        let mut keep_alive = interval_at(Instant::now() + keep_alive, keep_alive);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut body = Self {
            state: State::Done,
            events,
            keep_alive: Box::pin(keep_alive),
            written: Vec::new(),
            delta: Delta::default(),
            opening: Opening::ToBeSent,
            _open: stream.opened(),
        };
        match first {
            Some(first) => {
                body.delta = first;
                body.write_delta(&stream, Merge::Never);
                body.events.close(&mut body.written, stream.usage());
            }
            None => body.events.keep_alive(&mut body.written),
        }
        body.state = State::Open(Box::new(stream));
        body
    }

    fn write_delta(&mut self, stream: &TextStream, merge: Merge) {
        if self.opening == Opening::ToBeSent {
            self.events.opening(&mut self.written, stream.num_choices(), stream.usage());
            self.opening = Opening::Sent;
        }
        self.events.delta(&mut self.written, &self.delta, (stream.usage(), merge));
    }

    /// Writes what is here, and says what the answer is then.
    fn write(&mut self, mut stream: Box<TextStream>, cx: &mut Context) -> State {
        let mut num_events = 0;
        while self.written.len() < MAX_WRITE_BYTES {
            match stream.poll_next(cx, &mut self.delta) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(()))) => {
                    let is_behind = num_events >= MAX_EVENTS_APART;
                    self.write_delta(&stream, if is_behind { Merge::IfOpen } else { Merge::Never });
                    num_events += 1;
                }
                Poll::Ready(Some(Err(error))) => return self.end(Err(error), stream.usage(), cx),
                Poll::Ready(None) => {
                    self.events.close(&mut self.written, stream.usage());
                    return self.end(Ok(()), stream.usage(), cx);
                }
            }
        }
        self.events.close(&mut self.written, stream.usage());
        State::Open(stream)
    }

    /// Ends the answer, now or when it may.
    fn end(&mut self, end: Result<(), ApiError>, usage: TokenUsage, cx: &mut Context) -> State {
        match self.events.settle(end.as_ref().copied(), usage) {
            Some(future) => self.settle(Box::new(Settling { end, usage, future }), cx),
            None => {
                self.write_end(end, usage);
                State::Done
            }
        }
    }

    fn settle(&mut self, mut settling: Box<Settling>, cx: &mut Context) -> State {
        match settling.future.as_mut().poll(cx) {
            Poll::Pending => return State::Settling(settling),
            Poll::Ready(settled) => self.write_end(settling.end.and(settled), settling.usage),
        }
        State::Done
    }

    fn write_end(&mut self, end: Result<(), ApiError>, usage: TokenUsage) {
        match end {
            Ok(()) => self.events.done(&mut self.written, usage),
            Err(error) => {
                tracing::debug!(%error, "a stream broke off");
                self.events.error(&mut self.written, &error, usage);
            }
        }
    }
}

impl<E: Events + Unpin> Body for EventBody<E> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        this.state = match std::mem::replace(&mut this.state, State::Done) {
            State::Open(stream) => this.write(stream, cx),
            State::Settling(settling) => this.settle(settling, cx),
            State::Done => State::Done,
        };
        if this.written.is_empty() {
            match this.state {
                State::Done => return Poll::Ready(None),
                State::Open(_) | State::Settling(..) => match this.keep_alive.poll_tick(cx) {
                    Poll::Ready(_) => this.events.keep_alive(&mut this.written),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
        this.keep_alive.reset();
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.written).into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.written.is_empty() && matches!(self.state, State::Done)
    }
}
