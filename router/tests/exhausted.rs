//! A process without descriptors: it waits for some, and goes on. Alone in its file, because the
//! limit is the whole process's.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::process::Command;
use std::time::Duration;

use sconce_router::config::{AuthMode, Config};
use sconce_router::dispatch::Dispatcher;
use sconce_router::server::Server;
use sconce_router::shutdown::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

const REQUEST: &[u8] = b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

fn highest_descriptor() -> u32 {
    let names = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_str().unwrap().parse().unwrap()).max().unwrap()
}

#[tokio::test]
async fn accepting_goes_on_once_there_are_descriptors_again() {
    let config =
        Config { listen: ([127, 0, 0, 1], 0).into(), auth: AuthMode::Open, ..Config::default() };
    let (_stage, stages) = watch::channel(Stage::Serve);
    let dispatcher = Dispatcher::new(&config);
    let server = Server::bind(config, dispatcher, stages).await.unwrap();
    let address = server.address();
    let serving = tokio::spawn(server.serve());
    let sockets: Vec<_> = (0..4).map(|_| TcpSocket::new_v4().unwrap()).collect();
    let limit = format!("--nofile={}:", highest_descriptor() + 1);
    let pid = std::process::id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    if !limited.is_ok_and(|status| status.success()) {
        println!("skipped: prlimit can't be run");
        return;
    }

    let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();

    let mut clients = Vec::new();
    for socket in sockets {
        let mut client = socket.connect(address).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        clients.push(client);
    }
    let mut first = clients.remove(0);
    let early = timeout(Duration::from_millis(300), answer(&mut first)).await;
    assert!(early.is_err(), "there was a descriptor left: {early:?}");

    drop(taken);
    assert!(answer(&mut first).await.ends_with("ok"));
    for mut client in clients {
        assert!(answer(&mut client).await.ends_with("ok"));
    }
    assert!(!serving.is_finished());
}
