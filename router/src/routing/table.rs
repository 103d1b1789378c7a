//! A routing table as the router follows it: checked, immutable, by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sconce_proto::fleet;
use tracing::warn;

use crate::dispatch::Replica;
use crate::metrics::Part;

/// Names and what stands behind them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    routes: BTreeMap<String, Arc<Route>>,
}

/// A name that clients use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) name: String,
    /// At least one, each with a weight above 0.
    pub(crate) shares: Vec<Share>,
    pub(crate) shadow: Option<Shadow>,
    /// Whether lists leave it out.
    pub(crate) is_hidden: bool,
    /// How long a request waits for a replica. Zero: not at all.
    pub(crate) max_hold: Duration,
    /// How many may wait.
    pub(crate) max_held: usize,
}

/// A version's share of a route's clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) version: Arc<str>,
    pub(crate) weight: u32,
}

/// A version that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    pub(crate) version: Arc<str>,
    /// How many of 10,000 requests are copied.
    pub(crate) share: u32,
}

impl Table {
    /// Reads what a launcher sent. A route or a replica that makes no sense is left out and logged:
    /// the others go on.
    pub(crate) fn read(table: fleet::RoutingTable) -> (Self, Vec<Replica>) {
        let mut routes = BTreeMap::new();
        for route in table.routes {
            let name = route.name.clone();
            match Route::read(route) {
                Some(route) => drop(routes.insert(name, Arc::new(route))),
                None => warn!(name, "a route of the routing table makes no sense"),
            }
        }
        let mut replicas = Vec::new();
        for replica in table.replicas {
            if replica.address.is_empty() || replica.version.is_empty() {
                warn!(address = replica.address, "a replica of the routing table makes no sense");
                continue;
            }
            replicas.push(Replica {
                address: replica.address,
                version: replica.version.into(),
                is_draining: replica.draining,
            });
        }
        (Self { generation: table.generation, routes }, replicas)
    }

    /// What stands behind a name.
    pub(crate) fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }

    /// Every route, by name.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.values()
    }

    /// What each version gets of each name, by both. Hidden names stand for one version, and are left
    /// out.
    pub(crate) fn split(&self) -> HashMap<(String, String), Part> {
        let mut parts = HashMap::<_, Part>::new();
        for route in self.routes().filter(|route| !route.is_hidden) {
            let key = |version: &Arc<str>| (route.name.clone(), version.to_string());
            let total: f64 = route.shares.iter().map(|share| f64::from(share.weight)).sum();
            for Share { version, weight } in &route.shares {
                parts.entry(key(version)).or_default().share += f64::from(*weight) / total;
            }
            if let Some(Shadow { version, share }) = &route.shadow {
                parts.entry(key(version)).or_default().shadow = f64::from(*share) / 10_000.0;
            }
        }
        parts
    }
}

impl Route {
    fn read(route: fleet::Route) -> Option<Self> {
        let shares = route.shares.into_iter().filter(|share| share.weight > 0);
        let shares: Vec<_> = shares
            .map(|share| Share { version: share.version.into(), weight: share.weight })
            .collect();
        let is_sound = !route.name.is_empty()
            && !shares.is_empty()
            && shares.iter().all(|share| !share.version.is_empty());
        let shadow = (!route.shadow.is_empty() && route.shadow_share > 0)
            .then(|| Shadow { version: route.shadow.into(), share: route.shadow_share });
        is_sound.then_some(Self {
            name: route.name,
            shares,
            shadow,
            is_hidden: route.hidden,
            max_hold: Duration::from_millis(route.max_hold_ms.into()),
            max_held: route.max_held as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let share = |version: &str, weight| fleet::Share { version: version.into(), weight };
        let route = |name: &str, shares| fleet::Route {
            name: name.into(),
            shares,
            ..fleet::Route::default()
        };
        let replica = |address: &str, version: &str| fleet::Replica {
            address: address.into(),
            version: version.into(),
            draining: false,
        };
        let (table, replicas) = Table::read(fleet::RoutingTable {
            generation: 3,
            replicas: vec![replica("unix:/a", "m@1"), replica("", "m@1"), replica("unix:/b", "")],
            routes: vec![
                route("m", vec![share("m@1", 10_000), share("m@2", 0)]),
                route("empty", vec![]),
                route("nothing", vec![share("m@1", 0)]),
                route("nameless", vec![share("", 1)]),
                route("", vec![share("m@1", 1)]),
            ],
        });

        assert_eq!(table.generation, 3);
        assert_eq!(replicas.len(), 1);
        let names: Vec<_> = table.routes().map(|route| route.name.as_str()).collect();
        assert_eq!(names, ["m"]);
        assert_eq!(table.route("m").unwrap().shares.len(), 1);
    }
}
