use sconce_router::config::AuthMode;
use tokio::io::AsyncWriteExt;

use crate::support::{error, start, status};

/// A small generator of its own, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

const PIECES: &[&str] = &[
    "/",
    "//",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    "%2f",
    "%00",
    "%",
    "%zz",
    "\\",
    ";",
    "?",
    "#",
    "@",
    ":",
    "v1",
    "V1",
    "live",
    "who",
    "docs",
    "metrics",
    "locked",
    "models",
    "a b",
    "\t",
    "é",
    "localhost",
    "http://",
    "*",
    "~",
    "'",
    "\"",
    "<script>",
    "{}",
    "[",
    "]",
    "[::1]",
    "0x7f.1",
    "%6c%69%76%65",
];

/// Routes that the dice can spell, and that do not answer 401 to a GET.
const PUBLIC: &[&str] = &["/", "/live", "/docs", "/locked"];

/// What is left of a target when its query is taken away.
fn path(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

#[tokio::test]
async fn five_thousand_strange_targets_and_hosts_never_get_through() {
    let router = start(|_| {}).await;
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for case in 0..5_000 {
        let garbage: String = (0..1 + dice.roll(6)).map(|_| dice.pick(PIECES)).collect();
        let (target, host) = match case % 3 {
            // A route that needs a key, under a strange host.
            0 => ("/who".to_owned(), garbage),
            // A public route whose host is not ours.
            1 => ("/live".to_owned(), format!("{garbage}evil.example")),
            // A strange path under the right host.
            _ => (format!("/{garbage}who"), "localhost".to_owned()),
        };
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");

        let answer = router.exchange(&request).await;

        let status = status(&answer);
        if case % 3 == 2 && PUBLIC.contains(&path(&target)) {
            continue;
        }
        assert!(matches!(status, 400 | 401 | 404), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn other_spellings_of_a_route_are_not_the_route() {
    let router = start(|config| config.auth = AuthMode::Open).await;
    for path in [
        "//who",
        "/who/",
        "/./who",
        "/x/../who",
        "/%77ho",
        "/WHO",
        "/who%00",
        "/who;x",
        "/who%2f",
        "/who.",
        "/%2e/who",
        "/who%20",
        "/v1/../who",
        "//localhost/who",
    ] {
        let answer = router.get(path, &[]).await;
        assert_eq!(status(&answer), 404, "{path}");
        assert_eq!(error(&answer)["code"], "unknown_url");
    }
    assert_eq!(status(&router.get("/who", &[]).await), 200);
}

#[tokio::test]
async fn targets_for_proxies_are_refused() {
    let router = start(|config| config.auth = AuthMode::Open).await;
    for line in [
        "GET http://localhost/live HTTP/1.1",
        "GET http://evil.example/live HTTP/1.1",
        "CONNECT localhost:80 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET live HTTP/1.1",
        "GET /live HTTP/2.0",
        "GET  /live HTTP/1.1",
        "get /live extra HTTP/1.1",
        "\u{0} /live HTTP/1.1",
    ] {
        let answer = router
            .exchange(format!("{line}\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
            .await;
        assert_eq!(status(&answer), 400, "{line}: {answer}");
    }
}

#[tokio::test]
async fn a_rebound_name_is_refused_even_without_keys() {
    let router = start(|config| config.auth = AuthMode::Open).await;
    let request = "GET /who HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";

    let answer = router.exchange(request).await;

    assert_eq!((status(&answer), &error(&answer)["code"]), (400, &"unknown_host".into()));
}

#[tokio::test]
async fn an_allowed_name_is_served() {
    let router = start(|config| config.allowed_hosts = vec!["api.example".to_owned()]).await;
    let request = "GET /live HTTP/1.1\r\nhost: api.example:8000\r\nconnection: close\r\n\r\n";

    assert_eq!(status(&router.exchange(request).await), 200);
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let router = start(|_| {}).await;

    let answer = router.exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;

    assert!(matches!(status(&answer), 0 | 400), "{answer}");
}

#[tokio::test]
async fn a_client_that_resets_harms_nobody() {
    let router = start(|_| {}).await;
    for _ in 0..200 {
        let mut client = router.connect().await;
        let _ = client.0.write_all(b"GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        client.0.set_zero_linger().unwrap();
    }

    assert_eq!(status(&router.get("/live", &[]).await), 200);
}
