//! Every metric's name, help text and buckets: the one list of them.

/// One metric, as `/metrics` describes it.
pub struct Metric {
    /// Its name, with the `sconce_` prefix and its unit.
    pub name: &'static str,
    /// What it tells an operator.
    pub help: &'static str,
    /// Its type, and a histogram's upper bounds.
    pub kind: Kind,
}

/// The type of a metric.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts observations in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// vLLM's bounds, with finer ones below 1 ms.
const TTFT: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// vLLM's bounds, which begin at 10 ms, with finer ones below.
const PER_TOKEN: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// vLLM's bounds, which begin at 300 ms, with finer ones below.
const LATENCY: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0,
    30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6,
];
const COMPLETIONS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// Declares a constant per name, and the table of all of them.
macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:expr, $help:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*

        /// All metrics of the router.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, help: $help, kind: $kind },)*
        ];
    };
}

metrics! {
    TIME_TO_FIRST_TOKEN = "sconce_time_to_first_token_seconds", Kind::Histogram(TTFT),
        "From a request's arrival to its first token.";
    INTER_TOKEN_LATENCY = "sconce_inter_token_latency_seconds", Kind::Histogram(PER_TOKEN),
        "Between one token of a completion and the next; near zero for tokens of one step.";
    TIME_PER_OUTPUT_TOKEN = "sconce_time_per_output_token_seconds", Kind::Histogram(PER_TOKEN),
        "Mean time per token after the first, once for each completion.";
    E2E_LATENCY = "sconce_e2e_request_latency_seconds", Kind::Histogram(LATENCY),
        "From a request's arrival to its last token.";
    QUEUE_TIME = "sconce_request_queue_time_seconds", Kind::Histogram(LATENCY),
        "From a worker's taking a prompt to the first step that computes some of it.";
    PROMPT_LENGTH = "sconce_request_prompt_tokens", Kind::Histogram(TOKENS),
        "Prompt tokens of a request.";
    GENERATION_LENGTH = "sconce_request_generation_tokens", Kind::Histogram(TOKENS),
        "Completion tokens of a request.";
    MAX_TOKENS = "sconce_request_params_max_tokens", Kind::Histogram(TOKENS),
        "max_tokens of a request, after defaults.";
    PARAM_N = "sconce_request_params_n", Kind::Histogram(COMPLETIONS),
        "Completions that a request asks for.";
    CANCEL_TO_FREE = "sconce_cancel_to_free_seconds", Kind::Histogram(TTFT),
        "From a request's cancellation to the worker's word that its blocks are free.";
    PROMPT_TOKENS = "sconce_prompt_tokens_total", Kind::Counter,
        "Prompt tokens of accepted requests.";
    CACHED_TOKENS = "sconce_prompt_tokens_cached_total", Kind::Counter,
        "Prompt tokens of accepted requests that the prefix cache held.";
    GENERATION_TOKENS = "sconce_generation_tokens_total", Kind::Counter,
        "Tokens that clients were sent.";
    REQUEST_SUCCESS = "sconce_request_success_total", Kind::Counter,
        "Completions and requests for vectors that ended, by finished_reason.";
    REJECTED = "sconce_requests_rejected_total", Kind::Counter,
        "Generations refused before their first token, by reason.";
    FAILED = "sconce_requests_failed_total", Kind::Counter,
        "Requests that failed by no fault of the client: 5xx, and streams that broke off.";
    RESENT = "sconce_requests_resent_total", Kind::Counter,
        "Times that a request was sent to a worker again, by what became of the last one before it had said \
         anything: draining, queue_full, lost.";
    SHADOWED = "sconce_requests_shadowed_total", Kind::Counter,
        "Copies of requests that a shadow version answered.";
    SHADOW_DIFFERENT = "sconce_requests_shadow_different_total", Kind::Counter,
        "Copies of requests whose answer was not the same text.";
    SHADOW_SKIPPED = "sconce_requests_shadow_skipped_total", Kind::Counter,
        "Copies of requests that were not made or not answered, because too many were on their way or \
         the version could not take them.";
    BATCH_LINES = "sconce_batch_lines_total", Kind::Counter,
        "Lines of batches that this router has recorded an answer of, by status: completed, failed.";
    BATCH_RETRIES = "sconce_batch_line_retries_total", Kind::Counter,
        "Lines of batches that could not be answered and wait again.";
    BATCH_WAITING = "sconce_batch_lines_waiting", Kind::Gauge,
        "Lines of all batches in progress that have no answer yet, those under way included.";
    BATCH_RUNNING = "sconce_batch_lines_running", Kind::Gauge,
        "Lines of batches that this router has under way.";
    BATCH_LEASES_LOST = "sconce_batch_leases_lost_total", Kind::Counter,
        "Lines whose router did not renew its claim, and that this router has freed.";
    HELD = "sconce_requests_held", Kind::Gauge,
        "Requests that wait for a replica of what they name.";
    HOLD_TIME = "sconce_request_hold_seconds", Kind::Histogram(LATENCY),
        "How long requests waited for a replica of what they name, whether one came or not.";
    HOLDS_ENDED = "sconce_request_holds_total", Kind::Counter,
        "Waits of requests for a replica, by outcome: ready, timeout, full, abort.";
    TABLE_GENERATION = "sconce_routing_table_generation", Kind::Gauge,
        "The generation of the routing table that is followed; 0: none yet.";
    ROUTE_SHARE = "sconce_route_share", Kind::Gauge,
        "Part of a name's clients that a version gets by the routing table, 0 to 1.";
    ROUTE_SHADOW_SHARE = "sconce_route_shadow_share", Kind::Gauge,
        "Part of a name's requests that a shadow version gets copies of, 0 to 1.";
    ROUTING_CONNECTED = "sconce_routing_connected", Kind::Gauge,
        "1 while the launcher is followed, 0 while the last table is kept.";
    PREFIX_CACHE_QUERIES = "sconce_prefix_cache_queries_total", Kind::Counter,
        "Prompt tokens that workers looked up in their prefix caches.";
    PREFIX_CACHE_HITS = "sconce_prefix_cache_hits_total", Kind::Counter,
        "Prompt tokens that workers found in their prefix caches.";
    PREEMPTIONS = "sconce_num_preemptions_total", Kind::Counter,
        "Times that a sequence lost its blocks to others and was computed again.";
    ENGINE_STEPS = "sconce_engine_steps_total", Kind::Counter,
        "Engine iterations.";
    DRAFT_TOKENS = "sconce_spec_decode_num_draft_tokens_total", Kind::Counter,
        "Guesses of tokens to come that workers computed.";
    ACCEPTED_TOKENS = "sconce_spec_decode_num_accepted_tokens_total", Kind::Counter,
        "Guesses of tokens to come that were right.";
    RUNNING = "sconce_num_requests_running", Kind::Gauge,
        "Sequences that are being computed.";
    WAITING = "sconce_num_requests_waiting", Kind::Gauge,
        "Sequences that wait for their first step.";
    KV_CACHE_USAGE = "sconce_kv_cache_usage_perc", Kind::Gauge,
        "Share of the KV cache's blocks that sequences hold, 0 to 1.";
    KV_CACHE_BLOCKS = "sconce_kv_cache_blocks", Kind::Gauge,
        "Blocks of the KV caches.";
    OPEN_STREAMS = "sconce_open_streams", Kind::Gauge,
        "Event streams that are open.";
    DETACHED_STREAMS = "sconce_detached_streams", Kind::Gauge,
        "Answers that are being made while no client is connected to take them.";
    STREAMS_RESUMED = "sconce_streams_resumed_total", Kind::Counter,
        "Times that a client came back to a stream.";
    STREAMS_ABANDONED = "sconce_streams_abandoned_total", Kind::Counter,
        "Answers that were cancelled because no client came back in time.";
    IDEMPOTENT_REPLAYS = "sconce_idempotent_replays_total", Kind::Counter,
        "Repeated requests that got the answer to the first.";
    KEPT_BYTES = "sconce_kept_answer_bytes", Kind::Gauge,
        "Bytes of answers that are kept for clients that come back.";
    FILES_STORED = "sconce_files_stored_total", Kind::Counter,
        "Files stored, by purpose.";
    FILE_BYTES_RECEIVED = "sconce_file_bytes_received_total", Kind::Counter,
        "Bytes written to files, of uploads and of results.";
    FILE_BYTES_SENT = "sconce_file_bytes_sent_total", Kind::Counter,
        "Bytes read from files.";
    HTTP_REQUESTS = "sconce_http_requests_total", Kind::Counter,
        "HTTP answers, by route and status.";
    HTTP_DURATION = "sconce_http_request_duration_seconds", Kind::Histogram(LATENCY),
        "From a request's head to the end of its answer, by route.";
    CONNECTIONS = "sconce_http_connections", Kind::Gauge,
        "Open connections.";
    CONNECTIONS_REFUSED = "sconce_http_connections_refused_total", Kind::Counter,
        "Connections closed at once because too many were open.";
}
