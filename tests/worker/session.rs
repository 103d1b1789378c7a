//! A router of the tests' own, which may say anything.

use std::time::Duration;

use sconce_proto::worker::router_message::Message as ToWorker;
use sconce_proto::worker::worker_client::WorkerClient;
use sconce_proto::worker::worker_message::Message as FromWorker;
use sconce_proto::worker::{
    Hello, Probe, RouterMessage, StepOutput, Submit, TokenOutput, WorkerMessage,
};
use sconce_router::dispatch::Generation;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::process::LONG;

pub(crate) struct Session {
    outbound: mpsc::UnboundedSender<RouterMessage>,
    inbound: Streaming<WorkerMessage>,
}

pub(crate) async fn connect(address: &str) -> WorkerClient<Channel> {
    WorkerClient::new(channel(address).await)
}

pub(crate) async fn channel(address: &str) -> Channel {
    // HTTP/2's own default; hyper's would take megabytes that nobody reads.
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    endpoint.initial_stream_window_size(65_535).connect().await.unwrap()
}

/// `generation` as a request.
pub(crate) fn submit(request_id: u64, generation: &Generation) -> Submit {
    Submit {
        request_id,
        prompt: generation.prompt.clone(),
        sampling: Some(generation.sampling.clone()),
        n: generation.n,
        cache_salt: generation.cache_salt.to_vec(),
        queue_deadline_ms: 0,
        report_progress: generation.report_progress,
        priority: 0,
    }
}

impl Session {
    /// A session in which both sides have greeted each other.
    pub(crate) async fn open(address: &str) -> Self {
        let hello = Hello { protocol: sconce_proto::PROTOCOL, router: "test".to_owned() };
        let mut session = Self::begin(address, vec![ToWorker::Hello(hello)]).await.unwrap();
        let Some(FromWorker::Welcome(_)) = session.next().await else { panic!("no Welcome") };
        session
    }

    /// A session that begins with any messages.
    pub(crate) async fn begin(address: &str, first: Vec<ToWorker>) -> Result<Self, Status> {
        let (outbound, messages) = mpsc::unbounded_channel();
        for message in first {
            outbound.send(RouterMessage { message: Some(message) }).unwrap();
        }
        let mut client = connect(address).await;
        let call = client.session(UnboundedReceiverStream::new(messages));
        let inbound = timeout(LONG, call).await.expect("no answer")?.into_inner();
        Ok(Self { outbound, inbound })
    }

    pub(crate) fn say(&self, message: ToWorker) {
        // The worker may have ended the session.
        let _ = self.outbound.send(RouterMessage { message: Some(message) });
    }

    pub(crate) fn say_nothing_known(&self) {
        let _ = self.outbound.send(RouterMessage { message: None });
    }

    pub(crate) fn submit(&self, submit: Submit) {
        self.say(ToWorker::Submit(submit));
    }

    pub(crate) fn probe(&self, nonce: u64) {
        self.say(ToWorker::Probe(Probe { nonce }));
    }

    pub(crate) async fn next(&mut self) -> Option<FromWorker> {
        let message = timeout(LONG, self.inbound.message()).await.expect("the worker is silent");
        message.ok().flatten().map(|message| message.message.unwrap())
    }

    /// The next message with tokens.
    pub(crate) async fn step(&mut self) -> Vec<TokenOutput> {
        loop {
            match self.next().await {
                Some(FromWorker::Step(StepOutput { outputs, .. })) if !outputs.is_empty() => {
                    return outputs;
                }
                Some(FromWorker::Step(_)) => {}
                other => panic!("expected tokens and got {other:?}"),
            }
        }
    }

    /// The next message that is no step.
    pub(crate) async fn notice(&mut self) -> Option<FromWorker> {
        loop {
            match self.next().await {
                Some(FromWorker::Step(_)) => {}
                other => return other,
            }
        }
    }

    /// Reads to the end: why the worker ended the session.
    pub(crate) async fn end(mut self) -> Option<Status> {
        loop {
            match timeout(LONG, self.inbound.message()).await.expect("the session goes on") {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    /// Whether the worker says nothing for a moment.
    pub(crate) async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_millis(50), self.notice()).await.is_err()
    }
}
