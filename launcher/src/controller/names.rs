//! What names stand for: those of the command line, and the aliases of the models that are served.

use std::collections::{BTreeMap, BTreeSet};

use super::state::Typed;
use super::{Controller, Served};
use crate::fleet::{Order, Plan, Reason, Scale};
use crate::name::{ModelId, ModelName, VersionId};
use crate::store::Store;

impl Controller {
    /// What was named on the command line is served: as it was before, unless it was changed since.
    pub(super) fn name(&mut self, named: &[(&Served, VersionId)]) -> anyhow::Result<()> {
        let typed: BTreeMap<String, Typed> = named
            .iter()
            .map(|(served, version)| {
                let (version, scale) = (version.clone(), served.scale);
                (served.name.clone(), Typed { version, scale })
            })
            .collect();
        let before = std::mem::replace(&mut self.saved.typed, typed.clone());
        for name in before.keys().filter(|name| !typed.contains_key(*name)) {
            self.try_order(Order::Unroute { name: name.clone() });
        }
        for (name, Typed { version, scale }) in typed {
            let needs = self.models.prepared(&version)?.needs;
            self.order(Order::Add { version: version.clone(), needs })?;
            let is_named = self.fleet.snapshot().names().any(|known| known == name);
            if !is_named {
                let hidden = false;
                self.order(Order::Route { name, version, scale, hidden })?;
                continue;
            }
            let known = before.get(&name);
            if known.is_none_or(|known| known.version != version) {
                self.move_to(&name, version, "the command line says so");
            }
            if known.is_none_or(|known| known.scale != scale) {
                let reason = Reason::own("the command line says so");
                self.try_order(Order::Scale { name, scale, reason });
            }
        }
        self.save();
        Ok(())
    }

    /// Has a name stand for another version as soon as that can be used.
    fn move_to(&mut self, name: &str, version: VersionId, why: &str) {
        let (name, reason) = (name.to_owned(), Reason::own(why));
        if self.fleet.current(&name) == Some(&version) {
            return;
        }
        self.try_order(Order::Promote { name, version, plan: Plan::default(), reason });
    }

    fn try_order(&mut self, order: Order) {
        if let Err(refusal) = self.order(order) {
            tracing::warn!(%refusal, "could not do what was asked for");
        }
    }

    /// Aliases of the models that are served are names of their own.
    pub(super) fn follow_aliases(&mut self) {
        let served: BTreeSet<ModelId> =
            self.fleet.snapshot().versions().map(|version| version.model.clone()).collect();
        let aliases: BTreeMap<String, VersionId> = self
            .models
            .aliases(&served)
            .into_iter()
            .map(|(alias, version)| (alias.to_string(), version))
            .filter(|(alias, _)| !self.saved.typed.contains_key(alias))
            .collect();
        if aliases == self.saved.aliases {
            return;
        }
        let known: BTreeSet<VersionId> = self.fleet.snapshot().versions().cloned().collect();
        let before = self.saved.aliases.clone();
        for name in before.keys().filter(|name| !aliases.contains_key(*name)) {
            self.try_order(Order::Unroute { name: name.clone() });
            self.saved.aliases.remove(name);
        }
        for (name, version) in aliases {
            if before.get(&name) == Some(&version) {
                continue;
            }
            if !known.contains(&version) {
                // Once: what can't be served is not tried again and again.
                if self.learnt.insert(version.clone()) {
                    self.learn(version);
                }
                continue;
            }
            let is_named = self.fleet.snapshot().names().any(|known| known == name);
            if is_named {
                self.move_to(&name, version.clone(), "its alias was set");
            } else {
                let (name, version) = (name.clone(), version.clone());
                let scale = Scale { min: 0, max: 1 };
                self.try_order(Order::Route { name, version, scale, hidden: false });
            }
            self.saved.aliases.insert(name, version);
        }
        self.save();
    }

    /// An alias stands in the store for what it stands for here, so that the next start means the
    /// same.
    pub(super) fn keep_aliases(&mut self) {
        let names = self.saved.typed.keys().chain(self.saved.aliases.keys());
        let now: BTreeMap<String, VersionId> = names
            .filter_map(|name| Some((name.clone(), self.fleet.current(name)?.clone())))
            .collect();
        let before = std::mem::replace(&mut self.current, now.clone());
        for (name, version) in now {
            // The first look at a name is no change of it.
            if before.get(&name).is_none_or(|before| *before == version) {
                continue;
            }
            if let Some(alias) = self.saved.aliases.get_mut(&name) {
                alias.clone_from(&version);
            }
            let store = self.models.store().clone();
            tokio::task::spawn_blocking(move || keep_alias(&store, &name, version));
        }
    }

    /// Finds out how a version is served that an alias stands for.
    fn learn(&self, version: VersionId) {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            if let Err(error) = handle.add(&ModelName::Version(version)).await {
                tracing::warn!(error = error.message(), "an alias is not served");
            }
        });
    }
}

/// Has an alias stand for a version, if there is such an alias.
fn keep_alias(store: &Store, name: &str, version: VersionId) {
    let Ok(alias) = name.parse() else { return };
    let kept = store.lock().and_then(|lock| match lock.aliases.get(&alias) {
        Some(known) if *known != version => {
            store.set_alias(alias, &ModelName::Version(version)).map(drop)
        }
        Some(_) | None => Ok(()),
    });
    if let Err(error) = kept {
        tracing::warn!(%error, name, "could not set the alias to what it stands for now");
    }
}
