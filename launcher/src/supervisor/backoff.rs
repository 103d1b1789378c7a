//! How long a process that died has to wait.

use std::time::Duration;

/// How long a process that died has to wait.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// After the first death; it doubles with each further one.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
    /// A process that lived so long starts over with the first.
    pub healthy: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(30),
            healthy: Duration::from_secs(60),
        }
    }
}

pub(super) struct Backoff {
    policy: Policy,
    num_in_row: u32,
}

impl Backoff {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, num_in_row: 0 }
    }

    /// Ends in a row.
    pub(super) fn num_in_row(&self) -> u32 {
        self.num_in_row
    }

    /// The delay after a process that lived for `lived`.
    pub(super) fn next(&mut self, lived: Duration) -> Duration {
        if lived >= self.policy.healthy {
            self.num_in_row = 0;
        }
        let delay = self.policy.first.saturating_mul(1 << self.num_in_row.min(20));
        self.num_in_row = self.num_in_row.saturating_add(1);
        delay.min(self.policy.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_limit_and_start_over_after_a_healthy_life() {
        let mut backoff = Backoff::new(Policy::default());
        let soon = Duration::from_secs(1);

        let delays: Vec<_> = (0..10).map(|_| backoff.next(soon).as_millis()).collect();
        assert_eq!(delays[..4], [200, 400, 800, 1600]);
        assert_eq!(delays[8..], [30_000, 30_000]);

        assert_eq!(backoff.next(Duration::from_secs(61)).as_millis(), 200);
    }
}
