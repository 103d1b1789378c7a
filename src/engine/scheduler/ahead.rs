//! Steps that are planned while the step before them is computed.
//!
//! The books run ahead of the device: a sequence counts as having what the steps in flight compute
//! and sample. What it samples is an unknown token until the step is committed, and its next row
//! begins with a [`Carry`]. Nothing that a step in flight writes is given away: who ends in the
//! meantime keeps blocks and slot until that step is committed, and nobody is preempted; a step
//! that would have to waits for the one before it.

use super::*;

impl Scheduler {
    /// Keeps the tokens of a request that was just submitted from being carried: each must be known
    /// before the next step is planned, for the device can't sample it by itself. While one such
    /// sequence awaits its token no step is planned ahead, as it could only be part of every other.
    pub fn never_carry(&mut self, id: RequestId) {
        if let Some(sequence) = self.waiting.iter_mut().rfind(|waiting| waiting.request == id) {
            sequence.is_carried = false;
        }
    }

    /// Whether all sequences that await a token can go on without knowing it, and find room for it
    /// without anybody's being preempted.
    pub(super) fn may_go_ahead(&self) -> bool {
        let size = self.pool.block_size();
        let mut num_blocks = 0;
        for slot in &self.order {
            let Some(sequence) = &self.slots[*slot as usize] else { continue };
            if sequence.state != State::Running || sequence.num_pending() != 1 {
                continue;
            }
            if sequence.num_unknown > 0 && !sequence.is_carried {
                return false;
            }
            let is_full = sequence.blocks.len() * size <= sequence.num_computed;
            num_blocks += usize::from(is_full || sequence.may_share_last);
        }
        num_blocks <= self.pool.num_free()
    }
}

#[cfg(test)]
mod tests;
