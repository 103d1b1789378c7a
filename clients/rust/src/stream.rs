//! Answers that arrive piece by piece.
//!
//! Until the first event has arrived a stream that breaks is asked for again; after it, a break is
//! an error, for nobody could tell which pieces would come twice.

use std::marker::PhantomData;

use futures::Stream;
use reqwest::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::{Call, Client};
use crate::error::{ApiError, Error};
use crate::sse::{Event, Parser};

/// The events of an answer, as they are sent. Dropping it hangs up.
#[derive(Debug)]
pub struct Events {
    client: Client,
    call: Call,
    retry: u32,
    /// `None` once the body has ended, or failed.
    response: Option<Response>,
    parser: Parser,
    has_begun: bool,
}

impl Events {
    pub(crate) fn new(client: Client, call: Call, retry: u32, response: Response) -> Self {
        let parser = Parser::new(client.max_event_bytes());
        Self { client, call, retry, response: Some(response), parser, has_begun: false }
    }

    /// The next event; `None` at the end of the body.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        let next = self.try_next().await;
        if next.is_err() {
            self.response = None;
        }
        next.transpose()
    }

    async fn try_next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.parser.next_event() {
                self.has_begun = true;
                return Ok(Some(event));
            }
            let Some(response) = &mut self.response else { return Ok(None) };
            match response.chunk().await.map_err(Error::within) {
                Ok(Some(piece)) => self.parser.push(&piece)?,
                Ok(None) => self.response = None,
                Err(error) if self.has_begun => return Err(error),
                Err(error) => {
                    self.client.pause(error, &mut self.retry).await?;
                    self.response = Some(self.client.send(&self.call, &mut self.retry).await?);
                    self.parser = Parser::new(self.client.max_event_bytes());
                }
            }
        }
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, Error>> + Send {
        futures::stream::unfold(self, async |mut events| {
            let next = events.next().await?;
            Some((next, events))
        })
    }
}

/// The pieces of an answer. Dropping it hangs up.
#[derive(Debug)]
pub struct Chunks<T> {
    events: Events,
    is_done: bool,
    piece: PhantomData<fn() -> T>,
}

/// What tells an error from a piece.
#[derive(Deserialize)]
struct Failure {
    error: Box<ApiError>,
}

impl<T: DeserializeOwned> Chunks<T> {
    pub(crate) fn new(events: Events) -> Self {
        Self { events, is_done: false, piece: PhantomData }
    }

    /// The next piece; `None` once the server has said that it is done. An error is the last thing
    /// that comes.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        if self.is_done {
            return None;
        }
        let next = self.try_next().await;
        self.is_done = !matches!(next, Ok(Some(_)));
        next.transpose()
    }

    async fn try_next(&mut self) -> Result<Option<T>, Error> {
        let event = self.events.next().await.ok_or(Error::Truncated)??;
        if event.data == "[DONE]" {
            // The body's end: a connection that was read to it can be used again.
            self.events.next().await;
            return Ok(None);
        }
        match serde_json::from_str::<Failure>(&event.data) {
            Ok(failure) => Err(Error::Stream(failure.error)),
            Err(_) => serde_json::from_str(&event.data)
                .map(Some)
                .map_err(|error| Error::unexpected("a piece of an answer", &error)),
        }
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<T, Error>> {
        futures::stream::unfold(self, async |mut chunks| {
            let next = chunks.next().await?;
            Some((next, chunks))
        })
    }
}
