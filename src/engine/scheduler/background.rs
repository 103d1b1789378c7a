//! Requests that nobody waits for: they have what the others leave.
//!
//! Their places come after those of everyone else, whatever their tenant, so they are admitted last
//! and preempted first. While anyone else waits for a first token they rest: their blocks stay, and
//! no step computes anything of them. Where their blocks are what is waited for, they lose them.

use super::step::Census;
use super::*;
use crate::engine::request::BACKGROUND_PRIORITY;

/// Set in the places of requests that nobody waits for.
const BEHIND: u64 = 1 << 63;

impl Sequence {
    /// Whether nobody waits for it.
    pub(super) fn is_background(&self) -> bool {
        self.arrival & BEHIND != 0
    }
}

/// The place of a request that arrives now.
pub(super) fn place(arrivals: u64, priority: i32) -> u64 {
    if priority >= BACKGROUND_PRIORITY { arrivals | BEHIND } else { arrivals }
}

impl Scheduler {
    /// Queues a request: at the end, or before those that nobody waits for.
    pub(super) fn queue(&mut self, sequence: Sequence) {
        let is_last = self.waiting.back().is_none_or(|last| last.arrival < sequence.arrival);
        self.waiting.push_back(sequence);
        self.prioritize();
        if !is_last {
            self.waiting.make_contiguous().sort_by_key(|sequence| sequence.arrival);
        }
    }

    /// Whether someone waits for a first token and could have it.
    pub(super) fn is_awaited(&self) -> bool {
        let running = self.order.iter().filter_map(|slot| self.slots[*slot as usize].as_ref());
        let mut others = running.filter(|sequence| !sequence.is_background());
        others.any(Self::awaits) || self.is_next_awaited()
    }

    /// Whether the head of the queue is of someone who waits, and has a slot to go to.
    fn is_next_awaited(&self) -> bool {
        self.waiting.front().is_some_and(|next| {
            !next.is_background() && self.free_slots.len() > next.num_forks as usize
        })
    }

    /// Whether the head of the queue is of those that nobody waits for, and may go to a slot.
    pub(super) fn is_next_background(&self) -> bool {
        !self.is_resting
            && self.waiting.front().is_some_and(|next| {
                next.is_background() && self.free_slots.len() > next.num_forks as usize
            })
    }

    /// Whether a step would compute prompts that nobody waits for. None is planned behind a step in
    /// flight: whoever comes meanwhile would wait for both.
    pub(super) fn has_background_prompts(&self, census: Census) -> bool {
        census.has_background
            && (census.num_prefilling + census.num_preempted > 0 || self.is_next_background())
    }

    fn awaits(sequence: &Sequence) -> bool {
        match sequence.state {
            State::Running => sequence.num_pending() > 1,
            State::Preempted => true,
            State::Cancelled | State::Ended => false,
        }
    }

    /// Has the last of those that nobody waits for give up its blocks, if someone who waits got no
    /// part of this step. Says whether it did.
    pub(super) fn make_way(&mut self, is_spent: bool) -> bool {
        let is_left_out = |slot: &u32| {
            let sequence = self.slots[*slot as usize].as_ref();
            let waits = sequence.is_some_and(|it| !it.is_background() && Self::awaits(it));
            waits && !self.planned[*slot as usize]
        };
        // While a step is in flight, its end may make room.
        if is_spent
            || self.num_in_flight > 0
            || !(self.is_next_awaited() || self.order.iter().any(is_left_out))
        {
            return false;
        }
        let last = self.order.iter().copied().rfind(|slot| {
            let sequence = self.slots[*slot as usize].as_ref();
            sequence.is_some_and(Sequence::is_background) && self.holds_blocks(*slot)
        });
        if let Some(last) = last {
            self.preempt(last);
        }
        last.is_some()
    }
}
