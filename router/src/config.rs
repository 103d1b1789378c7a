//! What the router was told at its start, checked once and immutable.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::Database;

/// The router's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The database with API keys, stored responses, files and batches.
    pub database: Database,
    /// Whether requests need a key.
    pub auth: AuthMode,
    /// Workers to connect to: `unix:/path/to/socket` or `http://host:port`.
    pub workers: Vec<String>,
    /// The launcher whose routing table is followed, at an address like a worker's.
    pub launcher: Option<String>,
    /// A Unix socket by which routers of the same port succeed each other.
    pub takeover: Option<PathBuf>,
    /// A routing table of before, for a start without the launcher.
    pub routing_table: Option<PathBuf>,
    /// Longest time that running streams are given at shutdown.
    pub drain_timeout: Duration,
    /// Time between `/ready` turning 503 and the last new connection, for load balancers to notice.
    pub shutdown_delay: Duration,
    /// Names that the `Host` header may carry, beside the loopback names. Empty on an address that
    /// is not loopback: any.
    pub allowed_hosts: Vec<String>,
    /// Web origins whose pages may call the API. Empty: none.
    pub cors_origins: Vec<String>,
    /// Who may read `/metrics`.
    pub metrics: MetricsAccess,
    /// What is kept of responses.
    pub responses: KeptResponses,
    /// What is done for batches.
    pub batches: BatchLimits,
    /// Where the contents of files lie; beside the database's file otherwise.
    pub file_location: Option<FileLocation>,
    /// How much of files is kept.
    pub files: FileLimits,
    /// What one request may ask for.
    pub limits: Limits,
}

/// What is kept of the Responses API's responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptResponses {
    /// How long after their last use. Zero: nothing is stored.
    pub ttl: Duration,
    /// Bytes of all together, about; the oldest go first.
    pub max_bytes: u64,
}

impl Default for KeptResponses {
    /// 30 days, as OpenAI has it.
    fn default() -> Self {
        Self { ttl: Duration::from_hours(30 * 24), max_bytes: 4 << 30 }
    }
}

/// What is done for batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Unfinished batches of one key.
    pub max_unfinished: u64,
    /// Lines that this router answers at the same time. 0: it leaves them to others.
    pub max_running: usize,
    /// How often a line is tried again whose answer was lost with a worker or a router.
    pub max_tries: u32,
    /// How long a router that hangs or is cut off keeps others from what it had.
    pub lease: Duration,
    /// How long a batch can be asked for after its end.
    pub ttl: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            max_unfinished: 100,
            max_running: 256,
            max_tries: 5,
            lease: Duration::from_secs(30),
            ttl: Duration::from_hours(30 * 24),
        }
    }
}

impl Default for Config {
    /// A router on loopback with keys and no workers.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            database: Database::new("sconce.db"),
            auth: AuthMode::Keys,
            workers: Vec::new(),
            launcher: None,
            routing_table: None,
            takeover: None,
            drain_timeout: Duration::from_secs(60),
            shutdown_delay: Duration::ZERO,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            metrics: MetricsAccess::Keys,
            responses: KeptResponses::default(),
            batches: BatchLimits::default(),
            file_location: None,
            files: FileLimits::default(),
            limits: Limits::default(),
        }
    }
}

/// Where the contents of files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileLocation {
    /// In a directory of this machine.
    Directory(PathBuf),
    /// In a bucket that speaks S3.
    Bucket {
        /// Its name.
        bucket: String,
        /// What the objects' names begin with; may be empty.
        prefix: String,
    },
}

/// How much of files is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// Bytes of one file.
    pub max_file_bytes: u64,
    /// Bytes of an owner's files together.
    pub max_bytes: u64,
    /// Files of an owner.
    pub max_files: u64,
    /// Uploads that an owner may have under way at once.
    pub max_uploads: usize,
    /// Lines of a batch's file.
    pub max_lines: usize,
    /// Time for a whole upload. A pause in one may take as long as another body.
    pub upload_timeout: Duration,
}

impl Default for FileLimits {
    /// As much in one file as OpenAI takes.
    fn default() -> Self {
        Self {
            max_file_bytes: 512 << 20,
            max_bytes: 16 << 30,
            max_files: 10_000,
            max_uploads: 8,
            max_lines: 50_000,
            upload_timeout: Duration::from_hours(1),
        }
    }
}

impl Config {
    /// Where the contents of files lie. Nowhere, with a server's database and nothing said: other
    /// routers would not find them beside this one.
    pub(crate) fn file_location(&self) -> Option<FileLocation> {
        let beside = |file: &Path| FileLocation::Directory(file.with_extension("files"));
        self.file_location.clone().or_else(|| self.database.file().map(beside))
    }
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Whoever may use the API.
    Keys,
    /// `--public-metrics`.
    Public,
}

/// Whether requests need an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Every request needs a key.
    Keys,
    /// `--no-auth`.
    Open,
}

/// What one request or connection may ask for. Limits of the model itself come from its worker.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// Bytes of a request's path and query.
    pub max_uri_bytes: usize,
    /// Bytes of a request's headers together.
    pub max_header_bytes: usize,
    /// Number of header fields.
    pub max_headers: usize,
    /// Time for a whole request head to arrive.
    pub header_timeout: Duration,
    /// Time for a whole body to arrive.
    pub body_timeout: Duration,
    /// Time that an idle connection is kept.
    pub idle_timeout: Duration,
    /// Open connections, all together.
    pub max_connections: usize,
    /// Open connections of one address, loopback excepted.
    pub max_connections_per_ip: usize,
    /// Messages of one chat request.
    pub max_messages: usize,
    /// `stop` strings of one request, and bytes of each.
    pub max_stop: usize,
    /// Bytes of one stop string.
    pub max_stop_bytes: usize,
    /// `n`: completions per prompt.
    pub max_n: u32,
    /// Prompts of one completions request.
    pub max_prompts: usize,
    /// Inputs of one embeddings request, documents of one rerank request.
    pub max_inputs: usize,
    /// Entries of `logit_bias`.
    pub max_logit_bias: usize,
    /// Time that a request may wait for its first step.
    pub queue_timeout: Duration,
    /// Headers of a stream are held until its first token, or so long.
    pub hold_headers: Duration,
    /// A comment is sent on a stream that was silent for so long.
    pub keep_alive: Duration,
    /// A client that takes nothing for so long is hung up on.
    pub write_timeout: Duration,
    /// Fuel of a chat template: roughly, instructions.
    pub template_fuel: u64,
    /// Time that a resumable stream goes on without a reader, and is kept after its end.
    pub stream_grace: Duration,
    /// Time that the answer to a request with an idempotency key is kept after its end.
    pub idempotency_window: Duration,
    /// Answers that are kept.
    pub max_kept_answers: usize,
    /// Bytes that are kept of one answer.
    pub max_kept_answer_bytes: usize,
    /// Bytes that are kept of all answers, beside the newest event of each.
    pub max_kept_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 << 20,
            max_uri_bytes: 2 << 10,
            max_header_bytes: 16 << 10,
            max_headers: 64,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_connections: 12_000,
            max_connections_per_ip: 256,
            max_messages: 4096,
            max_stop: 4,
            max_stop_bytes: 256,
            max_n: 8,
            max_prompts: 32,
            max_inputs: 2048,
            max_logit_bias: 1024,
            queue_timeout: Duration::from_secs(60),
            hold_headers: Duration::from_secs(10),
            keep_alive: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            template_fuel: 1_000_000,
            stream_grace: Duration::from_secs(30),
            idempotency_window: Duration::from_secs(600),
            max_kept_answers: 1024,
            max_kept_answer_bytes: 1 << 20,
            max_kept_bytes: 64 << 20,
        }
    }
}
