//! What a router does for batches, as it is typed.

use std::time::Duration;

use clap::Args;

use crate::config::BatchLimits;

/// Limits of batches.
#[derive(Args, Clone, Debug)]
pub(super) struct BatchArgs {
    /// Unfinished batches that one API key may have
    #[arg(long, env = "SCONCE_MAX_BATCHES", value_name = "COUNT", default_value_t = BatchLimits::default().max_unfinished)]
    max_batches: u64,

    /// Lines of batches that this router answers at the same time, where its workers have room. 0: it
    /// leaves them to other routers
    #[arg(long, env = "SCONCE_MAX_BATCH_LINES_RUNNING", value_name = "COUNT", default_value_t = BatchLimits::default().max_running)]
    max_batch_lines_running: usize,

    /// How often a line is tried whose answer was lost with a worker or a router
    #[arg(long, env = "SCONCE_MAX_BATCH_TRIES", value_name = "COUNT", default_value_t = BatchLimits::default().max_tries)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_batch_tries: u32,

    /// Seconds after which other routers go on with what a router had that hangs or is cut off from the
    /// database, 1 to 3600; one that died they notice at once
    #[arg(long, env = "SCONCE_BATCH_LEASE", value_name = "SECONDS", default_value_t = BatchLimits::default().lease.as_secs())]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    batch_lease: u64,

    /// Days that a batch can be asked for after its end
    #[arg(long, env = "SCONCE_BATCH_DAYS", value_name = "DAYS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3650))]
    batch_days: u32,
}

impl From<BatchArgs> for BatchLimits {
    fn from(args: BatchArgs) -> Self {
        Self {
            max_unfinished: args.max_batches,
            max_running: args.max_batch_lines_running,
            max_tries: args.max_batch_tries,
            lease: Duration::from_secs(args.batch_lease),
            ttl: Duration::from_hours(u64::from(args.batch_days) * 24),
        }
    }
}
