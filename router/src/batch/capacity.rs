//! How many lines of a model may be under way: what its workers have left, and never all of it. Pure:
//! the same numbers give the same room.

use crate::dispatch::WorkerRoom;

/// Of a worker's sequences, those that lines may be: the others are for whoever comes next.
const SHARE: (u32, u32) = (3, 4);

/// Lines that may be begun now of a model whose workers say this, while so many of this router's are
/// under way.
pub(super) fn room(workers: &[WorkerRoom], num_lines: usize) -> usize {
    let limit: usize = workers.iter().map(|worker| limit(worker.max_num_seqs)).sum();
    let engine: usize = workers.iter().map(|worker| worker.num_running + worker.num_waiting).sum();
    // Of other clients, or of other routers' batches: they are not told apart.
    let others = engine.saturating_sub(num_lines);
    let is_anyone_waiting = workers.iter().any(|worker| worker.num_waiting > 0);
    if is_anyone_waiting && others > 0 {
        return 0;
    }
    limit.saturating_sub(others + num_lines)
}

fn limit(max_num_seqs: u32) -> usize {
    let (of, all) = SHARE;
    (max_num_seqs.saturating_mul(of) / all).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(max_num_seqs: u32, num_running: usize, num_waiting: usize) -> WorkerRoom {
        WorkerRoom { max_num_seqs, num_running, num_waiting }
    }

    #[test]
    fn idle_workers_are_filled_to_three_quarters() {
        assert_eq!(room(&[], 0), 0);
        assert_eq!(room(&[worker(8, 0, 0)], 0), 6);
        assert_eq!(room(&[worker(8, 6, 0)], 6), 0);
        assert_eq!(room(&[worker(8, 2, 0), worker(16, 0, 0)], 2), 16);
        assert_eq!(room(&[worker(1, 0, 0)], 0), 1);
    }

    #[test]
    fn what_others_run_is_left_to_them() {
        assert_eq!(room(&[worker(8, 4, 0)], 0), 2);
        assert_eq!(room(&[worker(8, 8, 0)], 2), 0);
    }

    #[test]
    fn nothing_begins_while_others_wait() {
        assert_eq!(room(&[worker(8, 1, 2)], 1), 0);
        assert_eq!(room(&[worker(8, 1, 1)], 2), 4);
    }
}
