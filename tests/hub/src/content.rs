//! The second host: the bytes of large files, by range, and what can become of them on the way.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;

use crate::fault::Fault;
use crate::protocol::broken;
use crate::{Host, Shared, answer};

const CHUNK: usize = 16 << 10;

/// What is sent of a file, and how it ends.
struct Sent {
    body: Bytes,
    /// What `Content-Length` says.
    length: Option<usize>,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Clean,
    HangUp,
    Stall,
}

pub(crate) async fn cdn(State(shared): State<Shared>, request: Request) -> Response {
    let fault = shared.arrive(Host::Cdn, &request);
    match fault {
        Some(Fault::Slow(millis)) => pause(Duration::from_millis(millis)).await,
        Some(Fault::Silent) => pause(Duration::from_secs(60)).await,
        _ => {}
    }
    if let Some(response) =
        fault.as_ref().and_then(|fault| broken(fault, &request.uri().to_string()))
    {
        return response;
    }
    let wanted = request.uri().path().trim_start_matches('/');
    let (content, etag) = {
        let mut inner = shared.lock();
        if matches!(fault, Some(Fault::NewEtag)) {
            inner.etag += 1;
        }
        (inner.contents.get(wanted).cloned(), format!("\"cdn-{}\"", inner.etag))
    };
    let Some(content) = content else { return answer(404, &[], Body::empty()) };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_current = header("if-range").is_none_or(|validator| validator == etag);
    let range = header("range")
        .filter(|_| is_current && !matches!(fault, Some(Fault::NoRange)))
        .and_then(|range| parse_range(range, content.len()));
    match range {
        Some((first, last)) if first < content.len() && first <= last => {
            let sent = spoil(&content.slice(first..=last), fault.as_ref());
            let (first, total) = match fault {
                Some(Fault::WrongRange) => (first + 1, content.len()),
                Some(Fault::WrongTotal) => (first, content.len() + 1),
                _ => (first, content.len()),
            };
            let range = format!("bytes {first}-{last}/{total}");
            content_answer(&shared, sent, &[("etag", &etag), ("content-range", &range)])
        }
        Some(_) => answer(416, &[], Body::empty()),
        None => {
            let sent = spoil(&content, fault.as_ref());
            content_answer(&shared, sent, &[("etag", &etag)])
        }
    }
}

/// First and last byte of `bytes=first-last` or `bytes=first-`.
fn parse_range(range: &str, total: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let end = total.saturating_sub(1);
    let last = if last.is_empty() { end } else { last.parse().ok()? };
    Some((first.parse().ok()?, last.min(end)))
}

fn spoil(full: &Bytes, fault: Option<&Fault>) -> Sent {
    let mut sent = Sent { length: Some(full.len()), body: full.clone(), end: End::Clean };
    let at = |place: usize| place % full.len().max(1);
    match fault {
        Some(Fault::Cut(after)) => {
            (sent.body, sent.end) = (full.slice(..full.len().min(*after)), End::HangUp);
        }
        Some(Fault::Stall(after)) => {
            (sent.body, sent.end) = (full.slice(..full.len().min(*after)), End::Stall);
        }
        Some(Fault::WrongBytes) => sent.body = full.iter().map(|byte| !byte).collect(),
        Some(Fault::Flip(bit)) => {
            let mut bytes = full.to_vec();
            bytes[at(bit / 8)] ^= 1 << (bit % 8);
            sent.body = bytes.into();
        }
        Some(Fault::Swap(one, other)) => {
            let mut bytes = full.to_vec();
            bytes.swap(at(*one), at(*other));
            sent.body = bytes.into();
        }
        Some(Fault::Short(len)) => {
            let len = full.len().min(*len);
            (sent.body, sent.length) = (full.slice(..len), Some(len));
        }
        Some(Fault::Long(extra)) => {
            (sent.body, sent.length) = ([&full[..], &vec![0; *extra]].concat().into(), None);
        }
        _ => {}
    }
    sent
}

fn content_answer(shared: &Shared, sent: Sent, headers: &[(&str, &str)]) -> Response {
    let is_part = headers.iter().any(|(name, _)| *name == "content-range");
    let length = sent.length.map(|length| length.to_string());
    let length = length.as_ref().map(|length| ("content-length", length.as_str()));
    let headers: Vec<_> = headers.iter().copied().chain(length).collect();
    answer(if is_part { 206 } else { 200 }, &headers, stream(shared.clone(), sent))
}

/// Sends chunk by chunk, counting what was taken.
fn stream(shared: Shared, sent: Sent) -> Body {
    let Sent { body, end, .. } = sent;
    let chunks = futures::stream::unfold((shared, body), move |(shared, mut body)| async move {
        if body.is_empty() {
            return match end {
                End::Clean => None,
                // What was sent must leave before the connection breaks.
                End::HangUp => {
                    pause(Duration::from_millis(20)).await;
                    Some((Err(std::io::Error::other("hung up")), (shared, body)))
                }
                End::Stall => {
                    pause(Duration::from_secs(60)).await;
                    None
                }
            };
        }
        let chunk = body.split_to(body.len().min(CHUNK));
        shared.lock().num_bytes += chunk.len() as u64;
        Some((Ok(chunk), (shared, body)))
    });
    Body::from_stream(chunks)
}

#[expect(clippy::disallowed_methods, reason = "a host that is slow")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
