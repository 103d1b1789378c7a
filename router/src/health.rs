//! Probes: `/live` (the process answers), `/ready` (a request would be served now) and `/health`,
//! which says the same as `/ready` under the name that clients of other servers ask for.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::dispatch::WorkerStatus;
use crate::error::refusal::Unready;

/// What a probe is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    status: Status,
    /// One entry for each worker.
    workers: Vec<WorkerHealth>,
}

/// Whether requests would be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// At least one worker is ready, or requests wait until one is.
    Ready,
    /// No worker is ready, and no request would wait.
    NotReady,
    /// The process is about to end.
    Draining,
}

/// One worker, without its address: probes are public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
struct WorkerHealth {
    /// What it serves, once it has said so.
    model: Option<String>,
    /// The version of what it serves.
    version: Option<String>,
    /// `ready`, or what it is doing instead.
    state: String,
}

/// `GET /live`.
#[utoipa::path(
    get, path = "/live", tag = "operations", summary = "Whether the process answers",
    responses((status = 200, body = String, description = "It does")),
)]
pub(crate) async fn live() -> &'static str {
    "ok"
}

/// `GET /ready`.
#[utoipa::path(
    get, path = "/ready", tag = "operations", summary = "Whether a request would be served now",
    responses(
        (status = 200, body = Health, description = "At least one worker is ready, or requests wait until one is"),
        (status = 503, body = Health, description = "None is, or the process is about to end"),
    ),
)]
pub(crate) async fn ready(State(app): State<App>) -> Response {
    answer(&app)
}

/// `GET /health`.
#[utoipa::path(
    get, path = "/health", tag = "operations", summary = "The same as /ready",
    responses(
        (status = 200, body = Health, description = "At least one worker is ready, or requests wait until one is"),
        (status = 503, body = Health, description = "None is, or the process is about to end"),
    ),
)]
pub(crate) async fn health(State(app): State<App>) -> Response {
    answer(&app)
}

fn answer(app: &App) -> Response {
    let workers = app.dispatcher.status();
    let is_ready = workers.iter().any(|worker| worker.ready);
    if is_ready {
        app.routing.note_ready();
    }
    // What would be held until a replica is there counts as served.
    let is_served = is_ready || app.routing.holds(!workers.is_empty());
    let status = match (app.is_draining(), is_served) {
        (true, _) => Status::Draining,
        (false, true) => Status::Ready,
        (false, false) => Status::NotReady,
    };
    let health = Json(Health { status, workers: workers.into_iter().map(worker).collect() });
    if status == Status::Ready { health.into_response() } else { Unready(health).into_response() }
}

fn worker(status: WorkerStatus) -> WorkerHealth {
    let (model, version) = status.model.unzip();
    let state = if status.ready { "ready" } else { "not_ready" };
    WorkerHealth { model, version, state: state.to_owned() }
}
