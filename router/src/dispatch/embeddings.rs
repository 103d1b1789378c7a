//! The vectors of one request, as a worker computes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sconce_proto::worker::embedded::End;
use sconce_proto::worker::{Embed, EmbedInput, Embedded};
use tokio::sync::mpsc;

use super::session::Command;
use super::unanswered::Tries;
use super::{Dispatcher, Error, least_loaded};
use crate::model::Model;

/// A request for a vector of each input. Nothing of it is told before all have come, so it can be sent
/// again whenever a worker refuses it or is lost with it.
pub struct Embeddings {
    dispatcher: Dispatcher,
    model: Arc<Model>,
    inputs: Vec<EmbedInput>,
    priority: i32,
    tries: Tries,
}

/// What one worker makes of a request. Dropping it before all vectors have come cancels the request.
pub(super) struct Vectors {
    pub(super) id: u64,
    pub(super) receiver: mpsc::UnboundedReceiver<Result<Embedded, Error>>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) num_inputs: usize,
    pub(super) num_outputs: usize,
    pub(super) is_over: bool,
}

impl Embeddings {
    pub(super) fn new(
        dispatcher: &Dispatcher,
        model: &Arc<Model>,
        inputs: Vec<EmbedInput>,
        priority: i32,
    ) -> Self {
        let (dispatcher, model) = (dispatcher.clone(), Arc::clone(model));
        Self { dispatcher, model, inputs, priority, tries: Tries::default() }
    }

    /// Waits for all vectors, in the order of the inputs, from whichever worker computes them.
    pub async fn collect(&mut self) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = self.send()?;
        loop {
            let error = match vectors.collect().await {
                Ok(values) => return Ok(values),
                Err(error) => error,
            };
            if !self.tries.ended(&error) {
                return Err(error);
            }
            vectors = self.send().map_err(|_| error)?;
        }
    }

    /// After an error, whether the request may wait for a worker and be sent again.
    pub(crate) fn may_wait(&mut self, error: &Error) -> bool {
        matches!(error, Error::NoWorker { .. } | Error::WorkerLost) && self.tries.wait()
    }

    /// Whether a worker would get the request now.
    pub(crate) fn has_worker(&self) -> bool {
        !self.dispatcher.links(&self.model).is_empty()
    }

    /// Sends the inputs to a worker that did not have them.
    fn send(&mut self) -> Result<Vectors, Error> {
        let shared = &self.dispatcher.shared;
        let cost = self.inputs.iter().map(|input| input.tokens.len() as u64).sum();
        let mut embed = Box::new(Embed {
            request_id: shared.next_request_id.fetch_add(1, Ordering::Relaxed),
            inputs: self.inputs.clone(),
            queue_deadline_ms: self.dispatcher.queue_deadline_ms(),
            priority: self.priority,
        });
        loop {
            let mut links = self.dispatcher.links(&self.model);
            self.tries.retain_others(&mut links);
            let Some(link) = least_loaded(links, cost) else {
                return Err(Error::NoWorker { model: self.model.info.model.clone() });
            };
            match link.embed(embed, cost) {
                // Only after that, or its session could have been told to stop in between.
                Ok(_) if self.dispatcher.is_stopping() => return Err(Error::Stopping),
                Ok(vectors) => {
                    self.tries.sent(link, &self.model);
                    return Ok(vectors);
                }
                Err(returned) => embed = returned,
            }
        }
    }
}

impl Vectors {
    async fn collect(mut self) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = Vec::with_capacity(self.num_inputs);
        loop {
            // The session ended, and dropped the senders of all its requests.
            let received = self.receiver.recv().await.unwrap_or(Err(Error::WorkerLost));
            let part = received.inspect_err(|_| self.is_over = true)?;
            vectors.extend(part.values.chunks_exact(self.num_outputs.max(1)).map(<[f32]>::to_vec));
            if part.end() == End::Complete {
                self.is_over = true;
                return Ok(vectors);
            }
        }
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        if !self.is_over {
            // A closed channel means that the session has ended, and the request with it.
            let _ = self.commands.send(Command::Cancel { id: self.id, at: Instant::now() });
        }
    }
}
