//! What a pull does when the hub misbehaves: it goes on, or it says why not. It never keeps a
//! wrong file and never sends the token elsewhere.

use std::time::{Duration, Instant};

use crate::support::{REPO, Site, bytes, entry, hf};
use sconce_launcher::settings::Token;
use sconce_stand_in_hub::{Fault, Host};

const SIZE: usize = 400_000;

async fn site() -> (Site, Vec<u8>) {
    let content = bytes(SIZE);
    (Site::with("model.gguf", &content).await, content)
}

/// Pulls with `faults` on the way; the file must be right in the end.
async fn survives(faults: &[Fault]) -> Site {
    let (site, content) = site().await;
    site.hub.misbehave(faults);
    let manifest = site.fetch(&hf("model.gguf")).await;
    assert_eq!(std::fs::read(manifest.model).unwrap(), content, "{faults:?}");
    assert!(site.hub.seen_at(Host::Cdn).iter().all(|seen| seen.authorization.is_none()));
    site
}

/// Pulls with `faults` on the way; there must be an error and no file.
async fn fails(faults: &[Fault]) -> (Site, String) {
    let (site, _) = site().await;
    site.hub.misbehave(faults);
    let error = site.refuse(&hf("model.gguf")).await;
    assert!(site.puller().store().list().unwrap().is_empty(), "{faults:?}");
    assert!(site.blobs().iter().all(|blob| blob.ends_with(".incomplete")), "{faults:?}");
    assert!(!error.contains("signature"), "{error}");
    (site, error)
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_ended() {
    let site = survives(&[Fault::Cut(100_000), Fault::Cut(150_000)]).await;

    let ranges: Vec<_> = site.hub.seen_at(Host::Cdn).into_iter().map(|seen| seen.range).collect();
    let expected =
        [None, Some("bytes=100000-399999".to_owned()), Some("bytes=250000-399999".to_owned())];
    assert_eq!(ranges, expected);
    assert_eq!(site.hub.num_bytes(), SIZE as u64);
}

#[tokio::test]
async fn a_later_run_goes_on_where_the_earlier_one_ended() {
    let (site, content) = site().await;
    site.hub.misbehave(&[Fault::Cut(300_000), Fault::RetryAfter(429, "9999".into())]);
    let error = site.refuse(&hf("model.gguf")).await;
    assert!(error.contains("asks to wait 9999 s"), "{error}");

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert_eq!(site.hub.num_bytes(), SIZE as u64);
    let last = site.hub.seen_at(Host::Cdn).pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=300000-399999"));
    assert_eq!(last.if_range.as_deref(), Some("\"cdn-0\""));
}

#[tokio::test]
async fn a_file_that_changed_under_a_resume_starts_over() {
    let site = survives(&[Fault::Cut(300_000), Fault::NewEtag]).await;

    assert_eq!(site.hub.num_bytes(), 300_000 + SIZE as u64);
}

#[tokio::test]
async fn a_host_without_ranges_starts_over() {
    survives(&[Fault::Cut(300_000), Fault::NoRange]).await;
}

#[tokio::test]
async fn leftovers_of_something_else_are_dropped() {
    let (site, content) = site().await;
    site.hub.misbehave(&[Fault::Cut(100_000), Fault::RetryAfter(429, "9999".into())]);
    site.refuse(&hf("model.gguf")).await;
    let blob = site.blobs().pop().unwrap();
    std::fs::write(site.repo_dir().join("blobs").join(blob), vec![7; 100_000]).unwrap();

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
}

#[tokio::test]
async fn busy_servers_are_asked_again() {
    survives(&[Fault::Status(500), Fault::Status(503)]).await;
    survives(&[Fault::Status(408)]).await;
}

#[tokio::test]
async fn a_requested_pause_is_kept() {
    let started = Instant::now();

    survives(&[Fault::RetryAfter(429, "1".into())]).await;

    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn an_expired_signature_is_renewed_at_the_hub() {
    let site = survives(&[Fault::Status(403)]).await;

    let resolved = site.hub.seen_at(Host::Hub).into_iter().filter(|seen| seen.method == "GET");
    assert_eq!(resolved.count(), 2);
}

#[tokio::test]
async fn a_host_that_falls_silent_is_hung_up_on() {
    survives(&[Fault::Stall(200_000)]).await;
}

#[tokio::test]
async fn a_host_that_never_recovers_is_given_up() {
    let (site, error) = fails(&[const { Fault::Status(500) }; 4]).await;

    assert!(error.contains("gave up after 4 attempts"), "{error}");
    assert!(error.contains("status 500"), "{error}");
    assert_eq!(site.hub.seen_at(Host::Cdn).len(), 4);
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_deleted() {
    let (site, error) = fails(&[Fault::WrongBytes]).await;

    assert!(error.contains("corrupt"), "{error}");
    assert!(site.blobs().is_empty(), "{:?}", site.blobs());
}

#[tokio::test]
async fn a_wrong_tail_of_a_resumed_file_is_refused_and_deleted() {
    let (site, error) = fails(&[Fault::Cut(100_000), Fault::WrongBytes]).await;

    assert!(error.contains("corrupt"), "{error}");
    assert!(site.blobs().is_empty(), "{:?}", site.blobs());
}

#[tokio::test]
async fn a_shorter_or_longer_file_is_refused_and_deleted() {
    for fault in [Fault::Short(399_999), Fault::Long(1)] {
        let (site, error) = fails(&[fault]).await;

        assert!(error.contains("must have 400000"), "{error}");
        assert!(site.blobs().is_empty(), "{:?}", site.blobs());
    }
}

#[tokio::test]
async fn another_range_than_asked_for_is_refused() {
    let (_, error) = fails(&[Fault::Cut(100_000), Fault::WrongRange]).await;

    assert!(error.contains("Content-Range"), "{error}");
}

#[tokio::test]
async fn a_hub_that_says_no_is_quoted() {
    for (status, code, token, expected) in [
        (401, "", None, "wants HF_TOKEN"),
        (401, "", Some("hf_secret"), "does not open it"),
        (401, "GatedRepo", None, "accepted on its page, and for HF_TOKEN"),
        (403, "GatedRepo", Some("hf_secret"), "by the account that the token"),
        (404, "RepoNotFound", None, "no such repository"),
        (404, "RevisionNotFound", None, "no such revision"),
        (404, "EntryNotFound", None, "no such file"),
    ] {
        let (mut site, _) = site().await;
        site.settings.hub.token = token.and_then(Token::new);
        site.hub.refuse(status, code);

        let error = site.refuse(&hf("model.gguf")).await;

        assert!(error.contains(expected), "{status} {code}: {error}");
        assert!(error.contains(site.hub.url()), "{error}");
        assert!(!error.contains("hf_secret"), "{error}");
        assert_eq!(site.hub.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_gated_repository_opens_to_the_right_token() {
    let (mut site, content) = site().await;
    site.hub.gate(REPO, "hf_right");

    let wrong = site.refuse(&hf("model.gguf")).await;
    assert!(wrong.contains("terms to be accepted"), "{wrong}");
    assert!(wrong.contains("status 403"), "{wrong}");

    site.settings.hub.token = Token::new("hf_right");
    let manifest = site.fetch(&hf("model.gguf")).await;
    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
}

#[tokio::test]
async fn a_pinned_commit_that_the_hub_answers_with_another_one_is_refused() {
    let (site, _) = site().await;
    let other = "f".repeat(40);
    site.hub.misbehave_at(Host::Hub, &[Fault::Commit(other.clone())]);

    let pinned = format!("hf:{REPO}@{}:model.gguf", sconce_stand_in_hub::COMMIT);
    let error = site.refuse(&pinned).await;

    assert!(error.contains(&format!("commit {other}")), "{error}");
    assert_eq!(site.hub.num_bytes(), 0);
}

#[tokio::test]
async fn a_pinned_hash_that_the_hub_contradicts_is_refused_before_the_first_byte() {
    let (mut site, content) = site().await;
    site.catalogue = entry("model.gguf", &content);
    site.hub.announce(&"e".repeat(64));

    let error = site.refuse("tiny:1").await;

    assert!(error.contains("the hub announces eeee"), "{error}");
    assert_eq!(site.hub.num_bytes(), 0);
}

#[tokio::test]
async fn a_hash_that_is_no_hash_never_becomes_a_path() {
    let (site, _) = site().await;
    site.hub.announce("../../../../evil");

    let error = site.refuse(&hf("model.gguf")).await;

    assert!(error.contains("content hash"), "{error}");
    assert_eq!(site.hub.num_bytes(), 0);
}

#[tokio::test]
async fn no_network_is_an_error_that_names_the_source() {
    let (mut site, _) = site().await;
    site.settings.hub.endpoint = "http://127.0.0.1:1".parse().unwrap();

    let error = site.refuse(&hf("model.gguf")).await;

    assert!(error.contains("http://127.0.0.1:1/owner/repo"), "{error}");
    assert!(error.contains("connection failed"), "{error}");
}
