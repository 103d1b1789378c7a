//! When numbers say that a version is worse, and when it may be chance.
//!
//! The numbers are looked at again and again while they grow, and a test that is wrong once in a
//! thousand would, looked at a thousand times, be wrong often. So the test is sequential: the
//! likelihood ratio of "more often than allowed" to "as often as allowed" exceeds 1/α at any time
//! with a probability of at most α, however often one looks (Wald, 1945; Ville's inequality). "More
//! often" is a mixture of several rates, as nobody knows which.

use super::settings::Limits;
use super::traffic::{Counts, Histogram};

/// How often a version that is not worse is taken for one.
const ALPHA: f64 = 0.001;

/// With fewer failures, another version's are no measure.
const MIN_FAILURES: u64 = 3;

/// What is worse about a version than allowed, if that is sure.
pub(crate) fn find_fault(to: &Counts, from: &Counts, limits: &Limits) -> Option<String> {
    find_failures(to, (from.num_requests, from.num_failures), limits)
        .or_else(|| find_delay(&to.ttft, &from.ttft, limits))
}

/// Whether more requests fail than allowed, and more than with the version before, of whose
/// requests (`from.0`) some (`from.1`) failed too.
pub(crate) fn find_failures(to: &Counts, from: (u64, u64), limits: &Limits) -> Option<String> {
    let Counts { num_requests, num_failures, .. } = *to;
    if num_requests < u64::from(limits.min_requests) {
        return None;
    }
    let limit = f64::from(limits.max_failures) / 10_000.0;
    let (num_before, num_failed_before) = from;
    let allowed = if num_failed_before >= MIN_FAILURES {
        limit.max(upper_bound(num_failed_before, num_before))
    } else {
        limit
    };
    is_above(num_failures, num_requests, allowed).then(|| {
        format!(
            "{num_failures} of {num_requests} requests failed, and {:.1} % may \
             ({num_failed_before} of {num_before} with the version before)",
            allowed * 100.0
        )
    })
}

/// Whether more than half of the requests take longer than the other version's median, times the
/// ratio that is allowed.
fn find_delay(to: &Histogram, from: &Histogram, limits: &Limits) -> Option<String> {
    let min = u64::from(limits.min_requests);
    if to.num() < min || from.num() < min {
        return None;
    }
    // The median may lie this much higher: its rank is binomial.
    let num = from.num();
    #[expect(clippy::cast_precision_loss, reason = "a margin")]
    let margin = 2.33 * 0.5 * (num as f64).sqrt();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small margin")]
    let rank = num.div_ceil(2).saturating_add(margin.ceil() as u64).min(num);
    let median_ms = from.at_rank(rank)?;
    let limit_ms = median_ms.saturating_mul(u64::from(limits.max_ttft_ratio)) / 100;
    let num_longer = to.num_longer(limit_ms);
    is_above(num_longer, to.num(), 0.5).then(|| {
        format!(
            "{num_longer} of {} requests had their first token after more than {limit_ms} ms; \
             the median of the version before is at most {median_ms} ms",
            to.num()
        )
    })
}

/// Whether `num` of `total` is more than `allowed` by more than chance.
fn is_above(num: u64, total: u64, allowed: f64) -> bool {
    let num = num.min(total);
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    let (hits, misses) = (num as f64, (total - num) as f64);
    let allowed = allowed.max(1e-6);
    // Rates between what is allowed and all, nearer and nearer to it.
    let rates = (1..=6).map(|i| allowed + (1.0 - allowed) * 0.5f64.powi(i));
    let log_ratio =
        |rate: f64| hits * (rate / allowed).ln() + misses * ((1.0 - rate) / (1.0 - allowed)).ln();
    if allowed >= 1.0 {
        return false;
    }
    // The mean of the ratios; the exponents are kept from overflowing.
    let logs: Vec<f64> = rates.map(log_ratio).collect();
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logs.iter().map(|log| (log - largest).exp()).sum();
    #[expect(clippy::cast_precision_loss, reason = "six")]
    let mean = largest + (sum / logs.len() as f64).ln();
    mean > (1.0 / ALPHA).ln()
}

/// What a rate of which `num` of `total` were seen is at most, 99 times in 100 (Wilson, 1927).
fn upper_bound(num: u64, total: u64) -> f64 {
    const Z: f64 = 2.33;
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    let (n, rate) = (total.max(1) as f64, num as f64 / total.max(1) as f64);
    let center = rate + Z * Z / (2.0 * n);
    let spread = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((center + spread) / (1.0 + Z * Z / n)).min(1.0)
}
