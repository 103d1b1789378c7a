//! Large files: fetched in parts at once, and gone on with where each part ended.

use std::collections::BTreeSet;

use sconce_launcher::settings::Parallel;
use sconce_stand_in_hub::{Fault, Host};

use crate::support::{Site, bytes, hf};

const PART: usize = 100_000;
const SIZE: usize = 10 * PART - 123;

async fn site() -> (Site, Vec<u8>) {
    let content = bytes(SIZE);
    let mut site = Site::with("model.gguf", &content).await;
    site.settings.hub.parallel = Parallel { part_bytes: PART as u64, max_connections: 4 };
    (site, content)
}

fn ranges(site: &Site) -> Vec<String> {
    let seen = site.hub.seen_at(Host::Cdn).into_iter();
    seen.map(|seen| seen.range.unwrap_or_else(|| "all".to_owned())).collect()
}

#[tokio::test]
async fn a_large_file_is_fetched_in_parts_and_the_hub_is_asked_once_for_each_connection() {
    let (site, content) = site().await;

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    let expected = (0..10).map(|part| {
        let first = part * PART;
        format!("bytes={first}-{}", (first + PART).min(SIZE) - 1)
    });
    assert_eq!(ranges(&site).into_iter().collect::<BTreeSet<_>>(), expected.collect());
    assert_eq!(site.hub.num_bytes(), SIZE as u64);
    let resolved = site.hub.seen_at(Host::Hub).into_iter().filter(|seen| seen.method == "GET");
    assert!((1..=4).contains(&resolved.count()));
    assert!(site.hub.seen_at(Host::Cdn).iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn parts_are_under_way_at_the_same_time() {
    let (site, content) = site().await;
    // Had they to wait for each other, the second would not begin while the first is silent.
    site.hub.misbehave(&[Fault::Slow(400), Fault::Slow(400), Fault::Slow(400), Fault::Slow(400)]);
    let four_at_once = async {
        while site.hub.seen_at(Host::Cdn).len() < 4 {
            tokio::task::yield_now().await;
        }
        site.hub.num_bytes()
    };

    let name = hf("model.gguf");
    let (manifest, num_bytes) = tokio::join!(site.fetch(&name), four_at_once);

    assert_eq!(num_bytes, 0);
    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
}

#[tokio::test]
async fn every_part_goes_on_where_an_earlier_run_left_it() {
    let (site, content) = site().await;
    site.hub.misbehave(&[Fault::Cut(30_000), Fault::Cut(40_000), Fault::Cut(50_000)]);
    site.hub.misbehave(&[const { Fault::Status(404) }; 4]);
    let error = site.refuse(&hf("model.gguf")).await;
    assert!(error.contains("404"), "{error}");
    site.hub.behave();
    let (before, earlier) = (site.hub.num_bytes(), ranges(&site).len());
    assert!(before > 0);

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    let again = site.hub.num_bytes() - before;
    assert!(again < SIZE as u64, "{again} bytes came after {before}");
    let seen = &site.hub.seen_at(Host::Cdn)[earlier..];
    let starts_in_a_part =
        |range: &str| !range.starts_with("bytes=0-") && !range.contains("00000-");
    assert!(seen.iter().any(|seen| seen.range.as_deref().is_some_and(starts_in_a_part)));
    assert!(seen.iter().all(|seen| seen.if_range.as_deref() == Some("\"cdn-0\"")));
}

#[tokio::test]
async fn a_host_without_ranges_sends_the_file_in_one_piece() {
    let (site, content) = site().await;
    site.hub.misbehave(&[const { Fault::NoRange }; 5]);

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert_eq!(ranges(&site).last().unwrap(), "all");
}

#[tokio::test]
async fn a_file_that_changed_between_its_parts_starts_over() {
    let (site, content) = site().await;
    site.hub.misbehave(&[Fault::Cut(50_000), Fault::NewEtag]);

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
}

#[tokio::test]
async fn a_part_with_a_wrong_byte_is_caught_by_the_hash_of_the_whole() {
    let (site, content) = site().await;
    site.hub.misbehave(&[Fault::Flip(123_456)]);

    let error = site.refuse(&hf("model.gguf")).await;
    assert!(error.contains("corrupt"), "{error}");
    assert!(site.blobs().is_empty(), "{:?}", site.blobs());

    let manifest = site.fetch(&hf("model.gguf")).await;
    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
}

#[tokio::test]
async fn parts_that_break_off_are_asked_for_again_each_from_its_own_end() {
    let (site, content) = site().await;
    site.hub.misbehave(&[Fault::Cut(70_000), Fault::Status(503), Fault::Cut(80_000)]);
    site.hub.misbehave(&[Fault::Status(403), Fault::Stall(60_000), Fault::Short(20_000)]);

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert_eq!(site.hub.num_bytes(), SIZE as u64);
}
