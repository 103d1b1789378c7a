//! Moments, as results write them: in UTC.

/// `20261126-101500`, of seconds since 1970, as `vllm bench serve` writes it. In UTC.
pub(super) fn date(seconds: u64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// `2026-11-26T10:15:00`, of seconds since 1970. In UTC.
pub(super) fn iso(seconds: u64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Year, month, day, hour, minute and second.
///
/// The civil calendar from a count of days: Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(seconds: u64) -> [u64; 6] {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    [year, month, day, second / 3600, second / 60 % 60, second % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "19700101-000000");
        assert_eq!(date(951_782_399), "20000228-235959");
        assert_eq!(date(951_782_400), "20000229-000000");
        assert_eq!(date(1_795_687_512), "20261126-100512");
        assert_eq!(iso(1_795_687_512), "2026-11-26T10:05:12");
    }
}
