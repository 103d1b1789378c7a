//! A plan as the flat buffers that kernels read, after a check against the executor's limits.

use sconce_kernels::cpu::AttentionRow;

use super::{Error, ExecutorLimits};
use crate::engine::plan::{BlockId, Carry, MAX_DRAFTS, Row, Score, StepPlan};

/// The buffers, reused from step to step. What kernels can read from the plan itself is not
/// copied.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub(crate) num_tokens: usize,
    /// Blocks to copy: from, to.
    pub(crate) copies: Vec<(u32, u32)>,
    /// One per row of the plan.
    pub(crate) rows: Vec<AttentionRow>,
    /// The rows' block tables, row after row.
    pub(crate) block_tables: Vec<u32>,
    /// `[num_logits_rows]` the tokens whose logits are wanted, each once.
    pub(crate) logits_tokens: Vec<u32>,
    /// `[num_samples]` each sample's index into `logits_tokens`; its drafts' follow.
    pub(crate) logits_rows: Vec<u32>,
    /// `[num_logits_rows]` whether the likeliest token alone is wanted of the row; or empty.
    pub(crate) greedy_rows: Vec<bool>,
    /// `[num_tokens]` each token's index into `logits_tokens`, or `NONE`.
    row_of_token: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Input {
    /// Checks `plan`, all of whose tokens are known, and takes it over.
    pub(crate) fn fill(&mut self, plan: &StepPlan, limits: &ExecutorLimits) -> Result<(), Error> {
        self.fill_after(plan, limits, 0)
    }

    /// As [`Self::fill`], where tokens may be carried from a step with `num_before` samples.
    pub(crate) fn fill_after(
        &mut self,
        plan: &StepPlan,
        limits: &ExecutorLimits,
        num_before: usize,
    ) -> Result<(), Error> {
        check(plan, limits, num_before).map_err(Error::Plan)?;
        self.num_tokens = plan.token_ids.len();
        self.copies.clear();
        self.copies.extend(plan.copies.iter().map(|copy| (copy.from.0, copy.to.0)));
        self.rows.clear();
        self.block_tables.clear();
        for row in &plan.rows {
            self.rows.push(AttentionRow {
                first_token: row.tokens.start as usize,
                num_tokens: row.tokens.len(),
                num_computed: row.num_computed as usize,
                first_block: self.block_tables.len(),
                num_blocks: row.blocks.len(),
            });
            let table = &plan.block_tables[row.blocks.start as usize..row.blocks.end as usize];
            self.block_tables.extend(table.iter().map(|block| block.0));
        }
        self.gather_logits_tokens(plan);
        Ok(())
    }

    fn gather_logits_tokens(&mut self, plan: &StepPlan) {
        self.row_of_token.clear();
        self.row_of_token.resize(plan.token_ids.len(), NONE);
        self.logits_tokens.clear();
        self.logits_rows.clear();
        self.greedy_rows.clear();
        for sample in &plan.samples {
            let row = &mut self.row_of_token[sample.token_index as usize];
            if *row == NONE || sample.num_drafts > 0 {
                *row = self.logits_tokens.len() as u32;
                self.logits_tokens.push(sample.token_index);
            }
            self.logits_rows.push(*row);
            self.logits_tokens.extend((sample.token_index + 1..).take(sample.num_drafts as usize));
        }
    }
}

/// Says how `plan` breaks `limits` or contradicts itself, if it does. Its tokens may be carried from
/// a plan with `num_before` samples that is still computed; none where that is 0.
pub(crate) fn check(
    plan: &StepPlan,
    limits: &ExecutorLimits,
    num_before: usize,
) -> Result<(), String> {
    check_sizes(plan, limits)?;
    let mut next_token = 0;
    for row in &plan.rows {
        if row.tokens.start != next_token || row.tokens.is_empty() {
            return Err(format!("a row has the tokens {:?} after {next_token}", row.tokens));
        }
        next_token = row.tokens.end;
        check_row(row, plan, limits)?;
    }
    if next_token as usize != plan.token_ids.len() {
        return Err(format!("rows have {next_token} of {} tokens", plan.token_ids.len()));
    }
    for copy in &plan.copies {
        check_block(copy.from, limits)?;
        check_block(copy.to, limits)?;
    }
    for sample in &plan.samples {
        let last = sample.token_index.saturating_add(sample.num_drafts);
        if last >= next_token {
            return Err(format!("token {last} of {next_token} is sampled"));
        }
    }
    let num_tokens = next_token;
    let is_wrong =
        |carry: &&Carry| carry.token_index >= num_tokens || carry.sample as usize >= num_before;
    if let Some(carry) = plan.carried.iter().find(is_wrong) {
        return Err(format!("{carry:?} among {num_tokens} tokens, after {num_before} samples"));
    }
    let is_wrong =
        |score: &&Score| score.token_index >= next_token || score.token >= limits.vocab_size;
    match plan.scores.iter().find(is_wrong) {
        Some(score) => Err(format!("{score:?} among {next_token} tokens")),
        None => Ok(()),
    }
}

fn check_sizes(plan: &StepPlan, limits: &ExecutorLimits) -> Result<(), String> {
    let num_tokens = plan.token_ids.len();
    let at_most = |what: &str, given: usize, limit: u32| {
        if given > limit as usize {
            Err(format!("{given} {what}, at most {limit}"))
        } else {
            Ok(())
        }
    };
    at_most("tokens", num_tokens, limits.max_num_batched_tokens)?;
    at_most("rows", plan.rows.len(), limits.max_num_seqs)?;
    at_most("samples", plan.samples.len(), limits.max_num_seqs)?;
    let num_drafts = plan.samples.iter().map(|sample| sample.num_drafts as usize).sum();
    at_most("drafts", num_drafts, MAX_DRAFTS as u32)?;
    if plan.positions.len() != num_tokens || plan.slot_mapping.len() != num_tokens {
        let (positions, slots) = (plan.positions.len(), plan.slot_mapping.len());
        return Err(format!("{num_tokens} tokens, {positions} positions, {slots} slots"));
    }
    match plan.token_ids.iter().find(|&&token| token >= limits.vocab_size) {
        Some(token) => Err(format!("token {token} in a vocabulary of {}", limits.vocab_size)),
        None => Ok(()),
    }
}

/// The row's positions count on from `num_computed`, its blocks cover them, and its slots are in
/// its blocks.
fn check_row(row: &Row, plan: &StepPlan, limits: &ExecutorLimits) -> Result<(), String> {
    let sequence = row.sequence.0;
    let tokens = row.tokens.start as usize..row.tokens.end as usize;
    let blocks = row.blocks.start as usize..row.blocks.end as usize;
    let (Some(positions), Some(slots)) =
        (plan.positions.get(tokens.clone()), plan.slot_mapping.get(tokens))
    else {
        return Err(format!("sequence {sequence} has the tokens {:?}", row.tokens));
    };
    let Some(blocks) = plan.block_tables.get(blocks) else {
        return Err(format!("sequence {sequence} has the blocks {:?}", row.blocks));
    };
    let end = u64::from(row.num_computed) + positions.len() as u64;
    if end > u64::from(limits.max_model_len) {
        return Err(format!("sequence {sequence} has {end} tokens"));
    }
    if end > blocks.len() as u64 * u64::from(limits.block_size) {
        return Err(format!("sequence {sequence} has {} blocks for {end} tokens", blocks.len()));
    }
    for &block in blocks {
        check_block(block, limits)?;
    }
    for ((&position, &slot), expected) in positions.iter().zip(slots).zip(row.num_computed..) {
        let BlockId(block) = blocks[(expected / limits.block_size) as usize];
        if position != expected || slot != block * limits.block_size + expected % limits.block_size
        {
            return Err(format!(
                "sequence {sequence} has position {position} in slot {slot} for {expected} in \
                 block {block}"
            ));
        }
    }
    Ok(())
}

fn check_block(block: BlockId, limits: &ExecutorLimits) -> Result<(), String> {
    if block.0 < limits.num_blocks {
        return Ok(());
    }
    Err(format!("block {} of {}", block.0, limits.num_blocks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::{BlockCopy, Sample, SequenceId};

    const LIMITS: ExecutorLimits = ExecutorLimits {
        block_size: 4,
        num_blocks: 8,
        max_num_batched_tokens: 6,
        max_num_seqs: 2,
        max_model_len: 12,
        vocab_size: 100,
    };

    /// What is wrong, and how it comes about.
    type Spoil = (&'static str, fn(&mut StepPlan));

    fn score(token_index: u32, token: u32) -> Score {
        Score { sequence: SequenceId(0), token_index, token, num_logprobs: 0 }
    }

    /// A row that decodes position 5 and one that prefills positions 0 to 2.
    fn plan() -> StepPlan {
        let row = |sequence, tokens, num_computed, blocks| Row {
            sequence: SequenceId(sequence),
            tokens,
            num_computed,
            blocks,
            cache_salt: 0,
        };
        let sample = |sequence, token_index| Sample {
            sequence: SequenceId(sequence),
            token_index,
            position: 0,
            num_generated: 0,
            num_drafts: 0,
        };
        StepPlan {
            copies: vec![BlockCopy { from: BlockId(1), to: BlockId(2) }],
            rows: vec![row(0, 0..1, 5, 0..2), row(1, 1..4, 0, 2..3)],
            token_ids: vec![7, 8, 9, 10],
            positions: vec![5, 0, 1, 2],
            slot_mapping: vec![13, 28, 29, 30],
            block_tables: vec![BlockId(6), BlockId(3), BlockId(7)],
            samples: vec![sample(1, 3), sample(2, 3)],
            ..StepPlan::default()
        }
    }

    #[test]
    fn completions_of_one_prompt_share_its_logits() {
        let mut input = Input::default();

        input.fill(&plan(), &LIMITS).unwrap();

        assert_eq!(input.logits_tokens, [3]);
        assert_eq!(input.logits_rows, [0, 0]);
        assert_eq!(input.block_tables, [6, 3, 7]);
        assert_eq!(input.copies, [(1, 2)]);
    }

    #[test]
    fn drafts_have_logits_of_their_own() {
        let mut plan = plan();
        plan.samples = vec![Sample { num_drafts: 2, ..plan.samples[0] }, plan.samples[1]];
        plan.samples[0].token_index = 1;
        let mut input = Input::default();

        input.fill(&plan, &LIMITS).unwrap();

        assert_eq!(input.logits_tokens, [1, 2, 3, 3]);
        assert_eq!(input.logits_rows, [0, 3]);
    }

    #[test]
    fn whatever_breaks_the_limits_is_refused() {
        let spoils: [Spoil; 18] = [
            ("token out of vocabulary", |plan| plan.token_ids[0] = 100),
            ("token without a row", |plan| {
                plan.token_ids.push(1);
                plan.positions.push(0);
                plan.slot_mapping.push(0);
            }),
            ("too few positions", |plan| plan.positions.truncate(3)),
            ("too few slots", |plan| plan.slot_mapping.truncate(3)),
            ("wrong position", |plan| plan.positions[0] = 4),
            ("slot in another block", |plan| plan.slot_mapping[0] = 14),
            ("block out of range", |plan| plan.block_tables[2] = BlockId(8)),
            ("copy out of range", |plan| plan.copies[0].to = BlockId(8)),
            ("blocks out of range", |plan| plan.rows[1].blocks = 2..4),
            ("too few blocks", |plan| plan.rows[0].blocks = 0..1),
            ("rows out of order", |plan| plan.rows.swap(0, 1)),
            ("empty row", |plan| plan.rows[1].tokens = 1..1),
            ("sample out of range", |plan| plan.samples[0].token_index = 4),
            ("drafts out of range", |plan| plan.samples[0].num_drafts = 1),
            ("too many drafts", |plan| plan.samples[0].num_drafts = u32::MAX),
            ("score out of range", |plan| plan.scores.push(score(4, 0))),
            ("scored token out of vocabulary", |plan| plan.scores.push(score(0, 100))),
            ("too many samples", |plan| plan.samples.push(plan.samples[0])),
        ];
        assert_eq!(check(&plan(), &LIMITS, 0), Ok(()));

        for (what, spoil) in spoils {
            let mut plan = plan();
            spoil(&mut plan);
            assert!(check(&plan, &LIMITS, 0).is_err(), "{what}");
        }
    }

    #[test]
    fn a_sequence_longer_than_the_model_takes_is_refused() {
        let limits = ExecutorLimits { max_model_len: 5, ..LIMITS };
        assert!(check(&plan(), &limits, 0).is_err());
    }

    #[test]
    fn a_token_is_carried_only_from_a_sample_that_there_is() {
        let mut plan = plan();
        plan.carried.push(Carry { token_index: 0, sample: 1 });
        assert_eq!(check(&plan, &LIMITS, 2), Ok(()));
        assert!(check(&plan, &LIMITS, 1).is_err(), "there is one sample");
        assert!(Input::default().fill(&plan, &LIMITS).is_err(), "no step is in flight");

        plan.carried[0].token_index = 4;
        assert!(check(&plan, &LIMITS, 2).is_err(), "there are four tokens");
    }
}
