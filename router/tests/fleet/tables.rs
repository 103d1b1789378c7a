//! Workers come, drain and go as the launcher's table says, and stay while it is gone.

use prost::Message;
use sconce_proto::worker::Finish;
use serde_json::{Value, json};

use crate::launcher::{Launcher, replica, route, table};
use crate::service::{Service, answering, start, start_router, start_with, version, wait};
use crate::worker::Worker;

#[tokio::test]
async fn workers_come_and_go_with_the_table() {
    let (first, second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (old, new) = (first.address(), second.address());
    answering(first, "a");
    answering(second, "b");
    let mut service = start(table(&[(&old, "m@1")], vec![route("m", &[("m@1", 10_000)])])).await;
    service.router.ready(1).await;
    assert_eq!(version(&wait(service.router.complete("m", json!({}))).await), "m@1");

    service.launcher.change(|table| {
        table.replicas = vec![replica(&new, "m@2")];
        table.routes = vec![route("m", &[("m@2", 10_000)])];
    });
    service.launcher.followed().await;
    service.router.until("swapped", |workers| workers.len() == 1 && workers[0].ready).await;

    let answer = wait(service.router.complete("m", json!({}))).await;
    assert_eq!(version(&answer), "m@2");
    let body: Value = answer.json().await.unwrap();
    assert_eq!((&body["model"], &body["choices"][0]["text"]), (&json!("m"), &json!("b")));
}

#[tokio::test]
async fn a_draining_worker_finishes_its_streams_before_its_session_ends() {
    let (mut first, second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (old, new) = (first.address(), second.address());
    answering(second, "b");
    let routes = || vec![route("m", &[("m@1", 10_000)])];
    let mut service = start(table(&[(&old, "m@1"), (&new, "m@1")], routes())).await;
    service.router.ready(2).await;
    service.launcher.change(|table| table.replicas[1].draining = true);
    service.launcher.followed().await;
    let streamed = service.router.complete("m", json!({"stream": true}));
    let request = first.submitted().await;
    request.say(0, "long");

    service.launcher.change(|table| {
        table.replicas[0].draining = true;
        table.replicas[1].draining = false;
    });
    service.launcher.followed().await;
    for _ in 0..5 {
        assert_eq!(wait(service.router.complete("m", json!({}))).await.status(), 200);
    }
    assert!(first.is_idle(), "a draining worker got a request");
    // What is being sent to others of the version may count for a moment.
    let has_one = |report: &sconce_proto::fleet::RouterReport| {
        let mut replicas = report.replicas.iter();
        replicas.any(|replica| replica.address == old && replica.num_in_flight == 1)
    };
    service.launcher.report("the stream", has_one).await;

    // Even when the table forgets it.
    service.launcher.change(|table| drop(table.replicas.remove(0)));
    service.launcher.followed().await;
    request.say(0, " story");
    request.finish(0, Finish::Length);
    let events = wait(streamed).await.text().await.unwrap();
    let data = events.lines().filter_map(|line| line.strip_prefix("data: {"));
    let chunks = data.map(|data| serde_json::from_str::<Value>(&format!("{{{data}")).unwrap());
    let text: String =
        chunks.map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(text, "long story");
    assert!(events.ends_with("data: [DONE]\n\n"));
    service.router.until("gone", |workers| workers.len() == 1).await;
}

#[tokio::test]
async fn the_last_table_stays_while_the_launcher_is_gone() {
    let worker = Worker::start(|_| {});
    let address = worker.address();
    answering(worker, "a");
    let tables = table(&[(&address, "m@1")], vec![route("m", &[("m@1", 10_000)])]);
    let service = start(tables.clone()).await;
    service.router.ready(1).await;

    let socket = service.launcher.die();
    for _ in 0..3 {
        assert_eq!(wait(service.router.complete("m", json!({}))).await.status(), 200);
    }

    let mut launcher = Launcher::start(socket, tables);
    launcher.change(|table| table.routes.push(route("n", &[("m@1", 10_000)])));
    launcher.followed().await;
    assert_eq!(wait(service.router.complete("n", json!({}))).await.status(), 200);
}

#[tokio::test]
async fn a_table_of_before_serves_when_the_launcher_cannot_be_reached() {
    let worker = Worker::start(|_| {});
    let tables = table(&[(&worker.address(), "m@1")], vec![route("m", &[("m@1", 10_000)])]);
    answering(worker, "a");
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("table.pb"), directory.path().join("none.sock"));
    std::fs::write(&file, tables.encode_to_vec()).unwrap();

    let router = start_router(directory, |config| {
        config.launcher = Some(format!("unix:{}", socket.display()));
        config.routing_table = Some(file);
    })
    .await;

    router.ready(1).await;
    assert_eq!(version(&wait(router.complete("m", json!({}))).await), "m@1");
}

#[tokio::test]
async fn without_any_table_nothing_is_called_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let (torn, missing) = (directory.path().join("torn.pb"), format!("unix:{}", socket.display()));
    std::fs::write(&torn, b"\xff\xff").unwrap();
    let router = start_router(directory, |config| {
        config.launcher = Some(missing);
        config.routing_table = Some(torn);
    })
    .await;

    let answer = wait(router.complete("m", json!({}))).await;

    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(router.get("/ready").await.0, 503);
}

#[tokio::test]
async fn workers_of_the_command_line_serve_beside_the_table() {
    let (own, listed) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (own_address, address) = (own.address(), listed.address());
    answering(own, "own");
    answering(listed, "listed");
    let tables = table(&[(&address, "m@1")], vec![route("m", &[("m@1", 10_000)])]);
    let service = start_with(tables, |config| config.workers = vec![own_address]).await;
    service.router.ready(2).await;

    for (model, text, from) in [("org/tiny", "own", ""), ("m", "listed", "m@1")] {
        let answer = wait(service.router.complete(model, json!({}))).await;
        assert_eq!(version(&answer), from);
        let body: Value = answer.json().await.unwrap();
        assert_eq!((&body["model"], &body["choices"][0]["text"]), (&json!(model), &json!(text)));
    }
    // Emptying the table leaves them alone.
    service.launcher.change(|table| {
        table.replicas.clear();
        table.routes.clear();
    });
    service.router.until("one left", |workers| workers.len() == 1).await;
    assert_eq!(wait(service.router.complete("org/tiny", json!({}))).await.status(), 200);
    assert_eq!(wait(service.router.complete("m", json!({}))).await.status(), 404);
}

#[tokio::test]
async fn the_metrics_tell_who_gets_how_much_of_a_name() {
    let (first, second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let replicas = [(&*first.address(), "m@1"), (&*second.address(), "m@2")];
    let shared = sconce_proto::fleet::Route {
        shadow: "m@3".into(),
        shadow_share: 2_500,
        ..route("shared", &[("m@1", 9_000), ("m@2", 1_000)])
    };
    let pinned = sconce_proto::fleet::Route { hidden: true, ..route("pinned", &[("m@1", 10_000)]) };
    let mut service = start(table(&replicas, vec![shared, pinned])).await;
    service.launcher.followed().await;
    let shown = async |service: &Service| {
        let text = service.router.text("/metrics").await;
        let lines = text.lines().filter(|line| line.starts_with("sconce_route_sh"));
        let mut lines: Vec<_> =
            lines.filter(|line| line.contains("\"shared\"")).map(str::to_owned).collect();
        lines.sort();
        assert!(!text.contains("\"pinned\""), "a hidden name is shown");
        lines
    };
    let line = |metric: &str, version: &str, value: &str| {
        format!("sconce_route_{metric}{{model_name=\"shared\",version=\"{version}\"}} {value}")
    };
    assert_eq!(
        shown(&service).await,
        [
            line("shadow_share", "m@1", "0"),
            line("shadow_share", "m@2", "0"),
            line("shadow_share", "m@3", "0.25"),
            line("share", "m@1", "0.9"),
            line("share", "m@2", "0.1"),
            line("share", "m@3", "0"),
        ]
    );

    service.launcher.change(|table| table.routes = vec![route("shared", &[("m@2", 1)])]);
    service.launcher.followed().await;
    let now = shown(&service).await;
    assert_eq!(
        now[2..],
        [
            line("shadow_share", "m@3", "0"),
            line("share", "m@1", "0"),
            line("share", "m@2", "1"),
            line("share", "m@3", "0"),
        ]
    );
}
