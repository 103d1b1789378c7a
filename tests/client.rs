//! The Rust client against the real router and the real worker, which serves the hash model.

#![expect(clippy::unwrap_used, reason = "what a test stands on may fail it")]

use std::process::Stdio;
use std::time::Duration;

use sconce_client::{
    BatchRequest, BatchStatus, ChatRequest, Client, CompletionRequest, EmbeddingRequest, Error,
    FileUpload, ListQuery, Retries,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A router and a worker. Killed when dropped.
struct Stack {
    directory: TempDir,
    worker: Child,
    _router: (Child, Lines<BufReader<ChildStdout>>),
    url: String,
}

/// Starts `sconce ARGS`, and waits for a line that begins with `ready`. Returns the rest of the line.
async fn start(args: &[&str], ready: &str) -> (Child, Lines<BufReader<ChildStdout>>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sconce"));
    command.args(args).env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("it ended");
        if let Some(rest) = line.strip_prefix(ready) {
            return (child, lines, rest.trim().to_owned());
        }
    }
}

async fn start_worker(directory: &TempDir) -> Child {
    let listen = format!("unix:{}/w", directory.path().display());
    let args =
        ["worker", "--model", "hash", "--name", "m", "--listen", &listen, "--max-model-len", "512"];
    start(&args, "ready").await.0
}

impl Stack {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let worker = start_worker(&directory).await;
        let path = |name: &str| format!("{}/{name}", directory.path().display());
        let (address, database) = (format!("unix:{}", path("w")), path("sconce.db"));
        let args = ["router", "--worker", &address, "--listen", "127.0.0.1:0", "--no-auth"];
        let args = [&args[..], &["--database", &database]].concat();
        let (router, lines, url) = start(&args, "listening").await;
        let stack = Self { worker, _router: (router, lines), url, directory };
        // The router looks for its workers by itself.
        while stack.client(0).complete(&completion("ready?")).await.is_err() {
            tokio::task::yield_now().await;
        }
        stack
    }

    fn client(&self, max_retries: u32) -> Client {
        let base_delay = Duration::from_millis(10);
        let max_delay = Duration::from_secs(60);
        let retries = Retries { max_retries, base_delay, max_delay };
        Client::builder(&self.url).retries(retries).build().unwrap()
    }
}

fn completion(prompt: &str) -> CompletionRequest {
    let mut request = CompletionRequest::new("m", prompt);
    (request.max_tokens, request.temperature) = (Some(8), Some(0.0));
    request.extra.insert("ignore_eos".to_owned(), true.into());
    request
}

#[tokio::test]
async fn answers_are_the_same_whole_and_streamed() {
    let stack = Stack::start().await;
    let client = stack.client(0);
    let mut chat = ChatRequest::new("m").system("s").user("Hi");
    (chat.max_completion_tokens, chat.temperature) = (Some(8), Some(0.0));
    chat.extra.insert("ignore_eos".to_owned(), true.into());

    let whole = client.chat(&chat).await.unwrap();
    let mut stream = client.chat_stream(&chat.with_usage()).await.unwrap();
    let (mut text, mut usage) = (String::new(), None);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        text.push_str(chunk.text());
        usage = chunk.usage.or(usage);
    }
    assert_eq!(text, whole.text());
    let (usage, of_whole) = (usage.unwrap(), whole.usage.unwrap());
    assert_eq!((usage.completion_tokens, usage.prompt_tokens), (8, of_whole.prompt_tokens));

    let whole = client.complete(&completion("a b")).await.unwrap();
    let mut stream = client.complete_stream(&completion("a b")).await.unwrap();
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.push_str(chunk.unwrap().text());
    }
    assert_eq!(text, whole.text());
}

#[tokio::test]
async fn refusals_say_what_was_wrong() {
    let stack = Stack::start().await;
    let client = stack.client(0);

    let nobody = client.complete(&CompletionRequest::new("nobody", "a")).await.unwrap_err();
    let Error::Status { status: 404, error, .. } = nobody else { panic!("{nobody}") };
    assert_eq!(
        (error.code.as_deref(), error.param.as_deref()),
        (Some("model_not_found"), Some("model"))
    );
    let request = EmbeddingRequest::new("m", ["a"]);
    let unable = client.embed(&request).await.unwrap_err();
    assert!(matches!(unable, Error::Status { status: 400, .. }), "{unable}");
}

#[tokio::test]
async fn a_batch_is_answered_as_the_requests_in_it_would_be() {
    let stack = Stack::start().await;
    let client = stack.client(0);
    let line = |i: usize| {
        let body = serde_json::to_value(completion(&format!("a b {i}"))).unwrap();
        json!({"custom_id": format!("{i}"), "method": "POST", "url": "/v1/completions", "body": body})
    };
    let lines: String = (0..20).map(|i| format!("{}\n", line(i))).collect();

    let file = client.upload(FileUpload::from_bytes("in.jsonl", "batch", lines)).await.unwrap();
    let request = BatchRequest::new(&file.id, "/v1/completions").metadata("who", "a test");
    let mut batch = client.create_batch(&request).await.unwrap();
    while !batch.status.is_final() {
        tokio::task::yield_now().await;
        batch = client.batch(&batch.id).await.unwrap();
    }

    assert_eq!(batch.status, BatchStatus::Completed);
    assert_eq!(batch.request_counts.unwrap().completed, 20);
    let mut content = client.file_content(&batch.output_file_id.unwrap()).await.unwrap();
    let mut text = Vec::new();
    while let Some(piece) = content.next().await {
        text.extend_from_slice(&piece.unwrap());
    }
    let answers = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for (i, answer) in answers.enumerate() {
        let answer: Value = serde_json::from_slice(answer).unwrap();
        let alone = client.complete(&completion(&format!("a b {i}"))).await.unwrap();
        assert_eq!(answer["custom_id"], i.to_string());
        assert_eq!(answer["response"]["body"]["choices"][0]["text"], alone.text());
    }
    assert!(client.delete_file(&file.id).await.unwrap().deleted);
    let files = client.files(&ListQuery::default()).await.unwrap();
    assert!(files.data.iter().all(|it| it.id != file.id) && files.data.len() == 1);
}

#[tokio::test]
async fn a_request_comes_back_when_the_server_asks_for_patience() {
    let mut stack = Stack::start().await;
    let expected = stack.client(0).complete(&completion("a b")).await.unwrap();

    stack.worker.kill().await.unwrap();
    let refused = loop {
        // What is under way when a worker ends is told so; what comes later is asked to wait.
        match stack.client(0).complete(&completion("a b")).await.unwrap_err() {
            Error::Status { status: 503, retry_after: Some(after), .. } => break after,
            _ => tokio::task::yield_now().await,
        }
    };
    assert!(refused > Duration::ZERO);
    let client = stack.client(100);
    let waiting = tokio::spawn(async move { client.complete(&completion("a b")).await });
    stack.worker = start_worker(&stack.directory).await;

    assert_eq!(waiting.await.unwrap().unwrap().text(), expected.text());
}
