use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use clap::Parser;
use sconce_router::cli;
use sconce_router::config::AuthMode;
use sconce_router::dispatch::Dispatcher;
use sconce_router::server::{Error, Server};
use sconce_router::shutdown::Stage;
use tokio::sync::watch;

use crate::support::{Router, config, error, header, start, status};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    keys: cli::Keys,
}

/// Runs `sconce keys …` on the router's database, as another process would.
async fn keys(router: &Router, args: &[&str]) -> String {
    let database = router.database.to_str().unwrap();
    let args = ["keys"].iter().chain(args).copied().chain(["--database", database]);
    let mut out = Vec::new();
    Cli::parse_from(args).keys.run(&mut out).await.unwrap();
    String::from_utf8(out).unwrap().trim().to_owned()
}

async fn with(router: &Router, headers: &[(&str, &str)]) -> u16 {
    status(&router.get("/who", headers).await)
}

#[tokio::test]
async fn a_key_opens_the_door_from_either_header() {
    let router = start(|_| {}).await;
    let bearer = format!("Bearer {}", router.key);

    for headers in [
        &[("authorization", bearer.as_str())][..],
        &[("x-api-key", &router.key)],
        &[("authorization", &bearer), ("x-api-key", &router.key)],
    ] {
        let answer = router.get("/who", headers).await;
        assert_eq!(status(&answer), 200);
        assert!(answer.ends_with(&router.key["sk-sconce-".len()..][..12]));
    }
}

#[tokio::test]
async fn without_a_key_the_answer_says_how_to_send_one() {
    let router = start(|_| {}).await;

    let answer = router.get("/who", &[]).await;

    assert_eq!(status(&answer), 401);
    assert_eq!(header(&answer, "www-authenticate"), Some("Bearer"));
    assert_eq!(error(&answer)["type"], "invalid_request_error");
}

#[tokio::test]
async fn what_is_almost_the_key_is_refused() {
    let router = start(|_| {}).await;
    let key = &router.key;
    let flipped: String = key.chars().map(flip).collect();
    let other_secret = {
        let other = keys(&router, &["create"]).await;
        format!("{}{}", &key[..23], &other[23..])
    };
    for wrong in [
        flipped,
        key.to_uppercase(),
        key[..key.len() - 1].to_owned(),
        format!("{key}0"),
        format!(" {key}"),
        format!("{key} {key}"),
        format!("{key},{key}"),
        format!("{key}' OR '1'='1"),
        "' OR 1=1 --".to_owned(),
        "sk-sconce-%-%".to_owned(),
        key.replace("sk-sconce-", "sk-"),
        "ключ".to_owned(),
        "\u{1F511}".to_owned(),
        other_secret,
        String::new(),
    ] {
        let answer = router.get("/who", &[("authorization", &format!("Bearer {wrong}"))]).await;
        assert_eq!(status(&answer), 401, "{wrong:?}");
        let message = error(&answer)["message"].as_str().unwrap().to_lowercase();
        assert!(!message.contains("sql") && !message.contains("database"), "{message}");
    }
}

#[tokio::test]
async fn the_key_with_any_one_letter_in_the_other_case_is_refused() {
    let router = start(|_| {}).await;
    for (at, letter) in router.key.char_indices().filter(|(_, c)| c.is_ascii_alphabetic()) {
        let mut wrong = router.key.clone();
        wrong.replace_range(at..=at, &flip(letter).to_string());
        assert_eq!(with(&router, &[("x-api-key", &wrong)]).await, 401, "{at}");
    }
}

#[tokio::test]
async fn other_schemes_and_stray_spaces_are_refused() {
    let router = start(|_| {}).await;
    for value in ["Basic {}", "{}", "Bearer  {}", "Bearer\t{}", "Token {}", "Bearer"] {
        let value = value.replace("{}", &router.key);
        assert_eq!(with(&router, &[("authorization", &value)]).await, 401, "{value}");
    }
    let huge = "k".repeat(1 << 20);
    assert_eq!(with(&router, &[("x-api-key", &huge)]).await, 431);
}

#[tokio::test]
async fn two_different_keys_in_one_request_are_refused() {
    let router = start(|_| {}).await;
    let bearer = format!("Bearer {}", router.key);
    let other = keys(&router, &["create", "--name", "other"]).await;

    for headers in [
        [("authorization", bearer.as_str()), ("x-api-key", other.as_str())],
        [("authorization", &bearer), ("x-api-key", "nonsense")],
        [("authorization", &bearer), ("authorization", &bearer)],
        [("x-api-key", &other), ("x-api-key", &router.key)],
    ] {
        let answer = router.get("/who", &headers).await;
        assert_eq!((status(&answer), &error(&answer)["code"]), (400, &"ambiguous_api_key".into()));
    }
}

#[tokio::test]
async fn a_running_router_learns_that_a_key_was_revoked() {
    let router = start(|_| {}).await;
    let key = keys(&router, &["create", "--name", "short"]).await;
    let header = [("x-api-key", key.as_str())];
    assert_eq!(with(&router, &header).await, 200);

    keys(&router, &["revoke", &key["sk-sconce-".len()..][..12]]).await;

    let revoked = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while with(&router, &header).await == 200 {
        assert!(revoked.elapsed() < Duration::from_secs(20));
        ticks.tick().await;
    }
    assert_eq!(with(&router, &header).await, 401);
    assert_eq!(with(&router, &[("x-api-key", &router.key)]).await, 200);
}

#[tokio::test]
async fn the_list_of_keys_holds_no_secret() {
    let router = start(|_| {}).await;
    let key = keys(&router, &["create", "--name", "laptop"]).await;
    let (id, secret) = key["sk-sconce-".len()..].split_once('-').unwrap();

    let list = keys(&router, &["list"]).await;

    assert!(list.contains(id) && list.contains("laptop"));
    assert!(!list.contains(&secret[..10]));
    let directory = router.database.parent().unwrap();
    for file in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        // Uploaded files lie below the directories.
        if file.file_type().unwrap().is_dir() {
            continue;
        }
        let bytes = std::fs::read(file.path()).unwrap();
        let found = bytes.windows(10).any(|window| window == &secret.as_bytes()[..10]);
        assert!(!found, "a secret is stored in the clear");
    }
}

#[tokio::test]
async fn only_the_owner_can_read_the_database() {
    let router = start(|_| {}).await;

    let directory = router.database.parent().unwrap();
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().map(Result::unwrap).collect();

    assert!(files.len() >= 2, "the database and its pepper");
    for file in files {
        let metadata = file.metadata().unwrap();
        let private = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.permissions().mode() & 0o777, private, "{}", file.path().display());
    }
}

#[tokio::test]
async fn an_open_router_needs_no_key() {
    let router = start(|config| config.auth = AuthMode::Open).await;

    assert!(router.get("/who", &[]).await.ends_with("anonymous"));
    assert!(!router.database.exists());
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_key_or_the_word_no_auth() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    config.listen = ([0, 0, 0, 0], 0).into();
    let bind = async |config: &sconce_router::config::Config| {
        let (_stage, stages) = watch::channel(Stage::Serve);
        let dispatcher = Dispatcher::new(config);
        Server::bind(config.clone(), dispatcher, stages).await.map(|server| server.address())
    };

    assert!(matches!(bind(&config).await, Err(Error::NoKeys(_))));

    let first = sconce_router::keys::ensure_first(&config.database).await.unwrap();
    assert!(first.is_some());
    assert_eq!(sconce_router::keys::ensure_first(&config.database).await.unwrap(), None);
    assert!(bind(&config).await.is_ok());

    let fresh = tempfile::tempdir().unwrap();
    config.database = fresh.path().join("none.db").into();
    config.auth = AuthMode::Open;
    assert!(bind(&config).await.is_ok());
}

#[tokio::test]
async fn a_lost_pepper_is_an_error_and_not_a_new_one() {
    let router = start(|_| {}).await;
    let database = router.database.clone();
    let directory = router.end(Stage::Drain).await;
    std::fs::remove_file(directory.path().join("sconce.db.pepper")).unwrap();

    let error = sconce_router::keys::Keys::open(&database).await.err().unwrap();

    assert!(matches!(error, sconce_router::keys::Error::WrongPepper(_)));
}

#[tokio::test]
async fn two_processes_may_open_a_new_database_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("new").join("sconce.db");

    let first = (0..8).map(|_| {
        let database = database.clone();
        tokio::spawn(async move { sconce_router::keys::ensure_first(&database).await.unwrap() })
    });
    let made = futures::future::join_all(first).await;

    assert_eq!(made.into_iter().filter_map(Result::unwrap).count(), 1);
}

fn flip(letter: char) -> char {
    if letter.is_ascii_lowercase() {
        letter.to_ascii_uppercase()
    } else {
        letter.to_ascii_lowercase()
    }
}
