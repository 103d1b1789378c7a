//! How long to wait before a failed request is made again.

use std::time::Duration;

use rand::Rng;

use super::Error;
use crate::settings::Retries;

/// Counts failures in a row and waits between them.
pub(crate) struct Backoff {
    retries: Retries,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(retries: Retries) -> Self {
        Self { retries, failures: 0 }
    }

    /// Something arrived: failures before it count no longer.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits after `error`, or returns the error that ends it all.
    pub(crate) async fn wait(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_transient() {
            return Err(error);
        }
        self.failures += 1;
        if self.failures >= self.retries.max_attempts {
            return Err(Error::GaveUp { attempts: self.failures, last: Box::new(error) });
        }
        let delay = match error {
            Error::Busy { url, status, retry_after: Some(wait) } => {
                if wait > self.retries.max_delay {
                    return Err(Error::AskedToWait { url, status, wait });
                }
                wait + self.jittered(self.retries.base_delay)
            }
            _ => self.jittered(self.exponential()),
        };
        #[expect(clippy::disallowed_methods, reason = "a pause that the server needs")]
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn exponential(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        self.retries.base_delay.saturating_mul(1 << doublings).min(self.retries.max_delay)
    }

    /// Between half of `delay` and all of it, so that many clients do not come back as one.
    fn jittered(&self, delay: Duration) -> Duration {
        delay.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// The pause that an answer asks for: `Retry-After` in seconds, or the hub's `RateLimit` with the
/// seconds until its window ends (`"resolvers";r=0;t=42`).
pub(crate) fn requested_pause(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let seconds =
        text("retry-after").and_then(|value| value.trim().parse().ok()).or_else(|| {
            let fields = text("ratelimit")?.split(';');
            let mut fields = fields.filter_map(|field| field.trim().split_once('='));
            fields.find(|(key, _)| *key == "t").and_then(|(_, value)| value.parse().ok())
        })?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn the_pause_is_read_from_either_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(requested_pause(&headers), None);

        headers.insert("ratelimit", HeaderValue::from_static("\"resolvers\";r=0;t=42"));
        assert_eq!(requested_pause(&headers), Some(Duration::from_secs(42)));

        headers.insert("retry-after", HeaderValue::from_static("7"));
        assert_eq!(requested_pause(&headers), Some(Duration::from_secs(7)));
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let retries = Retries {
            max_attempts: 99,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(6),
        };
        let delays = (1..=4).map(|failures| Backoff { retries, failures }.exponential().as_secs());
        assert_eq!(delays.collect::<Vec<_>>(), [1, 2, 4, 6]);
    }
}
