//! Files in a directory, with the database that says what they are.

use std::os::unix::fs::PermissionsExt;

use futures::stream;
use tempfile::TempDir;

use super::*;

const LIMITS: FileLimits = FileLimits {
    max_file_bytes: 20 << 20,
    max_bytes: 30 << 20,
    max_files: 3,
    max_uploads: 2,
    max_lines: 10,
    upload_timeout: Duration::from_secs(60),
};

fn files(directory: &TempDir) -> Files {
    Files::new(&Config {
        database: Database::new(directory.path().join("sconce.db")),
        files: LIMITS,
        ..Config::default()
    })
}

fn new_file() -> NewFile {
    NewFile {
        id: None,
        purpose: "batch",
        filename: "lines.jsonl".into(),
        ttl: None,
        origin: Origin::Client,
    }
}

/// So many bytes, each telling where it is.
fn pieces(num_bytes: usize) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin {
    let bytes = Bytes::from(contents(num_bytes));
    let starts = (0..num_bytes).step_by(100_000);
    stream::iter(starts.map(move |start| Ok(bytes.slice(start..num_bytes.min(start + 100_000)))))
}

fn contents(num_bytes: usize) -> Vec<u8> {
    (0..num_bytes).map(|i| (i % 251) as u8).collect()
}

async fn read(files: &Files, row: &FileRow, range: Option<Range<u64>>) -> Vec<u8> {
    let (_, contents) = files.read(&row.owner, &row.id, range).await.unwrap();
    contents.try_collect::<Vec<_>>().await.unwrap().concat()
}

/// The objects that lie in the directory, whole or not.
fn objects(directory: &TempDir) -> usize {
    std::fs::read_dir(directory.path().join("sconce.files")).unwrap().count()
}

#[tokio::test]
async fn a_file_is_read_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);

    for num_bytes in [0, 1, 250_000, 18_000_000] {
        let row = files.put("a", new_file(), pieces(num_bytes)).await.unwrap();

        assert_eq!(row.num_bytes, num_bytes as i64);
        assert!(read(&files, &row, None).await == contents(num_bytes));
        let middle = num_bytes as u64 / 3..num_bytes as u64 / 2;
        let expected = &contents(num_bytes)[num_bytes / 3..num_bytes / 2];
        assert!(read(&files, &row, Some(middle)).await == expected);
        files.delete("a", &row.id).await.unwrap();
    }
    assert_eq!(objects(&directory), 0);
    let mode = std::fs::metadata(directory.path().join("sconce.files")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_file_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let row = files.put("a", new_file(), pieces(3)).await.unwrap();

    assert!(matches!(files.row("b", &row.id).await, Err(Error::NotFound { .. })));
    assert!(matches!(files.read("b", &row.id, None).await, Err(Error::NotFound { .. })));
    assert!(matches!(files.delete("b", &row.id).await, Err(Error::NotFound { .. })));
    let list = ListFiles { purpose: None, after: None, order: Order::NewestFirst, limit: 5 };
    assert_eq!(files.list("b", list).await.unwrap(), (vec![], false));
    assert_eq!(files.list("a", list).await.unwrap(), (vec![row], false));
}

#[tokio::test]
async fn a_file_of_one_id_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let file = NewFile { id: Some("file-1".into()), origin: Origin::Server, ..new_file() };

    let first = files.put("a", file.clone(), pieces(3)).await.unwrap();
    assert_eq!(files.put("a", file, pieces(7)).await.unwrap(), first);

    assert_eq!(read(&files, &first, None).await, contents(3));
    clean(&files).await;
    assert_eq!(objects(&directory), 1);
}

#[tokio::test]
async fn an_owner_stores_no_more_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);

    let large = files.put("a", new_file(), pieces((20 << 20) + 1)).await;
    assert!(matches!(large, Err(Error::TooLarge { max_bytes: 20_971_520 })));
    files.put("a", new_file(), pieces(20 << 20)).await.unwrap();
    let more = files.put("a", new_file(), pieces(11 << 20)).await;
    assert!(matches!(more, Err(Error::OverQuota { .. })));
    files.put("b", new_file(), pieces(11 << 20)).await.unwrap();

    let result = NewFile { origin: Origin::Server, ..new_file() };
    files.put("a", result.clone(), pieces(11 << 20)).await.unwrap();
    files.put("a", result, pieces(1)).await.unwrap();
    let many = files.put("a", new_file(), pieces(1)).await;
    assert!(matches!(many, Err(Error::OverQuota { .. })));
}

/// Lets what dropped uploads left be removed.
async fn clean(files: &Files) {
    let is_done = async {
        while !files.0.abandon.is_closed() {
            let is_idle = files.0.uploads.lock().unwrap().is_empty();
            let loose = files.opened().await.unwrap().store.due_objects(9, i64::MAX).await.unwrap();
            if is_idle && loose.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        never = files.keep_clean() => match never {},
        () = is_done => {}
    }
}

#[tokio::test]
async fn a_dropped_upload_leaves_nothing_and_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let mut first = files.begin("a", Origin::Client).await.unwrap();
    let second = files.begin("a", Origin::Client).await.unwrap();
    first.write(&contents(17_000_000)).await.unwrap();
    assert_eq!(objects(&directory), 1);

    let third = files.begin("a", Origin::Client).await;
    assert!(matches!(third, Err(Error::TooManyUploads { max: 2 })));
    files.begin("b", Origin::Client).await.unwrap();
    drop((first, second));
    clean(&files).await;

    assert_eq!(objects(&directory), 0);
    files.begin("a", Origin::Client).await.unwrap();
}

#[tokio::test]
async fn what_a_dead_process_left_is_swept_once_it_is_due() {
    let directory = tempfile::tempdir().unwrap();
    let mut upload = files(&directory).begin("a", Origin::Client).await.unwrap();
    upload.write(&contents(17_000_000)).await.unwrap();
    std::mem::forget(upload);

    let files = files(&directory);
    files.sweep().await.unwrap();
    assert_eq!(objects(&directory), 1, "another process may be writing it");
    let store = &files.opened().await.unwrap().store;
    let object = store.due_objects(9, i64::MAX).await.unwrap().remove(0);
    store.forget_object(&object).await.unwrap();
    store.begin_object(&object, 0).await.unwrap();
    files.sweep().await.unwrap();

    assert_eq!(objects(&directory), 0);
}

#[tokio::test]
async fn an_expired_file_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let brief = NewFile { ttl: Some(Duration::ZERO), ..new_file() };
    let row = files.put("a", brief, pieces(3)).await.unwrap();
    let kept = files.put("a", new_file(), pieces(3)).await.unwrap();

    assert!(matches!(files.row("a", &row.id).await, Err(Error::NotFound { .. })));
    files.sweep().await.unwrap();

    assert_eq!(objects(&directory), 1);
    assert_eq!(read(&files, &kept, None).await, contents(3));
}

#[tokio::test]
async fn a_shared_database_needs_a_place_to_be_named() {
    let database = Database::new("postgres://localhost/sconce");
    let files = Files::new(&Config { database, ..Config::default() });

    files.sweep().await.unwrap();
    assert!(matches!(files.row("a", "file-1").await, Err(Error::Nowhere)));
}

#[tokio::test]
async fn a_directory_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let path = directory.path().join("sconce.files");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();

    let refused = files.put("a", new_file(), pieces(3)).await;

    assert!(matches!(refused, Err(Error::Exposed { mode: 0o755, .. })));
}
