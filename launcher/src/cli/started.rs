//! How long this process has existed, the time to load the binary included.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The age of this process, where the system tells it (Linux). It counts in hundredths of a
/// second and rounds the start down, so this is at most 10 ms too much.
pub(super) fn process_age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = start_ticks(&stat)?;
    let per_second = rustix::param::clock_ticks_per_second();
    let started = Duration::from_secs_f64(ticks as f64 / per_second as f64);
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    now.checked_sub(started)
}

/// The 22nd field; the second, a name in parentheses, may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_a_hostile_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        assert_eq!(start_ticks(stat), Some(12345));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_young() {
        assert!(process_age().unwrap() < Duration::from_secs(600));
    }
}
