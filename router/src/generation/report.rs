//! What is said of a request itself, beside its completions.

use std::time::Duration;

/// What is said of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Report {
    /// A step has computed some of its prompts.
    Progress(Progress),
    /// It has ended.
    Timings(Timings),
}

/// How much of a request's prompts is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tokens of the prompts.
    pub num_prompt: u64,
    /// Of those, tokens found in the prefix cache.
    pub num_cached: u64,
    /// Tokens computed so far, or found.
    pub num_computed: u64,
    /// Since the request came.
    pub since_arrival: Duration,
}

/// How long a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From the worker's taking it to its first step; of several prompts, the longest. `None`: the
    /// worker does not tell.
    pub queue: Option<Duration>,
    /// From its arrival to its first token.
    pub ttft: Option<Duration>,
    /// Per token after the first, on average. `None`: no completion has two tokens.
    pub tpot: Option<Duration>,
    /// From its arrival to its last token.
    pub e2e: Option<Duration>,
}
