//! Takes a step's results: tokens, finished sequences, blocks that can be found again.

use super::*;

impl Scheduler {
    /// Takes the results of the earliest step in flight, `plan`, which took `elapsed`: since the
    /// end of the one before it, if that was later than its own beginning.
    pub fn commit(&mut self, plan: &StepPlan, sampled: Vec<Sampled>, elapsed: Duration) {
        debug_assert!(plan.is_answered_by(&sampled));
        debug_assert!(self.num_in_flight > 0, "nothing is in flight");
        self.num_in_flight = self.num_in_flight.saturating_sub(1);
        self.has_drafts_in_flight = false;
        let work =
            plan.rows.iter().map(|row| Work::of_row(row.tokens.len(), row.num_computed as usize));
        self.cost.observe(work.sum(), elapsed);
        self.decode_cost.observe(plan, elapsed);
        for row in &plan.rows {
            self.land(row);
        }
        for admission in &plan.admitted {
            // A fork has no row: its parent's computed its prompt too.
            if admission.index > 0
                && let Some(fork) = &mut self.slots[admission.sequence.0 as usize]
            {
                fork.num_in_flight -= 1;
            }
        }
        let mut sampled = sampled.into_iter();
        for sample in &plan.samples {
            let count = plan.num_sampled(sample, sampled.as_slice());
            self.append_all(sample, sampled.by_ref().take(count));
        }
        if self.any_fenced {
            self.release_fenced();
        }
        debug_assert_eq!(self.check_step(), Ok(()));
    }

    /// Takes note that a row's tokens are computed.
    fn land(&mut self, row: &Row) {
        let slot = row.sequence.0;
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        sequence.num_in_flight -= 1;
        // Of drafts, none counts yet.
        let num_landed = row.num_computed as usize + row.tokens.len();
        let num_landed = num_landed.min(sequence.num_computed);
        self.index_blocks(slot, num_landed);
        self.report_progress(slot, num_landed);
    }

    /// Lets go of sequences that have ended and are part of no step in flight any more.
    fn release_fenced(&mut self) {
        self.any_fenced = false;
        for at in (0..self.order.len()).rev() {
            let slot = self.order[at];
            let Some(sequence) = &self.slots[slot as usize] else { continue };
            match (sequence.state, sequence.num_in_flight) {
                (State::Running | State::Preempted, _) => {}
                (State::Cancelled, 0) => self.finish(slot, None, Finish::Cancelled),
                (State::Ended, 0) => self.release(slot),
                (State::Cancelled | State::Ended, _) => self.any_fenced = true,
            }
        }
    }

    /// Makes the full blocks among the sequence's first `num_landed` tokens findable, as far as
    /// these are known.
    pub(super) fn index_blocks(&mut self, slot: u32, num_landed: usize) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        let size = self.pool.block_size();
        let end = num_landed.min(sequence.num_known());
        while (sequence.hashes.len() + 1) * size <= end {
            let at = sequence.hashes.len();
            let parent = sequence.hashes.last().copied();
            let tokens = &sequence.tokens[at * size..(at + 1) * size];
            let hash = self.pool.hash(parent, sequence.salt, tokens);
            self.pool.insert(sequence.blocks[at], hash, parent, (sequence.salt, tokens));
            sequence.hashes.push(hash);
        }
    }

    /// Tells how much of a prompt is computed, if that was asked.
    fn report_progress(&mut self, slot: u32, num_landed: usize) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        let is_prefill =
            sequence.num_known() == sequence.prompt.len() && sequence.state == State::Running;
        if sequence.report_progress && is_prefill {
            let (num_cached, begun) = first(sequence);
            let num_computed = Some(num_landed as u32);
            let (request, index) = (sequence.request, sequence.index);
            let (token, finish, logprobs) = (None, None, None);
            self.outputs.push(Output {
                request,
                index,
                token,
                finish,
                logprobs,
                num_cached,
                begun,
                num_computed,
                scored: Vec::new(),
            });
        }
    }

    /// Appends a token to a sequence that has not ended, which it may end.
    pub(super) fn append(&mut self, slot: u32, sampled: Sampled) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        let token = sampled.token;
        match sampled.end {
            Some(ConstraintEnd::Exhausted) => {
                return self.finish(slot, None, Finish::GrammarLimit);
            }
            Some(ConstraintEnd::BadWord) => return self.finish(slot, None, Finish::BadWord),
            Some(ConstraintEnd::Complete) | None => {}
        }
        sequence.learn_token(token);
        self.stats.num_generated_tokens += 1;
        let sampling = &sequence.sampling;
        let stops = (!sampling.ignore_eos && self.config.eos_token_ids.contains(&token))
            || sampling.stop_token_ids.contains(&token);
        let full = sequence.num_known() >= sequence.max_len;
        if stops {
            self.finish(slot, Some(sampled), Finish::StopToken);
        } else if sampled.end.is_some() {
            self.finish(slot, Some(sampled), Finish::GrammarEnd);
        } else if full {
            self.finish(slot, Some(sampled), Finish::Length);
        } else {
            let (num_cached, begun) = first(sequence);
            let output = Output {
                request: sequence.request,
                index: sequence.index,
                token: Some(token),
                finish: None,
                logprobs: sampled.logprobs,
                num_cached,
                begun,
                num_computed: None,
                scored: Vec::new(),
            };
            self.outputs.push(output);
        }
    }

    /// Ends a sequence. Its blocks and its slot are free at once, or when the step in flight that
    /// it is part of has ended.
    pub(super) fn finish(&mut self, slot: u32, last: Option<Sampled>, finish: Finish) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        for index in 1..=sequence.num_forks {
            self.outputs.push(ended(sequence, index, finish));
        }
        let (token, logprobs) = last.map_or((None, None), |s| (Some(s.token), s.logprobs));
        let (num_cached, begun) = first(sequence);
        self.outputs.push(Output {
            token,
            logprobs,
            num_cached,
            begun,
            ..ended(sequence, sequence.index, finish)
        });
        sequence.state = State::Ended;
        if sequence.num_in_flight == 0 {
            self.release(slot);
        } else {
            self.any_fenced = true;
        }
    }

    /// Frees a slot and what it holds.
    fn release(&mut self, slot: u32) {
        let Some(mut sequence) = self.slots[slot as usize].take() else { return };
        self.pool.release(&sequence.blocks);
        self.order.retain(|other| *other != slot);
        if let Some(slots) = self.by_request.get_mut(&sequence.request) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_request.remove(&sequence.request);
            }
        }
        self.released.push(SequenceId(slot));
        self.free_slots.push(slot);
        self.free_slots.append(&mut sequence.fork_slots);
    }

    /// Ends a request that has no slot yet.
    pub(super) fn end_waiting(&mut self, sequence: &Sequence, finish: Finish) {
        for index in 0..=sequence.num_forks {
            self.outputs.push(ended(sequence, index, finish));
        }
    }
}

/// The number of cached tokens and the time of the first step, once.
fn first(sequence: &mut Sequence) -> (Option<u32>, Option<Duration>) {
    if sequence.reported {
        (None, None)
    } else {
        sequence.reported = true;
        (sequence.num_cached, sequence.begun)
    }
}

fn ended(sequence: &Sequence, index: u32, finish: Finish) -> Output {
    Output {
        request: sequence.request,
        index,
        token: None,
        finish: Some(finish),
        logprobs: None,
        num_cached: None,
        begun: None,
        num_computed: None,
        scored: Vec::new(),
    }
}
