//! What is counted of batches.

use metrics::{counter, gauge};

use super::catalogue::*;

/// A line's answer was recorded.
pub(crate) fn batch_line_done(is_error: bool) {
    let status = if is_error { "failed" } else { "completed" };
    counter!(BATCH_LINES, "status" => status).increment(1);
}

/// A line could not be answered, and waits again.
pub(crate) fn batch_line_retried() {
    counter!(BATCH_RETRIES).increment(1);
}

/// So many lines have no answer yet.
pub(crate) fn batch_lines_waiting(num_lines: i64) {
    gauge!(BATCH_WAITING).set(num_lines as f64);
}

/// So many lines are under way here.
pub(crate) fn batch_lines_running(num_lines: usize) {
    gauge!(BATCH_RUNNING).set(num_lines as f64);
}

/// So many lines were freed whose router had lost them.
pub(crate) fn batch_leases_lost(num_lines: u64) {
    counter!(BATCH_LEASES_LOST).increment(num_lines);
}
