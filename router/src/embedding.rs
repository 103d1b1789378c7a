//! The vectors of a request's inputs, from a worker.

use std::sync::Arc;
use std::time::Instant;

use sconce_proto::worker::ModelInfo;

use crate::app::{App, Urgency};
use crate::config::Limits;
use crate::dispatch::{Embeddings, Error};
use crate::error::ApiError;
use crate::metrics::{self, Finished, InFlight, ModelMetrics, Rejection, Totals};
use crate::model::Model;
use crate::prompt::inputs::{self, Input};
use crate::routing::Target;
use crate::validate::inputs::Bounds;

/// What a request's inputs have come to.
pub(crate) struct Vectors {
    /// One for each input, in their order.
    pub(crate) values: Vec<Vec<f32>>,
    /// Tokens of all inputs.
    pub(crate) num_tokens: u64,
}

impl Bounds {
    pub(crate) fn new(info: &ModelInfo, limits: &Limits) -> Self {
        Self { vocab_size: info.vocab_size, max_inputs: limits.max_inputs }
    }
}

/// Has every input computed. Cancelled when dropped.
pub(crate) async fn run(
    app: &App,
    target: &Target,
    inputs: Vec<Input>,
    urgency: Urgency,
) -> Result<Vectors, ApiError> {
    let model = &target.model;
    let mut meter = Meter::new(model);
    let inputs = inputs::encode(model, inputs).await.inspect_err(|_| meter.is_over = true)?;
    let lens = inputs.iter().map(|input| input.tokens.len());
    meter.metrics.accepted_inputs(lens.clone());
    let num_tokens = lens.sum::<usize>() as u64;
    let embeddings = app.dispatcher.embed(model, inputs, urgency.priority(0));
    let values = collect(embeddings, target).await.inspect_err(|error| meter.failed(error))?;
    meter.finished();
    Ok(Vectors { values, num_tokens })
}

/// The vectors, from whichever worker is there to compute them.
async fn collect(mut embeddings: Embeddings, target: &Target) -> Result<Vec<Vec<f32>>, Error> {
    loop {
        let error = match embeddings.collect().await {
            Ok(values) => return Ok(values),
            Err(error) => error,
        };
        match &target.hold {
            Some(hold) if embeddings.may_wait(&error) => hold.wait_for(&embeddings, error).await?,
            _ => return Err(error),
        }
    }
}

/// Measures one request. Dropped early, it counts an aborted one.
struct Meter {
    metrics: Arc<ModelMetrics>,
    totals: Arc<Totals>,
    _in_flight: InFlight,
    arrived: Instant,
    is_over: bool,
}

impl Meter {
    fn new(model: &Model) -> Self {
        Self {
            metrics: metrics::of(&model.info.model, model.version_name()),
            totals: Arc::clone(&model.totals),
            _in_flight: model.totals.begin(),
            arrived: Instant::now(),
            is_over: false,
        }
    }

    fn finished(&mut self) {
        self.is_over = true;
        self.totals.first_token(self.arrived.elapsed());
        self.metrics.ended(Finished::Stop);
        self.metrics.answered(self.arrived.elapsed());
    }

    fn failed(&mut self, error: &Error) {
        self.is_over = true;
        if error.is_failure() {
            self.totals.failed();
            self.metrics.failed();
        }
        match error {
            Error::NoWorker { .. } => self.metrics.rejected(Rejection::NoWorker),
            Error::QueueFull { .. } => self.metrics.rejected(Rejection::QueueFull),
            Error::Deadline => self.metrics.rejected(Rejection::Deadline),
            Error::Refused(_) | Error::Grammar(_) => self.metrics.rejected(Rejection::Refused),
            Error::WorkerLost | Error::Stopping | Error::GrammarLimit | Error::BadWord => {
                self.metrics.ended(Finished::Error);
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if !self.is_over {
            self.metrics.ended(Finished::Abort);
        }
    }
}
