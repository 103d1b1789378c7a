//! What a user is promised, and whether a request kept it.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::measure::Record;
use crate::units::{Bare, duration, ms};

/// Limits that a request has to keep to count as good, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttft: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tpot: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) e2e: Option<f64>,
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split(',') {
            let (name, limit) = part
                .split_once(['=', ':'])
                .ok_or_else(|| format!("`{part}` is no objective: use ttft=500ms,tpot=50ms"))?;
            let limit = ms(duration(limit, Bare::Milliseconds)?);
            let place = match name.trim() {
                "ttft" => &mut slo.ttft,
                "tpot" => &mut slo.tpot,
                "e2e" | "e2el" => &mut slo.e2e,
                other => {
                    return Err(format!("`{other}` is no metric of a request: ttft, tpot or e2e"));
                }
            };
            if place.replace(limit).is_some() {
                return Err(format!("`{name}` is given twice"));
            }
        }
        Ok(slo)
    }
}

impl Slo {
    /// Whether a request was answered within all limits, counted from when it was to be sent: its
    /// user does not care why it was sent late.
    pub(crate) fn is_met(&self, record: &Record) -> bool {
        let late = record.lateness();
        let within = |limit: Option<f64>, time: Option<Duration>| match (limit, time) {
            (None, _) => true,
            (Some(limit), Some(time)) => ms(time) <= limit,
            // An answer of one token has no time per further token.
            (Some(_), None) => true,
        };
        record.error.is_none()
            && within(self.ttft, record.ttft.map(|ttft| ttft + late))
            && within(self.tpot, record.tpot())
            && within(self.e2e, Some(record.e2e + late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read() {
        let slo: Slo = "ttft=500ms,tpot:50".parse().unwrap();
        assert_eq!((slo.ttft, slo.tpot, slo.e2e), (Some(500.0), Some(50.0), None));
        for text in ["", "ttft", "ttft=x", "itl=5", "ttft=1,ttft=2"] {
            assert!(text.parse::<Slo>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_request_that_was_sent_late_was_slow() {
        let slo: Slo = "ttft=100,e2e=1s".parse().unwrap();
        let ms = Duration::from_millis;
        let good = Record { ttft: Some(ms(90)), e2e: ms(900), ..Record::default() };
        let late = Record { sent: ms(20), ..good.clone() };
        let failed = Record { error: Some("timeout".to_owned()), ..good.clone() };

        assert!(slo.is_met(&good) && !slo.is_met(&late) && !slo.is_met(&failed));
    }
}
