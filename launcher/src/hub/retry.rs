//! How long to wait before a request: after one that failed, and when the hub asks for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rand::Rng;
use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};
use tokio::time::Instant;

use super::Error;
use crate::progress::Progress;
use crate::settings::Retries;

/// A pause that a person should know the reason of.
const NOTEWORTHY: Duration = Duration::from_secs(3);

/// Counts failures in a row and waits between them.
pub(crate) struct Backoff<'a> {
    retries: Retries,
    progress: &'a Progress,
    failures: u32,
}

impl<'a> Backoff<'a> {
    pub(crate) fn new(retries: Retries, progress: &'a Progress) -> Self {
        Self { retries, progress, failures: 0 }
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
                if wait > self.retries.max_pause {
                    return Err(Error::AskedToWait { url, status, wait });
                }
                say(self.progress, &url, wait);
                wait + self.jittered(self.retries.base_delay)
            }
            _ => self.jittered(self.exponential()),
        };
        tokio::time::sleep_until(Instant::now() + delay).await;
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

/// The hub's budgets for this client: when one is used up, nobody asks before it is full again.
///
/// The hub has one for its interface and one for where files are, each with a window of its own.
#[derive(Debug, Default)]
pub(crate) struct Budgets([Mutex<Option<Instant>>; 2]);

impl Budgets {
    /// Waits until `url` may be asked for.
    pub(crate) async fn wait(&self, url: &Url, progress: &Progress) {
        loop {
            let until = *self.of(url).lock().unwrap_or_else(PoisonError::into_inner);
            let Some(until) = until.filter(|until| *until > Instant::now()) else { return };
            say(progress, url.host_str().unwrap_or_default(), until - Instant::now());
            tokio::time::sleep_until(until).await;
        }
    }

    /// Notes what an answer says of the budget. A pause longer than `max_pause` is not made: the
    /// next answer says why.
    pub(crate) fn note(
        &self,
        url: &Url,
        (status, headers): (StatusCode, &HeaderMap),
        max_pause: Duration,
    ) {
        let pause = if status == StatusCode::TOO_MANY_REQUESTS {
            requested_pause(headers)
        } else {
            rate_limit(headers).and_then(|(left, pause)| (left == Some(0)).then_some(pause))
        };
        if let Some(pause) = pause.filter(|pause| *pause <= max_pause) {
            let until = Some(Instant::now() + pause);
            let mut known = self.of(url).lock().unwrap_or_else(PoisonError::into_inner);
            *known = until.max(*known);
        }
    }

    fn of(&self, url: &Url) -> &Mutex<Option<Instant>> {
        &self.0[usize::from(url.path().contains("/resolve/"))]
    }
}

/// The pause that an answer asks for: `Retry-After` in seconds or as a date, or the hub's
/// `RateLimit` with the seconds until its window ends.
pub(crate) fn requested_pause(headers: &HeaderMap) -> Option<Duration> {
    let retry_after = headers.get("retry-after").and_then(|value| value.to_str().ok());
    retry_after
        .and_then(|text| parse_retry_after(text.trim()))
        .or_else(|| rate_limit(headers).map(|(_, pause)| pause))
}

fn parse_retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // One that has passed asks for nothing.
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Requests that are left, and the time until there are more: `"resolvers";r=0;t=42`.
fn rate_limit(headers: &HeaderMap) -> Option<(Option<u64>, Duration)> {
    let text = headers.get("ratelimit")?.to_str().ok()?;
    let number = |name: &str| {
        let mut fields = text.split(';').filter_map(|field| field.trim().split_once('='));
        fields.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse().ok())
    };
    Some((number("r"), Duration::from_secs(number("t")?)))
}

fn say(progress: &Progress, whom: &str, pause: Duration) {
    if pause >= NOTEWORTHY {
        progress.note(&format!("{whom} asks to wait {} s", pause.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_pause_is_read_from_either_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(requested_pause(&headers), None);

        headers.insert("ratelimit", HeaderValue::from_static("\"resolvers\";r=0;t=42"));
        assert_eq!(requested_pause(&headers), Some(Duration::from_secs(42)));

        headers.insert("retry-after", HeaderValue::from_static("7"));
        assert_eq!(requested_pause(&headers), Some(Duration::from_secs(7)));

        headers.insert("retry-after", HeaderValue::from_static("Fri, 01 Jan 2021 00:00:00 GMT"));
        assert_eq!(requested_pause(&headers), Some(Duration::ZERO));

        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
        headers.insert("retry-after", later.parse().unwrap());
        assert!(requested_pause(&headers).unwrap() > Duration::from_secs(50));
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let retries = Retries {
            max_attempts: 99,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(6),
            max_pause: Duration::from_secs(9),
        };
        let progress = Progress::Silent;
        let backoff = |failures| Backoff { retries, progress: &progress, failures };
        let delays = (1..=4).map(|failures| backoff(failures).exponential().as_secs());
        assert_eq!(delays.collect::<Vec<_>>(), [1, 2, 4, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_that_is_used_up_holds_back_its_own_requests_only() {
        let budgets = Budgets::default();
        let files = Url::parse("https://hub/o/r/resolve/main/config.json").unwrap();
        let api = Url::parse("https://hub/api/models/o/r").unwrap();
        let start = Instant::now();
        let max_pause = Duration::from_secs(330);
        let answer = |value| headers(&[("ratelimit", value)]);

        budgets.note(&files, (StatusCode::OK, &answer("\"resolvers\";r=3;t=300")), max_pause);
        budgets.wait(&files, &Progress::Silent).await;
        assert_eq!(start.elapsed(), Duration::ZERO);

        budgets.note(&files, (StatusCode::OK, &answer("\"resolvers\";r=0;t=42")), max_pause);
        budgets.note(&api, (StatusCode::OK, &answer("\"api\";r=0;t=9999")), max_pause);
        budgets.wait(&api, &Progress::Silent).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        budgets.wait(&files, &Progress::Silent).await;
        assert!(start.elapsed() >= Duration::from_secs(42));
    }
}
