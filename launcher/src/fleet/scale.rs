//! How many replicas a version's traffic asks for.

use crate::name::VersionId;

use super::Fleet;

impl Fleet {
    pub(super) fn scale(&mut self) {
        let ids: Vec<VersionId> = self.state.versions.keys().cloned().collect();
        for id in &ids {
            if self.is_idle(id)
                && let Some(version) = self.state.versions.get_mut(id)
            {
                version.sleep();
            }
        }
    }

    /// Whether a version that may have no replica was without a request for long enough.
    fn is_idle(&self, id: &VersionId) -> bool {
        let Some(version) = self.state.versions.get(id) else { return false };
        let last_used = self.traffic.last_used(id).unwrap_or_default();
        version.awake
            && self.demand(id).floor == 0
            && self.traffic.num_in_flight(id) == 0
            && self.num_active(id) == self.num_ready(id)
            && self.now.since(last_used) >= self.settings.scaling.idle
    }
}
