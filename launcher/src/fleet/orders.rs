//! Takes orders, or says why not.

use crate::name::VersionId;

use super::event::{Force, Order, Plan, Portion, Refusal, RolloutId, Scale};
use super::history::{Deed, Reason};
use super::memory::{Memory, Shortage};
use super::operations::Goal;
use super::rollout::Course;
use super::route::{Kind, Rollout, Room, Route, Stage};
use super::settings::WHOLE;
use super::version::Version;
use super::{Fleet, OperationId};

/// Replicas that a version may have.
const MAX_REPLICAS: u32 = 64;

impl Fleet {
    pub(super) fn obey(&mut self, order: Order) -> Result<OperationId, Refusal> {
        let goal = match order {
            Order::Add { version, needs } => self.add(version, needs),
            Order::Remove { version } => self.remove(&version)?,
            Order::Route { name, version, scale, hidden } => {
                self.route(&name, version, scale, hidden)?
            }
            Order::Unroute { name } => self.unroute(&name)?,
            Order::Start { version, replicas, reason } => self.start(version, replicas, reason)?,
            Order::Unload { version, force, reason } => self.unload(version, force, reason)?,
            Order::Promote { name, version, plan, reason } => {
                self.promote(&name, version, plan, reason)?
            }
            Order::Rollback { name, reason } => self.roll_back(&name, reason)?,
            Order::Scale { name, scale, reason } => self.set_scale(&name, scale, reason)?,
        };
        Ok(self.open(goal))
    }

    fn add(&mut self, id: VersionId, needs: Memory) -> Goal {
        let done = Goal::Done { version: Some(id.clone()), result: format!("{id} can be served") };
        self.state.versions.entry(id).or_insert_with(|| Version::new(Memory::default())).needs =
            needs;
        done
    }

    fn remove(&mut self, id: &VersionId) -> Result<Goal, Refusal> {
        self.known(id)?;
        if let Some((name, _)) = self.users_of(id).next() {
            return Err(in_use(id, format!("`{name}`")));
        }
        if self.has_replicas(id) {
            return Err(in_use(id, "workers".to_owned()));
        }
        self.state.versions.remove(id);
        for route in self.state.routes.values_mut() {
            route.before.retain(|before| before != id);
        }
        Ok(Goal::Done { version: None, result: format!("{id} is not served any more") })
    }

    fn route(
        &mut self,
        name: &str,
        version: VersionId,
        scale: Scale,
        hidden: bool,
    ) -> Result<Goal, Refusal> {
        self.known(&version)?;
        check_name(name)?;
        check_scale(scale)?;
        let taken = self.state.routes.get(name);
        if let Some(taken) = taken.and_then(|route| route.current.as_ref()) {
            return Err(Refusal::NameTaken { name: name.to_owned(), version: taken.clone() });
        }
        if let Some(rollout) = self.rollout(name) {
            let to = rollout.to.clone();
            return Err(Refusal::UnderWay { name: name.to_owned(), to });
        }
        self.check_room_for(&version, scale.min)?;
        let route = Route::new(Some(version.clone()), scale, hidden);
        self.state.routes.insert(name.to_owned(), route);
        if scale.min == 0 {
            let result = format!("`{name}` starts with its first request");
            return Ok(Goal::Done { version: Some(version), result });
        }
        Ok(self.load(version))
    }

    fn unroute(&mut self, name: &str) -> Result<Goal, Refusal> {
        let route = self.served(name)?;
        if let Some(rollout) = &route.rollout {
            let to = rollout.to.clone();
            return Err(Refusal::UnderWay { name: name.to_owned(), to });
        }
        let current = route.current.clone();
        self.state.routes.remove(name);
        if let Some(current) = &current {
            self.release(current);
        }
        Ok(Goal::Done { version: current, result: format!("`{name}` is not served any more") })
    }

    fn start(
        &mut self,
        id: VersionId,
        replicas: Option<u32>,
        reason: Reason,
    ) -> Result<Goal, Refusal> {
        self.known(&id)?;
        let num = replicas.unwrap_or(0);
        check_number("replicas", num, (0, MAX_REPLICAS))?;
        self.check_room_for(&id, num.max(1))?;
        let entry = self.note(&id.to_string(), Deed::Start, (None, Some(&id)), reason);
        self.state.history.close(entry, "done");
        if let Some(version) = self.state.versions.get_mut(&id) {
            version.held = num;
        }
        Ok(self.load(id))
    }

    fn unload(&mut self, id: VersionId, force: Force, reason: Reason) -> Result<Goal, Refusal> {
        self.known(&id)?;
        let rollouts = self.state.routes.iter().filter(|(_, route)| route.rolls_out(&id));
        if let Some((name, _)) = rollouts.into_iter().next() {
            return Err(in_use(&id, format!("the rollout of `{name}`")));
        }
        if force == Force::Gentle
            && let Some((name, _)) = self.users_of(&id).next()
        {
            return Err(in_use(&id, format!("`{name}`")));
        }
        let entry = self.note(&id.to_string(), Deed::Unload, (Some(&id), None), reason);
        self.state.history.close(entry, "done");
        if let Some(version) = self.state.versions.get_mut(&id) {
            version.sleep();
            version.forgive();
        }
        Ok(Goal::Unloaded(id))
    }

    fn promote(
        &mut self,
        name: &str,
        to: VersionId,
        plan: Plan,
        reason: Reason,
    ) -> Result<Goal, Refusal> {
        self.known(&to)?;
        check_name(name)?;
        check_plan(&plan)?;
        if let Some(rollout) = self.rollout(name) {
            if rollout.to != to || matches!(rollout.stage, Stage::Returning { .. }) {
                let to = rollout.to.clone();
                return Err(Refusal::UnderWay { name: name.to_owned(), to });
            }
            return self.promote_further(name, plan, reason);
        }
        let current = self.state.routes.get(name).and_then(|route| route.current.as_ref());
        if current == Some(&to) {
            return Err(Refusal::AlreadyThere { name: name.to_owned(), version: to });
        }
        if current.is_none() && plan.portion != Portion::All {
            return Err(Refusal::NothingToCompare(name.to_owned()));
        }
        let room = self.room(name, &to, &plan)?;
        let scale = Scale { min: 1, max: 1 };
        let route = self.state.routes.entry(name.to_owned());
        route.or_insert_with(|| Route::new(None, scale, false)).probation = None;
        let course = Course { to, kind: Kind::Promotion, room, plan, reason };
        Ok(Goal::Rollout(self.set_out(name, course)))
    }

    /// A rollout that is under way gets another plan.
    fn promote_further(&mut self, name: &str, plan: Plan, reason: Reason) -> Result<Goal, Refusal> {
        let now = self.now;
        let Some(rollout) = self.rollout(name).cloned() else {
            return Err(Refusal::UnknownName(name.to_owned()));
        };
        if rollout.room == Room::Instead && plan.portion != Portion::All {
            return Err(self.no_room(&rollout.to, Hint::Both));
        }
        let deed = match plan.portion {
            Portion::All => Deed::Promote,
            Portion::Canary(_) => Deed::Canary,
            Portion::Shadow(_) => Deed::Shadow,
        };
        let course = (rollout.from.as_ref(), Some(&rollout.to));
        let entry = self.note(name, deed, course, reason);
        self.state.history.close(rollout.entry, "done: went on");
        // An answer to what was asked before is none to what is asked now.
        self.state.next_rollout += 1;
        let id = RolloutId(self.state.next_rollout);
        self.ended.push((rollout.id, Ok(format!("{} goes on by another order", rollout.to))));
        if let Some(going) =
            self.state.routes.get_mut(name).and_then(|route| route.rollout.as_mut())
        {
            let stage = match (&going.stage, &plan.golden) {
                (Stage::Clearing, _) => Stage::Clearing,
                (Stage::Starting | Stage::Checking, _) | (_, Some(_)) => Stage::Starting,
                _ => Stage::Warming,
            };
            let golden = plan.golden.or(going.plan.golden.take());
            *going = Rollout { id, entry, stage, since: now, ..going.clone() };
            going.plan = Plan { golden, ..plan };
        }
        Ok(Goal::Rollout(id))
    }

    fn roll_back(&mut self, name: &str, reason: Reason) -> Result<Goal, Refusal> {
        let route = self.served(name)?;
        let Some(rollout) = route.rollout.clone() else {
            let Some(to) = route.before.last().cloned() else {
                return Err(Refusal::NoVersionBefore(name.to_owned()));
            };
            self.room(name, &to, &Plan::default())?;
            return match self.go_back(name, reason) {
                Some(id) => Ok(Goal::Rollout(id)),
                None => Err(Refusal::NoVersionBefore(name.to_owned())),
            };
        };
        if rollout.kind == Kind::Return || matches!(rollout.stage, Stage::Returning { .. }) {
            return Ok(Goal::Rollout(rollout.id));
        }
        let why = format!("{} ordered it", reason.who);
        let from = rollout.from.clone();
        self.take_back_for(name, &why, reason);
        Ok(match from {
            Some(from) => Goal::Back { rollout: rollout.id, name: name.to_owned(), from },
            None => Goal::Done { version: None, result: format!("`{name}` is not served") },
        })
    }

    fn set_scale(&mut self, name: &str, scale: Scale, reason: Reason) -> Result<Goal, Refusal> {
        let route = self.served(name)?;
        check_scale(scale)?;
        let current = route.current.clone();
        if let Some(current) = &current {
            self.check_room_for(current, scale.min)?;
        }
        let entry = self.note(name, Deed::Scale, (current.as_ref(), current.as_ref()), reason);
        self.state.history.close(entry, &format!("done: {} to {}", scale.min, scale.max));
        if let Some(route) = self.state.routes.get_mut(name) {
            route.scale = scale;
        }
        match current {
            Some(current) if scale.min > 0 => Ok(self.load(current)),
            version => {
                let result = format!("`{name}` may have {} to {} workers", scale.min, scale.max);
                Ok(Goal::Done { version, result })
            }
        }
    }

    /// A version is to have replicas from now on.
    fn load(&mut self, id: VersionId) -> Goal {
        self.traffic.touch(self.now, &id);
        let is_loaded = self.num_ready(&id) > 0;
        if let Some(version) = self.state.versions.get_mut(&id) {
            version.wake();
            version.was_ready &= is_loaded;
        }
        Goal::Loaded(id)
    }

    /// Whether there is room for a name's next version beside the present one, or in its place.
    pub(super) fn room(&self, name: &str, to: &VersionId, plan: &Plan) -> Result<Room, Refusal> {
        if self.num_active(to) > 0 || self.check_fit(to, 1, None).is_ok() {
            return Ok(Room::Beside);
        }
        let current = self.state.routes.get(name).and_then(|route| route.current.as_ref());
        let Some(current) = current else { return Err(self.no_room(to, Hint::None)) };
        if let Err(shortage) = self.check_fit(to, 1, Some(current)) {
            return Err(does_not_fit(to, shortage, Hint::None));
        }
        if plan.portion != Portion::All {
            return Err(self.no_room(to, Hint::Both));
        }
        if self.users_of(current).any(|(other, _)| other != name) {
            return Err(self.no_room(to, Hint::Shared));
        }
        Ok(Room::Instead)
    }

    fn check_room_for(&self, id: &VersionId, num: u32) -> Result<(), Refusal> {
        self.check_fit(id, num, None).map_err(|shortage| does_not_fit(id, shortage, Hint::None))
    }

    fn no_room(&self, id: &VersionId, hint: Hint) -> Refusal {
        match self.check_fit(id, 1, None) {
            Err(shortage) => does_not_fit(id, shortage, hint),
            Ok(()) => Refusal::UnknownVersion(id.clone()),
        }
    }

    fn known(&self, id: &VersionId) -> Result<(), Refusal> {
        let is_known = self.state.versions.contains_key(id);
        if is_known { Ok(()) } else { Err(Refusal::UnknownVersion(id.clone())) }
    }

    fn served(&self, name: &str) -> Result<&Route, Refusal> {
        self.state.routes.get(name).ok_or_else(|| Refusal::UnknownName(name.to_owned()))
    }
}

/// What would help a version that does not fit.
#[derive(Clone, Copy)]
enum Hint {
    None,
    Both,
    Shared,
}

fn does_not_fit(id: &VersionId, shortage: Shortage, hint: Hint) -> Refusal {
    let hint = match hint {
        Hint::None => "",
        Hint::Both => "; without a canary or a shadow it can take the other version's place",
        Hint::Shared => "; the version in its place has other names too",
    };
    Refusal::DoesNotFit { version: id.clone(), shortage, hint }
}

fn in_use(id: &VersionId, by: String) -> Refusal {
    Refusal::InUse { version: id.clone(), by }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let is_valid = !name.is_empty() && name.len() <= 200 && !name.chars().any(char::is_control);
    if is_valid { Ok(()) } else { Err(Refusal::InvalidName) }
}

fn check_scale(scale: Scale) -> Result<(), Refusal> {
    check_number("max", scale.max, (1, MAX_REPLICAS))?;
    if scale.min > scale.max {
        let expected = "at most max";
        return Err(Refusal::Invalid { param: "min", value: scale.min.into(), expected });
    }
    Ok(())
}

fn check_number(param: &'static str, value: u32, (min, max): (u32, u32)) -> Result<(), Refusal> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let expected = if min == 0 { "0 to 64" } else { "1 to 64" };
    Err(Refusal::Invalid { param, value: value.into(), expected })
}

fn check_plan(plan: &Plan) -> Result<(), Refusal> {
    match plan.portion {
        Portion::Canary(share) if share == 0 || share >= WHOLE => {
            let expected = "1 to 9999 of 10000";
            Err(Refusal::Invalid { param: "canary", value: share.into(), expected })
        }
        Portion::Shadow(share) if share == 0 || share > WHOLE => {
            let expected = "1 to 10000 of 10000";
            Err(Refusal::Invalid { param: "shadow", value: share.into(), expected })
        }
        Portion::All | Portion::Canary(_) | Portion::Shadow(_) => Ok(()),
    }
}
