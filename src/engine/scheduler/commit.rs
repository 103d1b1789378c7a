//! Takes a step's results: tokens, finished sequences, blocks that can be found again.

use super::*;

impl Scheduler {
    /// Takes the results of the step in flight, which took `elapsed`.
    pub fn commit(&mut self, plan: &StepPlan, sampled: Vec<Sampled>, elapsed: Duration) {
        debug_assert!(plan.is_answered_by(&sampled));
        self.in_flight = false;
        let work =
            plan.rows.iter().map(|row| Work::of_row(row.tokens.len(), row.num_computed as usize));
        self.cost.observe(work.sum(), elapsed);
        self.decode_cost.observe(plan, elapsed);
        for row in &plan.rows {
            if let Some(sequence) = &mut self.slots[row.sequence.0 as usize] {
                sequence.num_computed = row.num_computed as usize + row.tokens.len();
            }
        }
        for sample in &plan.samples {
            // A draft counts as computed once it is known to be right.
            if let Some(sequence) = &mut self.slots[sample.sequence.0 as usize] {
                sequence.num_computed -= sample.num_drafts as usize;
            }
        }
        for row in &plan.rows {
            self.index_blocks(row.sequence.0);
            self.report_progress(row.sequence.0);
        }
        for admission in &plan.admitted {
            let Some(sequence) = &mut self.slots[admission.sequence.0 as usize] else { continue };
            // A fork: its parent's row computed its prompt too.
            if admission.index > 0 {
                sequence.num_computed = sequence.tokens.len();
            }
        }
        let mut sampled = sampled.into_iter();
        for sample in &plan.samples {
            let count = plan.num_sampled(sample, sampled.as_slice());
            self.append_all(sample, sampled.by_ref().take(count));
        }
        if std::mem::take(&mut self.any_cancelled) {
            self.finish_cancelled();
        }
        debug_assert_eq!(self.check_step(), Ok(()));
    }

    fn finish_cancelled(&mut self) {
        for at in (0..self.order.len()).rev() {
            let slot = self.order[at];
            let sequence = self.slots[slot as usize].as_ref();
            if sequence.is_some_and(|sequence| sequence.state == State::Cancelled) {
                self.finish(slot, None, Finish::Cancelled);
            }
        }
    }

    pub(super) fn index_blocks(&mut self, slot: u32) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        let size = self.pool.block_size();
        while (sequence.hashes.len() + 1) * size <= sequence.num_computed {
            let at = sequence.hashes.len();
            let parent = sequence.hashes.last().copied();
            let tokens = &sequence.tokens[at * size..(at + 1) * size];
            let hash = self.pool.hash(parent, sequence.salt, tokens);
            self.pool.insert(sequence.blocks[at], hash, parent, (sequence.salt, tokens));
            sequence.hashes.push(hash);
        }
    }

    /// Tells how much of a prompt is computed, if that was asked.
    fn report_progress(&mut self, slot: u32) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        let is_prefill = sequence.num_generated() == 0 && sequence.state == State::Running;
        if sequence.report_progress && is_prefill {
            let (num_cached, begun) = first(sequence);
            let num_computed = Some(sequence.num_computed as u32);
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

    pub(super) fn append(&mut self, slot: u32, sampled: Sampled) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        if sequence.state == State::Cancelled {
            return;
        }
        let token = sampled.token;
        match sampled.end {
            Some(ConstraintEnd::Exhausted) => {
                return self.finish(slot, None, Finish::GrammarLimit);
            }
            Some(ConstraintEnd::BadWord) => return self.finish(slot, None, Finish::BadWord),
            Some(ConstraintEnd::Complete) | None => {}
        }
        sequence.tokens.push(token);
        self.stats.num_generated_tokens += 1;
        let sampling = &sequence.sampling;
        let stops = (!sampling.ignore_eos && self.config.eos_token_ids.contains(&token))
            || sampling.stop_token_ids.contains(&token);
        let full = sequence.tokens.len() >= sequence.max_len;
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

    /// Ends a sequence: its blocks and its slot are free at once.
    pub(super) fn finish(&mut self, slot: u32, last: Option<Sampled>, finish: Finish) {
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
        for index in 1..=sequence.num_forks {
            self.outputs.push(ended(&sequence, index, finish));
        }
        let (token, logprobs) = last.map_or((None, None), |s| (Some(s.token), s.logprobs));
        let (num_cached, begun) = first(&mut sequence);
        self.outputs.push(Output {
            token,
            logprobs,
            num_cached,
            begun,
            ..ended(&sequence, sequence.index, finish)
        });
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
