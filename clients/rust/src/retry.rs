//! How often and how patiently a request is tried again.

use std::time::{Duration, SystemTime};

use rand::Rng;
use reqwest::header::HeaderMap;

/// How often and how patiently a request is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Tries after the first.
    pub max_retries: u32,
    /// Delay before the first of them; it doubles with each further one.
    pub base_delay: Duration,
    /// Longest delay. A server that asks for more patience is not tried again.
    pub max_delay: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        let (base_delay, max_delay) = (Duration::from_millis(500), Duration::from_secs(60));
        Self { max_retries: 2, base_delay, max_delay }
    }
}

impl Retries {
    /// The delay before try number `retry`, counted from 0. `None`: it is not to be made.
    ///
    /// What the server asked for, and up to a quarter more; otherwise between half of the doubled
    /// delay and all of it. The spread keeps clients that failed together from coming back together.
    pub(crate) fn delay(&self, retry: u32, asked: Option<Duration>) -> Option<Duration> {
        if retry >= self.max_retries {
            return None;
        }
        let mut rng = rand::rng();
        if let Some(asked) = asked {
            let is_patient = asked <= self.max_delay;
            return is_patient.then(|| asked.mul_f64(rng.random_range(1.0..1.25)));
        }
        let doubled = self.base_delay.saturating_mul(1 << retry.min(16));
        Some(doubled.min(self.max_delay).mul_f64(rng.random_range(0.5..=1.0)))
    }
}

/// When a server wants to be asked again: `Retry-After`, in seconds or as a date, or
/// `Retry-After-Ms`.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok();
    let duration = |seconds| Duration::try_from_secs_f64(seconds).ok();
    if let Some(asked) = text("retry-after-ms").and_then(number) {
        return duration(asked / 1e3);
    }
    let after = text("retry-after")?;
    if let Some(seconds) = number(after) {
        return duration(seconds);
    }
    let date = httpdate::parse_http_date(after).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_within_their_spread_and_end() {
        let retries = Retries { max_retries: 8, ..Retries::default() };

        for retry in 0..8 {
            let full = Duration::from_millis(500 << retry).min(retries.max_delay);
            let delay = retries.delay(retry, None).unwrap();
            assert!(delay >= full / 2 && delay <= full, "{retry}: {delay:?}");
        }
        assert_eq!(retries.delay(8, None), None);
    }

    #[test]
    fn the_server_is_obeyed_or_left_alone() {
        let retries = Retries::default();
        let asked = Duration::from_secs(3);

        assert!(retries.delay(0, Some(asked)).unwrap() >= asked);
        assert_eq!(retries.delay(0, Some(Duration::from_secs(61))), None);
    }

    #[test]
    fn all_spellings_of_patience_are_read() {
        let read = |name: &'static str, value: &str| {
            retry_after(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
        };

        assert_eq!(read("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(read("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "-1"), None);
        assert_eq!(read("retry-after", "soon"), None);
        assert_eq!(read("x", "1"), None);
    }
}
