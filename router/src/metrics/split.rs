//! Who gets how much of what clients ask a name for, as the routing table has it.

use std::collections::HashMap;

use metrics::{Gauge, gauge};

use super::catalogue;

/// Pairs of a name and a version that are shown. What comes after them is not.
const MAX_PAIRS: usize = 1024;

/// The gauges. Those of pairs that are no longer in the table stay, at 0.
#[derive(Default)]
pub(crate) struct Split {
    gauges: HashMap<(String, String), Gauges>,
}

struct Gauges {
    share: Gauge,
    shadow: Gauge,
}

/// What a version gets of a name, each from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Part {
    /// Of its clients.
    pub(crate) share: f64,
    /// Copies of its requests.
    pub(crate) shadow: f64,
}

impl Split {
    /// Shows these parts, by name and version, and no others.
    pub(crate) fn show(&mut self, parts: &HashMap<(String, String), Part>) {
        for key in parts.keys() {
            if self.gauges.len() < MAX_PAIRS && !self.gauges.contains_key(key) {
                self.gauges.insert(key.clone(), Gauges::register(key));
            }
        }
        for (key, gauges) in &self.gauges {
            let part = parts.get(key).copied().unwrap_or_default();
            gauges.share.set(part.share);
            gauges.shadow.set(part.shadow);
        }
    }
}

impl Gauges {
    fn register((name, version): &(String, String)) -> Self {
        let labels = [("model_name", name.clone()), ("version", version.clone())];
        Self {
            share: gauge!(catalogue::ROUTE_SHARE, &labels),
            shadow: gauge!(catalogue::ROUTE_SHADOW_SHARE, &labels),
        }
    }
}
