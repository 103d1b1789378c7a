//! One client's connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

use super::io::{Answering, ClientIo, InFlight, Patience};
use crate::config::Limits;
use crate::shutdown::{self, Stage};

/// What a connection buffers at most, in each direction.
const MAX_BUFFER: usize = 64 << 10;
/// How long, and for how many bytes, a client may go on sending what nobody will read.
const LINGER: Duration = Duration::from_secs(2);
const MAX_LINGER_BYTES: usize = 16 << 20;
/// How long an open connection may yet bring a request when another process has the port: its client
/// may have sent one already.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// How connections are served. Cheap to clone.
#[derive(Clone)]
pub(super) struct Protocol {
    http: http1::Builder,
    patience: Patience,
    router: Router,
}

impl Protocol {
    pub(super) fn new(limits: &Limits, router: Router) -> Self {
        let mut http = http1::Builder::new();
        // The exact limits are checked by `target`, which can answer with an id and a body. These
        // bound what is read before it can.
        let max_head = 2 * (limits.max_header_bytes + limits.max_uri_bytes);
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.idle_timeout + limits.header_timeout)
            .max_headers(2 * limits.max_headers)
            .max_header_size(max_head)
            .max_buf_size(MAX_BUFFER.max(max_head));
        Self { http, patience: Patience::new(limits), router }
    }

    /// Serves until the client or a shutdown ends the connection.
    pub(super) async fn serve(&self, stream: TcpStream, mut stage: watch::Receiver<Stage>) {
        let in_flight = InFlight::default();
        let io = ClientIo::new(stream, self.patience, in_flight.clone());
        let router = self.router.clone();
        let now = stage.clone();
        let service =
            service_fn(move |request| answer(router.clone(), request, (&in_flight, now.clone())));
        let mut connection = self.http.serve_connection(TokioIo::new(io), service);

        let drain = async {
            shutdown::reached(&mut stage, Stage::Drain).await;
            if *stage.borrow() == Stage::Handover {
                let _ = timeout(LAST_REQUEST, shutdown::reached(&mut stage, Stage::Stop)).await;
            }
        };
        let ended = tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
            () = drain => {
                Pin::new(&mut connection).graceful_shutdown();
                poll_fn(|cx| connection.poll_without_shutdown(cx)).await
            }
        };
        match ended {
            Ok(()) => linger(connection.into_parts().io.into_inner().into_stream()).await,
            Err(error) => tracing::debug!(%error, "connection"),
        }
    }
}

/// Ends our side, and reads on for a moment: closing a socket with unread bytes resets it, and the
/// client would lose the answer that says why.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut scratch = [0; 4096];
    let drained = async {
        let mut total = 0;
        while let Ok(read @ 1..) = stream.read(&mut scratch).await {
            total += read;
            if total > MAX_LINGER_BYTES {
                return;
            }
        }
    };
    // Late or not, the socket is closed next.
    let _ = timeout(LINGER, drained).await;
}

fn answer(
    router: Router,
    request: Request<Incoming>,
    (in_flight, stage): (&InFlight, watch::Receiver<Stage>),
) -> BoxFuture<'static, Result<Response<Counted>, Infallible>> {
    let answering = in_flight.begin();
    Box::pin(async move {
        let mut response = router.oneshot(request.map(Body::new)).await?;
        if *stage.borrow() >= Stage::Handover {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Counted { body, _answering: answering }))
    })
}

/// A body that tells its connection when it has ended.
struct Counted {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
