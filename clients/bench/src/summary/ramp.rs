//! What is told of a load whose rate changes evenly, in the names of `vllm bench serve`.

use serde::{Deserialize, Serialize};

use super::date::iso;
use crate::measure::Record;
use crate::run::Stage;
use crate::schedule::{Arrivals, Load};

/// A rate that changes evenly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ramp {
    /// `linear`.
    pub(crate) ramp_up_strategy: String,
    /// Requests a second.
    pub(crate) ramp_up_start_rps: f64,
    pub(crate) ramp_up_end_rps: f64,
    pub(crate) rps_change_events: Vec<RateChange>,
}

/// The first request at another whole rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RateChange {
    /// Requests a second, rounded down.
    pub(crate) rps: u64,
    /// When it was due, in ISO 8601. In UTC.
    pub(crate) timestamp: String,
}

impl Ramp {
    /// The ramp of a stage that began at `now`, in seconds since 1970; `None`: it is no ramp.
    pub(super) fn of(stage: &Stage, records: &[Record], now: u64) -> Option<Self> {
        let Load::Rate(Arrivals { from, to, .. }) = stage.load else { return None };
        if from == to {
            return None;
        }
        let end = stage.until.duration?.as_secs_f64();
        let mut rps_change_events: Vec<RateChange> = Vec::new();
        for record in records.iter().filter(|record| record.turn == 0) {
            let at = record.intended.as_secs_f64();
            let rps = (from + (to - from) * at / end) as u64;
            if rps_change_events.last().is_none_or(|last| last.rps != rps) {
                let timestamp = iso(now + at as u64);
                rps_change_events.push(RateChange { rps, timestamp });
            }
        }
        Some(Self {
            ramp_up_strategy: "linear".to_owned(),
            ramp_up_start_rps: from,
            ramp_up_end_rps: to,
            rps_change_events,
        })
    }
}
