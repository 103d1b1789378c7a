//! Models and how far they are, in llama.cpp's words.

use std::collections::BTreeMap;

use sconce_proto::fleet::{FleetStatus, Model, VersionState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What could be served.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ManagedList {
    /// `list`.
    pub object: String,
    /// Versions, then names that stand for versions.
    pub data: Vec<ManagedModel>,
}

/// A version, or a name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ManagedModel {
    /// What it is loaded, unloaded and asked for by.
    pub id: String,
    /// `model`.
    pub object: String,
    /// `sconce`.
    pub owned_by: String,
    /// Unix seconds at which it was brought into the store; 0 for a name.
    pub created: i64,
    /// Where it came from; left out for a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Other names of the same version.
    pub aliases: Vec<String>,
    /// None.
    pub tags: Vec<String>,
    /// Whether its files are in the store.
    pub in_cache: bool,
    /// `cache`: what is not there yet will be.
    pub source: String,
    /// Whether `DELETE /models` may remove it once it is unloaded: a version of the store.
    pub can_remove: bool,
    /// Bytes of its files; left out for a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What goes in and comes out.
    pub architecture: Architecture,
    /// How far it is.
    pub status: ManagedStatus,
}

/// What goes into a model and comes out of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Architecture {
    /// `text`.
    pub input_modalities: Vec<String>,
    /// `text`.
    pub output_modalities: Vec<String>,
}

/// How far a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManagedStatus {
    /// `unloaded`, `downloading`, `loading` or `loaded`.
    pub value: String,
    /// Of what is being downloaded, by where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<BTreeMap<String, FileProgress>>,
    /// Set when the last load failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// 1 when the last load failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How much of something is downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileProgress {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes in all; 0 while nobody knows.
    pub total: u64,
}

/// What was asked for has begun, or is done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// `true`.
    pub success: bool,
}

impl Default for Done {
    fn default() -> Self {
        Self { success: true }
    }
}

impl ManagedList {
    /// What a launcher's status says.
    pub(super) fn new(status: &FleetStatus) -> Self {
        let versions = status.models.iter().map(ManagedModel::version);
        let is_version = |name: &str| status.models.iter().any(|model| model.version == name);
        let names = status.routes.iter().filter(|route| !route.hidden && !is_version(&route.name));
        let names = names.map(|route| {
            let is_shared = |model: &&Model| {
                route.shares.iter().any(|share| share.weight > 0 && share.version == model.version)
            };
            let models = status.models.iter().filter(is_shared);
            let furthest = models.max_by_key(|model| rank(model.state()));
            let status = furthest.map_or_else(ManagedStatus::unloaded, ManagedStatus::of);
            ManagedModel::blank(route.name.clone(), status)
        });
        Self { object: "list".into(), data: versions.chain(names).collect() }
    }
}

impl ManagedModel {
    fn version(model: &Model) -> Self {
        let names = [&model.name].into_iter().chain(&model.aliases);
        Self {
            created: model.created,
            path: Some(model.source.clone()),
            aliases: names.filter(|name| !name.is_empty()).cloned().collect(),
            in_cache: model.state() != VersionState::Pulling,
            // One of a path of the user's has no entry in the store, and so no time.
            can_remove: model.created > 0 && model.state() != VersionState::Pulling,
            size: Some(model.bytes),
            ..Self::blank(model.version.clone(), ManagedStatus::of(model))
        }
    }

    fn blank(id: String, status: ManagedStatus) -> Self {
        Self {
            id,
            object: "model".into(),
            owned_by: "sconce".into(),
            created: 0,
            path: None,
            aliases: Vec::new(),
            tags: Vec::new(),
            in_cache: true,
            source: "cache".into(),
            can_remove: false,
            size: None,
            architecture: Architecture {
                input_modalities: vec!["text".into()],
                output_modalities: vec!["text".into()],
            },
            status,
        }
    }
}

impl ManagedStatus {
    fn unloaded() -> Self {
        Self {
            value: "unloaded".into(),
            progress: None,
            failed: false,
            exit_code: None,
            error: None,
        }
    }

    /// How far a version is.
    pub(super) fn of(model: &Model) -> Self {
        let state = model.state();
        let progress = (state == VersionState::Pulling).then(|| {
            let progress = FileProgress { done: model.pulled_bytes, total: model.bytes };
            BTreeMap::from([(model.source.clone(), progress)])
        });
        let failed = state == VersionState::Failed;
        Self {
            value: word(state).into(),
            progress,
            failed,
            exit_code: failed.then_some(1),
            error: (failed && !model.error.is_empty()).then(|| model.error.clone()),
        }
    }
}

fn word(state: VersionState) -> &'static str {
    match state {
        VersionState::Unloaded | VersionState::Failed => "unloaded",
        VersionState::Pulling => "downloading",
        VersionState::Loading => "loading",
        // One that drains still holds its memory, and answers.
        VersionState::Ready | VersionState::Draining => "loaded",
    }
}

/// How near a version is to answering.
fn rank(state: VersionState) -> u8 {
    match state {
        VersionState::Failed => 0,
        VersionState::Unloaded => 1,
        VersionState::Pulling => 2,
        VersionState::Loading => 3,
        VersionState::Draining => 4,
        VersionState::Ready => 5,
    }
}
