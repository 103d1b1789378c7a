//! Log-probabilities of prompts: which of their tokens a step scores, and what becomes of that.
//!
//! What the prefix cache has of a prompt has no logits any more, so such prompts take only what was
//! scored before: a preempted one goes on where it was.

use super::*;

impl Scheduler {
    /// Reports what the earliest step in flight has scored. To be called before [`Self::commit`].
    pub fn score(&mut self, plan: &StepPlan, scored: Vec<Scored>) {
        debug_assert_eq!(plan.scores.len(), scored.len());
        let mut scored = scored.into_iter();
        for scores in plan.scores.chunk_by(|a, b| a.sequence == b.sequence) {
            let scored: Vec<_> = scored.by_ref().take(scores.len()).collect();
            let Some(score) = scores.first() else { continue };
            let Some(sequence) = &mut self.slots[score.sequence.0 as usize] else { continue };
            if sequence.has_ended() {
                continue;
            }
            self.outputs.push(Output {
                request: sequence.request,
                index: sequence.index,
                token: None,
                finish: None,
                logprobs: None,
                num_cached: None,
                begun: None,
                num_computed: None,
                scored,
            });
        }
    }

    /// The most tokens that a row of the sequence may have in this step.
    pub(super) fn most_scored(&self, slot: u32, plan: &StepPlan) -> usize {
        let Some(sequence) = &self.slots[slot as usize] else { return 0 };
        let to_score = sequence.to_score();
        let left = MAX_SCORES - plan.scores.len();
        if to_score.len() <= left {
            return usize::MAX;
        }
        (to_score.start + left).saturating_sub(sequence.num_computed)
    }

    /// Adds those of a row's tokens that are scored.
    pub(super) fn push_scores(sequence: &mut Sequence, row: &Row, plan: &mut StepPlan) {
        let to_score = sequence.to_score();
        let Some(num_logprobs) = sequence.sampling.num_prompt_logprobs else { return };
        for (token_index, position) in row.tokens.clone().zip(row.num_computed as usize..) {
            if to_score.contains(&position) {
                let token = sequence.prompt[position + 1];
                let id = row.sequence;
                plan.scores.push(Score { sequence: id, token_index, token, num_logprobs });
                sequence.num_scored += 1;
            }
        }
    }
}
