//! The store without a network.

use std::num::NonZeroU32;
use std::time::Duration;

use super::files::write_atomic;
use super::*;
use crate::digest::hash_file;
use crate::name::RepoPath;

struct Shelf {
    store: Store,
    home: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { store: Store::new(home.path().to_owned()), home }
    }

    /// What a pull of `name`, which starts with the model's name, brings.
    fn add(&self, name: &str, content: &[u8]) -> Manifest {
        let model = name.split_once(':').unwrap().0.parse().unwrap();
        self.store.add(model, name, self.content(content)).unwrap()
    }

    fn content(&self, content: &[u8]) -> Content {
        let path = self.store.blob(&Sha256Hash::of(content), "gguf");
        write_atomic(&path, content).unwrap();
        let hashes = hash_file(&path).unwrap();
        let fetched = Fetched { path: path.clone(), hashes, origin: Origin::Pulled };
        let file: RepoPath = "model.gguf".parse().unwrap();
        let source = Source::Pypi { package: "p".into(), version: "1".into() };
        Content::new(source, path, &[(file, fetched)]).unwrap()
    }

    /// Bytes that removing `name` freed.
    fn remove(&self, name: &str) -> Result<u64, Error> {
        let removed = self.store.remove(&parse(name), &|_, _| Ok(()))?;
        Ok(removed.iter().map(|removed| removed.freed).sum())
    }

    fn collect(&self, max_size: u64, mode: Mode) -> Collected {
        self.store.collect(Some(max_size), mode, &|_, _| Ok(())).unwrap()
    }

    fn ids(&self) -> Vec<String> {
        self.store.list().unwrap().iter().map(|listed| listed.manifest.id.to_string()).collect()
    }

    fn find(&self, name: &str) -> Option<String> {
        self.store.find(&parse(name)).unwrap().map(|manifest| manifest.id.to_string())
    }

    /// Sets when a version was last served, in hours before now.
    fn set_used(&self, manifest: &mut Manifest, hours: u64) {
        let time = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        let path = self.store.lock_path(&manifest.id.to_string(), "used");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        manifest.created = 0;
        self.store.change(|draft| draft.put(manifest.clone())).unwrap();
    }
}

fn parse(name: &str) -> ModelName {
    name.parse().unwrap()
}

#[test]
fn other_content_is_another_version_and_the_same_is_not() {
    let shelf = Shelf::new();

    let first = shelf.add("a:1", b"weights");
    let second = shelf.add("a:1", b"other");
    let again = shelf.add("a:2", b"weights");

    assert_eq!(first.id.to_string(), "a@1");
    assert_eq!(second.id.to_string(), "a@2");
    assert_eq!(again.id, first.id);
    assert_eq!(shelf.ids(), ["a@1", "a@2"]);
    assert_eq!(shelf.find("a:1").unwrap(), "a@2");
    assert_eq!(shelf.find("a:2").unwrap(), "a@1");
    assert_eq!(shelf.find("a").unwrap(), "a@2");
    assert_eq!(shelf.find("a@3"), None);
}

#[test]
fn a_number_is_never_given_twice() {
    let shelf = Shelf::new();
    shelf.add("a:1", b"weights");
    shelf.remove("a").unwrap();

    assert_eq!(shelf.add("a:1", b"other").id.to_string(), "a@2");
    assert_eq!(shelf.add("a:1", b"weights").id.to_string(), "a@3");
}

#[test]
fn the_content_is_that_of_the_files_under_any_name() {
    let shelf = Shelf::new();

    let (a, b, c) =
        (shelf.add("a:1", b"weights"), shelf.add("b:1", b"weights"), shelf.add("c:1", b"other"));

    assert_eq!(a.version, b.version);
    assert_ne!(a.version, c.version);
}

#[test]
fn removing_a_version_keeps_files_that_another_needs() {
    let shelf = Shelf::new();
    let path = shelf.add("a:1", b"weights").model;
    shelf.add("b:1", b"weights");

    assert_eq!(shelf.remove("a:1").unwrap(), 0);
    assert!(path.exists());
    assert_eq!(shelf.remove("b@1").unwrap(), 7);
    assert!(!path.exists());
    assert!(matches!(shelf.remove("b@1"), Err(Error::Absent(_))));
}

#[test]
fn a_model_is_removed_with_all_its_versions_or_not_at_all() {
    let shelf = Shelf::new();
    shelf.add("a:1", b"weights");
    shelf.add("a:1", b"other");
    shelf.store.set_alias("a:prod".parse().unwrap(), &parse("a@2")).unwrap();

    assert!(matches!(shelf.remove("a"), Err(Error::Aliased { .. })));
    assert_eq!(shelf.ids(), ["a@1", "a@2"]);

    shelf.store.remove_alias(&"a:prod".parse().unwrap()).unwrap();
    assert_eq!(shelf.remove("a").unwrap(), 12);
    assert!(shelf.ids().is_empty());
}

#[tokio::test]
async fn a_version_in_use_is_running_and_not_removed() {
    let shelf = Shelf::new();
    let manifest = shelf.add("a:1", b"weights");
    let listed = || shelf.store.list().unwrap().remove(0);
    assert_eq!((listed().running, listed().last_used), (false, None));

    let held = shelf.store.hold(&manifest.id).await.unwrap();
    let also_held = shelf.store.hold(&manifest.id).await.unwrap();
    assert!(listed().running);
    assert!(listed().last_used.is_some());
    assert!(matches!(shelf.remove("a:1"), Err(Error::InUse(_))));

    drop(held);
    assert!(matches!(shelf.remove("a:1"), Err(Error::InUse(_))));
    drop(also_held);
    assert_eq!(shelf.remove("a:1").unwrap(), 7);
    assert!(matches!(shelf.store.hold(&manifest.id).await, Err(Error::Absent(_))));
}

#[test]
fn what_a_server_of_before_there_were_versions_holds_is_not_removed() {
    let shelf = Shelf::new();
    shelf.add("a:1", b"weights");
    let old = shelf.store.lock_path("a:1", "use");

    let held = LockFile::try_take(&old, Hold::Shared).unwrap().unwrap();
    assert!(matches!(shelf.remove("a@1"), Err(Error::InUse(_))));

    drop(held);
    assert_eq!(shelf.remove("a@1").unwrap(), 7);
}

#[test]
fn an_alias_stays_with_its_version() {
    let shelf = Shelf::new();
    let prod: Tag = "a:prod".parse().unwrap();
    shelf.add("a:1", b"weights");
    shelf.store.set_alias(prod.clone(), &parse("a")).unwrap();

    shelf.add("a:1", b"other");

    assert_eq!(shelf.find("a:prod").unwrap(), "a@1");
    let (id, before) = shelf.store.set_alias(prod.clone(), &parse("a")).unwrap();
    assert_eq!((id.to_string(), before.unwrap().to_string()), ("a@2".into(), "a@1".into()));
    assert_eq!(shelf.store.list().unwrap()[1].aliases, [prod]);
    let absent = shelf.store.set_alias("a:x".parse().unwrap(), &parse("a@9"));
    assert!(matches!(absent, Err(Error::Absent(_))));
}

#[test]
fn a_budget_takes_the_least_recently_used_first_and_never_what_an_alias_names() {
    let shelf = Shelf::new();
    for (name, content, hours) in
        [("a:1", &b"aaaa"[..], 3), ("b:1", b"bbbb", 2), ("c:1", b"cccc", 1), ("d:1", b"dddd", 4)]
    {
        shelf.set_used(&mut shelf.add(name, content), hours);
    }
    shelf.store.set_alias("d:prod".parse().unwrap(), &parse("d@1")).unwrap();

    let planned = shelf.collect(9, Mode::DryRun);
    assert_eq!(shelf.ids(), ["a@1", "b@1", "c@1", "d@1"]);
    let done = shelf.collect(9, Mode::Real);

    assert_eq!(planned, done);
    let removed: Vec<_> = done.removed.iter().map(|it| (it.id.to_string(), it.freed)).collect();
    assert_eq!(removed, [("a@1".into(), 4), ("b@1".into(), 4)]);
    assert_eq!((done.before, done.after), (16, 8));
    assert_eq!(shelf.ids(), ["c@1", "d@1"]);

    let rest = shelf.collect(0, Mode::Real);
    assert_eq!(rest.after, 4);
    assert_eq!(shelf.ids(), ["d@1"]);
}

#[tokio::test]
async fn a_budget_leaves_what_runs_and_what_would_free_nothing() {
    let shelf = Shelf::new();
    let running = shelf.add("a:1", b"aaaa");
    shelf.add("b:1", b"aaaa");
    let _held = shelf.store.hold(&running.id).await.unwrap();

    let collected = shelf.collect(0, Mode::Real);

    assert!(collected.removed.is_empty());
    assert_eq!(collected.kept.len(), 2);
    assert_eq!(shelf.ids(), ["a@1", "b@1"]);
}

#[test]
fn only_old_files_that_belong_to_nothing_are_swept() {
    let shelf = Shelf::new();
    let owned = shelf.add("a:1", b"weights").model;
    let blobs = shelf.home.path().join("blobs");
    let (old, new) = (blobs.join("old.gguf"), blobs.join("new.gguf"));
    let two_days = Duration::from_secs(48 * 3600);
    for path in [&old, &new] {
        std::fs::write(path, b"xyz").unwrap();
    }
    for path in [&old, &owned] {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - two_days).unwrap();
    }
    let collect = |mode| shelf.store.collect(None, mode, &|_, _| Ok(())).unwrap().leftovers;

    assert_eq!(collect(Mode::DryRun), 3);
    assert!(old.exists());
    assert_eq!(collect(Mode::Real), 3);

    assert!(!old.exists() && new.exists() && owned.exists());
}

#[test]
fn a_store_that_was_copied_takes_nothing_from_the_one_that_it_was_copied_from() {
    let shelf = Shelf::new();
    let path = shelf.add("a:1", b"weights").model;
    let other = Shelf::new();
    for folder in ["models", "blobs"] {
        std::fs::create_dir(other.home.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(shelf.home.path().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let copy = other.home.path().join(folder).join(entry.file_name());
            std::fs::copy(entry.path(), &copy).unwrap();
            let long_ago = std::time::SystemTime::now() - Duration::from_secs(48 * 3600);
            std::fs::File::options()
                .write(true)
                .open(&copy)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
    }

    assert_eq!(other.store.collect(None, Mode::Real, &|_, _| Ok(())).unwrap().leftovers, 0);
    assert_eq!(other.remove("a:1").unwrap(), 0);

    assert!(path.exists());
    assert!(other.ids().is_empty());
}

#[test]
fn a_touched_file_is_hashed_again_and_a_changed_one_is_damage() {
    let shelf = Shelf::new();
    let mut manifest = shelf.add("a:1", b"weights");
    assert!(!manifest.check(Check::IfTouched).unwrap());

    std::fs::write(&manifest.model, b"weights").unwrap();
    assert!(manifest.check(Check::IfTouched).unwrap());
    assert!(!manifest.check(Check::IfTouched).unwrap());

    std::fs::write(&manifest.model, b"weighty").unwrap();
    assert!(matches!(manifest.check(Check::IfTouched), Err(Damage::Changed { .. })));
}

#[test]
fn every_byte_is_read_to_verify_a_model() {
    let shelf = Shelf::new();
    let (a, b) = (shelf.add("a:1", b"weights"), shelf.add("b:1", b"others"));
    let damaged = |names: &[&str]| -> Vec<_> {
        let names: Vec<_> = names.iter().map(|name| parse(name)).collect();
        let verified = shelf.store.verify(&names).unwrap().into_iter();
        verified.map(|it| (it.manifest.id.to_string(), it.damage.is_some())).collect()
    };
    assert_eq!(damaged(&[]), [("a@1".into(), false), ("b@1".into(), false)]);

    // Of the same length and time: only its content tells.
    std::fs::write(&a.model, b"weighty").unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_nanos(a.files[0].modified_ns);
    std::fs::File::open(&a.model).unwrap().set_modified(time).unwrap();
    std::fs::remove_file(&b.model).unwrap();

    assert_eq!(damaged(&["a"]), [("a@1".into(), true)]);
    assert_eq!(damaged(&[]), [("a@1".into(), true), ("b@1".into(), true)]);
    assert!(matches!(shelf.store.verify(&[parse("c:1")]), Err(Error::Absent(_))));
}

#[test]
fn a_refresh_does_not_bring_a_removed_version_back() {
    let shelf = Shelf::new();
    let manifest = shelf.add("a:1", b"weights");
    shelf.remove("a@1").unwrap();

    shelf.store.refresh(&manifest).unwrap();

    assert!(shelf.ids().is_empty());
}

#[test]
fn files_that_vanish_before_they_are_noted_make_no_version() {
    let shelf = Shelf::new();
    let content = shelf.content(b"weights");
    std::fs::remove_file(&content.model).unwrap();

    let added = shelf.store.add("a".parse().unwrap(), "a:1", content);

    assert!(matches!(added, Err(Error::Io { .. })));
    assert!(shelf.ids().is_empty());
}

#[test]
fn a_foreign_manifest_is_an_error_not_an_absence() {
    let shelf = Shelf::new();
    let models = shelf.home.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("x.json"), b"{\"format\":3}").unwrap();

    assert!(matches!(shelf.store.find(&parse("a:1")), Err(Error::Manifest(_))));
    assert!(matches!(shelf.store.list(), Err(Error::Manifest(_))));
}

/// Writes a manifest as the first version of this program did.
fn write_unnumbered(shelf: &Shelf, name: &str, content: &[u8], repo: &str) {
    let made = shelf.content(content);
    let manifest = serde_json::json!({
        "format": 1, "name": name, "model": made.model, "version": made.digest(),
        "source": { "kind": "hub", "repo": repo, "commit": "ab".repeat(20) },
        "files": made.files, "created": 1_700_000_000,
    });
    let path = shelf.home.path().join("models").join(format!("{}.json", key(name)));
    write_atomic(&path, manifest.to_string().as_bytes()).unwrap();
}

#[test]
fn an_older_store_is_read_and_its_models_get_numbers() {
    let shelf = Shelf::new();
    write_unnumbered(&shelf, "smollm2:135m", b"weights", "owner/smollm2");
    write_unnumbered(&shelf, "hf:owner/repo", b"others", "owner/repo");
    write_unnumbered(&shelf, "hf:owner/repo@main", b"others", "owner/repo");
    write_unnumbered(&shelf, "hf:other/repo", b"more", "other/repo");

    let ids = shelf.ids();

    assert_eq!(ids.len(), 3);
    assert_eq!(shelf.find("smollm2:135m").unwrap(), "smollm2@1");
    assert_eq!(shelf.find("hf:owner/repo"), shelf.find("hf:owner/repo@main"));
    // One of the two repositories has the short name.
    let repos = [shelf.find("hf:owner/repo").unwrap(), shelf.find("hf:other/repo").unwrap()];
    assert!(repos.contains(&"repo@1".to_owned()), "{repos:?}");
    assert!(repos.iter().any(|id| id.contains("--repo@1")), "{repos:?}");
    let manifest = shelf.store.get(&parse("smollm2@1")).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.created), ("smollm2:135m", 1_700_000_000));
    assert_eq!(std::fs::read(&manifest.model).unwrap(), b"weights");
    // Done once.
    let generation = shelf.store.lock().unwrap().generation;
    assert_eq!(shelf.ids(), ids);
    assert_eq!(shelf.store.lock().unwrap().generation, generation);
    assert_eq!(std::fs::read_dir(shelf.home.path().join("models")).unwrap().count(), 3);
}

#[test]
fn a_migration_that_was_cut_short_goes_on() {
    let shelf = Shelf::new();
    write_unnumbered(&shelf, "smollm2:135m", b"weights", "owner/smollm2");
    shelf.ids();
    // As if it had ended before the old manifest was removed and the lock file written.
    write_unnumbered(&shelf, "smollm2:135m", b"weights", "owner/smollm2");
    std::fs::remove_file(shelf.home.path().join("models.lock")).unwrap();

    assert_eq!(shelf.ids(), ["smollm2@1"]);
    assert_eq!(shelf.find("smollm2:135m").unwrap(), "smollm2@1");
}

#[test]
fn every_change_is_a_generation_that_can_be_read() {
    let shelf = Shelf::new();
    let file = shelf.home.path().join("models.lock");
    shelf.add("a:1", b"weights");
    shelf.store.set_alias("a:prod".parse().unwrap(), &parse("a@1")).unwrap();

    let lock = Lock::read(&file).unwrap().unwrap();
    assert_eq!(lock, shelf.store.lock().unwrap());
    assert_eq!(lock.generation, 2);
    assert_eq!(lock.versions[0].files[0].sha256, Sha256Hash::of(b"weights"));
    let first = Lock::read(&shelf.store.generation(1)).unwrap().unwrap();
    assert!(first.aliases.is_empty() && first.versions == lock.versions);

    // What changes nothing is none.
    shelf.store.set_alias("a:prod".parse().unwrap(), &parse("a@1")).unwrap();
    shelf.add("a:1", b"weights");
    assert_eq!(shelf.store.lock().unwrap().generation, 2);
}

#[test]
fn a_lock_file_that_cannot_be_read_is_never_written_over() {
    let shelf = Shelf::new();
    shelf.add("a:1", b"weights");
    let file = shelf.home.path().join("models.lock");
    for text in ["format = 1\naliases = 3", "format = 2", "<<<<<<< ours"] {
        std::fs::write(&file, text).unwrap();

        let failed = shelf.store.set_alias("a:prod".parse().unwrap(), &parse("a@1"));

        assert!(matches!(failed, Err(Error::Lock(_))));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn changes_at_once_lose_nothing() {
    let shelf = Shelf::new();
    shelf.add("a:1", b"weights");

    std::thread::scope(|scope| {
        for number in 0..8 {
            let shelf = &shelf;
            scope.spawn(move || {
                let alias = format!("a:alias-{number}").parse().unwrap();
                shelf.store.set_alias(alias, &parse("a@1")).unwrap();
                shelf.add("b:1", format!("content {number}").as_bytes());
            });
        }
    });

    let lock = shelf.store.lock().unwrap();
    assert_eq!(lock.aliases.len(), 8);
    assert_eq!(lock.versions.len(), 9);
    assert_eq!(lock.generation, 17);
}

#[test]
fn an_import_is_hashed_and_linked_and_its_source_stays() {
    let shelf = Shelf::new();
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("tiny.gguf");
    std::fs::write(&path, b"GGUF weights").unwrap();

    let linked = shelf.store.import(&path, "tiny".parse().unwrap(), Transfer::Link).unwrap();
    let copied = shelf.store.import(&path, "copy".parse().unwrap(), Transfer::Copy).unwrap();

    assert_eq!(linked.manifest.id.to_string(), "tiny@1");
    assert_eq!(linked.manifest.files[0].sha256, Sha256Hash::of(b"GGUF weights"));
    assert_eq!((linked.num_copied, copied.num_copied), (0, 1));
    assert_eq!(shelf.remove("tiny").unwrap(), 0);
    assert_eq!(shelf.remove("copy").unwrap(), 12);
    assert!(path.exists());
}

#[test]
fn a_folder_is_imported_under_the_names_of_its_files() {
    let shelf = Shelf::new();
    let outside = tempfile::tempdir().unwrap();
    let names = ["config.json", "model.safetensors", "1_Pooling/config.json"];
    std::fs::create_dir(outside.path().join("1_Pooling")).unwrap();
    for (name, content) in names.iter().chain(&["run.py", ".hidden.json"]).zip(0_u8..) {
        std::fs::write(outside.path().join(name), [content]).unwrap();
    }

    let import = || shelf.store.import(outside.path(), "m".parse().unwrap(), Transfer::Link);
    let imported = import().unwrap().manifest;

    assert_eq!(imported.files.len(), 3);
    for (name, content) in names.iter().zip(0_u8..) {
        assert_eq!(std::fs::read(imported.model.join(name)).unwrap(), [content], "{name}");
    }
    assert_eq!(import().unwrap().manifest.id, imported.id);

    shelf.remove("m").unwrap();
    assert!(!imported.model.exists());
    assert_eq!(std::fs::read_dir(shelf.home.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_version_with_defaults_shares_the_files_of_its_base() {
    let shelf = Shelf::new();
    let base = shelf.add("a:1", b"weights");
    let create = |defaults: &Defaults, base: &str| {
        shelf.store.create("mine".parse().unwrap(), &parse(base), defaults.clone()).unwrap()
    };
    let short = Defaults { context_length: NonZeroU32::new(64), ..Defaults::default() };
    let template = Some("{{ messages }}".to_owned());
    let spoken = Defaults { chat_template: template.clone(), ..Defaults::default() };

    let first = create(&short, "a@1");
    let second = create(&spoken, "mine@1");

    assert_eq!((first.id.to_string(), second.id.to_string()), ("mine@1".into(), "mine@2".into()));
    assert_ne!(first.version, base.version);
    assert_eq!(create(&short, "a@1").id, first.id);
    assert_eq!(second.model, base.model);
    // What the second leaves open is as the first has it.
    assert_eq!(second.defaults.as_ref().unwrap().context_length, short.context_length);
    let args = shelf.store.worker_args(&second, &[]).unwrap();
    let [context, tokens, flag, path] = &args[..] else { panic!("{args:?}") };
    assert_eq!((context, tokens), (&"--max-model-len".into(), &"64".into()));
    assert_eq!(flag, "--chat-template");
    assert_eq!(std::fs::read_to_string(path).ok(), template);

    assert_eq!(shelf.remove("a").unwrap(), 0);
    assert_eq!(shelf.remove("mine").unwrap(), 7);
    assert!(!Path::new(path).exists());
}

#[test]
fn what_is_no_whole_model_is_not_imported() {
    let shelf = Shelf::new();
    let outside = tempfile::tempdir().unwrap();
    let import = |path: &Path| shelf.store.import(path, "m".parse().unwrap(), Transfer::Link);
    let pickle = outside.path().join("pytorch_model.bin");
    std::fs::write(&pickle, b"").unwrap();

    assert!(matches!(import(&pickle), Err(ImportError::Kind(_))));
    assert!(matches!(import(&outside.path().join("none")), Err(ImportError::Io { .. })));
    assert!(matches!(import(outside.path()), Err(ImportError::Folder { .. })));
    std::fs::write(outside.path().join("config.json"), b"{}").unwrap();
    std::fs::write(outside.path().join("model-00001-of-00002.safetensors"), b"").unwrap();
    assert!(matches!(import(outside.path()), Err(ImportError::Incomplete(_))));
    std::fs::write(outside.path().join("mödel.safetensors"), b"").unwrap();
    assert!(matches!(import(outside.path()), Err(ImportError::Name { .. })));
    assert!(shelf.ids().is_empty());
}
