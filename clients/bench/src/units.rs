//! Durations and shares, as people type them.

use std::time::Duration;

/// What a number without a unit means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bare {
    Seconds,
    Milliseconds,
}

/// Reads `500ms`, `1.5s`, `2m`, `100us`, or a number of what `bare` says.
pub(crate) fn duration(text: &str, bare: Bare) -> Result<Duration, String> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic() || c == 'µ').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let scale = match (unit, bare) {
        ("us" | "µs", _) => 1e-6,
        ("ms", _) | ("", Bare::Milliseconds) => 1e-3,
        ("s", _) | ("", Bare::Seconds) => 1.0,
        ("m" | "min", _) => 60.0,
        ("h", _) => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time: use us, ms, s, m or h")),
    };
    let number: f64 = number.trim().parse().map_err(|_| format!("`{text}` is no duration"))?;
    let duration = Duration::try_from_secs_f64(number * scale);
    duration.map_err(|_| format!("`{text}` is no duration"))
}

/// [`duration`] of seconds, for the command line.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    duration(text, Bare::Seconds)
}

/// Reads a share between 0 and 1, or one of 100 with `%`.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().map(|number| number / scale);
    let share = share.ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is no share between 0 and 1"))
}

/// Reads a number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| format!("`{text}` is no number above 0"))
}

/// Milliseconds, as reports have them.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        let read = |text| duration(text, Bare::Milliseconds).unwrap();

        assert_eq!(read("500"), Duration::from_millis(500));
        assert_eq!(read("500ms"), Duration::from_millis(500));
        assert_eq!(read("1.5 s"), Duration::from_millis(1500));
        assert_eq!(read("2m"), Duration::from_secs(120));
        assert_eq!(seconds("20"), Ok(Duration::from_secs(20)));
        for text in ["", "ms", "-1s", "1 day", "1e99s", "nan"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!((share("25%"), share("0.25")), (Ok(0.25), Ok(0.25)));
        assert!(share("2").is_err() && positive("0").is_err() && positive("inf").is_err());
    }
}
