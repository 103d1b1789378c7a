//! Block tables, which stay in the plans from step to step.
//!
//! A step writes what is new since the step before it. Where two steps are in flight their plans
//! take turns, and a plan first gets what was new in the step that the other one was for.

use std::ops::Range;

use super::*;

impl Scheduler {
    /// Brings a plan's block tables to where the last step left them.
    pub(super) fn bring_up_to_date(&mut self, plan: &mut StepPlan) {
        let has_room = plan.block_tables.len() == self.slots.len() * self.table_len;
        match self.stats.num_steps.checked_sub(plan.num_tabled_steps) {
            Some(0) if has_room => {}
            Some(1) if has_room && self.config.depth > 1 => {
                for update in &self.table_updates {
                    let row = update.sequence.0 as usize * self.table_len;
                    plan.block_tables[row + update.column as usize] = update.block;
                }
            }
            Some(_) | None => self.begin_tables(plan),
        }
        plan.num_tabled_steps = self.stats.num_steps;
    }

    /// Makes room for every slot's table, none of which has been written.
    fn begin_tables(&mut self, plan: &mut StepPlan) {
        plan.block_tables.clear();
        plan.block_tables.resize(self.slots.len() * self.table_len, BlockId(0));
        for sequence in self.slots.iter_mut().flatten() {
            sequence.num_tabled = 0;
        }
    }

    /// Keeps what the step that was just planned has changed, for the plan of the next one.
    pub(super) fn keep_updates(&mut self, plan: &mut StepPlan) {
        plan.num_tabled_steps = self.stats.num_steps;
        if self.config.depth > 1 {
            self.table_updates.clone_from(&plan.table_updates);
        }
    }
}

/// Writes what is new of a sequence's first `num_blocks` blocks into its table, and returns where
/// they are.
#[inline]
pub(super) fn write_table(
    (sequence, id): (&mut Sequence, SequenceId),
    num_blocks: usize,
    table_len: usize,
    plan: &mut StepPlan,
) -> Range<u32> {
    let start = id.0 as usize * table_len;
    // Of most rows nothing is new.
    if sequence.num_tabled != num_blocks {
        let tabled = std::mem::replace(&mut sequence.num_tabled, num_blocks).min(num_blocks);
        let new = &sequence.blocks[tabled..num_blocks];
        plan.block_tables[start + tabled..start + num_blocks].copy_from_slice(new);
        let update =
            |(column, block): (u32, &BlockId)| TableUpdate { sequence: id, column, block: *block };
        plan.table_updates.extend((tabled as u32..).zip(new).map(update));
    }
    start as u32..(start + num_blocks) as u32
}
