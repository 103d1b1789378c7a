//! A router takes the port over from the one that is running, while clients go on.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::launcher::{Launcher, route, table};
use crate::service::{Router, serving, start_router};
use crate::worker::{LONG, Worker};

/// One of several routers of one port.
async fn successor(
    directory: &std::path::Path,
    listen: std::net::SocketAddr,
    launcher: &str,
) -> Router {
    let takeover = directory.join("takeover.sock");
    let launcher = launcher.to_owned();
    start_router(tempfile::tempdir().unwrap(), |config| {
        config.listen = listen;
        config.launcher = Some(launcher);
        config.takeover = Some(takeover);
        // Load balancers would be told; a successor makes it needless.
        config.shutdown_delay = Duration::from_secs(30);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_routers_succeed_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(|_| {});
    let address = worker.address();
    serving(worker, |request| {
        tokio::spawn(async move {
            for _ in 0..5 {
                request.say(0, "x");
                #[expect(clippy::disallowed_methods, reason = "a model takes its time")]
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            request.answer("y");
        });
    });
    let tables = table(&[(&address, "m@1")], vec![route("m", &[("m@1", 10_000)])]);
    let launcher = Launcher::start(directory.path().join("launcher.sock"), tables);
    let any = ([127, 0, 0, 1], 0).into();
    let mut router = successor(directory.path(), any, &launcher.address()).await;
    router.ready(1).await;
    let listen = router.address;

    // 50 requests a second, half of them streamed, each other one on a connection of its own.
    let pooled = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{listen}/v1/completions");
    let mut answers = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut old = Vec::new();
    for i in 0..200_u32 {
        ticks.tick().await;
        if i % 50 == 25 {
            if let Some(last) = old.last_mut() {
                // It has been relieved by now, or else the next one would get nothing from its successor.
                let Router { serving, .. } = last;
                tokio::time::timeout(LONG, serving).await.expect("still serving").unwrap();
            }
            let next = successor(directory.path(), listen, &launcher.address()).await;
            old.push(std::mem::replace(&mut router, next));
        }
        let client = match i % 2 {
            0 => pooled.clone(),
            _ => reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        let stream = i % 4 < 2;
        let body = json!({"model": "m", "prompt": "hi", "stream": stream, "max_tokens": 20});
        let request = client.post(&url).json(&body).timeout(LONG);
        answers.spawn(async move {
            let response = request.send().await.map_err(|error| format!("{i}: {error:?}"))?;
            let status = response.status();
            let text = response.text().await.map_err(|error| format!("{i}: {error:?}"))?;
            let is_whole = match stream {
                true => text.ends_with("data: [DONE]\n\n"),
                false => serde_json::from_str::<Value>(&text).is_ok(),
            };
            if status == 200 && is_whole { Ok(()) } else { Err(format!("{i}: {status} {text}")) }
        });
    }

    let failed: Vec<_> = answers.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(old.len(), 4);
    let last = old.pop().unwrap();
    // They end by themselves, without a signal.
    tokio::time::timeout(LONG, last.serving).await.expect("still serving").unwrap();
}
