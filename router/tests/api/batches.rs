//! The Batch API: from a file of requests to files of answers, whatever happens on the way.

use std::time::Duration;

use reqwest::Method;
use sconce_proto::worker::Finish;
use sconce_proto::worker::embedded::End;
use sconce_proto::worker::router_message::Message;
use sconce_router::config::Config;
use sconce_router::dispatch::Dispatcher;
use sconce_router::server::Server;
use sconce_router::shutdown::Stage;
use sconce_router::store::Database;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use crate::embeddings::embedder;
use crate::postgres::Postgres;
use crate::service::{Answer, answer};
use crate::worker::{LONG, Received, Worker};

/// Routers that share a database and the contents of files, and one worker.
pub(crate) struct Shared {
    pub(crate) worker: Worker,
    pub(crate) database: Database,
    pub(crate) directory: TempDir,
    pub(crate) server: Option<Postgres>,
}

pub(crate) struct Router {
    url: String,
    stage: watch::Sender<Stage>,
    serving: JoinHandle<()>,
    pub(crate) client: reqwest::Client,
}

impl Shared {
    fn on(server: Option<Postgres>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = match &server {
            Some(server) => Database::new(server.url()),
            None => Database::new(directory.path().join("sconce.db")),
        };
        Self { worker: Worker::start(|_| {}), database, directory, server }
    }

    pub(crate) fn new() -> Self {
        Self::on(None)
    }

    /// The same test on SQLite, and on PostgreSQL where there is one.
    pub(crate) fn on_both() -> Vec<Self> {
        let server = Postgres::start().map(|server| Self::on(Some(server)));
        [Self::new()].into_iter().chain(server).collect()
    }

    /// The worker's next request, whatever a router that ends cancels meanwhile.
    pub(crate) async fn next(&mut self) -> Received {
        loop {
            let received = timeout(LONG, self.worker.received.recv()).await.unwrap().unwrap();
            if let (Message::Submit(submit), session) = received {
                let tokenizer = self.worker.tokenizer.clone();
                return Received { submit, session, tokenizer };
            }
        }
    }

    async fn router(&self) -> Router {
        self.router_with(|_| {}).await
    }

    pub(crate) async fn router_with(&self, change: impl FnOnce(&mut Config)) -> Router {
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            database: self.database.clone(),
            auth: sconce_router::config::AuthMode::Open,
            workers: vec![self.worker.address()],
            ..Config::default()
        };
        let files = self.directory.path().join("files");
        config.file_location = Some(sconce_router::config::FileLocation::Directory(files));
        config.batches.lease = Duration::from_secs(1);
        change(&mut config);
        let dispatcher = Dispatcher::new(&config);
        let (stage, stages) = watch::channel(Stage::Serve);
        let server = Server::bind(config, dispatcher, stages).await.unwrap();
        let url = format!("http://{}", server.address());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Router { url, stage, serving: tokio::spawn(server.serve()), client }
    }
}

impl Router {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.client.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.client.request(Method::POST, format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json").body(body.to_string());
        answer(request.send().await.unwrap()).await
    }

    async fn upload(&self, lines: &str) -> String {
        let body = format!(
            "--edge\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--edge\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{lines}\r\n\
             --edge--\r\n"
        );
        let request = self.client.post(format!("{}/v1/files", self.url)).body(body);
        let request = request.header("content-type", "multipart/form-data; boundary=edge");
        let stored = answer(request.send().await.unwrap()).await;
        assert_eq!(stored.status, 200, "{}", stored.body);
        stored.body["id"].as_str().unwrap().to_owned()
    }

    /// Begins a batch of these lines, and returns its path.
    pub(crate) async fn begin(&self, lines: &str) -> String {
        let input = self.upload(lines).await;
        let body = json!({"input_file_id": input, "endpoint": "/v1/completions",
            "completion_window": "24h", "metadata": {"k": "v"}});
        let begun = self.post("/v1/batches", &body).await;
        assert_eq!(begun.status, 200, "{}", begun.body);
        assert_eq!(
            (&begun.body["status"], &begun.body["object"]),
            (&json!("validating"), &json!("batch"))
        );
        format!("/v1/batches/{}", begun.body["id"].as_str().unwrap())
    }

    /// Ends as a killed process does: nothing is given back.
    pub(crate) async fn die(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }

    /// Asks until the batch is what is wanted.
    pub(crate) async fn until(&self, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let mut ticks = interval(Duration::from_millis(10));
        let asked = async {
            loop {
                ticks.tick().await;
                let batch = self.get(path).await.body;
                if is_wanted(&batch) {
                    return batch;
                }
            }
        };
        timeout(LONG * 2, asked).await.expect("the batch did not get there")
    }

    pub(crate) async fn ended(&self, path: &str) -> Value {
        let ended = ["completed", "failed", "expired", "cancelled"];
        self.until(path, |batch| ended.iter().any(|status| batch["status"] == *status)).await
    }

    /// The lines of one of a batch's files.
    pub(crate) async fn lines(&self, id: &Value) -> Vec<Value> {
        let Some(id) = id.as_str() else { return Vec::new() };
        let url = format!("{}/v1/files/{id}/content", self.url);
        let text = self.client.get(url).send().await.unwrap().text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn line(id: usize, body: &Value) -> String {
    let line = json!({"custom_id": format!("id {id}"), "method": "POST",
        "url": "/v1/completions", "body": body});
    format!("{line}\n")
}

pub(crate) fn prompts(num: usize) -> String {
    let body = |id: usize| json!({"model": "org/tiny", "prompt": format!("prompt {id}")});
    (1..=num).map(|id| line(id, &body(id))).collect()
}

pub(crate) fn ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["custom_id"].as_str().unwrap()).collect()
}

/// Answers requests with what they ask, until so many are answered.
pub(crate) async fn echo(worker: &mut Worker, num: usize) -> Vec<String> {
    let mut prompts = Vec::new();
    for _ in 0..num {
        let request = worker.submitted().await;
        prompts.push(request.prompt());
        request.answer(&request.prompt());
    }
    prompts
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_lines_and_errors_apart() {
    let mut shared = Shared::new();
    let router = shared.router().await;
    let wrong = json!({"model": "org/tiny", "prompt": "x", "n": 99});
    let streamed = json!({"model": "org/tiny", "prompt": "x", "stream": true});
    let input = prompts(2) + "\n" + &line(3, &wrong) + &line(4, &streamed);
    let input = input + &line(5, &json!({"model": "org/tiny", "prompt": "prompt 5"}));
    let path = router.begin(&input).await;
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.push(shared.worker.submitted().await);
    }
    // Behind everything else that its workers have.
    assert!(requests.iter().all(|request| request.submit.priority >= 10_000));
    for request in requests.iter().rev() {
        request.answer(&request.prompt());
    }

    let batch = router.ended(&path).await;

    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"], json!({"total": 5, "completed": 3, "failed": 2}));
    assert_eq!(batch["metadata"], json!({"k": "v"}));
    assert!(batch["usage"]["output_tokens"].as_i64().unwrap() > 0);
    for time in ["in_progress_at", "finalizing_at", "completed_at"] {
        assert!(batch[time].is_u64(), "{time}");
    }
    let answers = router.lines(&batch["output_file_id"]).await;
    assert_eq!(ids(&answers), ["id 1", "id 2", "id 5"]);
    for (line, prompt) in answers.iter().zip(["prompt 1", "prompt 2", "prompt 5"]) {
        assert_eq!(line["response"]["status_code"], 200);
        assert_eq!(line["response"]["body"]["choices"][0]["text"], prompt);
        assert_eq!(line["error"], Value::Null);
    }
    let errors = router.lines(&batch["error_file_id"]).await;
    assert_eq!(ids(&errors), ["id 3", "id 4"]);
    for (line, param) in errors.iter().zip(["n", "stream"]) {
        assert_eq!(line["response"]["status_code"], 400);
        assert_eq!(line["response"]["body"]["error"]["param"], param);
    }
}

#[tokio::test]
async fn nobody_waits_for_the_vectors_of_a_line() {
    let mut shared = Shared { worker: Worker::start(embedder), ..Shared::new() };
    let router = shared.router().await;
    let line = json!({"custom_id": "id 1", "method": "POST", "url": "/v1/embeddings",
        "body": {"model": "org/tiny", "input": "ab"}});
    let input = router.upload(&line.to_string()).await;
    let body = json!({"input_file_id": input, "endpoint": "/v1/embeddings",
        "completion_window": "24h"});
    let begun = router.post("/v1/batches", &body).await.body;
    let request = shared.worker.embed().await;
    assert!(request.embed.priority >= 10_000);
    request.vectors(&[0.5, 1.0], End::Complete);

    let path = format!("/v1/batches/{}", begun["id"].as_str().unwrap());
    let batch = router.ended(&path).await;

    let answers = router.lines(&batch["output_file_id"]).await;
    assert_eq!(answers[0]["response"]["body"]["data"][0]["embedding"], json!([0.5, 1.0]));
}

#[tokio::test]
async fn a_file_that_is_wrong_fails_with_the_lines_numbers() {
    let shared = Shared::new();
    let router = shared.router().await;
    let unknown = line(2, &json!({"model": "unknown", "prompt": "x"}));
    let twice = line(1, &json!({"model": "org/tiny", "prompt": "x"}));
    let other = twice.replace("id 1", "id 3").replace("/v1/completions", "/v1/embeddings");
    let path = router.begin(&(prompts(1) + "\n" + &unknown + &twice + &other + "{}")).await;

    let batch = router.ended(&path).await;

    assert_eq!(batch["status"], "failed");
    assert!(batch["failed_at"].is_u64());
    let errors = batch["errors"]["data"].as_array().unwrap();
    let told: Vec<_> = errors.iter().map(|error| (&error["line"], &error["code"])).collect();
    let expected = [
        (json!(3), json!("model_not_found")),
        (json!(4), json!("duplicate_custom_id")),
        (json!(5), json!("invalid_url")),
        (json!(6), json!("missing_required_parameter")),
    ];
    assert_eq!(told, expected.iter().map(|(line, code)| (line, code)).collect::<Vec<_>>());
    assert_eq!(batch["request_counts"]["total"], 0);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_named() {
    let shared = Shared::new();
    let router = shared.router_with(|config| config.batches.max_unfinished = 1).await;
    let input = router.upload(&prompts(1)).await;
    let good = json!({"input_file_id": input, "endpoint": "/v1/completions",
        "completion_window": "24h"});
    for (name, value) in [
        ("input_file_id", json!(null)),
        ("endpoint", json!("/v1/messages")),
        ("completion_window", json!("1h")),
        ("metadata", json!({"k": "v".repeat(513)})),
        ("output_expires_after.seconds", json!(1)),
    ] {
        let mut body = good.clone();
        match name.split_once('.') {
            Some((outer, inner)) => body[outer] = json!({"anchor": "created_at", inner: value}),
            None => body[name] = value,
        }
        let refused = router.post("/v1/batches", &body).await;
        assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &json!(name)));
    }
    let missing = json!({"input_file_id": "file-none", "endpoint": "/v1/completions",
        "completion_window": "24h"});
    assert_eq!(router.post("/v1/batches", &missing).await.status, 404);
    assert_eq!(router.get("/v1/batches/none").await.status, 404);
    assert_eq!(router.post("/v1/batches/none/cancel", &json!({})).await.status, 404);

    assert_eq!(router.post("/v1/batches", &good).await.status, 200);
    let second = router.post("/v1/batches", &good).await;
    assert_eq!((second.status, &second.body["error"]["code"]), (429, &json!("too_many_batches")));
}

#[tokio::test]
async fn batches_are_listed_in_pages() {
    let shared = Shared::new();
    let router = shared.router_with(|config| config.batches.max_running = 0).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.insert(0, router.begin(&prompts(1)).await.split_off("/v1/batches/".len()));
    }

    let first = router.get("/v1/batches?limit=2").await.body;
    let rest = router.get(&format!("/v1/batches?after={}", all[1])).await.body;

    let ids = |list: &Value| {
        let batches = list["data"].as_array().unwrap();
        batches.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((ids(&first), &first["has_more"]), (all[..2].to_vec(), &json!(true)));
    assert_eq!((ids(&rest), &rest["has_more"]), (all[2..].to_vec(), &json!(false)));
    assert_eq!(router.get("/v1/batches?limit=0").await.status, 400);
    assert_eq!(router.get("/v1/batches?after=none").await.status, 404);
}

#[tokio::test]
async fn a_cancelled_batch_keeps_what_was_answered() {
    let mut shared = Shared::new();
    let router = shared.router().await;
    let path = router.begin(&prompts(9)).await;
    let first = shared.worker.submitted().await;
    first.answer("one");
    router.until(&path, |batch| batch["request_counts"]["completed"] == 1).await;

    let cancelled = router.post(&format!("{path}/cancel"), &json!({})).await;

    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelling")));
    let batch = router.ended(&path).await;
    assert_eq!(batch["status"], "cancelled");
    assert_eq!(batch["request_counts"], json!({"total": 9, "completed": 1, "failed": 8}));
    assert_eq!(router.lines(&batch["output_file_id"]).await.len(), 1);
    let errors = router.lines(&batch["error_file_id"]).await;
    assert_eq!(errors.len(), 8);
    assert!(errors.iter().all(|line| line["error"]["code"] == "batch_cancelled"));
    assert!(batch["cancelling_at"].is_u64() && batch["cancelled_at"].is_u64());
    let again = router.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("cancelled")));
}

#[tokio::test]
async fn a_line_whose_worker_dies_is_tried_again_but_not_for_ever() {
    let shared = Shared::new();
    let router = shared.router_with(|config| config.batches.max_tries = 2).await;
    let mut shared = shared;
    let path = router.begin(&prompts(1)).await;
    for _ in 0..2 {
        let request = shared.worker.submitted().await;
        request.say(0, "half");
        // The session breaks, and the router opens another.
        let _ = request.session.send(Err(tonic::Status::unavailable("killed")));
    }

    let batch = router.ended(&path).await;

    assert_eq!(batch["request_counts"], json!({"total": 1, "completed": 0, "failed": 1}));
    let errors = router.lines(&batch["error_file_id"]).await;
    assert_eq!(errors[0]["error"]["code"], "too_many_attempts");
}

#[tokio::test]
async fn another_router_goes_on_where_one_has_died() {
    for mut shared in Shared::on_both() {
        let first = shared.router().await;
        let path = first.begin(&prompts(8)).await;
        let lost: Vec<Received> = {
            let mut lost = Vec::new();
            for _ in 0..6 {
                lost.push(shared.worker.submitted().await);
            }
            lost
        };
        lost[0].answer("kept");
        first.until(&path, |batch| batch["request_counts"]["completed"] == 1).await;
        let seventh = shared.worker.submitted().await.prompt();
        let second = shared.router().await;
        first.die().await;

        let mut prompts = Vec::new();
        while prompts.len() < 7 {
            let request = shared.next().await;
            prompts.push(request.prompt());
            request.answer(&request.prompt());
        }

        let batch = second.ended(&path).await;
        assert!(prompts.contains(&seventh));
        assert_eq!(batch["request_counts"], json!({"total": 8, "completed": 8, "failed": 0}));
        let answers = second.lines(&batch["output_file_id"]).await;
        let expected: Vec<_> = (1..=8).map(|id| format!("id {id}")).collect();
        assert_eq!(ids(&answers), expected);
        let kept =
            answers.iter().filter(|it| it["response"]["body"]["choices"][0]["text"] == "kept");
        assert_eq!(kept.count(), 1);
    }
}

#[tokio::test]
async fn two_routers_share_a_batch_and_no_line_is_asked_twice() {
    for mut shared in Shared::on_both() {
        let first = shared.router().await;
        let second = shared.router().await;
        let path = first.begin(&prompts(40)).await;

        let mut asked = echo(&mut shared.worker, 40).await;

        let batch = second.ended(&path).await;
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 40);
        assert_eq!(batch["request_counts"], json!({"total": 40, "completed": 40, "failed": 0}));
        assert_eq!(first.lines(&batch["output_file_id"]).await.len(), 40);
        assert!(shared.worker.is_idle());
    }
}

#[tokio::test]
async fn a_router_that_drains_gives_back_what_it_can_not_finish() {
    let mut shared = Shared::new();
    // With this lease, nobody would get a line by waiting for it.
    let long = |config: &mut Config| config.batches.lease = Duration::from_secs(3600);
    let first = shared.router_with(long).await;
    let path = first.begin(&prompts(1)).await;
    let begun = shared.worker.submitted().await;

    first.stage.send(Stage::Stop).unwrap();
    timeout(LONG, first.serving).await.unwrap().unwrap();
    drop(begun);
    let second = shared.router_with(long).await;
    let again = shared.next().await;
    again.say(0, "done");
    again.finish(0, Finish::StopToken);

    let batch = second.ended(&path).await;
    assert_eq!(batch["request_counts"], json!({"total": 1, "completed": 1, "failed": 0}));
}
