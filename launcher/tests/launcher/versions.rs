//! What pulls make of models whose source moves, and what a lock file brings back.

use sconce_launcher::pull::{Error, Pulled, Wish};
use sconce_launcher::settings::Network;
use sconce_launcher::store::{self, Extras, Lock};

use crate::support::{REPO, Site, bytes, entry, hf};
use sconce_stand_in_hub::COMMIT;

const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";

async fn update(site: &Site, name: &str) -> Pulled {
    site.puller().pull_as(&name.parse().unwrap(), &Wish::newest()).await.unwrap()
}

fn ids(site: &Site) -> Vec<String> {
    let listed = site.puller().store().list().unwrap();
    listed.iter().map(|listed| listed.manifest.id.to_string()).collect()
}

/// The lock file of a machine that has everything.
fn lock(site: &Site) -> Lock {
    site.puller().store().lock().unwrap()
}

#[tokio::test]
async fn a_branch_that_moved_is_another_version_when_asked_for() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    let name = hf("model.gguf");
    let first = site.fetch(&name).await;
    site.hub.move_to(LATER);
    site.hub.put(REPO, "model.gguf", &bytes(2000));

    assert!(matches!(site.pull(&name).await.unwrap(), Pulled::Present(it) if it == first));
    let Pulled::Fetched(second) = update(&site, &name).await else { panic!("not fetched") };

    assert_eq!(ids(&site), ["repo@1", "repo@2"]);
    assert!(first.source.to_string().ends_with(&COMMIT[..8]));
    assert!(second.source.to_string().ends_with(&LATER[..8]));
    // What was pulled first is as it was, and the name now means the second.
    assert!(matches!(site.pull("repo@1").await.unwrap(), Pulled::Present(it) if it == first));
    assert!(matches!(site.pull(&name).await.unwrap(), Pulled::Present(it) if it == second));
    assert!(matches!(site.pull("repo").await.unwrap(), Pulled::Present(it) if it == second));
}

#[tokio::test]
async fn a_branch_that_moved_without_a_change_of_the_model_is_no_news() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    let name = hf("model.gguf");
    site.fetch(&name).await;
    site.hub.move_to(LATER);

    assert!(matches!(update(&site, &name).await, Pulled::Present(_)));

    assert_eq!(ids(&site), ["repo@1"]);
}

#[tokio::test]
async fn a_version_never_changes() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    site.fetch(&hf("model.gguf")).await;

    for name in ["repo", "repo@1"] {
        let updated = site.puller().pull_as(&name.parse().unwrap(), &Wish::newest()).await;
        assert!(matches!(updated, Err(Error::Fixed(_))), "{name}");
    }
    let absent = site.pull("repo@2").await.unwrap_err();
    assert!(matches!(absent, Error::Store(store::Error::Absent(_))), "{absent}");
}

#[tokio::test]
async fn a_damaged_version_is_fetched_again_as_it_was() {
    let content = bytes(1000);
    let site = Site::with("model.gguf", &content).await;
    let manifest = site.fetch(&hf("model.gguf")).await;
    std::fs::write(&manifest.model, b"damaged").unwrap();

    let mended = site.fetch("repo@1").await;

    assert_eq!((&mended.id, &mended.version), (&manifest.id, &manifest.version));
    assert_eq!(std::fs::read(&mended.model).unwrap(), content);
}

#[tokio::test]
async fn two_repositories_share_no_name_unless_told_to() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    site.hub.put("other/repo", "model.gguf", &bytes(2000));
    site.fetch(&hf("model.gguf")).await;
    let other = "hf:other/repo:model.gguf";

    let refused = site.pull(other).await.unwrap_err();
    assert!(matches!(refused, Error::Store(store::Error::NameTaken { .. })), "{refused}");

    let mut wish = Wish::newest();
    wish.model = Some("mine".parse().unwrap());
    site.puller().pull_as(&other.parse().unwrap(), &wish).await.unwrap();
    assert_eq!(ids(&site), ["mine@1", "repo@1"]);
    // From then on, it is known by that.
    assert!(matches!(site.pull(other).await.unwrap(), Pulled::Present(_)));
}

#[tokio::test]
async fn a_lock_file_makes_another_store_the_same() {
    let (old, new) = (bytes(1000), bytes(2000));
    let site = Site::with("model.gguf", &old).await;
    site.fetch(&hf("model.gguf")).await;
    site.hub.put(REPO, "other.gguf", &new);
    site.fetch(&hf("other.gguf")).await;
    let store = site.puller().store().clone();
    store.set_alias("repo:prod".parse().unwrap(), &"repo@1".parse().unwrap()).unwrap();
    // Numbers stay the same even when an earlier version is gone.
    store.remove_alias(&"repo:prod".parse().unwrap()).unwrap();
    site.puller().remove(&"repo@1".parse().unwrap()).unwrap();
    store.set_alias("repo:prod".parse().unwrap(), &"repo@2".parse().unwrap()).unwrap();
    let text = lock(&site).to_toml().unwrap();

    let other = Site::with("other.gguf", &new).await;
    let file = other.settings.home.with_extension("lock");
    std::fs::write(&file, text).unwrap();
    let read = Lock::read(&file).unwrap().unwrap();
    let synced = other.puller().sync(&read, Extras::Keep).await.unwrap();

    assert_eq!(synced.fetched.len(), 1);
    assert_eq!(ids(&other), ["repo@2"]);
    let (made, wanted) = (lock(&other), lock(&site));
    assert_eq!(made.versions, wanted.versions);
    assert_eq!((made.aliases, made.names, made.next), (wanted.aliases, wanted.names, wanted.next));
    let again = other.puller().sync(&read, Extras::Keep).await.unwrap();
    assert_eq!((again.present.len(), again.fetched.len()), (1, 0));
}

#[tokio::test]
async fn what_a_lock_file_does_not_have_stays_unless_told_otherwise() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    site.fetch(&hf("model.gguf")).await;
    let before = lock(&site);
    site.hub.put(REPO, "other.gguf", &bytes(2000));
    site.fetch(&hf("other.gguf")).await;
    let prod = "x:prod".parse().unwrap();
    site.puller().store().set_alias(prod, &"repo@2".parse().unwrap()).unwrap();

    site.puller().sync(&before, Extras::Keep).await.unwrap();
    assert_eq!(ids(&site), ["repo@1", "repo@2"]);
    assert_eq!(lock(&site).aliases.len(), 1);

    let synced = site.puller().sync(&before, Extras::Remove).await.unwrap();
    assert_eq!((synced.removed.len(), synced.removed[0].freed), (1, 2000));
    assert_eq!(ids(&site), ["repo@1"]);
    assert!(lock(&site).aliases.is_empty());
}

#[tokio::test]
async fn a_lock_file_of_other_content_changes_nothing() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    site.fetch(&hf("model.gguf")).await;
    let other = Site::with("model.gguf", &bytes(2000)).await;
    other.fetch(&hf("model.gguf")).await;
    let before = lock(&other);

    let refused = other.puller().sync(&lock(&site), Extras::Remove).await.unwrap_err();

    assert!(matches!(refused, Error::Store(store::Error::Conflict { .. })), "{refused}");
    assert_eq!(lock(&other), before);
}

#[tokio::test]
async fn a_hub_that_gives_other_bytes_than_the_lock_file_says_is_refused() {
    let site = Site::with("model.gguf", &bytes(1000)).await;
    site.fetch(&hf("model.gguf")).await;
    let other = Site::with("model.gguf", &bytes(999)).await;

    let refused = other.puller().sync(&lock(&site), Extras::Keep).await.unwrap_err();

    assert!(refused.to_string().contains("could not pull repo@1"), "{refused}");
    assert!(ids(&other).is_empty());
}

#[tokio::test]
async fn a_removed_import_is_not_to_be_had_and_an_offline_sync_says_so() {
    let mut site = Site::with("model.gguf", &bytes(1000)).await;
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("tiny.gguf");
    std::fs::write(&path, bytes(10)).unwrap();
    let store = site.puller().store().clone();
    let transfer = store::Transfer::Copy;
    store.import(&path, "tiny".parse().unwrap(), transfer).unwrap();
    let with_import = lock(&site);
    site.puller().remove(&"tiny".parse().unwrap()).unwrap();

    let refused = site.puller().sync(&with_import, Extras::Keep).await.unwrap_err();
    assert!(matches!(refused, Error::Unobtainable { .. }), "{refused}");

    // The same files under another name will do.
    store.import(&path, "again".parse().unwrap(), transfer).unwrap();
    site.puller().sync(&with_import, Extras::Keep).await.unwrap();
    assert_eq!(ids(&site), ["again@1", "tiny@1"]);

    site.fetch(&hf("model.gguf")).await;
    let with_hub = lock(&site);
    site.puller().remove(&"repo".parse().unwrap()).unwrap();
    site.settings.hub.network = Network::Offline;
    let offline = site.puller().sync(&with_hub, Extras::Keep).await.unwrap_err();
    assert_eq!(sconce_launcher::exit::status(&offline.into()), 5);
}

#[tokio::test]
async fn an_alias_is_served_and_a_name_of_the_catalogue_is_not_taken_for_one() {
    let content = bytes(1000);
    let mut site = Site::with("model.gguf", &content).await;
    site.catalogue = entry("model.gguf", &content);
    let manifest = site.fetch("tiny:1").await;
    let store = site.puller().store().clone();
    store.set_alias("tiny:prod".parse().unwrap(), &"tiny:1".parse().unwrap()).unwrap();

    let name = "tiny:prod".parse().unwrap();
    let model = site.pull("tiny:prod").await.unwrap().into_model(&name);

    assert_eq!((model.name.as_str(), &model.path), ("tiny:prod", &manifest.model));
    let unknown = site.pull("tiny:2").await.unwrap_err();
    assert_eq!(sconce_launcher::exit::status(&unknown.into()), 3);
}
