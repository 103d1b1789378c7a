//! Plans a step: who computes how many tokens, in which blocks.

use super::tables::write_table;
use super::*;

/// Of the time that a step may take, what is planned for: estimates err, and a processor is lost
/// now and then.
const PLANNED_SHARE: f64 = 0.85;
/// Of the time that a running stream may wait, the part that a step for those that nobody waits for may
/// take: whoever comes meanwhile waits for its end before anything of theirs is computed.
const BACKGROUND_PART: u32 = 4;

impl Scheduler {
    /// Plans the next step into `plan`; false when there is nothing to compute, or nothing before
    /// the step in flight is committed. As many steps may be in flight, planned and not committed,
    /// as the configured depth. `plan` is that of the step before, or of the one before that where
    /// two may be in flight: its block tables are reused. A new one will do too.
    pub fn step(&mut self, now: Duration, plan: &mut StepPlan) -> bool {
        assert!(self.num_in_flight < self.config.depth, "too many steps are not committed");
        plan.clear();
        self.now = now;
        self.expire(now);
        self.is_resting = self.is_awaited();
        let census = self.census();
        if self.num_in_flight > 0
            && (self.waits_for_drafts(census)
                || self.has_background_prompts(census)
                || !self.may_go_ahead())
        {
            return false;
        }
        self.bring_up_to_date(plan);
        plan.released.append(&mut self.released);
        self.planned.fill(false);
        let mut budget = self.budget(census);
        let num_preemptions = self.stats.num_preemptions;
        // Drafts come last: the rows that may have some wait for what the others leave.
        let drafts = self.may_draft(census.num_decoding);
        self.plan_running(plan, &mut budget, Phase::Decode { drafts });
        if census.num_prefilling > 0 {
            self.plan_running(plan, &mut budget, Phase::Prefill);
        }
        if census.num_preempted > 0 || self.stats.num_preemptions > num_preemptions {
            self.resume(plan, &mut budget);
        }
        if !self.waiting.is_empty() {
            self.admit(plan, &mut budget);
        }
        while self.is_resting && self.make_way(budget.is_spent()) {
            self.plan_running(plan, &mut budget, Phase::Prefill);
            self.resume(plan, &mut budget);
            self.admit(plan, &mut budget);
        }
        self.plan_drafts(plan, &mut budget);
        // While a step is in flight, its end may make room.
        if plan.rows.is_empty() && self.num_in_flight == 0 && self.holders() > 0 {
            self.break_deadlock();
            self.plan_running(plan, &mut budget, Phase::Prefill);
        }
        if plan.rows.is_empty() {
            // What was released must reach the runner with the next plan that has rows.
            self.released.append(&mut plan.released);
            return false;
        }
        self.stats.num_steps += 1;
        self.num_in_flight += 1;
        self.keep_updates(plan);
        debug_assert_eq!(self.check_step(), Ok(()));
        debug_assert_eq!(self.check_writes(plan), Ok(()));
        true
    }

    fn census(&self) -> Census {
        let has_background = self.is_next_background();
        let mut census = Census { has_background, ..Census::default() };
        for sequence in self.order.iter().filter_map(|slot| self.slots[*slot as usize].as_ref()) {
            if self.is_resting && sequence.is_background() {
                continue;
            }
            census.has_background |= sequence.is_background();
            match sequence.state {
                State::Running => match sequence.num_pending() {
                    0 => {}
                    1 => census.num_decoding += 1,
                    _ => census.num_prefilling += 1,
                },
                State::Preempted => census.num_preempted += 1,
                State::Cancelled | State::Ended => {}
            }
        }
        census
    }

    /// What this step may take: the time that a running stream may wait, or that a step may take. One
    /// with those that nobody waits for has no other prompts, and is shorter still: someone may come.
    fn budget(&self, census: Census) -> Budget {
        let bound = if census.has_background {
            self.config.max_itl / BACKGROUND_PART
        } else if census.num_decoding > 0 {
            self.config.max_itl
        } else {
            MAX_STEP
        };
        let max_tokens = self.config.max_num_batched_tokens as usize;
        self.cost.budget(max_tokens, bound.mul_f64(PLANNED_SHARE))
    }

    fn plan_running(&mut self, plan: &mut StepPlan, budget: &mut Budget, phase: Phase) {
        for at in 0..self.order.len() {
            let slot = self.order[at];
            if self.planned[slot as usize] {
                continue;
            }
            let Some(sequence) = &self.slots[slot as usize] else { continue };
            if self.is_resting && sequence.is_background() {
                continue;
            }
            let pending = sequence.num_pending();
            if sequence.state != State::Running || (pending == 1) != (phase != Phase::Prefill) {
                continue;
            }
            let num_computed = sequence.num_computed;
            match phase {
                Phase::Decode { drafts } => {
                    if self.make_room(slot, plan) {
                        if drafts {
                            self.planned[slot as usize] = true;
                            self.drafting.push(slot);
                        } else {
                            self.push_row(slot, 1, &[], plan);
                        }
                        budget.spend_decode(num_computed);
                    }
                }
                Phase::Prefill => {
                    let most = pending.min(self.most_scored(slot, plan));
                    let chunk = budget.chunk(most, num_computed);
                    if chunk > 0 && self.reserve(slot, chunk, plan) {
                        self.push_row(slot, chunk, &[], plan);
                        budget.spend_chunk(chunk, num_computed);
                    }
                }
            }
        }
    }

    /// Reserves one token for `slot`, preempting later arrivals if need be; false when it was
    /// preempted itself.
    fn make_room(&mut self, slot: u32, plan: &mut StepPlan) -> bool {
        while !self.reserve(slot, 1, plan) {
            let victims = self.order.iter().copied().filter(|other| {
                *other != slot && !self.planned[*other as usize] && self.holds_blocks(*other)
            });
            match victims.max_by_key(|victim| self.place_of(*victim)) {
                Some(victim) if self.place_of(victim) > self.place_of(slot) => self.preempt(victim),
                _ => {
                    self.preempt(slot);
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn holds_blocks(&self, slot: u32) -> bool {
        self.slots[slot as usize]
            .as_ref()
            .is_some_and(|s| s.state == State::Running && !s.blocks.is_empty())
    }

    fn holders(&self) -> usize {
        self.order.iter().filter(|slot| self.holds_blocks(**slot)).count()
    }

    /// Sequences that wait for each other's blocks: the latest gives up its own.
    fn break_deadlock(&mut self) {
        if self.holders() > 1 {
            let holders = self.order.iter().copied().filter(|slot| self.holds_blocks(*slot));
            if let Some(last) = holders.max_by_key(|slot| self.place_of(*slot)) {
                self.preempt(last);
            }
        }
    }

    pub(super) fn preempt(&mut self, slot: u32) {
        if let Some(sequence) = &mut self.slots[slot as usize] {
            // No step is planned ahead that does not fit.
            debug_assert_eq!(sequence.num_in_flight, 0, "its blocks are written");
            self.pool.release(&sequence.blocks);
            sequence.drop_blocks();
            sequence.state = State::Preempted;
            self.stats.num_preemptions += 1;
        }
    }

    /// Makes sure that the next `chunk` tokens have blocks of their own to go to.
    pub(super) fn reserve(&mut self, slot: u32, chunk: usize, plan: &mut StepPlan) -> bool {
        let Some(sequence) = &mut self.slots[slot as usize] else { return false };
        let size = self.pool.block_size();
        let end = sequence.num_computed + chunk;
        if sequence.blocks.len() * size >= end && !sequence.may_share_last {
            return true;
        }
        let needed = end.div_ceil(size);
        let last_is_shared = sequence.may_share_last
            && sequence.num_computed % size != 0
            && sequence
                .blocks
                .get(sequence.num_computed / size)
                .is_some_and(|block| self.pool.ref_count(*block) > 1);
        let more = needed.saturating_sub(sequence.blocks.len()) + usize::from(last_is_shared);
        if more > self.pool.num_free() {
            return false;
        }
        if last_is_shared && let Some(to) = self.pool.allocate() {
            let at = sequence.num_computed / size;
            let from = std::mem::replace(&mut sequence.blocks[at], to);
            sequence.num_tabled = sequence.num_tabled.min(at);
            plan.copies.push(BlockCopy { from, to });
            self.pool.release(&[from]);
        }
        sequence.may_share_last = false;
        while sequence.blocks.len() < needed {
            let Some(block) = self.pool.allocate() else { return false };
            sequence.blocks.push(block);
        }
        true
    }

    /// Adds a row of the sequence's next `chunk` tokens, and drafts of those after them.
    pub(super) fn push_row(
        &mut self,
        slot: u32,
        chunk: usize,
        drafts: &[TokenId],
        plan: &mut StepPlan,
    ) {
        self.planned[slot as usize] = true;
        let size = self.pool.block_size();
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        let id = SequenceId(slot);
        let first = plan.token_ids.len() as u32;
        let start = sequence.num_computed;
        // Counted along, for a division per token is most of a decode row's price.
        let (mut block, mut offset) = (start / size, start % size);
        let tokens = sequence.tokens[start..start + chunk].iter().chain(drafts);
        for (token, position) in tokens.zip(start..) {
            plan.token_ids.push(*token);
            plan.positions.push(position as u32);
            plan.slot_mapping.push(sequence.blocks[block].0 * size as u32 + offset as u32);
            offset += 1;
            if offset == size {
                (block, offset) = (block + 1, 0);
            }
        }
        let num_blocks = block + usize::from(offset > 0);
        let row = Row {
            sequence: id,
            tokens: first..plan.token_ids.len() as u32,
            num_computed: start as u32,
            blocks: write_table((sequence, id), num_blocks, self.table_len, plan),
            cache_salt: sequence.salt,
        };
        if sequence.num_unknown > 0 {
            // It is the row's only token: what else there is was known before it was sampled.
            plan.carried.push(Carry { token_index: first, sample: sequence.sample });
        }
        Self::push_scores(sequence, &row, plan);
        plan.rows.push(row);
        // A draft counts as computed once it is known to be right.
        sequence.num_computed = start + chunk;
        sequence.num_in_flight += 1;
        if start + chunk == sequence.tokens.len() {
            let sample = Sample {
                sequence: id,
                token_index: first + chunk as u32 - 1,
                position: sequence.tokens.len() as u32,
                num_generated: sequence.num_generated() as u32,
                num_drafts: drafts.len() as u32,
            };
            sequence.expect_token(plan.samples.len());
            plan.samples.push(sample);
            if sequence.num_forks > 0 {
                self.fork(slot, sample, plan);
            }
        }
    }

    /// The other completions of the same prompt, sampled from the same logits in this step.
    fn fork(&mut self, slot: u32, sample: Sample, plan: &mut StepPlan) {
        let Some(parent) = &mut self.slots[slot as usize] else { return };
        let slots = std::mem::take(&mut parent.fork_slots);
        parent.num_forks = 0;
        let children: Vec<Sequence> = (1..).take(slots.len()).map(|i| parent.fork(i)).collect();
        for (new, mut child) in slots.into_iter().zip(children) {
            child.sample = plan.samples.len() as u32;
            for block in &child.blocks {
                self.pool.share(*block);
            }
            self.planned[new as usize] = true;
            self.place(new, child, plan);
            plan.samples.push(Sample { sequence: SequenceId(new), ..sample });
        }
    }

    /// Puts a sequence into a slot and tells the runner.
    fn place(&mut self, slot: u32, mut sequence: Sequence, plan: &mut StepPlan) {
        if !sequence.admitted {
            sequence.admitted = true;
            sequence.begun.get_or_insert(self.now);
            plan.admitted.push(Admission {
                sequence: SequenceId(slot),
                index: sequence.index,
                sampling: Arc::clone(&sequence.sampling),
                prompt: Arc::clone(&sequence.prompt),
            });
        }
        self.by_request.entry(sequence.request).or_default().push(slot);
        let place = sequence.place();
        self.slots[slot as usize] = Some(sequence);
        // Forks come last whatever their place, for the order is walked while they are made.
        let at = match place {
            (arrival, 0) => {
                let is_before = |other: &u32| self.place_of(*other) < Some((arrival, 0));
                self.order.iter().rposition(is_before).map_or(0, |before| before + 1)
            }
            _ => self.order.len(),
        };
        self.order.insert(at, slot);
    }

    /// Gives blocks back to preempted sequences, in order of arrival.
    fn resume(&mut self, plan: &mut StepPlan, budget: &mut Budget) {
        for at in 0..self.order.len() {
            let slot = self.order[at];
            let preempted = self.slots[slot as usize].as_ref().is_some_and(|sequence| {
                let rests = self.is_resting && sequence.is_background();
                sequence.state == State::Preempted && !rests
            });
            if preempted && !self.planned[slot as usize] && !self.begin(slot, plan, budget) {
                return;
            }
        }
    }

    fn admit(&mut self, plan: &mut StepPlan, budget: &mut Budget) {
        let preempted = self.order.iter().filter_map(|slot| {
            self.slots[*slot as usize].as_ref().filter(|s| s.state == State::Preempted)
        });
        // Only who has taken its place comes before what must be computed again.
        let first_preempted = preempted.map(|sequence| sequence.arrival).min();
        while !budget.is_spent()
            && let Some(next) = self.waiting.front()
            && !(self.is_resting && next.is_background())
            && first_preempted.is_none_or(|preempted| next.arrival < preempted)
            && self.free_slots.len() > next.num_forks as usize
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            let kept = self.free_slots.len() - 1 - sequence.num_forks as usize;
            let mut slots = self.free_slots.split_off(kept);
            let Some(slot) = slots.pop() else { return };
            sequence.fork_slots = slots;
            let num_prompt = sequence.prompt.len() as u64;
            self.place(slot, sequence, plan);
            if !self.begin(slot, plan, budget) {
                self.unplace(slot, plan);
                return;
            }
            self.stats.num_prompt_tokens += num_prompt;
        }
    }

    /// Undoes [`Self::place`]: back to the head of the queue.
    fn unplace(&mut self, slot: u32, plan: &mut StepPlan) {
        plan.admitted.pop();
        self.order.retain(|other| *other != slot);
        if let Some(mut sequence) = self.slots[slot as usize].take() {
            self.by_request.remove(&sequence.request);
            self.free_slots.append(&mut sequence.fork_slots);
            self.free_slots.push(slot);
            sequence.admitted = false;
            sequence.begun = None;
            self.waiting.push_front(sequence);
        }
    }

    /// Starts a sequence that holds no blocks: takes what the prefix cache has of it, and the
    /// first chunk's blocks. False when there is no room.
    fn begin(&mut self, slot: u32, plan: &mut StepPlan, budget: &mut Budget) -> bool {
        if budget.is_spent() {
            return false;
        }
        let others = self.holders();
        let Some(sequence) = &mut self.slots[slot as usize] else { return false };
        let size = self.pool.block_size();
        let mut parent = None;
        // The last token is always computed, for its logits are needed, and so is what is scored.
        let to_score = sequence.to_score();
        let last = sequence.tokens.len() - 1;
        let end = if to_score.is_empty() { last } else { last.min(to_score.start) };
        for tokens in sequence.tokens[..end].chunks_exact(size) {
            let hash = self.pool.hash(parent, sequence.salt, tokens);
            let Some(block) = self.pool.find(hash, parent, sequence.salt, tokens) else { break };
            self.pool.share(block);
            sequence.blocks.push(block);
            sequence.hashes.push(hash);
            parent = Some(hash);
        }
        let found = sequence.blocks.len() * size;
        sequence.num_computed = found;
        let pending = sequence.num_pending();
        let chunk = budget.chunk(pending.min(self.most_scored(slot, plan)), found);
        let Some(sequence) = &mut self.slots[slot as usize] else { return false };
        let needed = (found + chunk).div_ceil(size) - sequence.blocks.len();
        let watermark = if others == 0 { 0 } else { 2 * others };
        if chunk == 0 || needed + watermark > self.pool.num_free() {
            self.pool.release(&sequence.blocks);
            sequence.drop_blocks();
            return false;
        }
        sequence.state = State::Running;
        if sequence.num_cached.is_none() && sequence.num_generated() == 0 {
            sequence.num_cached = Some(found as u32);
            self.stats.num_cached_tokens += found as u64;
        }
        if !self.reserve(slot, chunk, plan) {
            return false;
        }
        self.push_row(slot, chunk, &[], plan);
        budget.spend_chunk(chunk, found);
        true
    }

    /// Ends what waited too long.
    fn expire(&mut self, now: Duration) {
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.next_deadline = None;
        for sequence in waiting {
            if sequence.deadline.is_some_and(|deadline| deadline <= now) {
                self.end_waiting(&sequence, Finish::Deadline);
            } else {
                self.next_deadline = earlier(self.next_deadline, sequence.deadline);
                self.waiting.push_back(sequence);
            }
        }
    }
}

/// How many sequences there are of each kind.
#[derive(Clone, Copy, Default)]
pub(super) struct Census {
    pub(super) num_decoding: usize,
    pub(super) num_prefilling: usize,
    pub(super) num_preempted: usize,
    /// Whether nobody waits for some of them, or for what is admitted next.
    pub(super) has_background: bool,
}

/// Which sequences a pass over the running ones is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Those that need one token, and may have drafts of more.
    Decode { drafts: bool },
    /// Those that need more.
    Prefill,
}
