//! Models are managed over HTTP, in llama.cpp's words, by the launcher.

use futures::StreamExt;
use reqwest::Method;
use sconce_proto::fleet::{FleetStatus, Model, PullRequest, RemoveRequest, VersionState};
use sconce_router::app::Scope;
use sconce_router::config::AuthMode;
use sconce_router::keys::Keys;
use sconce_router::shutdown::Stage;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;

use crate::launcher::{What, route, table};
use crate::service::{Router, start, start_router, start_with};
use crate::worker::LONG;

fn model(version: &str, state: VersionState) -> Model {
    Model {
        version: version.into(),
        name: "m".into(),
        aliases: vec!["m:prod".into()],
        source: "hub/m".into(),
        bytes: 1000,
        created: 7,
        state: state.into(),
        ..Model::default()
    }
}

/// Sends a request; its answer is awaited apart, so that the launcher can speak in between.
fn ask(
    router: &Router,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> JoinHandle<(u16, Value)> {
    let mut request = router.client.request(method, router.url(path));
    if let Some(body) = body {
        request = request.json(&body);
    }
    tokio::spawn(async move {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    })
}

fn post(router: &Router, path: &str) -> JoinHandle<(u16, Value)> {
    ask(router, Method::POST, path, Some(json!({"model": "m"})))
}

async fn wait(answer: JoinHandle<(u16, Value)>) -> (u16, Value) {
    timeout(LONG, answer).await.expect("no answer came").unwrap()
}

#[tokio::test]
async fn the_list_has_versions_and_names_with_how_far_they_are() {
    let service = start(table(&[], vec![])).await;
    let failed = Model { error: "no room".into(), ..model("m@2", VersionState::Failed) };
    let pulled = Model { pulled_bytes: 500, ..model("n@1", VersionState::Pulling) };
    service.launcher.status.send_replace(FleetStatus {
        models: vec![model("m@1", VersionState::Ready), failed, pulled],
        routes: vec![route("m", &[("m@1", 1)]), route("m@1", &[("m@1", 1)])],
        ..FleetStatus::default()
    });

    let (status, list) = wait(ask(&service.router, Method::GET, "/models", None)).await;

    assert_eq!((status, &list["object"]), (200, &json!("list")));
    let data = list["data"].as_array().unwrap();
    let ids: Vec<_> = data.iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m@1", "m@2", "n@1", "m"]);
    assert_eq!(data[0]["status"], json!({"value": "loaded"}));
    assert_eq!(data[0]["aliases"], json!(["m", "m:prod"]));
    assert_eq!((&data[0]["path"], &data[0]["created"]), (&json!("hub/m"), &json!(7)));
    assert_eq!(
        data[1]["status"],
        json!({"value": "unloaded", "failed": true, "exit_code": 1, "error": "no room"})
    );
    let progress = json!({"hub/m": {"done": 500, "total": 1000}});
    assert_eq!(data[2]["status"], json!({"value": "downloading", "progress": progress}));
    assert_eq!(data[3]["status"]["value"], "loaded");
}

#[tokio::test]
async fn loading_is_answered_when_it_has_begun_and_goes_on_without_the_client() {
    let mut service = start(table(&[], vec![])).await;

    let answer = post(&service.router, "/models/load");
    let asked = service.launcher.asked().await;
    let What::Start(request) = &asked.what else { panic!("{asked:?}") };
    assert_eq!((request.model.as_str(), request.route), ("m", true));
    assert_eq!(request.reason.as_ref().unwrap().who, "anonymous");
    asked.say("loading m@1", false);
    assert_eq!(wait(answer).await, (200, json!({"success": true})));
    // Nobody waits, and yet the launcher is heard to the end.
    asked.say("ready", true);

    let answer = post(&service.router, "/models/unload");
    let asked = service.launcher.asked().await;
    assert!(matches!(&asked.what, What::Unload(request) if request.force));
    asked.say("done", true);
    assert_eq!(wait(answer).await.0, 200);
}

#[tokio::test]
async fn what_the_launcher_refuses_is_told_with_its_reasons() {
    let mut service = start(table(&[], vec![])).await;
    for (status, code, expected) in [
        (Status::not_found("no model is called m"), "model_not_found", 404),
        (Status::failed_precondition("m@1 has traffic"), "model_conflict", 409),
        (Status::already_exists("m is here"), "model_conflict", 409),
        (Status::resource_exhausted("needs 9 GiB of 8"), "model_does_not_fit", 409),
        (Status::invalid_argument("no such name"), "invalid_value", 400),
        (Status::internal("a bug"), "launcher_failed", 502),
        (Status::unavailable("ending"), "launcher_unavailable", 503),
    ] {
        let message = status.message().to_owned();
        let answer = post(&service.router, "/models/load");
        service.launcher.asked().await.fail(status);

        let (status, body) = wait(answer).await;

        assert_eq!((status, &body["error"]["code"]), (expected, &json!(code)));
        let told = body["error"]["message"].as_str().unwrap();
        assert!(told.contains(&message) || code == "launcher_unavailable", "{told}");
    }
}

#[tokio::test]
async fn a_download_can_be_stopped_by_unloading_it() {
    let mut service = start(table(&[], vec![])).await;
    let answer = post(&service.router, "/models");
    let asked = service.launcher.asked().await;
    assert_eq!(asked.what, What::Pull(PullRequest { model: "m".into() }));
    asked.say("pulling", false);
    assert_eq!(wait(answer).await.0, 200);

    assert_eq!(wait(post(&service.router, "/models/unload")).await.0, 200);

    asked.dropped().await;
}

#[tokio::test]
async fn a_version_is_removed_by_its_name_in_the_url() {
    let mut service = start(table(&[], vec![])).await;
    let answer = ask(&service.router, Method::DELETE, "/models?model=m%401", None);
    let asked = service.launcher.asked().await;
    assert_eq!(asked.what, What::Remove(RemoveRequest { version: "m@1".into() }));
    asked.say("removed", true);
    assert_eq!(wait(answer).await, (200, json!({"success": true})));

    let long = "x".repeat(257);
    for (path, body) in [
        ("/models", None),
        ("/models?model=", None),
        ("/models/load", Some(json!({}))),
        ("/models/load", Some(json!({"model": ""}))),
        ("/models/load", Some(json!({"model": 7}))),
        ("/models/load", Some(json!({"model": long}))),
        ("/models/load", Some(json!({"model": "a\nb"}))),
    ] {
        let method = if body.is_some() { Method::POST } else { Method::DELETE };
        let (status, answer) = wait(ask(&service.router, method, path, body)).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("model")), "{path}");
    }
}

#[tokio::test]
async fn events_tell_what_becomes_of_models_until_the_router_drains() {
    let service = start(table(&[], vec![])).await;
    let unloaded = FleetStatus {
        models: vec![model("m@1", VersionState::Unloaded)],
        ..FleetStatus::default()
    };
    service.launcher.status.send_replace(unloaded);
    let response = service.router.client.get(service.router.url("/models/sse")).send();
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.bytes_stream();

    let mut seen = String::new();
    for (state, told) in [(VersionState::Loading, "loading"), (VersionState::Ready, "loaded")] {
        // The first status is what changes are compared with; it may be on its way yet.
        let next = async {
            while !seen.contains(told) {
                service.launcher.status.send_modify(|status| {
                    status.models[0].state = VersionState::Unloaded.into();
                });
                tokio::task::yield_now().await;
                service.launcher.status.send_modify(|status| {
                    status.models[0].state = state.into();
                });
                let soon = std::time::Duration::from_millis(100);
                if let Ok(Some(bytes)) = timeout(soon, events.next()).await {
                    seen += std::str::from_utf8(&bytes.unwrap()).unwrap();
                }
            }
        };
        timeout(LONG, next).await.unwrap_or_else(|_| panic!("no {told} in {seen}"));
    }
    let data = seen.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let event: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&event["model"], &event["event"]), (&json!("m@1"), &json!("model_status")));

    service.router.stage.send_replace(Stage::Drain);
    let rest = async { while events.next().await.is_some() {} };
    timeout(LONG, rest).await.expect("the stream did not end");
}

#[tokio::test]
async fn only_keys_of_the_admin_scope_manage() {
    let service = start_with(table(&[], vec![]), |config| config.auth = AuthMode::Keys).await;
    let keys = Keys::open(&service.router.database).await.unwrap();
    let plain = keys.create("plain").await.unwrap().key.expose().to_owned();
    let admin = keys.create_with("admin", Scope::Admin).await.unwrap().key.expose().to_owned();
    assert!(keys.list().await.unwrap().iter().any(|key| key.scope == Scope::Admin));

    for (key, expected) in [(None, 401), (Some(&plain), 403), (Some(&admin), 200)] {
        let mut request = service.router.client.get(service.router.url("/models"));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), expected);
        // Either may list the names that it can use.
        if let Some(key) = key {
            let names = service.router.client.get(service.router.url("/v1/models"));
            assert_eq!(names.bearer_auth(key).send().await.unwrap().status(), 200);
        }
    }
}

#[tokio::test]
async fn without_a_launcher_there_is_nothing_to_manage_with() {
    let router = start_router(tempfile::tempdir().unwrap(), |_| {}).await;
    let body = || Some(json!({"model": "m"}));
    for (method, path, body) in [
        (Method::GET, "/models", None),
        (Method::GET, "/models/sse", None),
        (Method::POST, "/models", body()),
        (Method::POST, "/models/load", body()),
        (Method::POST, "/models/unload", body()),
        (Method::DELETE, "/models?model=m", None),
    ] {
        let (status, answer) = wait(ask(&router, method, path, body)).await;
        assert_eq!((status, &answer["error"]["code"]), (501, &json!("no_launcher")), "{path}");
    }
}
