//! What a client's `model` stands for.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::launcher::{holding, route, table};
use crate::service::{Service, answering, start, version, wait};
use crate::worker::Worker;

/// Two versions that answer `1` and `2`, behind these routes.
async fn two_versions(routes: Vec<sconce_proto::fleet::Route>) -> Service {
    let (first, second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (one, two) = (first.address(), second.address());
    answering(first, "1");
    answering(second, "2");
    let service = start(table(&[(&one, "m@1"), (&two, "m@2")], routes)).await;
    service.router.ready(2).await;
    service
}

#[tokio::test]
async fn every_endpoint_answers_names_aliases_and_pinned_versions_by_the_name_that_was_asked() {
    let routes = vec![
        route("m", &[("m@1", 10_000)]),
        route("m:prod", &[("m@2", 10_000)]),
        route("m@1", &[("m@1", 10_000)]),
    ];
    let service = two_versions(routes).await;
    let messages = json!([{"role": "user", "content": "hi"}]);
    for (name, from) in [("m", "m@1"), ("m:prod", "m@2"), ("m@1", "m@1")] {
        for (path, body, answers) in [
            ("/v1/chat/completions", json!({"messages": messages}), true),
            ("/v1/completions", json!({"prompt": "hi"}), true),
            ("/v1/responses", json!({"input": "hi"}), true),
            ("/v1/messages", json!({"messages": messages, "max_tokens": 9}), true),
            ("/v1/chat/completions/render", json!({"messages": messages}), true),
            ("/tokenize", json!({"prompt": "hi"}), false),
            ("/v1/messages/count_tokens", json!({"messages": messages}), false),
            ("/v1/responses/input_tokens", json!({"input": "hi"}), false),
        ] {
            let mut body = body;
            body["model"] = name.into();
            let response = service.router.request(path, &body).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            if answers && !path.ends_with("render") {
                assert_eq!(version(&response), from, "{path}");
            }
            let body: Value = response.json().await.unwrap();
            if answers {
                assert_eq!(body["model"], name, "{path}");
            }
        }
    }
    let unknown = wait(service.router.complete("org/tiny", json!({}))).await;
    assert_eq!(unknown.status(), 404, "the table's workers have the table's names only");
}

#[tokio::test]
async fn lists_have_every_name_that_is_not_hidden_with_how_far_it_is() {
    let hidden = sconce_proto::fleet::Route { hidden: true, ..route("m@2", &[("m@2", 10_000)]) };
    let routes = vec![
        route("m", &[("m@1", 5_000), ("m@2", 5_000)]),
        route("m:cold", &[("m@9", 10_000)]),
        hidden,
    ];
    let service = two_versions(routes).await;

    let (_, list) = service.router.get("/v1/models").await;

    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert_eq!(names, ["m", "m:cold"]);
    assert_eq!(list["data"][0]["status"]["value"], "loaded");
    assert_eq!(list["data"][0]["max_model_len"], 256);
    assert_eq!(list["data"][1]["status"]["value"], "unloaded");
    assert_eq!(list["data"][1].get("max_model_len"), None);
    assert_eq!(service.router.get("/v1/models/m@2").await.1["id"], "m@2");
    assert_eq!(service.router.get("/v1/models/m:nothing").await.0, 404);
}

#[tokio::test]
async fn users_stay_with_their_version_and_move_only_to_the_canary() {
    let split = |canary: u32| vec![route("m", &[("m@1", 10_000 - canary), ("m@2", canary)])];
    let mut service = two_versions(split(2_000)).await;
    let users: Vec<_> = (0..60).map(|i| format!("user-{i}")).collect();
    let mut before: HashMap<&str, String> = HashMap::new();
    for user in &users {
        let version = service.router.version_for("m", user).await;
        assert_eq!(service.router.version_for("m", user).await, version);
        before.insert(user, version);
    }
    let num_canary = before.values().filter(|version| *version == "m@2").count();
    assert!((1..30).contains(&num_canary), "{num_canary}");

    service.launcher.change(|table| table.routes = split(6_000));
    service.launcher.followed().await;

    for user in &users {
        let after = service.router.version_for("m", user).await;
        assert!(after == before[user.as_str()] || after == "m@2", "{user} moved to {after}");
    }
    // Without a name, everyone is someone else each time.
    let mut anonymous = HashMap::new();
    for _ in 0..60 {
        let answer = wait(service.router.complete("m", json!({}))).await;
        *anonymous.entry(version(&answer)).or_insert(0) += 1;
    }
    assert_eq!(anonymous.len(), 2, "{anonymous:?}");
}

#[tokio::test]
async fn another_version_answers_only_while_the_chosen_one_has_no_replica() {
    let routes = vec![holding(route("m", &[("m@1", 1), ("m@2", 9_999)]), 10, 60_000)];
    let mut service = two_versions(routes).await;
    assert_eq!(service.router.version_for("m", "u").await, "m@2");

    service.launcher.change(|table| table.replicas[1].draining = true);
    service.launcher.followed().await;
    assert_eq!(service.router.version_for("m", "u").await, "m@1");

    service.launcher.change(|table| table.replicas[1].draining = false);
    service.launcher.followed().await;
    assert_eq!(service.router.version_for("m", "u").await, "m@2");
}
