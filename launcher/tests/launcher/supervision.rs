//! Children that die, hang, and talk too much.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sconce_launcher::supervisor::{
    Announcement, Death, Error, Files, Keep, Policy, Pulse, Service, Spec, State,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn spec(script: &str) -> Spec {
    let args = ["-c", script, "sh", "--listen", "127.0.0.1:0"].map(Into::into).to_vec();
    Spec {
        label: "child".into(),
        program: "/bin/sh".into(),
        args,
        socket: None,
        version: None,
        variables: Vec::new(),
        keep: Keep::Tied,
        pulse: Pulse::None,
    }
}

fn quick() -> Policy {
    Policy { first: Duration::from_millis(1), ..Policy::default() }
}

/// Waits for a state that `wanted` likes.
async fn until(service: &Service, wanted: impl Fn(&State) -> bool) -> State {
    let mut state = service.state();
    let found = tokio::time::timeout(PATIENCE, state.wait_for(|state| wanted(state))).await;
    found.unwrap().unwrap().clone()
}

/// A script that counts its lives in a file and is ready in each.
fn counting(directory: &TempDir, then: &str) -> String {
    let lives = directory.path().join("lives");
    format!("echo life >> '{}'; echo 'ready {{}}'; {then}", lives.display())
}

fn lives(directory: &TempDir) -> usize {
    std::fs::read_to_string(directory.path().join("lives")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn the_announcement_is_found_among_other_lines() {
    let script = "echo loading; echo noise >&2; echo 'ready {\"model\":\"m\"}'; exec cat";
    let service = Service::start(spec(script), quick());

    let announcement = service.ready("child").await.unwrap();

    assert_eq!(announcement, Announcement::Ready(serde_json::json!({ "model": "m" })));
    service.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_child_that_dies_after_it_was_ready_is_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let script = counting(&directory, "[ $(wc -l < LIVES) -ge 4 ] && exec cat; kill -9 $$");
    let script = script.replace("LIVES", directory.path().join("lives").to_str().unwrap());
    let service = Service::start(spec(&script), quick());

    let mut state = service.state();
    let mut deaths = 0;
    while lives(&directory) < 4 {
        state.changed().await.unwrap();
        deaths += usize::from(matches!(*state.borrow_and_update(), State::Restarting(_)));
    }
    until(&service, |state| matches!(state, State::Ready(_))).await;

    assert!(deaths >= 1);
    assert_eq!(lives(&directory), 4);
    service.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_crash_loop_is_reported_with_its_status_and_slows_down() {
    let directory = tempfile::tempdir().unwrap();
    let policy = Policy { first: Duration::from_secs(30), ..Policy::default() };
    let service = Service::start(spec(&counting(&directory, "exit 7")), policy);

    let state = until(&service, |state| matches!(state, State::Restarting(_))).await;

    let State::Restarting(Death::Exited(status)) = state else { panic!("{state:?}") };
    assert_eq!(status.code(), Some(7));
    // It is waiting now: stopping does not wait for the delay, nor start it again.
    let started = Instant::now();
    service.stop(PATIENCE).await;
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(lives(&directory), 1);
}

#[tokio::test]
async fn a_child_that_dies_before_it_was_ready_is_an_error_with_its_status() {
    let service = Service::start(spec("echo 'bad model' >&2; exit 3"), quick());

    let error = service.ready("worker").await.unwrap_err();

    let Error::Failed { label: "worker", death: Death::Exited(status) } = error else {
        panic!("{error:?}")
    };
    assert_eq!(status.code(), Some(3));
}

#[tokio::test]
async fn an_end_in_order_is_told_from_a_crash() {
    for (end, is_orderly) in [("exit 0", true), ("exit 7", false), ("kill -9 $$", false)] {
        let service = Service::start_once(spec(&format!("echo 'ready {{}}'; {end}")));

        let state = until(&service, |state| matches!(state, State::Failed(_))).await;

        let State::Failed(death) = state else { panic!("{state:?}") };
        assert_eq!(death.is_orderly(), is_orderly, "{end}: {death}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let mut spec = spec("");
    spec.program = "/nonexistent/sconce".into();

    let error = Service::start(spec, quick()).ready("worker").await.unwrap_err();

    assert!(error.to_string().contains("could not be started"), "{error}");
}

#[tokio::test]
async fn stopping_asks_first() {
    let directory = tempfile::tempdir().unwrap();
    let done = directory.path().join("done");
    let script = format!(
        "trap 'echo drained > {}; exit 0' TERM; echo 'ready {{}}'; while :; do read x; done",
        done.display()
    );
    let service = Service::start(spec(&script), quick());
    service.ready("child").await.unwrap();

    service.stop(PATIENCE).await;

    assert!(done.exists());
}

#[tokio::test]
async fn a_child_that_does_not_listen_is_killed_in_time() {
    let script = "trap '' TERM; echo 'ready {}'; while :; do read x; done";
    let service = Service::start(spec(script), quick());
    service.ready("child").await.unwrap();
    let started = Instant::now();

    service.stop(Duration::from_millis(100)).await;

    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_killer_cuts_the_patience_short() {
    let script = "trap '' TERM; echo 'ready {}'; while :; do read x; done";
    let service = Service::start(spec(script), quick());
    service.ready("child").await.unwrap();
    let killer = service.killer();
    let started = Instant::now();

    tokio::join!(service.stop(Duration::from_secs(3600)), async { killer.kill() });

    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn the_port_that_was_announced_stays() {
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let script = format!(
        "echo $2 >> '{0}'; echo 'listening http://127.0.0.1:4711'; \
         [ $(wc -l < '{0}') -ge 2 ] && exec cat; exit 1",
        seen.display()
    );
    let service = Service::start(spec(&script), quick());

    until(&service, |state| matches!(state, State::Restarting(_))).await;
    until(&service, |state| matches!(state, State::Ready(_))).await;

    let seen = std::fs::read_to_string(Path::new(&seen)).unwrap();
    assert_eq!(seen, "127.0.0.1:0\n127.0.0.1:4711\n");
    service.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_socket_that_a_dead_child_left_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("worker.sock");
    std::fs::write(&socket, b"").unwrap();
    let script = format!("[ -e '{}' ] || echo 'ready {{}}'; exec cat", socket.display());
    let mut spec = spec(&script);
    spec.socket = Some(socket);
    let service = Service::start(spec, quick());

    tokio::time::timeout(PATIENCE, service.ready("child")).await.unwrap().unwrap();

    service.stop(PATIENCE).await;
}

/// A process that outlives its launcher, with its files in `directory`.
fn outliving(directory: &TempDir, script: &str) -> Spec {
    let files = Files::new(directory.path(), "child");
    Spec { keep: Keep::Outliving { files, held: None }, ..spec(script) }
}

fn pid(service: &Service) -> i32 {
    service.running().unwrap().process.pid
}

#[tokio::test]
async fn a_process_that_outlives_its_launcher_is_adopted_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let spec = outliving(&directory, "echo 'ready {}'; echo words >&2; exec sleep 1000");
    let first = Service::start(spec.clone(), quick());
    let announcement = first.ready("child").await.unwrap();
    let before = first.running().unwrap();
    assert!(!before.adopted);
    // As if the launcher were killed: nothing is told to the process.
    drop(first);

    let second = Service::start(spec.clone(), quick());
    assert_eq!(second.ready("child").await.unwrap(), announcement);

    let after = second.running().unwrap();
    assert!(after.adopted);
    assert_eq!((after.process, after.started), (before.process, before.started));
    second.leave().await;
    let third = Service::start(spec, quick());
    third.ready("child").await.unwrap();
    assert_eq!(third.running(), Some(after));
    third.stop(PATIENCE).await;
    assert!(after.process.hold().is_none());
    assert!(Files::all(directory.path()).unwrap().is_empty());
}

#[tokio::test]
async fn an_adopted_process_that_dies_is_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let spec = outliving(&directory, "echo 'ready {}'; exec sleep 1000");
    let first = Service::start(spec.clone(), quick());
    first.ready("child").await.unwrap();
    drop(first);
    let second = Service::start(spec, quick());
    second.ready("child").await.unwrap();
    let before = second.running().unwrap();

    before.process.hold().unwrap().signal(Signal::KILL).unwrap();
    let state = until(&second, |state| !matches!(state, State::Ready(_))).await;
    until(&second, |state| matches!(state, State::Ready(_))).await;

    match state {
        State::Restarting(death) => assert!(!death.is_orderly(), "{death:?}"),
        other => assert!(matches!(other, State::Starting), "{other:?}"),
    }
    let after = second.running().unwrap();
    assert_eq!((after.adopted, after.num_restarts), (false, 1));
    assert_ne!(after.process, before.process);
    second.stop(PATIENCE).await;
}

#[tokio::test]
async fn an_adopted_process_that_ends_in_order_has_not_died() {
    for (last_word, is_orderly) in [("echo stopped", true), ("exit 3", false)] {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let script = format!(
            "echo 'ready {{}}'; until [ -e {} ]; do sleep 0.02; done; {last_word}",
            told.display()
        );
        let spec = outliving(&directory, &script);
        let first = Service::start_once(spec.clone());
        first.ready("child").await.unwrap();
        drop(first);
        let second = Service::adopt(spec).unwrap();
        second.ready("child").await.unwrap();

        std::fs::write(&told, "").unwrap();
        let state = until(&second, |state| matches!(state, State::Failed(_))).await;

        let State::Failed(death) = state else { panic!("{state:?}") };
        assert_eq!(death.is_orderly(), is_orderly, "{death:?}");
    }
}

#[tokio::test]
async fn a_process_that_was_started_from_something_else_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let first = Service::start(outliving(&directory, "echo 'ready {}'; exec sleep 1000"), quick());
    first.ready("child").await.unwrap();
    let before = first.running().unwrap();
    drop(first);

    let other = outliving(&directory, "echo 'ready {}'; exec sleep 2000");
    let second = Service::start(other, quick());
    second.ready("child").await.unwrap();

    assert!(before.process.hold().is_none());
    assert!(!second.running().unwrap().adopted);
    second.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_lock_is_held_by_the_process_and_not_by_its_launcher() {
    let directory = tempfile::tempdir().unwrap();
    let lock = std::sync::Arc::new(std::fs::File::create(directory.path().join("lock")).unwrap());
    lock.lock().unwrap();
    let mut spec = outliving(&directory, "echo 'ready {}'; exec sleep 1000");
    let Keep::Outliving { held, .. } = &mut spec.keep else { panic!() };
    *held = Some(lock.clone());
    let service = Service::start(spec.clone(), quick());
    service.ready("child").await.unwrap();

    drop((lock, spec));
    let other = std::fs::File::open(directory.path().join("lock")).unwrap();
    let is_free = || other.try_lock().is_ok();

    // The service's own copy is one of the launcher's; the process's is what counts.
    assert!(!is_free());
    let process = service.running().unwrap().process;
    drop(service);
    assert!(!is_free());
    let held = process.hold().unwrap();
    held.signal(Signal::KILL).unwrap();
    held.ended().await.unwrap();
    assert!(is_free());
}

#[tokio::test]
async fn a_router_that_was_stopped_is_noticed_killed_and_started_again() {
    let program = "import http.server as h\n\
        class Live(h.BaseHTTPRequestHandler):\n  \
          def do_GET(self): self.send_response(200); self.end_headers()\n\
        server = h.HTTPServer(('127.0.0.1', 0), Live)\n\
        print('listening http://127.0.0.1:%d' % server.server_address[1], flush=True)\n\
        server.serve_forever()";
    let spec = Spec {
        program: "/usr/bin/env".into(),
        args: ["python3", "-c", program].map(Into::into).to_vec(),
        pulse: Pulse::Router,
        ..spec("")
    };
    let service = Service::start(spec, quick());
    service.ready("child").await.unwrap();
    let before = pid(&service);
    let process = service.running().unwrap().process;

    process.hold().unwrap().signal(Signal::STOP).unwrap();
    let state = until(&service, |state| matches!(state, State::Restarting(_))).await;
    until(&service, |state| matches!(state, State::Ready(_))).await;

    assert!(matches!(state, State::Restarting(Death::Silent)), "{state:?}");
    assert_ne!(pid(&service), before);
    service.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_first_life_can_be_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start_once(spec(&counting(&directory, "exit 7")));

    let state = until(&service, |state| matches!(state, State::Failed(_))).await;

    let State::Failed(Death::Exited(status)) = state else { panic!("{state:?}") };
    assert_eq!(status.code(), Some(7));
    assert_eq!(lives(&directory), 1);
}

#[tokio::test]
async fn a_service_whose_end_is_awaited_is_neither_signaled_nor_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let (go, count) = (directory.path().join("go"), directory.path().join("count"));
    let script = format!(
        "echo x >> {}; trap 'echo TERM >> {0}' TERM; echo 'ready {{}}'; \
         while [ ! -e {} ]; do sleep 0.05; done",
        count.display(),
        go.display()
    );
    let service = Service::start(spec(&script), Policy::default());
    service.ready("worker").await.unwrap();

    let mut state = service.state();
    let ends = service.until_ended(Duration::from_secs(60));
    std::fs::write(&go, "").unwrap();
    ends.await;

    assert!(matches!(*state.borrow_and_update(), State::Stopped));
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
}
