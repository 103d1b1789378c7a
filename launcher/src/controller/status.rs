//! What is told of a fleet: what the core says, beside what the store has.

use sconce_proto::fleet as proto;

use crate::fleet::{RoutingTable, Status};
use crate::name::VersionId;
use crate::store::{Listed, Store};

/// How a fleet is, without what the store has beside it.
pub(super) fn of(status: &Status, table: &RoutingTable) -> proto::FleetStatus {
    let models = status.versions.iter().map(|version| proto::Model {
        version: version.version.to_string(),
        state: proto::VersionState::from(version.state).into(),
        error: version.error.clone().unwrap_or_default(),
        ..proto::Model::default()
    });
    proto::FleetStatus {
        models: models.collect(),
        routes: table.routes.iter().map(Into::into).collect(),
        replicas: status.replicas.iter().map(Into::into).collect(),
        rollouts: status.rollouts.iter().map(Into::into).collect(),
    }
}

/// Adds what the store knows. Blocking.
pub(super) fn with_store(mut status: proto::FleetStatus, store: &Store) -> proto::FleetStatus {
    let listed = match store.list() {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(%error, "could not read the store");
            return status;
        }
    };
    for listed in listed {
        let version = listed.manifest.id.to_string();
        let known = status.models.iter().position(|model| model.version == version);
        match known.and_then(|known| status.models.get_mut(known)) {
            Some(model) => describe(model, &listed),
            None => {
                let mut model = proto::Model { version, ..proto::Model::default() };
                describe(&mut model, &listed);
                status.models.push(model);
            }
        }
    }
    let order = |model: &proto::Model| model.version.parse::<VersionId>().ok();
    status.models.sort_by_key(order);
    status
}

fn describe(model: &mut proto::Model, listed: &Listed) {
    model.name.clone_from(&listed.manifest.name);
    model.aliases = listed.aliases.iter().map(ToString::to_string).collect();
    model.source = listed.manifest.source.to_string();
    model.bytes = listed.size;
    model.created = i64::try_from(listed.manifest.created).unwrap_or(i64::MAX);
    model.pulled_bytes = listed.size;
}
