//! What changes of the block tables that lie on the device.

use crate::engine::plan::{BlockId, StepPlan};

/// A new block of a sequence's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableUpdate {
    pub(super) row: u32,
    pub(super) column: u32,
    pub(super) block: u32,
}

impl TableUpdate {
    pub(super) fn words(self) -> [u32; 3] {
        [self.row, self.column, self.block]
    }
}

/// What is known to lie on the device.
pub(super) struct TableMirror {
    tables: Vec<Vec<u32>>,
    updates: Vec<TableUpdate>,
}

impl TableMirror {
    pub(super) fn new(num_sequences: usize) -> Self {
        Self { tables: vec![Vec::new(); num_sequences], updates: Vec::new() }
    }

    /// Finds what the plan's rows have that the device hasn't, and counts it as sent.
    pub(super) fn update(&mut self, plan: &StepPlan) -> &[TableUpdate] {
        self.updates.clear();
        for row in &plan.rows {
            let blocks = &plan.block_tables[row.blocks.start as usize..row.blocks.end as usize];
            let table = &mut self.tables[row.sequence.0 as usize];
            for (column, &BlockId(block)) in blocks.iter().enumerate() {
                if table.get(column) == Some(&block) {
                    continue;
                }
                match table.get_mut(column) {
                    Some(known) => *known = block,
                    None => table.push(block),
                }
                let (row, column) = (row.sequence.0, column as u32);
                self.updates.push(TableUpdate { row, column, block });
            }
        }
        &self.updates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::{Row, SequenceId};

    #[test]
    fn only_what_is_new_is_sent() {
        let row = |sequence, blocks| Row {
            sequence: SequenceId(sequence),
            tokens: 0..1,
            num_computed: 0,
            blocks,
            cache_salt: 0,
        };
        let blocks = |ids: &[u32]| ids.iter().copied().map(BlockId).collect::<Vec<_>>();
        let mut mirror = TableMirror::new(3);
        let mut plan = StepPlan {
            rows: vec![row(2, 0..2), row(0, 2..3)],
            block_tables: blocks(&[5, 6, 7]),
            ..StepPlan::default()
        };
        let update = |row, column, block| TableUpdate { row, column, block };

        let all = [update(2, 0, 5), update(2, 1, 6), update(0, 0, 7)];
        assert_eq!(mirror.update(&plan), all);
        assert_eq!(mirror.update(&plan), []);
        plan.rows = vec![row(2, 0..3)];
        plan.block_tables = blocks(&[5, 9, 8]);
        assert_eq!(mirror.update(&plan), [update(2, 1, 9), update(2, 2, 8)]);
        // A shorter table of another sequence in the same place.
        plan.rows = vec![row(2, 0..1)];
        plan.block_tables = blocks(&[4]);
        assert_eq!(mirror.update(&plan), [update(2, 0, 4)]);
    }
}
