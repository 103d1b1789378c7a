//! The steps that are begun and not finished, and what must not happen meanwhile.

use std::collections::HashSet;

use crate::engine::plan::{SequenceId, StepPlan};

/// The steps, earliest first.
#[derive(Debug, Default)]
pub(super) struct InFlight(Vec<Begun>);

/// What a step will do.
#[derive(Debug)]
struct Begun {
    /// Where it writes.
    slots: Vec<u32>,
    /// Whom it samples for.
    samples: Vec<SequenceId>,
    /// Whose rows it has.
    rows: Vec<SequenceId>,
    has_drafts: bool,
}

impl InFlight {
    /// Takes a step in, or says what forbids it: a token that isn't its sequence's last one, a
    /// place that a step in flight writes, a sequence that ends or begins while it has one, drafts
    /// in either.
    pub(super) fn begin(&mut self, plan: &StepPlan, depth: usize) -> Result<(), String> {
        if self.0.len() >= depth {
            return Err(format!("{} steps are in flight", self.0.len()));
        }
        for carry in &plan.carried {
            let from = self.0.last().and_then(|before| before.samples.get(carry.sample as usize));
            let row = plan.rows.iter().find(|row| row.tokens.contains(&carry.token_index));
            if from.is_none() || from.copied() != row.map(|row| row.sequence) {
                return Err(format!("{carry:?} is of {from:?} for {row:?}"));
            }
        }
        if let Some(before) = self.0.last() {
            let slots: HashSet<_> = before.slots.iter().collect();
            if let Some(slot) = plan.slot_mapping.iter().find(|slot| slots.contains(slot)) {
                return Err(format!("slot {slot} is written by two steps at once"));
            }
            let admitted = plan.admitted.iter().map(|admission| admission.sequence);
            let mut changed = plan.released.iter().copied().chain(admitted);
            if let Some(id) = changed.find(|id| before.has(*id)) {
                return Err(format!("{id:?} is part of a step in flight"));
            }
            if before.has_drafts || has_drafts(plan) {
                return Err("a step with drafts is not alone in flight".to_owned());
            }
        }
        self.0.push(Begun::new(plan));
        Ok(())
    }

    /// Ends the earliest step.
    pub(super) fn finish(&mut self, plan: &StepPlan) -> Result<(), String> {
        if self.0.is_empty() || self.0.remove(0).slots != plan.slot_mapping {
            return Err("that step is not the earliest in flight".to_owned());
        }
        Ok(())
    }
}

impl Begun {
    fn new(plan: &StepPlan) -> Self {
        Self {
            slots: plan.slot_mapping.clone(),
            samples: plan.samples.iter().map(|sample| sample.sequence).collect(),
            rows: plan.rows.iter().map(|row| row.sequence).collect(),
            has_drafts: has_drafts(plan),
        }
    }

    fn has(&self, id: SequenceId) -> bool {
        self.samples.contains(&id) || self.rows.contains(&id)
    }
}

fn has_drafts(plan: &StepPlan) -> bool {
    plan.samples.iter().any(|sample| sample.num_drafts > 0)
}
