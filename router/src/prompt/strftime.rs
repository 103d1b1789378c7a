//! The date and time that some templates write into the prompt, in UTC.

use std::time::SystemTime;

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Longest format. A template's own, but bounded like all that it does.
const MAX_FORMAT_CHARS: usize = 256;

pub(super) fn now(format: &str) -> Result<String, Error> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since_epoch.map(|since| since.as_secs()).unwrap_or_default();
    at(seconds, format)
}

/// A time in seconds since 1970, as RFC 3339 writes it. The last that it can write is in 9999.
pub(crate) fn rfc3339(seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    let Time { year, month, day, second_of_day, .. } = Time::new(seconds.min(LAST));
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1)
}

/// Formats a time in seconds since 1970, as C's `strftime` in the C locale.
fn at(seconds: u64, format: &str) -> Result<String, Error> {
    let time = Time::new(seconds);
    let mut text = String::new();
    let mut characters = format.chars().take(MAX_FORMAT_CHARS);
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let padded = match characters.next() {
            Some('-') => {
                characters.next().and_then(|directive| time.format(directive)).map(|text| {
                    let trimmed = text.trim_start_matches('0');
                    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
                })
            }
            Some(directive) => time.format(directive),
            None => None,
        };
        let unknown = || {
            let detail = format!("strftime_now does not know all of the format {format:?}");
            Error::new(ErrorKind::InvalidOperation, detail)
        };
        text.push_str(&padded.ok_or_else(unknown)?);
    }
    Ok(text)
}

struct Time {
    year: u64,
    month: usize,
    day: u64,
    day_of_year: u64,
    weekday: usize,
    second_of_day: u64,
}

impl Time {
    fn new(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let (mut year, mut left) = (1970, days);
        loop {
            let length = if is_leap(year) { 366 } else { 365 };
            if left < length {
                break;
            }
            left -= length;
            year += 1;
        }
        let february = if is_leap(year) { 29 } else { 28 };
        let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let (mut month, mut day) = (0, left);
        for length in lengths {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        Self {
            year,
            month,
            day: day + 1,
            day_of_year: left + 1,
            // The first of January 1970 was a Thursday.
            weekday: ((days + 4) % 7) as usize,
            second_of_day: seconds % 86_400,
        }
    }

    fn format(&self, directive: char) -> Option<String> {
        let weekday = DAYS.get(self.weekday)?;
        let month = MONTHS.get(self.month)?;
        let (hour, minute, second) =
            (self.second_of_day / 3600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        Some(match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month + 1),
            'B' => (*month).to_owned(),
            'b' | 'h' => month.chars().take(3).collect(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'A' => (*weekday).to_owned(),
            'a' => weekday.chars().take(3).collect(),
            'w' => self.weekday.to_string(),
            'H' => format!("{hour:02}"),
            'I' => format!("{:02}", (hour + 11) % 12 + 1),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month + 1, self.day),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them() {
        let leap_day = 1_709_210_096;
        for (seconds, format, expected) in [
            (0, "%A %d %B %Y, %H:%M:%S", "Thursday 01 January 1970, 00:00:00"),
            (leap_day, "%d %b %Y", "29 Feb 2024"),
            (leap_day, "%Y-%m-%d %I:%M %p %j", "2024-02-29 12:34 PM 060"),
            (leap_day, "%-d/%-m/%y %a %%", "29/2/24 Thu %"),
            (1_735_689_599, "%F %T", "2024-12-31 23:59:59"),
            (1_735_689_600, "%F %-H", "2025-01-01 0"),
        ] {
            assert_eq!(at(seconds, format).unwrap(), expected);
        }
    }

    #[test]
    fn times_of_the_api_are_those_of_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_709_210_096), "2024-02-29T12:34:56Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn an_unknown_directive_is_an_error() {
        assert!(at(0, "%Q").is_err());
        assert!(at(0, "%").is_err());
    }
}
