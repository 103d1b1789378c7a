//! Priorities: who takes whose place in the order of arrival.
//!
//! A tenant's requests have the places that they arrived at, and those of lower priority numbers
//! take the earlier ones of them; so nobody can put themselves before another tenant. Everything
//! else, admission and preemption, goes by places alone.

use super::*;

impl Scheduler {
    /// Gives the request that has just been queued the place that its priority asks for.
    pub(super) fn prioritize(&mut self) {
        let Some(new) = self.waiting.back() else { return };
        let (salt, priority) = (new.salt, new.priority);
        let is_tenants = |sequence: &&Sequence| sequence.salt == salt;
        let live = || self.waiting.iter().chain(self.slots.iter().flatten()).filter(is_tenants);
        if live().all(|sequence| sequence.priority <= priority) {
            return;
        }
        let mut places: Vec<_> = live().map(|sequence| sequence.arrival).collect();
        places.sort_unstable();
        places.dedup();
        // Completions of one request share a place.
        let mut requests: Vec<_> =
            live().map(|sequence| (sequence.priority, sequence.request)).collect();
        requests.sort_unstable();
        requests.dedup();
        let places: HashMap<_, _> =
            requests.into_iter().map(|(_, request)| request).zip(places).collect();
        for sequence in self.waiting.iter_mut().chain(self.slots.iter_mut().flatten()) {
            if let Some(place) = places.get(&sequence.request) {
                sequence.arrival = *place;
            }
        }
        self.waiting.make_contiguous().sort_by_key(|sequence| sequence.arrival);
        let slots = &self.slots;
        self.order.sort_by_key(|slot| slots[*slot as usize].as_ref().map(Sequence::place));
    }

    /// The place of what is in a slot.
    pub(super) fn place_of(&self, slot: u32) -> Option<(u64, u32)> {
        self.slots[slot as usize].as_ref().map(Sequence::place)
    }
}
