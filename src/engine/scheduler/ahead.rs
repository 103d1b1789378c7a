//! Steps that are planned while the step before them is computed.
//!
//! The books run ahead of the device: a sequence counts as having what the steps in flight compute
//! and sample. What it samples is an unknown token until the step is committed, and its next row
//! begins with a [`Carry`]. Nothing that a step in flight writes is given away: who ends in the
//! meantime keeps blocks and slot until that step is committed, and nobody is preempted; a step
//! that would have to waits for the one before it.

use super::*;

impl Scheduler {
    /// Whether all sequences that await a token find room for it without anybody's being preempted.
    pub(super) fn may_go_ahead(&self) -> bool {
        let size = self.pool.block_size();
        let mut num_blocks = 0;
        for slot in &self.order {
            let Some(sequence) = &self.slots[*slot as usize] else { continue };
            if sequence.state != State::Running || sequence.num_pending() != 1 {
                continue;
            }
            let is_full = sequence.blocks.len() * size <= sequence.num_computed;
            num_blocks += usize::from(is_full || sequence.may_share_last);
        }
        num_blocks <= self.pool.num_free()
    }
}

#[cfg(test)]
mod tests;
