//! The client against a server on a real socket that answers what it is told to.

#![expect(clippy::unwrap_used, reason = "what a test stands on may fail it")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use futures::StreamExt;
use sconce_client::{
    BatchRequest, BatchStatus, ChatRequest, Client, CompletionRequest, EmbeddingRequest, Error,
    FileUpload, ListQuery, Retries,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// What the server does with its next request.
enum Answer {
    Json(u16, Value),
    /// With `Retry-After: 0`.
    Busy,
    /// A stream of these pieces.
    Stream(Vec<&'static str>),
    /// A stream of these pieces, whose connection then breaks.
    Broken(Vec<&'static str>),
    /// One piece, and then nothing until the client hangs up, which is told.
    Endless(&'static str, oneshot::Sender<()>),
}

#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<Vec<Answer>>>,
    asked: Arc<Mutex<Vec<(Uri, HeaderMap, Value)>>>,
}

struct OnDrop(Option<oneshot::Sender<()>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

async fn answer(
    State(script): State<Script>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let text = || String::from_utf8_lossy(&body).into_owned().into();
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| text());
    script.asked.lock().unwrap().push((uri, headers, body));
    let next = script.answers.lock().unwrap().remove(0);
    let pieces = |pieces: Vec<&'static str>| pieces.into_iter().map(Ok::<_, std::io::Error>);
    match next {
        Answer::Json(status, value) => {
            let reply = Response::builder().status(status).header("x-request-id", "req-1");
            reply.body(value.to_string().into()).unwrap()
        }
        Answer::Busy => {
            let reply = Response::builder().status(StatusCode::TOO_MANY_REQUESTS);
            reply.header("retry-after", "0").body(Body::empty()).unwrap()
        }
        Answer::Stream(list) => {
            Response::new(Body::from_stream(futures::stream::iter(pieces(list))))
        }
        Answer::Broken(list) => {
            let all = pieces(list).chain([Err(std::io::Error::other("broken"))]);
            // Each piece on its own, so that none is lost with the connection.
            let all = futures::stream::iter(all).then(async |piece| {
                tokio::task::yield_now().await;
                piece
            });
            Response::new(Body::from_stream(all))
        }
        Answer::Endless(piece, told) => {
            let first = futures::stream::iter(pieces(vec![piece]));
            let guard = OnDrop(Some(told));
            let rest = futures::stream::poll_fn(move |_| {
                let _guard = &guard;
                std::task::Poll::Pending
            });
            Response::new(Body::from_stream(first.chain(rest)))
        }
    }
}

/// A client without patience, of a server that answers so.
async fn serve(answers: Vec<Answer>) -> (Client, Script, String) {
    let script = Script { answers: Arc::new(Mutex::new(answers)), ..Script::default() };
    let app = Router::new().fallback(answer).with_state(script.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let retries = Retries { max_retries: 2, base_delay: Duration::ZERO, max_delay: Duration::ZERO };
    let client = Client::builder(&url).api_key("sk-1").retries(retries).build().unwrap();
    (client, script, url)
}

const HELLO: &str =
    "data: {\"choices\": [{\"index\": 0, \"delta\": {\"content\": \"Hello\"}}]}\n\n";
const END: &str =
    "data: {\"choices\": [], \"usage\": {\"completion_tokens\": 1}}\n\ndata: [DONE]\n\n";

fn hello() -> ChatRequest {
    ChatRequest::new("m").user("Hi").with_usage()
}

#[tokio::test]
async fn a_chat_is_sent_and_read_in_openais_shape() {
    let reply = json!({
        "id": "c", "model": "m", "system_fingerprint": "f",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": null, "reasoning_content": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        }}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    });
    let (client, script, _) = serve(vec![Answer::Json(200, reply)]).await;

    let mut request = ChatRequest::new("m").system("Be brief.").user("Hi");
    request.extra.insert("top_k".into(), 3.into());
    let chat = client.chat(&request).await.unwrap();

    let call = &chat.choices[0].message.tool_calls[0];
    assert_eq!((call.function.name.as_deref(), &*call.function.arguments), (Some("f"), "{}"));
    assert_eq!(chat.choices[0].message.extra["reasoning_content"], "hm");
    assert_eq!(chat.extra["system_fingerprint"], "f");
    assert_eq!(chat.usage.unwrap().cached_tokens(), Some(4));
    let (uri, headers, body) = script.asked.lock().unwrap().remove(0);
    assert_eq!(
        (uri.path(), headers["authorization"].to_str().unwrap()),
        ("/v1/chat/completions", "Bearer sk-1")
    );
    let messages = json!([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
    ]);
    assert_eq!(body, json!({"model": "m", "messages": messages, "top_k": 3}));
}

#[tokio::test]
async fn a_stream_ends_with_its_last_piece() {
    let (client, script, _) = serve(vec![Answer::Stream(vec![HELLO, END])]).await;

    let mut stream = client.chat_stream(&hello()).await.unwrap();

    assert_eq!(stream.next().await.unwrap().unwrap().text(), "Hello");
    assert_eq!(stream.next().await.unwrap().unwrap().usage.unwrap().completion_tokens, 1);
    assert!(stream.next().await.is_none());
    assert!(stream.next().await.is_none());
    let (_, _, body) = script.asked.lock().unwrap().remove(0);
    assert_eq!(
        (&body["stream"], &body["stream_options"]),
        (&json!(true), &json!({"include_usage": true}))
    );
}

#[tokio::test]
async fn a_stream_that_breaks_before_its_first_event_is_asked_for_again() {
    let answers =
        vec![Answer::Busy, Answer::Broken(vec![": wait\n\n"]), Answer::Stream(vec![HELLO, END])];
    let (client, script, _) = serve(answers).await;

    let stream = client.chat_stream(&hello()).await.unwrap();
    let chunks: Vec<_> =
        stream.into_stream().map(|chunk| chunk.unwrap().text().to_owned()).collect().await;

    assert_eq!(chunks.concat(), "Hello");
    assert_eq!(script.asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_stream_that_breaks_later_is_an_error() {
    let answers = vec![Answer::Broken(vec![HELLO]), Answer::Stream(vec![HELLO])];
    let (client, script, _) = serve(answers).await;

    let mut broken = client.chat_stream(&hello()).await.unwrap();
    assert!(broken.next().await.unwrap().is_ok());
    assert!(matches!(broken.next().await, Some(Err(Error::Interrupted(_)))));
    assert!(broken.next().await.is_none());
    assert_eq!(script.asked.lock().unwrap().len(), 1);

    let mut truncated = client.chat_stream(&hello()).await.unwrap();
    assert!(truncated.next().await.unwrap().is_ok());
    assert!(matches!(truncated.next().await, Some(Err(Error::Truncated))));
}

#[tokio::test]
async fn an_error_in_a_stream_is_typed() {
    let failure = "data: {\"error\": {\"message\": \"gone\", \"code\": \"worker_lost\"}}\n\n";
    let (client, _, _) = serve(vec![Answer::Stream(vec![HELLO, failure])]).await;

    let mut stream = client.chat_stream(&hello()).await.unwrap();
    stream.next().await;

    let Some(Err(error)) = stream.next().await else { panic!() };
    assert_eq!(error.kind(), "stream_worker_lost");
    assert!(matches!(error, Error::Stream(error) if error.message == "gone"));
}

#[tokio::test]
async fn refusals_are_typed_and_not_repeated() {
    let refusal = json!({"error": {
        "message": "no such model", "type": "invalid_request_error", "param": "model",
        "code": "model_not_found",
    }});
    let (client, script, _) = serve(vec![Answer::Json(404, refusal)]).await;

    let Err(Error::Status { status, error, request_id, .. }) = client.chat(&hello()).await else {
        panic!()
    };

    assert_eq!((status, error.code.as_deref()), (404, Some("model_not_found")));
    assert_eq!((error.param.as_deref(), request_id.as_deref()), (Some("model"), Some("req-1")));
    assert_eq!(script.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn patience_ends() {
    let busy = || Answer::Json(503, Value::Null);
    let (client, script, _) = serve(vec![busy(), busy(), busy()]).await;

    let error = client.models().await.unwrap_err();

    assert_eq!(error.kind(), "http_503");
    assert_eq!(script.asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_there_cannot_be_reached() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);

    let client = Client::builder(url).max_retries(0).build().unwrap();

    assert!(matches!(client.models().await, Err(Error::Connect(_))));
}

#[tokio::test]
async fn silence_ends_a_stream() {
    let (told, _hung_up) = oneshot::channel();
    let (_, _, url) = serve(vec![Answer::Endless(HELLO, told)]).await;
    let builder = Client::builder(url).max_retries(0).idle_timeout(Duration::from_millis(50));
    let client = builder.build().unwrap();

    let mut stream = client.chat_stream(&hello()).await.unwrap();

    assert!(stream.next().await.unwrap().is_ok());
    assert!(matches!(stream.next().await, Some(Err(Error::Timeout))));
}

#[tokio::test]
async fn dropping_a_stream_hangs_up() {
    let (told, hung_up) = oneshot::channel();
    let (client, _, _) = serve(vec![Answer::Endless(HELLO, told)]).await;

    let mut stream = client.chat_stream(&hello()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);

    tokio::time::timeout(Duration::from_secs(20), hung_up).await.unwrap().unwrap();
}

#[tokio::test]
async fn answers_are_bounded() {
    let long = json!({"choices": ["x".repeat(5000)]});
    let answers = vec![Answer::Json(200, long), Answer::Stream(vec![HELLO])];
    let (_, _, url) = serve(answers).await;
    let builder = Client::builder(url).max_body_bytes(1000).max_event_bytes(20);
    let client = builder.build().unwrap();

    let whole = client.post::<_, Value>("completions", &json!({})).await;
    assert!(matches!(whole, Err(Error::TooLong { limit: 1000 })));
    let mut stream = client.chat_stream(&hello()).await.unwrap();
    assert!(matches!(stream.next().await, Some(Err(Error::TooLong { limit: 20 }))));
}

#[tokio::test]
async fn what_an_answer_says_is_not_in_the_error() {
    let (client, _, _) = serve(vec![Answer::Json(200, json!("my secret"))]).await;

    let error = client.chat(&hello()).await.unwrap_err();

    assert!(matches!(error, Error::Unexpected { line: 1, .. }));
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[tokio::test]
async fn completions_and_embeddings_are_typed_too() {
    let embeddings = json!({"model": "e", "usage": {"prompt_tokens": 3}, "data": [
        {"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]},
    ]});
    let answers = vec![
        Answer::Json(200, json!({"choices": [{"text": "b", "finish_reason": "length"}]})),
        Answer::Stream(vec!["data: {\"choices\": [{\"text\": \"b\"}]}\n\ndata: [DONE]\n\n"]),
        Answer::Json(200, embeddings),
    ];
    let (client, _, _) = serve(answers).await;

    let request = CompletionRequest::new("m", "a");
    assert_eq!(client.complete(&request).await.unwrap().text(), "b");
    let mut stream = client.complete_stream(&request).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().text(), "b");
    assert!(stream.next().await.is_none());
    let reply = client.embed(&EmbeddingRequest::new("e", ["a", "b"])).await.unwrap();
    assert_eq!((reply.data[0].embedding[0], reply.data[1].embedding[0]), (1.0, 2.0));
}

/// What `cargo test` has built of `examples/`.
async fn run_example(name: &str, url: &str, args: &[&str]) -> String {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    let mut command = tokio::process::Command::new(&program);
    let run = command.args(args).env("SCONCE_URL", url).output().await;
    let output = run.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_examples_run() {
    let models = || Answer::Json(200, json!({"object": "list", "data": [{"id": "m"}]}));
    let vector = |index: u32, vector: [f32; 2]| json!({"index": index, "embedding": vector});
    let vectors = [
        vector(0, [0.9, 0.1]),
        vector(1, [0.0, 1.0]),
        vector(2, [-1.0, 0.0]),
        vector(3, [1.0, 0.0]),
    ];
    let batch = |fields: Value| {
        let mut batch = json!({"id": "batch_1", "endpoint": "e", "input_file_id": "file-1"});
        batch.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Answer::Json(200, batch)
    };
    let line = json!({
        "custom_id": "question-0",
        "response": {"body": {"choices": [{"message": {"content": "Mice."}}]}},
    });
    let refusal = json!({"error": {"message": "no", "param": "model", "code": "model_not_found"}});
    let answers = vec![
        models(),
        Answer::Stream(vec![HELLO, END]),
        models(),
        Answer::Json(200, json!({"model": "m", "data": vectors})),
        models(),
        Answer::Json(404, refusal),
        models(),
        file(),
        batch(json!({"status": "in_progress"})),
        batch(json!({"status": "completed", "output_file_id": "file-2"})),
        Answer::Json(200, line),
    ];
    let (_, _, url) = serve(answers).await;

    assert_eq!(run_example("chat", &url, &[]).await, "Hello\n(0 tokens in, 1 out)\n");
    assert_eq!(run_example("embeddings", &url, &[]).await, "Cats live on mice and fish.\n");
    let errors = run_example("errors", &url, &[]).await;
    assert!(errors.contains("refused with 404, code Some(\"model_not_found\")"), "{errors}");
    let answers = run_example("batch", &url, &["What do cats eat?"]).await;
    assert_eq!(answers, "completed\n\"question-0\": \"Mice.\"\n");
}

fn file() -> Answer {
    let file = json!({"id": "file-1", "bytes": 3, "filename": "a.jsonl", "purpose": "batch"});
    Answer::Json(200, file)
}

#[tokio::test]
async fn a_file_is_sent_as_a_form_and_again_when_the_server_is_busy() {
    let (client, script, _) = serve(vec![Answer::Busy, file(), file()]).await;
    let directory = std::env::temp_dir().join(format!("sconce-client-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("a \"b\".jsonl");
    std::fs::write(&path, "{}\n").unwrap();

    let stored = client.upload(FileUpload::from_path(&path, "batch").expires_after(3600)).await;
    std::fs::remove_dir_all(&directory).unwrap();
    client.upload(FileUpload::from_bytes("b.txt", "user_data", "text")).await.unwrap();

    assert_eq!(stored.unwrap().id, "file-1");
    let asked = script.asked.lock().unwrap();
    assert_eq!(asked[0].2, asked[1].2);
    let (uri, headers, body) = &asked[1];
    assert_eq!(uri.path(), "/v1/files");
    let kind = headers["content-type"].to_str().unwrap();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
    let head = format!("--{boundary}\r\ncontent-disposition: form-data; name=");
    let expected = format!(
        "{head}\"purpose\"\r\n\r\nbatch\r\n\
         {head}\"expires_after[anchor]\"\r\n\r\ncreated_at\r\n\
         {head}\"expires_after[seconds]\"\r\n\r\n3600\r\n\
         {head}\"file\"; filename=\"a %22b%22.jsonl\"\r\n\
         content-type: application/octet-stream\r\n\r\n{{}}\n\r\n--{boundary}--\r\n"
    );
    assert_eq!(body.as_str(), Some(&*expected));
    assert_eq!(headers["content-length"], expected.len().to_string());
}

#[tokio::test]
async fn a_file_that_is_not_there_is_not_sent() {
    let (client, script, _) = serve(vec![]).await;

    let missing = client.upload(FileUpload::from_path("/nowhere/a.jsonl", "batch")).await;

    assert!(matches!(missing, Err(Error::File { .. })));
    assert!(script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn files_are_listed_read_and_deleted() {
    let list = json!({"data": [{"id": "file-1"}], "last_id": "file-1", "has_more": true});
    let deleted = json!({"id": "file-1", "object": "file", "deleted": true});
    let answers = vec![
        Answer::Json(200, list),
        file(),
        Answer::Stream(vec!["one ", "two"]),
        Answer::Json(200, deleted),
        Answer::Broken(vec!["one"]),
    ];
    let (client, script, _) = serve(answers).await;

    let query = ListQuery { limit: Some(1), ..ListQuery::default() };
    let page = client.files(&query).await.unwrap();
    assert_eq!(page.next(&query).unwrap().after.as_deref(), Some("file-1"));
    assert_eq!(client.file("a/../b?c").await.unwrap().bytes, 3);
    let content = client.file_content("file-1").await.unwrap().into_stream();
    let pieces: Vec<_> = content.map(Result::unwrap).collect().await;
    assert_eq!(pieces.concat(), b"one two");
    assert!(client.delete_file("file-1").await.unwrap().deleted);
    let mut broken = client.file_content("file-1").await.unwrap();
    while let Some(Ok(_)) = broken.next().await {}
    assert!(broken.next().await.is_none());

    let asked = script.asked.lock().unwrap();
    let uris: Vec<_> = asked.iter().map(|(uri, ..)| uri.to_string()).collect();
    let expected = [
        "/v1/files?limit=1",
        "/v1/files/a%2F..%2Fb%3Fc",
        "/v1/files/file-1/content",
        "/v1/files/file-1",
        "/v1/files/file-1/content",
    ];
    assert_eq!(uris, expected);
}

#[tokio::test]
async fn a_batch_is_made_followed_and_cancelled() {
    let batch = |status: &str| {
        let batch = json!({
            "id": "batch_1", "endpoint": "/v1/chat/completions", "input_file_id": "file-1",
            "status": status, "errors": {"data": [{"code": "c", "line": 2}]},
            "request_counts": {"total": 3, "completed": 1, "failed": 1}, "metadata": {"a": "b"},
        });
        Answer::Json(200, batch)
    };
    let list = json!({"data": [{"id": "batch_1", "status": "completed"}], "has_more": false});
    let answers =
        vec![batch("validating"), batch("in_progress"), batch("new"), Answer::Json(200, list)];
    let (client, script, _) = serve(answers).await;

    let request = BatchRequest::new("file-1", "/v1/chat/completions").metadata("a", "b");
    let made = client.create_batch(&request).await.unwrap();
    let seen = client.batch(&made.id).await.unwrap();
    let cancelled = client.cancel_batch(&made.id).await.unwrap();
    let page = client.batches(&ListQuery::default()).await.unwrap();

    assert_eq!(made.status, BatchStatus::Validating);
    assert_eq!(seen.request_counts.unwrap().completed, 1);
    assert_eq!(seen.errors.unwrap().data[0].line, Some(2));
    assert_eq!(seen.extra["metadata"], json!({"a": "b"}));
    assert_eq!(cancelled.status, BatchStatus::Unknown);
    assert!(page.data[0].status.is_final() && page.next(&ListQuery::default()).is_none());
    let asked = script.asked.lock().unwrap();
    let body = json!({
        "input_file_id": "file-1", "endpoint": "/v1/chat/completions",
        "completion_window": "24h", "metadata": {"a": "b"},
    });
    assert_eq!(asked[0].2, body);
    assert_eq!(asked[2].0.path(), "/v1/batches/batch_1/cancel");
}
