//! A worker that says what a test tells it to, over the real protocol on a real socket.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use sconce_proto::worker::embedded::End;
use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::router_message::Message as FromRouter;
use sconce_proto::worker::worker_message::Message as ToRouter;
use sconce_proto::worker::worker_server::{self, WorkerServer};
use sconce_proto::worker::{
    Alive, DescribeRequest, DrainReply, DrainRequest, Embed, Embedded, Finish, ModelInfo, Rejected,
    RouterMessage, StepOutput, Submit, TokenLogprobs, TokenOutput, TokenizerPiece,
    TokenizerRequest, TopLogprob, Welcome, WorkerMessage,
};
use tempfile::TempDir;
use tokenizers::Tokenizer;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::json;

/// Longer than anything here takes; a wait that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A running worker.
pub(crate) struct Worker {
    pub(crate) tokenizer: Tokenizer,
    socket: PathBuf,
    /// What routers have sent, with the session that it came in.
    pub(crate) received: mpsc::UnboundedReceiver<(FromRouter, Outbound)>,
    sessions: mpsc::UnboundedReceiver<Outbound>,
    session: Option<Outbound>,
    serving: JoinHandle<()>,
    _directory: TempDir,
}

/// The worker's half of a session.
pub(crate) type Outbound = mpsc::UnboundedSender<Result<WorkerMessage, Status>>;

struct Service {
    info: ModelInfo,
    tokenizer: Vec<u8>,
    received: mpsc::UnboundedSender<(FromRouter, Outbound)>,
    sessions: mpsc::UnboundedSender<Outbound>,
}

/// One request, as the worker got it.
pub(crate) struct Received {
    pub(crate) submit: Submit,
    pub(crate) session: Outbound,
    pub(crate) tokenizer: Tokenizer,
}

impl Worker {
    /// Serves a model with a byte-level tokenizer, changed as the test wants it.
    pub(crate) fn start(change: impl FnOnce(&mut ModelInfo)) -> Self {
        let json = json::byte_level().to_string();
        let mut info = info();
        change(&mut info);
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("worker.sock");
        let (received_sender, received) = mpsc::unbounded_channel();
        let (sessions_sender, sessions) = mpsc::unbounded_channel();
        let service = Service {
            info,
            tokenizer: json.clone().into_bytes(),
            received: received_sender,
            sessions: sessions_sender,
        };
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = tokio::spawn(async move {
            let server =
                tonic::transport::Server::builder().add_service(WorkerServer::new(service));
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        let tokenizer = Tokenizer::from_bytes(&json).unwrap();
        Self {
            tokenizer,
            socket,
            received,
            sessions,
            session: None,
            serving,
            _directory: directory,
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    async fn session(&mut self) -> Outbound {
        while let Ok(session) = self.sessions.try_recv() {
            self.session = Some(session);
        }
        if self.session.is_none() {
            self.session = timeout(LONG, self.sessions.recv()).await.unwrap();
        }
        self.session.clone().unwrap()
    }

    /// Waits for the next request.
    pub(crate) async fn submitted(&mut self) -> Received {
        match timeout(LONG, self.received.recv()).await.expect("no request came").unwrap() {
            (FromRouter::Submit(submit), session) => {
                Received { submit, session, tokenizer: self.tokenizer.clone() }
            }
            (other, _) => panic!("expected a request and got {other:?}"),
        }
    }

    /// Waits for the next request for vectors.
    pub(crate) async fn embed(&mut self) -> ReceivedEmbed {
        match timeout(LONG, self.received.recv()).await.expect("no request came").unwrap() {
            (FromRouter::Embed(embed), session) => ReceivedEmbed { embed, session },
            (other, _) => panic!("expected a request for vectors and got {other:?}"),
        }
    }

    /// Waits for the next request of any kind, which is never answered.
    pub(crate) async fn received(&mut self) {
        match timeout(LONG, self.received.recv()).await.expect("no request came").unwrap() {
            (FromRouter::Submit(_) | FromRouter::Embed(_), _) => {}
            (other, _) => panic!("expected a request and got {other:?}"),
        }
    }

    /// Waits until a request is cancelled.
    pub(crate) async fn cancelled(&mut self) -> u64 {
        match timeout(LONG, self.received.recv()).await.expect("nothing was cancelled").unwrap() {
            (FromRouter::Cancel(cancel), _) => cancel.request_id,
            (other, _) => panic!("expected a cancellation and got {other:?}"),
        }
    }

    /// Whether nothing was sent to it since the last look.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.received.try_recv().is_err()
    }

    /// Dies as a killed process does: every connection breaks.
    pub(crate) async fn die(&mut self) {
        let session = self.session().await;
        let _ = session.send(Err(Status::unavailable("killed")));
        self.serving.abort();
    }
}

/// One request for vectors, as the worker got it.
pub(crate) struct ReceivedEmbed {
    pub(crate) embed: Embed,
    session: Outbound,
}

impl ReceivedEmbed {
    /// Sends vectors, the last ones with the end.
    pub(crate) fn vectors(&self, values: &[f32], end: End) {
        let (request_id, values) = (self.embed.request_id, values.to_vec());
        let embedded = Embedded { request_id, values, end: end.into() };
        self.send(ToRouter::Embedded(embedded));
    }

    pub(crate) fn reject(&self, reason: Reason, message: &str) {
        let (request_id, message) = (self.embed.request_id, message.to_owned());
        self.send(ToRouter::Rejected(Rejected { request_id, reason: reason.into(), message }));
    }

    /// The inputs' tokens.
    pub(crate) fn tokens(&self) -> Vec<Vec<u32>> {
        self.embed.inputs.iter().map(|input| input.tokens.clone()).collect()
    }

    fn send(&self, message: ToRouter) {
        let _ = self.session.send(Ok(WorkerMessage { message: Some(message) }));
    }
}

impl Received {
    /// Sends outputs in one step.
    pub(crate) fn step(&self, outputs: Vec<TokenOutput>) {
        let step = StepOutput { outputs, stats: None };
        self.send(ToRouter::Step(step));
    }

    fn send(&self, message: ToRouter) {
        let _ = self.session.send(Ok(WorkerMessage { message: Some(message) }));
    }

    /// One token of a completion.
    pub(crate) fn token(&self, index: u32, token: u32) -> TokenOutput {
        TokenOutput {
            request_id: self.submit.request_id,
            index,
            token: Some(token),
            ..TokenOutput::default()
        }
    }

    pub(crate) fn id_of(&self, token: &str) -> u32 {
        self.tokenizer.token_to_id(token).unwrap()
    }

    /// Sends a text in tokens of one step each.
    pub(crate) fn say(&self, index: u32, text: &str) {
        for token in self.tokenizer.encode_fast(text, false).unwrap().get_ids() {
            self.step(vec![self.token(index, *token)]);
        }
    }

    /// Ends a completion with its end token, or at its limit.
    pub(crate) fn finish(&self, index: u32, finish: Finish) {
        let token = (finish == Finish::StopToken).then(|| self.id_of("<|im_end|>"));
        self.step(vec![TokenOutput {
            request_id: self.submit.request_id,
            index,
            token,
            finish: finish.into(),
            ..TokenOutput::default()
        }]);
    }

    /// A text, then the end.
    pub(crate) fn answer(&self, text: &str) {
        for index in 0..self.submit.n {
            self.say(index, text);
            self.finish(index, Finish::StopToken);
        }
    }

    pub(crate) fn reject(&self, reason: Reason, message: &str) {
        self.send(ToRouter::Rejected(Rejected {
            request_id: self.submit.request_id,
            reason: reason.into(),
            message: message.into(),
        }));
    }

    /// Tokens as text, added ones included.
    pub(crate) fn text(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, false).unwrap()
    }

    /// The request's prompt as text, added tokens included.
    pub(crate) fn prompt(&self) -> String {
        self.text(&self.submit.prompt)
    }
}

pub(crate) fn logprobs(logprob: f32, top: &[(u32, f32)]) -> Option<TokenLogprobs> {
    let top = top.iter().map(|(token, logprob)| TopLogprob { token: *token, logprob: *logprob });
    Some(TokenLogprobs { logprob, top: top.collect() })
}

/// A small model with SmolLM2's chat format.
pub(crate) fn info() -> ModelInfo {
    let template = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
                    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if \
                    add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    ModelInfo {
        model: "org/tiny".into(),
        version: "1".into(),
        max_model_len: 256,
        vocab_size: 280,
        max_num_seqs: 8,
        block_size: 16,
        num_blocks: 64,
        chat_template: template.into(),
        created: 1_700_000_000,
        epoch: 1,
        max_queue: 8,
        max_logprobs: 5,
        ..ModelInfo::default()
    }
}

#[tonic::async_trait]
impl worker_server::Worker for Service {
    type TokenizerStream = Pin<Box<dyn Stream<Item = Result<TokenizerPiece, Status>> + Send>>;
    type SessionStream = UnboundedReceiverStream<Result<WorkerMessage, Status>>;

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<ModelInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn tokenizer(
        &self,
        _: Request<TokenizerRequest>,
    ) -> Result<Response<Self::TokenizerStream>, Status> {
        let pieces: Vec<_> = self
            .tokenizer
            .chunks(1 << 20)
            .map(|data| Ok(TokenizerPiece { data: data.to_vec() }))
            .collect();
        Ok(Response::new(futures::stream::iter(pieces).boxed()))
    }

    async fn session(
        &self,
        request: Request<Streaming<RouterMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, messages) = mpsc::unbounded_channel();
        let mut inbound = request.into_inner();
        let (received, sessions) = (self.received.clone(), self.sessions.clone());
        let epoch = self.info.epoch;
        tokio::spawn(async move {
            let send = |message| {
                let _ = outbound.send(Ok(WorkerMessage { message: Some(message) }));
            };
            let _ = sessions.send(outbound.clone());
            while let Some(Ok(RouterMessage { message: Some(message) })) = inbound.next().await {
                match message {
                    FromRouter::Hello(_) => send(ToRouter::Welcome(Welcome { epoch, step_ms: 0 })),
                    FromRouter::Probe(probe) => {
                        send(ToRouter::Alive(Alive { nonce: probe.nonce }));
                    }
                    message => drop(received.send((message, outbound.clone()))),
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        Ok(Response::new(DrainReply::default()))
    }
}
