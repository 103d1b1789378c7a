//! Servers that come, go, and are told to.

use super::*;

fn servers() -> (tempfile::TempDir, Servers) {
    let home = tempfile::tempdir().unwrap();
    let servers = Servers::new(home.path());
    (home, servers)
}

#[tokio::test]
async fn a_server_is_known_while_it_lives() {
    let (_home, servers) = servers();
    assert!(servers.list().unwrap().is_empty());

    let mut own =
        servers.register("a:1", vec!["up".into()], (None, Mode::Background)).await.unwrap();
    own.ready("http://127.0.0.1:1".into()).unwrap();

    let [listed] = &servers.list().unwrap()[..] else { panic!() };
    assert_eq!(listed.url.as_deref(), Some("http://127.0.0.1:1"));
    assert_eq!(servers.get("a:1").unwrap(), *listed);
    assert!(matches!(
        servers.register("a:1", vec![], (None, Mode::Background)).await,
        Err(Error::Exists(_))
    ));
    drop(own);
    assert!(matches!(servers.get("a:1"), Err(Error::Absent(_))));
    assert!(servers.register("a:1", vec![], (None, Mode::Background)).await.is_ok());
}

#[tokio::test]
async fn the_record_of_a_server_that_was_killed_goes() {
    let (_home, servers) = servers();
    let own = servers.register("a:1", vec![], (None, Mode::Background)).await.unwrap();
    let record = std::fs::read(&own.path).unwrap();
    let path = own.path.clone();
    drop(own);
    std::fs::write(&path, record).unwrap();

    assert!(servers.list().unwrap().is_empty());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_process_of_the_same_number_is_not_signaled() {
    let (_home, servers) = servers();
    let _own = servers.register("a:1", vec![], (None, Mode::Background)).await.unwrap();
    let mut server = servers.get("a:1").unwrap();
    server.started_ticks += 1;

    // Were it sent, this test would end here.
    assert!(matches!(signal(&server, Signal::KILL), Err(Error::OtherProcess { .. })));
    server.pid = 0;
    assert!(matches!(signal(&server, Signal::KILL), Err(Error::OtherProcess { .. })));
}

#[tokio::test]
async fn what_a_killed_launcher_left_running_is_an_orphan_that_can_be_stopped() {
    use crate::supervisor::{Keep, Policy, Pulse, Service, Spec};
    let (_home, servers) = servers();
    let own = servers.register("a:1", vec![], (None, Mode::Background)).await.unwrap();
    own.leave();
    assert!(servers.list().unwrap().is_empty());
    let own = servers.register("a:1", vec![], (None, Mode::Background)).await.unwrap();
    let spec = |key: &str, version: Option<&str>| Spec {
        label: key.to_owned(),
        program: "/bin/sh".into(),
        args: ["-c", "echo 'ready {}'; exec sleep 1000"].map(Into::into).to_vec(),
        socket: None,
        version: version.map(str::to_owned),
        variables: Vec::new(),
        keep: Keep::Outliving { files: Files::new(&servers.own_folder("a:1"), key), held: None },
        pulse: Pulse::None,
    };
    for spec in [spec("router", None), spec("worker", Some("a@1"))] {
        let service = Service::start(spec, Policy::default());
        service.ready("child").await.unwrap();
        service.leave().await;
    }
    assert_eq!(servers.get("a:1").unwrap().state, Standing::Running);
    own.leave();

    let [orphan] = &servers.list().unwrap()[..] else { panic!() };
    assert_eq!(orphan.state, Standing::Orphaned);
    assert_eq!(servers.processes("a:1").unwrap().len(), 2);
    servers.stop(orphan, Duration::from_secs(20)).await.unwrap();
    assert!(servers.processes("a:1").unwrap().is_empty());
    assert!(servers.list().unwrap().is_empty());
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_not_an_absence() {
    let (_home, servers) = servers();
    create_private(&servers.folder).unwrap();
    std::fs::write(servers.folder.join("x.json"), b"{}").unwrap();

    assert!(matches!(servers.list(), Err(Error::Record(_))));
}

#[tokio::test]
async fn servers_in_the_foreground_have_names_of_their_own() {
    let (_home, servers) = servers();
    let register = || servers.register_foreground("a:1", vec![], None);

    let (first, second) = (register().await.unwrap(), register().await.unwrap());

    let listed = servers.list().unwrap();
    let names: Vec<_> = listed.iter().map(|it| (it.name.as_str(), it.mode)).collect();
    assert_eq!(names, [("a:1", Mode::Foreground), ("a:1#2", Mode::Foreground)]);
    assert_ne!(listed[0].start, listed[1].start);
    drop(first);
    assert_eq!(servers.list().unwrap().len(), 1);
    drop(second);
}
