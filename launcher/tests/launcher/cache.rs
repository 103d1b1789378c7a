//! Files that the hub's own tools put into the cache are taken, once they were looked at.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use sconce_launcher::digest::Sha256Hash;
use sconce_launcher::name::VersionId;
use sconce_launcher::pull::{Pulled, Wish};
use sconce_launcher::store::{Check, Manifest, Origin};

use crate::support::{REPO, Site, bytes, entry, hf};
use sconce_stand_in_hub::COMMIT;

const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// Lays out `content` as `huggingface_hub` does; returns the blob.
fn lay_out(site: &Site, file: &str, content: &[u8]) -> PathBuf {
    let repo = site.repo_dir();
    let sha256 = Sha256Hash::of(content).to_string();
    let blob = repo.join("blobs").join(&sha256);
    let snapshot = repo.join("snapshots").join(COMMIT);
    for directory in [&repo.join("blobs"), &repo.join("refs"), &snapshot] {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::write(&blob, content).unwrap();
    std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
    symlink(format!("../../blobs/{sha256}"), snapshot.join(file)).unwrap();
    blob
}

#[tokio::test]
async fn a_file_of_another_tool_is_used_and_outlives_the_model() {
    let content = bytes(5000);
    let site = Site::with("model.gguf", &content).await;
    let blob = lay_out(&site, "model.gguf", &content);

    let manifest = site.fetch(&hf("model.gguf")).await;
    assert_eq!(site.hub.num_bytes(), 0);
    assert_eq!(manifest.files[0].origin, Origin::Found);

    site.puller().remove(&hf("model.gguf").parse().unwrap()).unwrap();
    assert!(blob.exists());
}

#[tokio::test]
async fn a_pinned_file_of_another_tool_needs_no_network() {
    let content = bytes(5000);
    let mut site = Site::new().await;
    site.catalogue = entry("model.gguf", &content);
    lay_out(&site, "model.gguf", &content);

    site.fetch("tiny:1").await;
    site.fetch(&format!("hf:{REPO}@{COMMIT}:model.gguf")).await;

    assert!(site.hub.seen().is_empty());
}

#[tokio::test]
async fn a_blob_in_a_store_that_repositories_share_is_read_through() {
    let content = bytes(5000);
    let site = Site::with("model.gguf", &content).await;
    let blob = lay_out(&site, "model.gguf", &content);
    let shared = site.settings.hub.cache.join("blobs/ab/abcd");
    std::fs::create_dir_all(shared.parent().unwrap()).unwrap();
    std::fs::rename(&blob, &shared).unwrap();
    symlink("../../blobs/ab/abcd", &blob).unwrap();

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert_eq!(site.hub.num_bytes(), 0);
}

#[tokio::test]
async fn a_corrupt_shared_blob_is_let_go_of_but_not_deleted() {
    let content = bytes(5000);
    let site = Site::with("model.gguf", &content).await;
    let blob = lay_out(&site, "model.gguf", &content);
    let shared = site.settings.hub.cache.join("shared");
    std::fs::write(&shared, b"something else").unwrap();
    std::fs::remove_file(&blob).unwrap();
    symlink("../../shared", &blob).unwrap();

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert_eq!(std::fs::read(&shared).unwrap(), b"something else");
}

#[tokio::test]
async fn a_corrupt_file_of_another_tool_is_fetched_again() {
    let content = bytes(5000);
    let site = Site::with("model.gguf", &content).await;
    let blob = lay_out(&site, "model.gguf", &content);
    std::fs::write(&blob, bytes(4999)).unwrap();

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
    assert_eq!(site.hub.num_bytes(), 5000);
}

#[tokio::test]
async fn a_device_in_the_place_of_a_blob_is_never_read() {
    let content = bytes(5000);
    let site = Site::with("model.gguf", &content).await;
    let blob = lay_out(&site, "model.gguf", &content);
    std::fs::remove_file(&blob).unwrap();
    symlink("/dev/zero", &blob).unwrap();

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(std::fs::read(manifest.model).unwrap(), content);
}

#[tokio::test]
async fn a_chain_of_links_is_followed_and_its_end_never_deleted() {
    let content = bytes(5000);
    let site = Site::with("model.gguf", &content).await;
    let manifest = site.fetch(&hf("model.gguf")).await;
    // As another tool would move it: into the shared store, which is itself on another disk.
    let blob = site.repo_dir().join("blobs").join(Sha256Hash::of(&content).to_string());
    let shared = site.settings.hub.cache.join("blobs/ab/abcd");
    let disk = site.settings.hub.cache.with_extension("disk");
    std::fs::create_dir_all(shared.parent().unwrap()).unwrap();
    std::fs::rename(&blob, &disk).unwrap();
    symlink(&disk, &shared).unwrap();
    symlink("../../blobs/ab/abcd", &blob).unwrap();

    assert!(matches!(site.pull("repo").await.unwrap(), Pulled::Present(_)));
    let again = site.puller().pull(&"repo".parse().unwrap(), Check::Always).await.unwrap();
    assert!(matches!(again, Pulled::Present(_)));
    assert_eq!(std::fs::read(&manifest.model).unwrap(), content);

    site.puller().remove(&"repo".parse().unwrap()).unwrap();
    assert!(std::fs::symlink_metadata(&blob).is_err());
    assert_eq!(std::fs::read(&shared).unwrap(), content);
}

/// The repository's branch moves to another commit, and its newest state is pulled.
async fn update(site: &Site, commit: &str) -> Manifest {
    site.hub.move_to(commit);
    let wish = Wish::newest();
    let pulled =
        site.puller().pull_as(&format!("hf:{REPO}").parse().unwrap(), &wish).await.unwrap();
    pulled.manifest().unwrap().clone()
}

#[tokio::test]
async fn what_two_commits_have_alike_goes_with_the_last_version_that_has_it() {
    let weights = bytes(5000);
    let site = Site::with("model.safetensors", &weights).await;
    site.hub.put(REPO, "config.json", b"{}");
    let first = site.fetch(&format!("hf:{REPO}")).await;
    site.hub.put(REPO, "config.json", b"{\"a\": 1}");
    let second = update(&site, LATER).await;
    assert_ne!(first.id, second.id);

    let blob = site.repo_dir().join("blobs").join(Sha256Hash::of(&weights).to_string());
    let freed = |id: &VersionId| {
        site.puller().remove(&id.to_string().parse().unwrap()).unwrap().remove(0).freed
    };
    assert_eq!(freed(&first.id), 2);
    assert!(blob.exists() && second.model.join("model.safetensors").exists());
    assert_eq!(freed(&second.id), 5008);
    assert!(!blob.exists());
}

#[tokio::test]
async fn a_commit_that_changes_nothing_leaves_nothing_behind() {
    let weights = bytes(5000);
    let site = Site::with("model.safetensors", &weights).await;
    site.hub.put(REPO, "config.json", b"{}");
    let first = site.fetch(&format!("hf:{REPO}")).await;

    let second = update(&site, LATER).await;

    assert_eq!(first.id, second.id);
    assert!(second.files.iter().all(|file| file.origin == Origin::Pulled));
    let removed = site.puller().remove(&"repo".parse().unwrap()).unwrap();
    assert_eq!(removed[0].freed, 5002);
    let blobs = site.repo_dir().join("blobs");
    assert!(!std::fs::read_dir(blobs).is_ok_and(|mut blobs| blobs.next().is_some()));
}

#[tokio::test]
async fn a_cache_without_links_is_used_as_it_is() {
    let content = bytes(5000);
    let site = Site::with("model.gguf", &content).await;
    let snapshot = site.repo_dir().join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join("model.gguf"), &content).unwrap();

    let manifest = site.fetch(&hf("model.gguf")).await;

    assert_eq!(manifest.files[0].origin, Origin::Found);
    assert_eq!(site.hub.num_bytes(), 0);
}
