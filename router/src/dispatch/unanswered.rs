//! A request to continue a prompt of which no worker has said anything. It can be sent again, and its
//! client notices nothing but the time that took.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sconce_proto::worker::Submit;

use super::outputs::Outputs;
use super::worker::Link;
use super::{Dispatcher, Error, balance, pick};
use crate::metrics::{self, Resend};
use crate::model::Model;

/// Workers that may be lost with one request: it may be why.
const MAX_LOST: u32 = 2;

/// A request that is not answered, and who had it.
pub(crate) struct Unanswered {
    dispatcher: Dispatcher,
    model: Arc<Model>,
    submit: Box<Submit>,
    tries: Tries,
}

/// Who had a request, and how that ended.
#[derive(Default)]
pub(super) struct Tries {
    links: Vec<Arc<Link>>,
    num_lost: u32,
    /// Why the last one did not answer.
    last: Option<Resend>,
}

impl Unanswered {
    pub(super) fn new(dispatcher: &Dispatcher, model: &Arc<Model>, submit: Submit) -> Box<Self> {
        let (dispatcher, model) = (dispatcher.clone(), Arc::clone(model));
        Box::new(Self { dispatcher, model, submit: Box::new(submit), tries: Tries::default() })
    }

    /// Sends it to a worker that did not have it. Without one, it comes back.
    pub(crate) fn send(mut self: Box<Self>) -> Result<Outputs, (Error, Box<Self>)> {
        let shared = &self.dispatcher.shared;
        self.submit.request_id = shared.next_request_id.fetch_add(1, Ordering::Relaxed);
        let block_size = self.model.info.block_size;
        let Submit { cache_salt, prompt, .. } = &*self.submit;
        let blocks = shared.namer.blocks(cache_salt, prompt, block_size);
        loop {
            let mut links = self.dispatcher.links(&self.model);
            self.tries.retain_others(&mut links);
            let Some((link, num_matched)) = pick(links, &self.submit, (&blocks, block_size)) else {
                return Err((Error::NoWorker { model: self.model.info.model.clone() }, self));
            };
            let cost = balance::cost(&self.submit, num_matched);
            // A link whose task ended a moment ago takes nothing; the next one is tried.
            if let Ok(mut outputs) = link.submit(self.submit.clone(), cost) {
                // Only after that, or its session could have been told to stop in between.
                if self.dispatcher.is_stopping() {
                    return Err((Error::Stopping, self));
                }
                link.remember(&blocks);
                self.tries.sent(link, &self.model);
                outputs.unanswered = Some(self);
                return Ok(outputs);
            }
        }
    }

    /// Sends it to another worker after an error of the last one. Without one, it comes back if it
    /// may wait for one.
    pub(super) fn again(mut self: Box<Self>, error: &Error) -> Result<Outputs, Option<Box<Self>>> {
        if !self.tries.ended(error) {
            return Err(None);
        }
        self.send().map_err(|(_, mut unsent)| unsent.tries.wait().then_some(unsent))
    }
}

impl Tries {
    /// Leaves those that did not have the request.
    pub(super) fn retain_others(&self, links: &mut Vec<Arc<Link>>) {
        links.retain(|link| !self.links.iter().any(|tried| Arc::ptr_eq(tried, link)));
    }

    /// A worker has got the request.
    pub(super) fn sent(&mut self, link: Arc<Link>, model: &Model) {
        self.links.push(link);
        if let Some(last) = self.last.take() {
            metrics::of(&model.info.model, model.version_name()).resent(last);
        }
    }

    /// The worker that had the request last did not answer it. Whether that says nothing about the
    /// request, so that another one may get it.
    pub(super) fn ended(&mut self, error: &Error) -> bool {
        self.last = match error {
            Error::NoWorker { .. } => Some(Resend::Draining),
            Error::QueueFull { .. } => Some(Resend::QueueFull),
            Error::WorkerLost => {
                self.num_lost += 1;
                (self.num_lost < MAX_LOST).then_some(Resend::Lost)
            }
            Error::Stopping
            | Error::Deadline
            | Error::Grammar(_)
            | Error::GrammarLimit
            | Error::BadWord
            | Error::Refused(_) => None,
        };
        self.last.is_some()
    }

    /// Whether the request may wait for a worker: any, then. One that is full tells its client to come
    /// back instead.
    pub(super) fn wait(&mut self) -> bool {
        self.links.clear();
        self.num_lost < MAX_LOST && self.last != Some(Resend::QueueFull)
    }
}
