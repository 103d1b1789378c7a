//! What a pull does when everyone behaves.

use std::path::Path;
use std::time::{Duration, Instant};

use sconce_launcher::digest::Sha256Hash;
use sconce_launcher::hub::Filter;
use sconce_launcher::pull::{Pulled, Wish};
use sconce_launcher::settings::Network;
use sconce_launcher::store::{Check, Manifest, Source};

use crate::support::{REPO, Site, bytes, entry, hf, list};
use sconce_stand_in_hub::{COMMIT, Host, Seen};

#[tokio::test]
async fn a_file_is_fetched_from_the_second_host_without_the_token() {
    let content = bytes(300_000);
    let site = Site::with("model.gguf", &content).await;

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(&manifest.model).unwrap(), content);
    assert_eq!(manifest.files[0].sha256, Sha256Hash::of(&content));
    assert_eq!(manifest.source, Source::Hub { repo: REPO.into(), commit: COMMIT.into() });
    let at_cdn = site.hub.seen_at(Host::Cdn);
    assert_eq!(at_cdn.len(), 1);
    assert!(at_cdn.iter().all(|seen| seen.authorization.is_none()));
    let is_known = |seen: &Seen| seen.authorization.as_deref() == Some("Bearer hf_secret");
    assert!(site.hub.seen_at(Host::Hub).iter().all(is_known));
}

#[tokio::test]
async fn the_cache_has_the_layout_of_the_hubs_own_tools() {
    let content = bytes(1000);
    let site = Site::with("sub/model.gguf", &content).await;

    site.fetch(&hf("sub/model.gguf")).await;

    let sha256 = Sha256Hash::of(&content).to_string();
    let repo = site.repo_dir();
    assert_eq!(list(&repo.join("blobs")), [sha256.as_str()]);
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = std::fs::read_link(repo.join("snapshots").join(COMMIT).join("sub/model.gguf"));
    assert_eq!(link.unwrap(), Path::new("../../../blobs").join(&sha256));
}

#[tokio::test]
async fn a_model_that_is_here_needs_no_request() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    site.fetch(&hf("model.gguf")).await;
    let before = site.hub.seen().len();

    let pulled = site.pull(&hf("model.gguf")).await.unwrap();

    assert!(matches!(pulled, Pulled::Present(_)));
    assert_eq!(site.hub.seen().len(), before);
}

#[tokio::test]
async fn a_repository_of_safetensors_is_pulled_whole_and_nothing_that_can_run() {
    let site = Site::new().await;
    for (file, content) in [
        ("config.json", &b"{}"[..]),
        ("model-00001-of-00002.safetensors", &bytes(100_000)),
        ("model-00002-of-00002.safetensors", &bytes(90_000)),
        ("model.safetensors.index.json", b"{}"),
        ("pytorch_model.bin", &bytes(100)),
        ("modeling.py", b"import os"),
        ("tokenizer.json", b"{\"a\": 1}"),
    ] {
        site.hub.put(REPO, file, content);
    }

    let manifest = site.fetch(&format!("hf:{REPO}")).await;

    let expected = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(list(&manifest.model), expected);
    let is_code = |path: &str| path.ends_with(".py") || path.ends_with(".bin");
    assert!(!site.hub.seen().iter().any(|seen| is_code(&seen.path)));
}

#[tokio::test]
async fn two_pulls_at_once_fetch_once() {
    let content = bytes(2_000_000);
    let site = Site::with("model.gguf", &content).await;
    let name = hf("model.gguf");

    let (a, b) = tokio::join!(site.pull(&name), site.pull(&name));

    let is_fetched = |pulled: &Pulled| matches!(pulled, Pulled::Fetched(_));
    assert_eq!([a.unwrap(), b.unwrap()].iter().filter(|pulled| is_fetched(pulled)).count(), 1);
    assert_eq!(site.hub.num_bytes(), content.len() as u64);
}

#[tokio::test]
async fn two_names_for_one_file_at_once_fetch_once() {
    let content = bytes(2_000_000);
    let site = Site::with("model.gguf", &content).await;
    let pinned = format!("hf:{REPO}@{COMMIT}:model.gguf");
    let name = hf("model.gguf");

    let (a, b) = tokio::join!(site.fetch(&name), site.fetch(&pinned));

    assert_eq!(a.version, b.version);
    assert_eq!(site.hub.num_bytes(), content.len() as u64);
}

#[tokio::test]
async fn offline_says_so_and_still_has_what_is_here() {
    let mut site = Site::with("model.gguf", &bytes(1000)).await;
    site.fetch(&hf("model.gguf")).await;
    site.hub.put(REPO, "other.gguf", &bytes(10));
    let before = site.hub.seen().len();
    site.settings.hub.network = Network::Offline;

    assert!(matches!(site.pull(&hf("model.gguf")).await.unwrap(), Pulled::Present(_)));
    let same_file = site.fetch(&format!("hf:{REPO}@main:model.gguf")).await;
    let error = site.refuse(&hf("other.gguf")).await;

    assert_eq!(same_file.files[0].size, 1000);
    assert!(error.contains("offline"), "{error}");
    assert_eq!(site.hub.seen().len(), before);
}

#[tokio::test]
async fn removing_a_model_frees_its_blob() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    let manifest = site.fetch(&hf("model.gguf")).await;

    let removed = site.puller().remove(&hf("model.gguf").parse().unwrap()).unwrap();

    assert_eq!(removed[0].freed, 1000);
    assert!(!manifest.model.exists());
    assert!(site.blobs().is_empty());
    assert!(site.puller().store().list().unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_changed_after_the_pull_is_not_served() {
    let content = bytes(1000);
    let site = Site::with("model.gguf", &content).await;
    let manifest = site.fetch(&hf("model.gguf")).await;
    std::fs::write(&manifest.model, bytes(999)).unwrap();

    let again = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(again.model).unwrap(), content);
}

#[tokio::test]
async fn a_catalogue_entry_is_taken_from_the_hub_at_its_commit() {
    let content = bytes(1000);
    let mut site = Site::with("model.gguf", &content).await;
    site.catalogue = entry("model.gguf", &content);

    let manifest = site.fetch("tiny:1").await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert!(site.hub.seen().iter().all(|seen| !seen.path.contains("main")));
}

/// A repository with a model in each of two formats and in a folder.
async fn several() -> Site {
    let site = Site::new().await;
    for (file, content) in [
        ("config.json", &b"{}"[..]),
        ("int4/config.json", b"{}"),
        ("int4/model.safetensors", &bytes(3000)),
        ("m.Q4_0.gguf", &bytes(4000)),
        ("m.Q8_0.gguf", &bytes(8000)),
        ("pytorch_model.bin", &bytes(100)),
    ] {
        site.hub.put(REPO, file, content);
    }
    site
}

async fn choose(site: &Site, include: &[&str], exclude: &[&str]) -> Result<Manifest, String> {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let filter = Filter::new(&owned(include), &owned(exclude)).unwrap();
    let wish = Wish { filter, ..Wish::known(Check::IfTouched) };
    let pulled = site.puller().pull_as(&format!("hf:{REPO}").parse().unwrap(), &wish).await;
    pulled.map(|pulled| pulled.manifest().unwrap().clone()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_filter_chooses_among_several_models_and_each_is_a_version() {
    let mut site = several().await;
    let question = site.refuse(&format!("hf:{REPO}")).await;
    assert!(question.contains("--include: m.Q4_0.gguf, m.Q8_0.gguf"), "{question}");

    let small = choose(&site, &["*Q4*"], &[]).await.unwrap();
    let large = choose(&site, &["*.gguf"], &["*Q4*"]).await.unwrap();
    let folder = choose(&site, &["int4/*"], &[]).await.unwrap();

    assert_eq!(std::fs::metadata(small.model).unwrap().len(), 4000);
    assert_eq!(std::fs::metadata(large.model).unwrap().len(), 8000);
    assert_eq!(list(&folder.model), ["config.json", "model.safetensors"]);
    assert_eq!([small.id, large.id, folder.id].map(|id| id.number.get()), [1, 2, 3]);
    // The name means what was pulled last, and the cache answers offline.
    let known = site.pull(&format!("hf:{REPO}")).await.unwrap();
    assert_eq!(known.manifest().unwrap().id.number.get(), 3);
    site.settings.hub.network = Network::Offline;
    assert_eq!(choose(&site, &["*Q8*"], &[]).await.unwrap().id.number.get(), 2);
}

#[tokio::test]
async fn a_filter_never_brings_what_can_run() {
    let site = several().await;

    let error = choose(&site, &["*.bin", "config.json"], &[]).await.unwrap_err();

    assert!(error.contains("only as pytorch_model.bin"), "{error}");
    let name = format!("hf:{REPO}:pytorch_model.bin").parse::<sconce_launcher::name::ModelName>();
    assert!(name.unwrap_err().to_string().contains("is refused"));
    assert!(!site.hub.seen().iter().any(|seen| seen.path.ends_with(".bin")));
}

#[tokio::test]
async fn only_a_repository_can_be_filtered() {
    let mut site = several().await;
    site.catalogue = entry("m.Q4_0.gguf", &bytes(4000));
    let filter = Filter::new(&["*".to_owned()], &[]).unwrap();
    for name in ["tiny:1", "repo@1", &hf("m.Q4_0.gguf"), "./a.gguf"] {
        let wish = Wish { filter: filter.clone(), ..Wish::newest() };
        let error = site.puller().pull_as(&name.parse().unwrap(), &wish).await.unwrap_err();
        assert!(error.to_string().contains("no repository"), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_hundred_files_are_listed_over_pages() {
    let site = Site::new().await;
    site.hub.page(30);
    site.hub.put(REPO, "config.json", b"{}");
    for shard in 1..=99 {
        let name = format!("model-{shard:05}-of-00099.safetensors");
        site.hub.put(REPO, &name, &bytes(shard));
    }

    let manifest = site.fetch(&format!("hf:{REPO}")).await;

    assert_eq!(manifest.files.len(), 100);
    let is_page = |seen: &&Seen| seen.path.contains("/tree/");
    assert_eq!(site.hub.seen().iter().filter(is_page).count(), 4);
}

#[tokio::test]
async fn a_renamed_repository_is_followed_with_the_token_and_the_second_host_without() {
    let content = bytes(3000);
    let site = Site::with("model.gguf", &content).await;
    site.hub.gate(REPO, "hf_secret");
    site.hub.rename(REPO, "owner/new");

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert!(site.hub.seen_at(Host::Hub).iter().any(|seen| seen.path.starts_with("/owner/new/")));
    assert!(site.hub.seen_at(Host::Cdn).iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_mirror_is_asked_instead_of_the_hub() {
    let content = bytes(3000);
    let mut site = Site::new().await;
    let mirror = Site::with("model.gguf", &content).await;
    site.settings.hub.endpoint = mirror.hub.url().parse().unwrap();

    site.fetch(&hf("model.gguf")).await;

    assert!(site.hub.seen().is_empty());
    assert!(!mirror.hub.seen().is_empty());
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_waited_for() {
    let site = Site::with("model.gguf", &bytes(3000)).await;
    site.hub.limit("\"resolvers\";r=0;t=1");
    let started = Instant::now();

    // One request announces the file; the next, for its content, has to wait.
    site.fetch(&hf("model.gguf")).await;

    assert!(started.elapsed() >= Duration::from_secs(1));
}
