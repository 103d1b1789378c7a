//! A client's socket with the patience that hyper leaves to us: for a request's head, for an idle
//! connection, for a client that takes nothing.
//!
//! hyper has one timer for both a half-sent head and an idle connection. They deserve different
//! patience, and only the socket sees the first byte of a head; so the clocks run here.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Limits;

/// How long each kind of silence may last.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    head: Duration,
    idle: Duration,
    write: Duration,
}

/// Requests of one connection that are being answered. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<AtomicUsize>);

/// Counts one request until it is dropped.
pub(super) struct Answering(Arc<AtomicUsize>);

pub(super) struct ClientIo {
    stream: TcpStream,
    patience: Patience,
    in_flight: InFlight,
    reading: Reading,
    read_clock: Clock,
    write_clock: Clock,
}

/// What the next bytes from the client belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The connection is new, or a head has begun.
    Head,
    /// A request is being answered.
    Request,
    /// An answer has been given, and no byte of a next request has come.
    Idle,
}

/// A timer that exists only while it runs.
#[derive(Default)]
struct Clock(Option<Pin<Box<Sleep>>>);

impl Patience {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { head: limits.header_timeout, idle: limits.idle_timeout, write: limits.write_timeout }
    }
}

impl InFlight {
    pub(super) fn begin(&self) -> Answering {
        self.0.fetch_add(1, Ordering::AcqRel);
        Answering(Arc::clone(&self.0))
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Clock {
    fn start(&mut self, after: Duration) {
        self.0 = Some(Box::pin(sleep_until(Instant::now() + after)));
    }

    fn stop(&mut self) {
        self.0 = None;
    }

    fn rings(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl ClientIo {
    pub(super) fn new(stream: TcpStream, patience: Patience, in_flight: InFlight) -> Self {
        let mut read_clock = Clock::default();
        read_clock.start(patience.head);
        Self {
            stream,
            patience,
            in_flight,
            reading: Reading::Head,
            read_clock,
            write_clock: Clock::default(),
        }
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Follows the requests that begin and end between two reads.
    fn follow_requests(&mut self) {
        match (self.in_flight.any(), self.reading) {
            (true, Reading::Head | Reading::Idle) => {
                self.reading = Reading::Request;
                self.read_clock.stop();
            }
            (false, Reading::Request) => {
                self.reading = Reading::Idle;
                self.read_clock.start(self.patience.idle);
            }
            (true, Reading::Request) | (false, Reading::Head | Reading::Idle) => {}
        }
    }

    /// Gives up when a write has made no progress for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_clock.stop();
            return result;
        }
        if self.write_clock.0.is_none() {
            self.write_clock.start(self.patience.write);
        }
        if self.write_clock.rings(cx) { Poll::Ready(Err(timed_out())) } else { Poll::Pending }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.follow_requests();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if this.reading == Reading::Idle && buf.filled().len() > before {
                    this.reading = Reading::Head;
                    this.read_clock.start(this.patience.head);
                }
                Poll::Ready(result)
            }
            Poll::Pending if this.read_clock.rings(cx) => Poll::Ready(Err(timed_out())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
