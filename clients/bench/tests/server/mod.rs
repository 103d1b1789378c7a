//! A server that answers as OpenAI's would, at once, with words that mean nothing.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Response, Uri};
use serde_json::{Value, json};
use tokio::sync::Barrier;

/// How it answers. 0 means never, or all by themselves.
#[derive(Clone, Copy)]
pub(crate) struct Answers {
    /// So many requests are answered at once, none before the last has come.
    pub(crate) together: usize,
    pub(crate) refuse_every: usize,
    pub(crate) break_every: usize,
    pub(crate) tokens_per_chunk: u64,
}

impl Default for Answers {
    fn default() -> Self {
        Self { together: 1, refuse_every: 0, break_every: 0, tokens_per_chunk: 1 }
    }
}

pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    answers: Answers,
    asked: Mutex<Vec<Value>>,
    count: AtomicUsize,
    barrier: Barrier,
}

impl Server {
    pub(crate) fn start(answers: Answers) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(Shared {
            answers,
            asked: Mutex::default(),
            count: AtomicUsize::new(0),
            barrier: Barrier::new(answers.together),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&state));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await
        });
        Self { url, state, _runtime: runtime }
    }

    /// The bodies of all requests, in their order.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.state.asked.lock().unwrap().clone()
    }
}

fn json_reply(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(body.to_string().into()).unwrap()
}

async fn answer(State(state): State<Arc<Shared>>, uri: Uri, body: Bytes) -> Response<Body> {
    if uri.path() == "/v1/models" {
        return json_reply(200, &json!({"object": "list", "data": [{"id": "m"}]}));
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    state.asked.lock().unwrap().push(body.clone());
    state.barrier.wait().await;
    let number = state.count.fetch_add(1, Ordering::Relaxed) + 1;
    let every = |every: usize| every > 0 && number % every == 0;
    if every(state.answers.refuse_every) {
        return json_reply(429, &json!({"error": {"message": "busy", "code": "queue_full"}}));
    }
    let limit = body.get("max_completion_tokens").or(body.get("max_tokens"));
    let num_tokens = limit.and_then(Value::as_u64).unwrap_or(0);
    let usage = |completion: u64| {
        json!({
            "prompt_tokens": 32, "completion_tokens": completion, "total_tokens": 32 + completion,
            "prompt_tokens_details": {"cached_tokens": 16},
        })
    };
    if body["stream"] != true {
        let choices = json!([{"index": 0, "message": {"role": "assistant", "content": "hi"}}]);
        return json_reply(200, &json!({"choices": choices, "usage": usage(num_tokens)}));
    }
    let is_chat = uri.path().ends_with("chat/completions");
    let is_continuous = body["stream_options"]["continuous_usage_stats"] == true;
    let mut events = Vec::new();
    let mut event = |data: Value| events.push(Bytes::from(format!("data: {data}\n\n")));
    if is_chat {
        event(json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}));
    }
    let mut sent = 0;
    while sent < num_tokens {
        let more = state.answers.tokens_per_chunk.min(num_tokens - sent);
        sent += more;
        let text = " hi".repeat(usize::try_from(more).unwrap());
        let choice = match is_chat {
            true => json!({"index": 0, "delta": {"content": text}}),
            false => json!({"index": 0, "text": text}),
        };
        let usage = if is_continuous { usage(sent) } else { Value::Null };
        event(json!({"choices": [choice], "usage": usage}));
        if every(state.answers.break_every) {
            event(json!({"error": {"message": "gone", "code": "worker_lost"}}));
            break;
        }
    }
    event(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}));
    event(json!({"choices": [], "usage": usage(num_tokens)}));
    events.push("data: [DONE]\n\n".into());
    let events = events.into_iter().map(Ok::<_, Infallible>);
    Response::new(Body::from_stream(futures::stream::iter(events)))
}
