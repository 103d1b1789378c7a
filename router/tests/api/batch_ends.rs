//! Batches that do not simply go on: that end early, or whose router dies, in whatever state they are.
//!
//! No lease ends here: who dies is noticed without.

use std::fs;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap};
use sconce_router::config::{AuthMode, Config};
use sconce_router::keys::Keys;
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Connection, Row};
use tokio::time::{interval, timeout};

use crate::batches::{Router, Shared, echo, ids, prompts};
use crate::worker::{LONG, Worker};

/// Nobody gets anything by waiting for a lease's end.
fn long(config: &mut Config) {
    config.batches.lease = Duration::from_secs(3600);
}

impl Shared {
    async fn long(&self) -> Router {
        self.router_with(long).await
    }

    /// Asks the database.
    async fn sql(&self, statement: &'static str) -> Vec<AnyRow> {
        sqlx::any::install_default_drivers();
        let url = match &self.server {
            Some(server) => server.url(),
            None => format!("sqlite://{}", self.directory.path().join("sconce.db").display()),
        };
        let mut connection = AnyConnection::connect(&url).await.unwrap();
        let rows = sqlx::query(statement).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows
    }

    /// Asks the database until it has an answer.
    async fn until_sql(&self, statement: &'static str) {
        let mut ticks = interval(Duration::from_millis(20));
        let asked = async {
            while self.sql(statement).await.is_empty() {
                ticks.tick().await;
            }
        };
        timeout(LONG * 2, asked).await.expect(statement);
    }

    /// Has what writes or reads files fail.
    fn take_files_away(&self) {
        let directory = self.directory.path();
        fs::rename(directory.join("files"), directory.join("away")).unwrap();
        fs::write(directory.join("files"), "").unwrap();
    }

    fn bring_files_back(&self) {
        let directory = self.directory.path();
        fs::remove_file(directory.join("files")).unwrap();
        fs::rename(directory.join("away"), directory.join("files")).unwrap();
    }
}

/// The ids of the next requests, in their order.
async fn submitted(worker: &mut Worker, num: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    for _ in 0..num {
        ids.push(worker.submitted().await.submit.request_id);
    }
    ids.sort_unstable();
    ids
}

/// Waits until as many requests are cancelled, and returns their ids, in their order.
async fn cancelled(worker: &mut Worker, num: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    for _ in 0..num {
        ids.push(worker.cancelled().await);
    }
    ids.sort_unstable();
    ids
}

fn counts(batch: &Value) -> (&str, &Value) {
    (batch["status"].as_str().unwrap(), &batch["request_counts"])
}

#[tokio::test]
async fn a_batch_whose_router_dies_while_its_input_is_checked_goes_on() {
    for mut shared in Shared::on_both() {
        // It does not know yet which models there are.
        let no_worker = |config: &mut Config| {
            long(config);
            config.workers = vec!["unix:/nowhere/worker.sock".into()];
        };
        let first = shared.router_with(no_worker).await;
        let path = first.begin(&prompts(2)).await;
        let being_checked =
            "SELECT id FROM batches WHERE status = 'validating' AND lease_holder IS NOT NULL";
        shared.until_sql(being_checked).await;
        first.die().await;
        let second = shared.long().await;

        echo(&mut shared.worker, 2).await;

        let batch = second.ended(&path).await;
        let all = json!({"total": 2, "completed": 2, "failed": 0});
        assert_eq!(counts(&batch), ("completed", &all));
    }
}

#[tokio::test]
async fn a_batch_whose_router_dies_while_lines_run_goes_on() {
    for mut shared in Shared::on_both() {
        let first = shared.long().await;
        let path = first.begin(&prompts(2)).await;
        submitted(&mut shared.worker, 2).await;
        first.die().await;
        let second = shared.long().await;

        for _ in 0..2 {
            let request = shared.next().await;
            request.answer(&request.prompt());
        }

        let batch = second.ended(&path).await;
        let all = json!({"total": 2, "completed": 2, "failed": 0});
        assert_eq!(counts(&batch), ("completed", &all));
        let answers = second.lines(&batch["output_file_id"]).await;
        assert_eq!(ids(&answers), ["id 1", "id 2"]);
    }
}

#[tokio::test]
async fn a_batch_whose_router_dies_while_its_files_are_written_goes_on() {
    for mut shared in Shared::on_both() {
        let first = shared.long().await;
        let path = first.begin(&prompts(2)).await;
        let requests = [shared.worker.submitted().await, shared.worker.submitted().await];
        shared.take_files_away();
        requests.iter().for_each(|request| request.answer(&request.prompt()));
        first.until(&path, |batch| batch["status"] == "finalizing").await;
        first.die().await;
        shared.bring_files_back();
        let second = shared.long().await;

        let batch = second.ended(&path).await;

        let all = json!({"total": 2, "completed": 2, "failed": 0});
        assert_eq!(counts(&batch), ("completed", &all));
        let answers = second.lines(&batch["output_file_id"]).await;
        assert_eq!(ids(&answers), ["id 1", "id 2"]);
        assert!(batch["error_file_id"].is_null());
    }
}

#[tokio::test]
async fn a_batch_whose_router_dies_while_it_is_cancelled_ends() {
    for mut shared in Shared::on_both() {
        let first = shared.long().await;
        let path = first.begin(&prompts(2)).await;
        let kept = shared.worker.submitted().await;
        submitted(&mut shared.worker, 1).await;
        kept.answer("kept");
        first.until(&path, |batch| batch["request_counts"]["completed"] == 1).await;
        shared.take_files_away();
        let cancelled = first.post(&format!("{path}/cancel"), &json!({})).await;
        assert_eq!(cancelled.body["status"], "cancelling");
        first.die().await;
        shared.bring_files_back();
        let second = shared.long().await;

        let batch = second.ended(&path).await;

        let all = json!({"total": 2, "completed": 1, "failed": 1});
        assert_eq!(counts(&batch), ("cancelled", &all));
        assert_eq!(second.lines(&batch["output_file_id"]).await.len(), 1);
        let errors = second.lines(&batch["error_file_id"]).await;
        assert_eq!(errors[0]["error"]["code"], "batch_cancelled");
    }
}

#[tokio::test]
async fn what_runs_of_a_cancelled_batch_is_cancelled_at_the_worker() {
    let mut shared = Shared::new();
    let router = shared.long().await;
    let path = router.begin(&prompts(3)).await;
    let running = submitted(&mut shared.worker, 3).await;

    router.post(&format!("{path}/cancel"), &json!({})).await;

    assert_eq!(cancelled(&mut shared.worker, 3).await, running);
    let all = json!({"total": 3, "completed": 0, "failed": 3});
    assert_eq!(counts(&router.ended(&path).await), ("cancelled", &all));
    assert!(shared.worker.is_idle());
}

#[tokio::test]
async fn a_batch_whose_day_is_over_ends_with_what_was_answered() {
    for mut shared in Shared::on_both() {
        let router = shared.long().await;
        let path = router.begin(&prompts(3)).await;
        let first = shared.worker.submitted().await;
        let answered = first.prompt().replace("prompt", "id");
        let running = submitted(&mut shared.worker, 2).await;
        first.answer("in time");
        router.until(&path, |batch| batch["request_counts"]["completed"] == 1).await;

        shared.sql("UPDATE batches SET expires_at = 1").await;

        assert_eq!(cancelled(&mut shared.worker, 2).await, running);
        let batch = router.ended(&path).await;
        let all = json!({"total": 3, "completed": 1, "failed": 2});
        assert_eq!(counts(&batch), ("expired", &all));
        assert!(batch["expired_at"].is_u64() && batch["completed_at"].is_null());
        assert_eq!(ids(&router.lines(&batch["output_file_id"]).await), [answered]);
        let errors = router.lines(&batch["error_file_id"]).await;
        assert_eq!(errors.len(), 2);
        assert!(errors.iter().all(|line| line["error"]["code"] == "batch_expired"));
        let late = router.post(&format!("{path}/cancel"), &json!({})).await;
        assert_eq!(late.status, 409, "{}", late.body);
    }
}

#[tokio::test]
async fn a_batch_whose_key_is_revoked_is_cancelled() {
    for mut shared in Shared::on_both() {
        let pepper = shared.directory.path().join("pepper");
        let database = shared.database.clone().with_pepper(Some(pepper));
        let keys = Keys::open(database.clone()).await.unwrap();
        let created = keys.create("short-lived").await.unwrap();
        let with_keys = |config: &mut Config| {
            long(config);
            config.auth = AuthMode::Keys;
            config.database = database;
        };
        let mut router = shared.router_with(with_keys).await;
        router.client = with_key(created.key.expose());
        // More than run at the same time.
        router.begin(&prompts(9)).await;
        let running = submitted(&mut shared.worker, 6).await;

        keys.revoke(created.id.as_str()).await.unwrap();

        assert_eq!(cancelled(&mut shared.worker, 6).await, running);
        shared.until_sql("SELECT id FROM batches WHERE status = 'cancelled'").await;
        let rows = shared.sql("SELECT num_completed, num_failed FROM batches").await;
        assert_eq!((rows[0].get::<i64, _>(0), rows[0].get::<i64, _>(1)), (0, 9));
        assert!(shared.worker.is_idle());
    }
}

fn with_key(key: &str) -> reqwest::Client {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {key}").parse().unwrap())]);
    reqwest::Client::builder().no_proxy().default_headers(headers).build().unwrap()
}
