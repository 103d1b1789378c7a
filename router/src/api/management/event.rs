//! What becomes of models, as events: the differences between one status of the launcher and the next.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use sconce_proto::fleet::{FleetStatus, Model, VersionState};
use serde::{Deserialize, Serialize};
use tonic::Streaming;
use utoipa::ToSchema;

use super::reply::{FileProgress, ManagedStatus};
use crate::app::App;

/// Something has become of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelEvent {
    /// The version; `*` of the event `models_reload`.
    pub model: String,
    /// `model_status`, `download_progress`, `download_finished`, `download_failed`, `model_remove`, or
    /// `models_reload`: there is another one, ask for the list.
    pub event: String,
    /// More, of `model_status`, `download_progress` and `download_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<EventData>,
}

/// More of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EventData {
    /// How far a model is.
    Status(StatusData),
    /// How much is downloaded.
    Progress(ProgressData),
}

/// How much is downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgressData {
    /// By where it comes from.
    pub progress: BTreeMap<String, FileProgress>,
}

/// How far a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusData {
    /// As the list has it in `value`.
    pub status: String,
    /// Of `unloaded`: 1 when the load failed, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Streams the differences between statuses until they end, or the router drains.
pub(super) fn respond(app: &App, statuses: Streaming<FleetStatus>) -> Response {
    let events = differences(statuses.map(|status| status.ok())).map(|event| {
        let event = Event::default().json_data(&event).unwrap_or_default();
        Ok::<_, Infallible>(event)
    });
    let events = events.take_until(app.draining());
    let keep_alive = KeepAlive::new().interval(app.config.limits.keep_alive);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

/// What each status has that the one before it had not. The first is only compared with; the first
/// that fails is the end.
fn differences(
    statuses: impl Stream<Item = Option<FleetStatus>>,
) -> impl Stream<Item = ModelEvent> {
    let changed = statuses.scan(None::<Vec<Model>>, |last, status| {
        let events = status.map(|FleetStatus { models, .. }| {
            let told = last.as_ref().map(|before| events(before, &models)).unwrap_or_default();
            *last = Some(models);
            stream::iter(told)
        });
        std::future::ready(events)
    });
    changed.flatten()
}

fn events(before: &[Model], after: &[Model]) -> Vec<ModelEvent> {
    let of = |models: &[Model], version: &str| {
        models.iter().find(|model| model.version == version).cloned()
    };
    let mut events = Vec::new();
    for model in after {
        match of(before, &model.version) {
            None => events.extend(added(model)),
            Some(before) if before != *model => events.extend(changed(&before, model)),
            Some(_) => {}
        }
    }
    let removed = before.iter().filter(|model| of(after, &model.version).is_none());
    events.extend(removed.flat_map(self::removed));
    events
}

fn added(model: &Model) -> Vec<ModelEvent> {
    let reload = ModelEvent::new("*", "models_reload", None);
    vec![reload, status(model)]
}

/// A download is listed under the name that was asked for; what it brought is another entry.
fn removed(model: &Model) -> Vec<ModelEvent> {
    let mut events = Vec::new();
    if model.state() == VersionState::Pulling {
        let is_whole = model.pulled_bytes >= model.bytes;
        events.push(match is_whole {
            true => ModelEvent::new(&model.version, "download_finished", None),
            false => {
                let error = Some("stopped".to_owned());
                let data = StatusData { status: "unloaded".to_owned(), exit_code: Some(1), error };
                let data = Some(EventData::Status(data));
                ModelEvent::new(&model.version, "download_failed", data)
            }
        });
    }
    events.push(ModelEvent::new(&model.version, "model_remove", None));
    events
}

fn changed(before: &Model, model: &Model) -> Vec<ModelEvent> {
    let was_pulling = before.state() == VersionState::Pulling;
    let mut events = Vec::new();
    match model.state() {
        VersionState::Pulling => {
            let progress = ManagedStatus::of(model).progress;
            let progress = progress.map(|progress| EventData::Progress(ProgressData { progress }));
            events.push(ModelEvent::new(&model.version, "download_progress", progress));
        }
        VersionState::Failed if was_pulling => {
            let data = Some(EventData::Status(StatusData::of(model)));
            events.push(ModelEvent::new(&model.version, "download_failed", data));
        }
        _ if was_pulling => {
            events.push(ModelEvent::new(&model.version, "download_finished", None));
        }
        _ => {}
    }
    if ManagedStatus::of(before).value != ManagedStatus::of(model).value
        || before.state() != model.state() && model.state() == VersionState::Failed
    {
        events.push(status(model));
    }
    events
}

fn status(model: &Model) -> ModelEvent {
    let data = EventData::Status(StatusData::of(model));
    ModelEvent::new(&model.version, "model_status", Some(data))
}

impl StatusData {
    fn of(model: &Model) -> Self {
        let ManagedStatus { value, exit_code, error, .. } = ManagedStatus::of(model);
        let exit_code = (value == "unloaded").then(|| exit_code.unwrap_or(0));
        Self { status: value, exit_code, error }
    }
}

impl ModelEvent {
    fn new(model: &str, event: &str, data: Option<EventData>) -> Self {
        Self { model: model.to_owned(), event: event.to_owned(), data }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(version: &str, state: VersionState) -> Model {
        Model {
            version: version.into(),
            source: "hub".into(),
            bytes: 100,
            state: state.into(),
            ..Model::default()
        }
    }

    fn names(before: &[Model], after: &[Model]) -> Vec<String> {
        let name = |event: ModelEvent| match event.data {
            Some(EventData::Status(data)) => {
                format!("{} {} {}", event.model, event.event, data.status)
            }
            _ => format!("{} {}", event.model, event.event),
        };
        events(before, after).into_iter().map(name).collect()
    }

    #[test]
    fn each_change_is_told_once_in_its_words() {
        use VersionState::{Draining, Failed, Loading, Pulling, Ready, Unloaded};
        for (before, after, told) in [
            (Unloaded, Loading, &["m@1 model_status loading"][..]),
            (Loading, Ready, &["m@1 model_status loaded"]),
            (Loading, Failed, &["m@1 model_status unloaded"]),
            (Ready, Draining, &[]),
            (Draining, Unloaded, &["m@1 model_status unloaded"]),
            (Pulling, Unloaded, &["m@1 download_finished", "m@1 model_status unloaded"]),
            (Pulling, Failed, &["m@1 download_failed unloaded", "m@1 model_status unloaded"]),
            (Ready, Ready, &[]),
        ] {
            assert_eq!(names(&[model("m@1", before)], &[model("m@1", after)]), told, "{after:?}");
        }
        let new = names(&[], &[model("m@2", Pulling)]);
        assert_eq!(new, ["* models_reload", "m@2 model_status downloading"]);
        assert_eq!(names(&[model("m@2", Ready)], &[]), ["m@2 model_remove"]);
        let pulling = model("hub", Pulling);
        let stopped = ["hub download_failed unloaded", "hub model_remove"];
        assert_eq!(names(std::slice::from_ref(&pulling), &[]), stopped);
        let whole = Model { pulled_bytes: 100, ..pulling };
        assert_eq!(names(&[whole], &[]), ["hub download_finished", "hub model_remove"]);
    }

    #[test]
    fn downloads_tell_how_much_is_there() {
        let at = |pulled_bytes| Model { pulled_bytes, ..model("m@1", VersionState::Pulling) };
        let events = events(&[at(25)], &[at(50)]);

        let [event] = events.as_slice() else { panic!("{events:?}") };
        let expected = json!({
            "model": "m@1", "event": "download_progress",
            "data": { "progress": { "hub": { "done": 50, "total": 100 } } },
        });
        assert_eq!(serde_json::to_value(event).unwrap(), expected);
    }

    #[test]
    fn whoever_waits_for_a_load_is_told_that_it_failed_as_by_llama_cpp() {
        let told = |state, error: &str| {
            let after = Model { error: error.to_owned(), ..model("m@1", state) };
            let told = events(&[model("m@1", VersionState::Loading)], &[after]);
            let [event] = told.as_slice() else { panic!("{told:?}") };
            serde_json::to_value(event).unwrap()
        };
        let event = |data| json!({ "model": "m@1", "event": "model_status", "data": data });

        assert_eq!(told(VersionState::Ready, ""), event(json!({ "status": "loaded" })));
        let unloaded = json!({ "status": "unloaded", "exit_code": 0 });
        assert_eq!(told(VersionState::Unloaded, ""), event(unloaded));
        let failed = json!({ "status": "unloaded", "exit_code": 1, "error": "no room" });
        assert_eq!(told(VersionState::Failed, "no room"), event(failed));
    }
}
