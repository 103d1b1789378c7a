//! What must hold between any two calls, checked after every step in tests and debug builds.

use std::collections::{HashMap, HashSet};

use super::*;

/// The books of a larger pool are checked only now and then: every step would take longer to check
/// than to compute.
const ALWAYS_CHECKED_BLOCKS: usize = 4096;

impl Scheduler {
    /// [`Self::check_invariants`], as debug builds call it after every step.
    pub(super) fn check_step(&self) -> Result<(), String> {
        let is_small = self.pool.num_blocks() <= ALWAYS_CHECKED_BLOCKS;
        if is_small || self.stats.num_steps.is_multiple_of(256) {
            self.check_invariants()
        } else {
            Ok(())
        }
    }

    /// Says which invariant is broken, if one is.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_slots()?;
        let mut holders: HashMap<BlockId, u32> = HashMap::new();
        for sequence in self.slots.iter().flatten() {
            for block in &sequence.blocks {
                *holders.entry(*block).or_default() += 1;
            }
            let size = self.pool.block_size();
            if sequence.blocks.len() * size < sequence.num_computed {
                return Err(format!("{:?} has computed tokens without blocks", sequence.request));
            }
            if sequence.tokens.len() > sequence.max_len {
                return Err(format!("{:?} is longer than it may be", sequence.request));
            }
            self.check_progress(sequence)?;
        }
        if self.is_idle() && !holders.is_empty() {
            return Err("blocks are held when idle".to_owned());
        }
        self.pool.check(&holders)
    }

    /// What a sequence awaits, steps in flight sample; and whoever has ended is part of one.
    fn check_progress(&self, sequence: &Sequence) -> Result<(), String> {
        let num_in_flight = sequence.num_in_flight;
        let is_sound = match sequence.state {
            State::Running => sequence.num_unknown <= num_in_flight,
            State::Preempted => num_in_flight == 0 && sequence.num_unknown == 0,
            State::Cancelled | State::Ended => num_in_flight > 0,
        };
        if is_sound && usize::from(num_in_flight) <= self.num_in_flight {
            return Ok(());
        }
        let Sequence { request, state, num_unknown, .. } = sequence;
        Err(format!("{request:?} is {state:?}, {num_unknown} unknown, in {num_in_flight} steps"))
    }

    /// A step in flight finds its sequences where they were when it was planned, and nobody else
    /// has the blocks that it writes.
    pub fn check_in_flight(&self, plan: &StepPlan) -> Result<(), String> {
        let size = self.pool.block_size() as u32;
        for row in &plan.rows {
            let id = row.sequence;
            let Some(sequence) = &self.slots[id.0 as usize] else {
                return Err(format!("{id:?} left while it was computed"));
            };
            if sequence.num_in_flight == 0 || sequence.num_computed <= row.num_computed as usize {
                return Err(format!("{id:?} is another one than when it was planned"));
            }
            let slots = &plan.slot_mapping[row.tokens.start as usize..row.tokens.end as usize];
            let is_free = |slot: &&u32| self.pool.ref_count(BlockId(*slot / size)) == 0;
            if let Some(slot) = slots.iter().find(is_free) {
                return Err(format!("slot {slot} is free while it is written"));
            }
        }
        Ok(())
    }

    /// Every slot is free, taken, or kept for one fork.
    fn check_slots(&self) -> Result<(), String> {
        let kept = self.slots.iter().flatten().flat_map(|sequence| &sequence.fork_slots);
        let all: Vec<u32> =
            self.free_slots.iter().chain(&self.order).chain(kept).copied().collect();
        let distinct: HashSet<u32> = all.iter().copied().collect();
        if all.len() != self.slots.len() || distinct.len() != all.len() {
            return Err(format!("slots are lost or shared: {all:?} of {}", self.slots.len()));
        }
        match self.order.iter().find(|slot| self.slots[**slot as usize].is_none()) {
            Some(slot) => Err(format!("slot {slot} is empty and in the order")),
            None => Ok(()),
        }
    }

    /// Rows have their sequences' tables, and nothing is written where somebody else reads. A fork
    /// shares what its parent's row writes in the step that makes it; that one is counted out.
    pub(super) fn check_writes(&self, plan: &StepPlan) -> Result<(), String> {
        let size = self.pool.block_size() as u32;
        let mut written = HashMap::new();
        for row in &plan.rows {
            let table = &plan.block_tables[row.blocks.start as usize..row.blocks.end as usize];
            let blocks = self.slots[row.sequence.0 as usize].as_ref().map(|s| &s.blocks[..]);
            if blocks.and_then(|blocks| blocks.get(..table.len())) != Some(table) {
                return Err(format!("{:?} has another table than its blocks", row.sequence));
            }
            let request = self.slots[row.sequence.0 as usize].as_ref().map(|s| s.request);
            let new_forks = plan
                .admitted
                .iter()
                .filter(|new| new.index > 0)
                .filter_map(|new| self.slots[new.sequence.0 as usize].as_ref())
                .filter(|fork| Some(fork.request) == request)
                .count() as u32;
            for slot in &plan.slot_mapping[row.tokens.start as usize..row.tokens.end as usize] {
                if written.insert(*slot, row.sequence).is_some() {
                    return Err(format!("slot {slot} is written twice"));
                }
                let count = self.pool.ref_count(BlockId(slot / size));
                if count != 1 + new_forks {
                    return Err(format!("a block with {count} holders is written"));
                }
            }
        }
        Ok(())
    }
}
