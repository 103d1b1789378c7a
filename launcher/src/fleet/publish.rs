//! Writes the routing table.

use crate::name::VersionId;

use super::event::Portion;
use super::route::{Rollout, Route, Stage as RolloutStage};
use super::settings::WHOLE;
use super::table::{RoutingTable, TableReplica, TableRoute};
use super::version::{Replica, Stage};
use super::{Action, Fleet};

impl Fleet {
    /// Gives out another table if it would say something else.
    pub(super) fn publish(&mut self) {
        let table = RoutingTable {
            generation: self.state.generation,
            replicas: self.table_replicas(),
            routes: self.table_routes(),
        };
        let is_first = self.table.generation != self.state.generation;
        if !is_first && table.says_same(&self.table) {
            return;
        }
        self.table = table;
        if !is_first {
            self.state.generation += 1;
            self.table.generation = self.state.generation;
        }
        let generation = self.state.generation;
        for replica in self.state.replicas.values_mut() {
            if let Stage::Draining { generation: since @ None, .. } = &mut replica.stage {
                *since = Some(generation);
            }
        }
        // Whoever is told to end has left the table before.
        self.actions.insert(0, Action::Publish);
    }

    fn table_replicas(&self) -> Vec<TableReplica> {
        let in_table = |replica: &Replica| {
            let address = replica.address.clone()?;
            let draining = match replica.stage {
                Stage::Ready => false,
                Stage::Draining { .. } => true,
                Stage::Starting | Stage::Stopping => return None,
            };
            Some(TableReplica { address, version: replica.version.clone(), draining })
        };
        self.state.replicas.values().filter_map(in_table).collect()
    }

    fn table_routes(&self) -> Vec<TableRoute> {
        let named = self.state.routes.iter().filter_map(|(name, route)| {
            let shares = self.shares(route);
            (!shares.is_empty()).then(|| self.table_route(name.clone(), route, shares))
        });
        let pinned = self.state.versions.keys().filter_map(|version| {
            let name = version.to_string();
            if self.state.routes.contains_key(&name) {
                return None;
            }
            let route = Route {
                current: Some(version.clone()),
                before: Vec::new(),
                scale: super::Scale { min: 0, max: 1 },
                hidden: !self.settings.list_pinned,
                rollout: None,
                probation: None,
            };
            Some(self.table_route(name, &route, vec![(version.clone(), WHOLE)]))
        });
        let mut routes: Vec<TableRoute> = named.chain(pinned).collect();
        routes.sort_by(|a, b| a.name.cmp(&b.name));
        routes
    }

    fn table_route(
        &self,
        name: String,
        route: &Route,
        shares: Vec<(VersionId, u16)>,
    ) -> TableRoute {
        let holds = route.rollout.is_some() || shares.iter().any(|(id, _)| self.may_come(id));
        let max_hold_ms = u32::try_from(self.settings.max_hold.as_millis()).unwrap_or(u32::MAX);
        TableRoute {
            name,
            shares,
            shadow: route.rollout.as_ref().and_then(|rollout| self.shadow(rollout)),
            hidden: route.hidden,
            max_hold_ms: if holds { max_hold_ms } else { 0 },
            max_held: if holds { self.settings.max_held } else { 0 },
        }
    }

    /// Whether a request for a version need not be in vain though no replica is ready.
    fn may_come(&self, id: &VersionId) -> bool {
        let Some(version) = self.state.versions.get(id) else { return false };
        if let Some(failure) = &version.failed {
            // The next request has it tried again.
            let is_due = self.now.since(failure.at) >= self.settings.restart.retry;
            return self.num_ready(id) > 0 || (is_due && self.settings.autoload);
        }
        self.settings.autoload || version.is_in_use() || self.has_replicas(id)
    }

    /// Who gets how much of a name's traffic. All of it goes to one of two if the other has no
    /// replica that is ready.
    fn shares(&self, route: &Route) -> Vec<(VersionId, u16)> {
        let Some(current) = &route.current else { return Vec::new() };
        let canary = route.rollout.as_ref().and_then(|rollout| match rollout.plan.portion {
            Portion::Canary(share) if rollout.stage == RolloutStage::Observing => {
                Some((&rollout.to, share))
            }
            _ => None,
        });
        let Some((to, share)) = canary else { return vec![(current.clone(), WHOLE)] };
        match (self.num_ready(current) > 0, self.num_ready(to) > 0) {
            (true, true) => {
                vec![(current.clone(), WHOLE.saturating_sub(share)), (to.clone(), share)]
            }
            (false, true) => vec![(to.clone(), WHOLE)],
            (_, false) => vec![(current.clone(), WHOLE)],
        }
    }

    fn shadow(&self, rollout: &Rollout) -> Option<(VersionId, u16)> {
        match rollout.plan.portion {
            Portion::Shadow(share)
                if rollout.stage == RolloutStage::Observing && self.num_ready(&rollout.to) > 0 =>
            {
                Some((rollout.to.clone(), share))
            }
            Portion::All | Portion::Canary(_) | Portion::Shadow(_) => None,
        }
    }
}
