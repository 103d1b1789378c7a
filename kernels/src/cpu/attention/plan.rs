//! Which pieces an attention call is cut into.

use std::cmp::Reverse;
use std::ops::Range;

use super::super::kernels::attend::SPLIT;
use super::super::kv_cache::{KvCache, KvShape};
use super::{Attention, AttentionRow};

/// Query rows (tokens times heads of a group) that a prefill tile aims at.
const TILE_ROWS: usize = 24;
/// Query rows that one pass over a shared split serves at most: more would leave threads idle.
const SHARED_ROWS: usize = 96;
/// Units per thread below which single rows are cut at their splits.
const MIN_UNITS_PER_THREAD: usize = 4;

/// A piece of work: some members' tokens, one head of keys, a range of splits.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// In [`Plan::members`]. Several have equally many tokens, and the same blocks in the splits,
    /// of which each token sees all positions.
    pub members: Range<usize>,
    /// Of each member.
    pub num_tokens: usize,
    pub kv_head: usize,
    pub first_split: usize,
    pub end_split: usize,
    /// Whether the results of the splits go to the partial results, one by one.
    pub is_cut: bool,
}

/// Some tokens of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub row: usize,
    /// In the batch.
    pub first_token: usize,
    /// How many positions come before them.
    pub num_computed: usize,
    /// If it is cut, its number among those that are.
    pub cut: usize,
}

/// Tokens whose splits are computed apart and joined at the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// In the batch.
    pub first_token: usize,
    pub num_tokens: usize,
    pub num_splits: usize,
    /// The first of its `[num_kv_heads][num_splits][num_tokens][group]` partial results.
    pub first_partial_row: usize,
}

/// The pieces, longest first.
#[derive(Debug, Default)]
pub(in super::super) struct Plan {
    pub(super) units: Vec<Unit>,
    pub(super) members: Vec<Member>,
    pub(super) cut: Vec<Cut>,
    pub(super) num_partial_rows: usize,
    /// About how many multiplications there are.
    pub(super) work: usize,
    /// Query heads of one head of keys.
    pub(super) group: usize,
    num_kv_heads: usize,
    /// What it was made for.
    shape: Option<(KvShape, usize)>,
    rows: Vec<AttentionRow>,
    block_tables: Vec<u32>,
}

impl Plan {
    /// Whether it was made for these rows.
    pub(super) fn is_for(&self, args: &Attention<'_>, kv: &KvCache) -> bool {
        self.shape == Some((kv.shape(), args.num_q_heads))
            && self.rows == args.rows
            && self.block_tables == args.block_tables
    }

    /// Cuts checked rows into units.
    pub(super) fn make(&mut self, args: &Attention<'_>, kv: &KvCache, num_threads: usize) {
        let shape = kv.shape();
        self.shape = Some((shape, args.num_q_heads));
        self.rows.clear();
        self.rows.extend_from_slice(args.rows);
        self.block_tables.clear();
        self.block_tables.extend_from_slice(args.block_tables);
        self.units.clear();
        self.members.clear();
        self.cut.clear();
        (self.num_partial_rows, self.work) = (0, 0);

        self.num_kv_heads = shape.num_kv_heads;
        self.group = args.num_q_heads / shape.num_kv_heads;
        let tile = (TILE_ROWS / self.group).max(1);
        let sharing = self.share(shape.block_size, tile);
        let num_tiles: usize = args.rows.iter().map(|row| row.num_tokens.div_ceil(tile)).sum();
        let few = num_tiles * shape.num_kv_heads < num_threads * MIN_UNITS_PER_THREAD;
        for (index, row) in args.rows.iter().enumerate() {
            for token in (0..row.num_tokens).step_by(tile) {
                let num_tokens = tile.min(row.num_tokens - token);
                let num_computed = row.num_computed + token;
                let num_splits = (num_computed + num_tokens).div_ceil(SPLIT);
                self.work +=
                    (num_computed + num_tokens) * (num_tokens * args.num_q_heads * shape.head_dim);
                let (cut, num_shared) = match sharing[index] {
                    Some(shared) => shared,
                    None if few && num_splits > 1 && row.num_tokens <= tile => {
                        (self.add_cut(row.first_token + token, num_tokens, num_splits), 0)
                    }
                    None => (usize::MAX, 0),
                };
                let first_token = row.first_token + token;
                self.members.push(Member { row: index, first_token, num_computed, cut });
                self.add_own(num_tokens, num_shared..num_splits);
            }
        }
        self.sort();
    }

    /// The units of the last member's splits that no others share.
    fn add_own(&mut self, num_tokens: usize, splits: Range<usize>) {
        let last = self.members.len() - 1;
        let is_cut = self.members[last].cut != usize::MAX;
        let step = if is_cut { 1 } else { splits.len().max(1) };
        for kv_head in 0..self.num_kv_heads {
            for first_split in splits.clone().step_by(step) {
                let (members, end_split) = (last..last + 1, first_split + step);
                let unit = Unit { members, num_tokens, kv_head, first_split, end_split, is_cut };
                self.units.push(unit);
            }
        }
    }

    /// Makes room for a member's partial results.
    fn add_cut(&mut self, first_token: usize, num_tokens: usize, num_splits: usize) -> usize {
        let first_partial_row = self.num_partial_rows;
        self.num_partial_rows += self.num_kv_heads * num_splits * num_tokens * self.group;
        self.cut.push(Cut { first_token, num_tokens, num_splits, first_partial_row });
        self.cut.len() - 1
    }

    /// Finds rows of a single tile whose first splits are in the same blocks, and makes units of
    /// those splits. Returns, for each row that shares any, its place among the cut ones and how
    /// many splits it shares.
    fn share(&mut self, block_size: usize, tile: usize) -> Vec<Option<(usize, usize)>> {
        let (rows, tables) = (&self.rows, &self.block_tables);
        let num_full = |row: &AttentionRow| (row.num_computed + 1) / SPLIT;
        let num_blocks = |num_splits: usize| (num_splits * SPLIT).div_ceil(block_size);
        let key = |index: usize| {
            let row: &AttentionRow = &rows[index];
            (row.num_tokens, &tables[row.first_block..][..num_blocks(num_full(row))])
        };
        let mut order: Vec<usize> = (0..rows.len())
            .filter(|&row| (1..=tile).contains(&rows[row].num_tokens) && num_full(&rows[row]) > 0)
            .collect();
        // Equal beginnings lie side by side.
        order.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)));
        let in_common = |a: usize, b: usize| {
            let ((tokens_a, a), (tokens_b, b)) = (key(a), key(b));
            let num_equal = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            if tokens_a == tokens_b { num_equal * block_size / SPLIT } else { 0 }
        };
        let with_next: Vec<usize> =
            order.windows(2).map(|pair| in_common(pair[0], pair[1])).collect();
        let mut sharing = vec![None; rows.len()];
        let first_member = self.members.len();
        for (at, &row) in order.iter().enumerate() {
            let before = at.checked_sub(1).map_or(0, |before| with_next[before]);
            let num_shared = before.max(with_next.get(at).copied().unwrap_or(0));
            let AttentionRow { first_token, num_tokens, num_computed, .. } = self.rows[row];
            let num_splits = (num_computed + num_tokens).div_ceil(SPLIT);
            let cut = if num_shared > 0 {
                let cut = self.add_cut(first_token, num_tokens, num_splits);
                sharing[row] = Some((cut, num_shared));
                cut
            } else {
                usize::MAX
            };
            self.members.push(Member { row, first_token, num_computed, cut });
        }
        for split in 0..with_next.iter().copied().max().unwrap_or(0) {
            let mut start = 0;
            while start < order.len() {
                let more = with_next[start..].iter().take_while(|in_common| **in_common > split);
                let end = start + 1 + more.count();
                if end - start > 1 {
                    let num_tokens = self.rows[order[start]].num_tokens;
                    let members = first_member + start..first_member + end;
                    self.add_shared(members, num_tokens, split);
                }
                start = end;
            }
        }
        sharing
    }

    /// The units of one split that several members share.
    fn add_shared(&mut self, members: Range<usize>, num_tokens: usize, split: usize) {
        let most = (SHARED_ROWS / (self.group * num_tokens)).max(2);
        let num_units = members.len().div_ceil(most);
        let each = members.len().div_ceil(num_units);
        for start in members.clone().step_by(each) {
            for kv_head in 0..self.num_kv_heads {
                self.units.push(Unit {
                    members: start..members.end.min(start + each),
                    num_tokens,
                    kv_head,
                    first_split: split,
                    end_split: split + 1,
                    is_cut: true,
                });
            }
        }
    }

    fn sort(&mut self) {
        let Self { units, members, .. } = self;
        units.sort_by_key(|unit| {
            let last = &members[unit.members.end - 1];
            let end = last.num_computed + unit.num_tokens;
            let positions = end.min(unit.end_split * SPLIT) - unit.first_split * SPLIT;
            Reverse(positions * unit.num_tokens * unit.members.len())
        });
    }

    /// Where the partial results of one of a unit's tokens, all query heads of the group, are.
    pub(super) fn partial_row(&self, unit: &Unit, token: usize, split: usize) -> usize {
        let member = &self.members[unit.members.start + token / unit.num_tokens];
        let cut = &self.cut[member.cut];
        let split = unit.kv_head * cut.num_splits + split;
        cut.first_partial_row + (split * cut.num_tokens + token % unit.num_tokens) * self.group
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::kv_cache::KvDtype;
    use super::*;

    const SHAPE: KvShape =
        KvShape { num_layers: 1, num_blocks: 400, block_size: 16, num_kv_heads: 3, head_dim: 16 };

    /// Decode rows of the given lengths and tables.
    fn plan(tables: &[Vec<u32>], lens: &[usize]) -> Plan {
        let kv = KvCache::new(SHAPE, KvDtype::F16).unwrap();
        let (mut rows, mut block_tables) = (Vec::new(), Vec::new());
        for (table, len) in tables.iter().zip(lens) {
            rows.push(AttentionRow {
                first_token: rows.len(),
                num_tokens: 1,
                num_computed: len - 1,
                first_block: block_tables.len(),
                num_blocks: table.len(),
            });
            block_tables.extend_from_slice(table);
        }
        let args = Attention {
            qkv: &[],
            num_q_heads: 9,
            scale: 1.0,
            soft_cap: None,
            window: None,
            layer: 0,
            rows: &rows,
            block_tables: &block_tables,
        };
        let mut plan = Plan::default();
        plan.make(&args, &kv, 1);
        assert!(plan.is_for(&args, &kv));
        plan
    }

    /// How many members the unit of each row's split has, of the first head of keys.
    fn sharers(plan: &Plan, num_rows: usize) -> Vec<Vec<usize>> {
        let mut sharers = vec![Vec::new(); num_rows];
        for unit in plan.units.iter().filter(|unit| unit.kv_head == 0) {
            for member in &plan.members[unit.members.clone()] {
                for split in unit.first_split..unit.end_split {
                    let row = &mut sharers[member.row];
                    row.resize(row.len().max(split + 1), 0);
                    assert_eq!(row[split], 0, "a split is computed once");
                    row[split] = unit.members.len();
                }
            }
        }
        sharers
    }

    #[test]
    fn splits_in_the_same_blocks_are_computed_once() {
        let table = |shared: u32, own: u32| -> Vec<u32> {
            (0..shared).chain(own..own + 48 - shared).collect()
        };
        let tables = [table(32, 100), table(48, 0), table(16, 200), table(32, 300), table(0, 340)];

        let plan = plan(&tables, &[600, 700, 512, 520, 768]);

        let expected = [vec![4, 3, 1], vec![4, 3, 1], vec![4, 1], vec![4, 3, 1], vec![1, 1, 1]];
        assert_eq!(sharers(&plan, 5), expected);
    }

    #[test]
    fn many_sharers_are_several_units() {
        let tables = vec![(0..16).collect::<Vec<u32>>(); 70];

        let plan = plan(&tables, &[256; 70]);

        let sizes: Vec<_> = (plan.units.iter().filter(|unit| unit.kv_head == 2))
            .map(|unit| unit.members.len())
            .collect();
        assert_eq!(sizes, [24, 24, 22]);
    }
}
