//! Requests that wait for a replica of what they name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metrics::Gauge;
use tokio::sync::Notify;

use super::table::Route;
use crate::metrics::{self as measure, HoldEnd};

/// Who waits, by name.
#[derive(Default)]
pub(super) struct Held {
    num_by_name: Mutex<HashMap<String, usize>>,
    /// Told when the first one begins to wait for a name.
    wanted: Notify,
}

/// A waiting request's place. Dropping it frees the place.
pub(super) struct Place {
    held: Arc<Held>,
    name: String,
    since: Instant,
    gauge: Gauge,
    end: HoldEnd,
}

impl Held {
    /// A place among those that wait for the route, if it has one left.
    pub(super) fn take(self: &Arc<Self>, route: &Route) -> Option<Place> {
        let mut num_by_name = self.num_by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let num = num_by_name.get(&route.name).copied().unwrap_or(0);
        if num >= route.max_held {
            measure::hold_ended(HoldEnd::Full, std::time::Duration::ZERO);
            return None;
        }
        num_by_name.insert(route.name.clone(), num + 1);
        if num == 0 {
            self.wanted.notify_one();
        }
        let gauge = measure::held();
        gauge.increment(1);
        Some(Place {
            held: Arc::clone(self),
            name: route.name.clone(),
            since: Instant::now(),
            gauge,
            end: HoldEnd::Abort,
        })
    }

    /// The names that are waited for.
    pub(super) fn names(&self) -> Vec<String> {
        let num_by_name = self.num_by_name.lock().unwrap_or_else(PoisonError::into_inner);
        num_by_name.keys().cloned().collect()
    }

    /// Returns when a name is wanted that was not before.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

impl Place {
    /// The wait is over.
    pub(super) fn ended(mut self, end: HoldEnd) {
        self.end = end;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut num_by_name = self.held.num_by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(num) = num_by_name.get_mut(&self.name) {
            *num -= 1;
            if *num == 0 {
                num_by_name.remove(&self.name);
            }
        }
        self.gauge.decrement(1);
        measure::hold_ended(self.end, self.since.elapsed());
    }
}
