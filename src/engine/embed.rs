//! Which inputs of embedding requests are computed together.
//!
//! Requests take turns, an input each, until a batch has as many tokens as one step may have: a
//! request of one input waits for one step at most beside a request of thousands, and many small
//! requests share a step. Nothing is padded, so lengths need not match.
//!
//! Requests that nobody waits for have the steps that all others leave, and those are short: someone
//! who comes meanwhile waits for no more.

use std::collections::VecDeque;
use std::time::Duration;

use super::request::{BACKGROUND_PRIORITY, TokenId};
use super::sequence::RequestId;

/// Inputs of one step at most: what a router is sent of a step stays far below the message limit.
pub const MAX_BATCH_INPUTS: usize = 256;

/// Of a step's tokens, those that it has at most where nobody waits for it.
const BACKGROUND_SHARE: usize = 4;

/// One text, or two that belong together, as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbedInput {
    /// The tokens, special ones included; at least one.
    pub token_ids: Vec<TokenId>,
    /// Where the second text begins.
    pub second_start: Option<usize>,
}

/// What one step computes.
#[derive(Debug, Default)]
pub struct EmbedBatch {
    /// The tokens of all inputs, one after the other.
    pub token_ids: Vec<TokenId>,
    /// How many tokens each input has.
    pub lens: Vec<usize>,
    /// Whose the inputs are. Those of one request are in order, among those of others.
    pub inputs: Vec<BatchInput>,
}

/// An input of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInput {
    /// Whose it is.
    pub request: RequestId,
    /// Which of the request's.
    pub index: usize,
    /// How many tokens it has.
    pub num_tokens: usize,
    /// Where the second text begins.
    pub second_start: Option<usize>,
}

impl EmbedBatch {
    /// Adds an input.
    pub fn push(&mut self, request: RequestId, index: usize, input: &EmbedInput) {
        let num_tokens = input.token_ids.len();
        self.token_ids.extend_from_slice(&input.token_ids);
        self.lens.push(num_tokens);
        let second_start = input.second_start;
        self.inputs.push(BatchInput { request, index, num_tokens, second_start });
    }

    /// Leaves nothing in it.
    pub fn clear(&mut self) {
        self.token_ids.clear();
        self.lens.clear();
        self.inputs.clear();
    }
}

/// Whether anyone waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Someone does.
    Interactive,
    /// It has what the others leave.
    Background,
}

impl Urgency {
    /// That of a request with this priority number.
    pub fn of(priority: i32) -> Self {
        if priority >= BACKGROUND_PRIORITY { Self::Background } else { Self::Interactive }
    }
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many wait.
    #[error("{max_queue} requests are waiting, as many as may")]
    QueueFull {
        /// As many as may.
        max_queue: u32,
    },
    /// No more requests are taken.
    #[error("the worker takes no more requests")]
    Draining,
}

/// The requests that have inputs to be computed.
#[derive(Debug)]
pub struct EmbedQueue {
    turns: VecDeque<Request>,
    /// Those that nobody waits for.
    background: VecDeque<Request>,
    max_queue: u32,
    max_num_batched_tokens: usize,
    is_draining: bool,
}

#[derive(Debug)]
struct Request {
    id: RequestId,
    inputs: Vec<EmbedInput>,
    num_planned: usize,
    /// When it is given up if none of it was planned.
    deadline: Option<Duration>,
}

impl EmbedQueue {
    /// A queue for steps of so many tokens, but for an input that has more alone.
    pub fn new(max_queue: u32, max_num_batched_tokens: u32) -> Self {
        Self {
            turns: VecDeque::new(),
            background: VecDeque::new(),
            max_queue,
            max_num_batched_tokens: max_num_batched_tokens as usize,
            is_draining: false,
        }
    }

    /// Lowers the limit of a step's tokens.
    pub fn limit_tokens(&mut self, max: usize) {
        self.max_num_batched_tokens = self.max_num_batched_tokens.min(max);
    }

    /// Takes a request of at least one input. Those that nobody waits for take nobody else's place in
    /// the queue.
    pub fn submit(
        &mut self,
        id: RequestId,
        (inputs, urgency): (Vec<EmbedInput>, Urgency),
        deadline: Option<Duration>,
    ) -> Result<(), Refusal> {
        if self.is_draining {
            return Err(Refusal::Draining);
        }
        let (turns, num_before) = match urgency {
            Urgency::Interactive => (&mut self.turns, 0),
            Urgency::Background => (&mut self.background, self.turns.len()),
        };
        if num_before + turns.len() >= self.max_queue as usize {
            return Err(Refusal::QueueFull { max_queue: self.max_queue });
        }
        turns.push_back(Request { id, inputs, num_planned: 0, deadline });
        Ok(())
    }

    /// Takes no more requests.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Forgets a request.
    pub fn cancel(&mut self, id: RequestId) {
        for turns in [&mut self.turns, &mut self.background] {
            turns.retain(|request| request.id != id);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.background.is_empty()
    }

    /// Requests of which nothing was computed.
    pub fn num_waiting(&self) -> usize {
        let all = self.turns.iter().chain(&self.background);
        all.filter(|request| request.num_planned == 0).count()
    }

    /// Gives up the requests that have waited too long, and returns them.
    pub fn expire(&mut self, now: Duration) -> Vec<RequestId> {
        let mut expired = Vec::new();
        for turns in [&mut self.turns, &mut self.background] {
            turns.retain(|request| {
                let is_late =
                    request.num_planned == 0 && request.deadline.is_some_and(|at| at <= now);
                if is_late {
                    expired.push(request.id);
                }
                !is_late
            });
        }
        expired
    }

    /// Puts the next step's inputs into `batch`. Returns whether there are any.
    pub fn plan(&mut self, batch: &mut EmbedBatch) -> bool {
        batch.clear();
        let max = self.max_num_batched_tokens;
        let (turns, max_tokens) = match self.turns.is_empty() {
            false => (&mut self.turns, max),
            true => (&mut self.background, max / BACKGROUND_SHARE),
        };
        while let Some(mut request) = turns.pop_front() {
            let Some(input) = request.inputs.get(request.num_planned) else { continue };
            let num_tokens = batch.token_ids.len() + input.token_ids.len();
            let is_full = num_tokens > max_tokens || batch.lens.len() == MAX_BATCH_INPUTS;
            if is_full && !batch.lens.is_empty() {
                turns.push_front(request);
                break;
            }
            batch.push(request.id, request.num_planned, input);
            request.num_planned += 1;
            if request.num_planned < request.inputs.len() {
                turns.push_back(request);
            }
        }
        !batch.lens.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inputs(lens: &[usize]) -> (Vec<EmbedInput>, Urgency) {
        let input = |len: &usize| EmbedInput { token_ids: vec![1; *len], second_start: None };
        (lens.iter().map(input).collect(), Urgency::Interactive)
    }

    fn background(lens: &[usize]) -> (Vec<EmbedInput>, Urgency) {
        (inputs(lens).0, Urgency::Background)
    }

    fn planned(queue: &mut EmbedQueue) -> Vec<u64> {
        let mut batch = EmbedBatch::default();
        queue.plan(&mut batch);
        batch.inputs.iter().map(|input| input.request.0).collect()
    }

    #[test]
    fn a_small_request_does_not_wait_for_a_large_one() {
        let mut queue = EmbedQueue::new(8, 40);
        let mut batch = EmbedBatch::default();
        queue.submit(RequestId(1), inputs(&[10; 100]), None).unwrap();
        assert!(queue.plan(&mut batch));

        queue.submit(RequestId(2), inputs(&[10]), None).unwrap();
        assert!(queue.plan(&mut batch));

        let whose: Vec<_> = batch.inputs.iter().map(|input| input.request.0).collect();
        assert_eq!(whose, [1, 2, 1, 1]);
    }

    #[test]
    fn who_waits_too_long_is_given_up_and_who_has_begun_is_not() {
        let mut queue = EmbedQueue::new(2, 10);
        let mut batch = EmbedBatch::default();
        let deadline = Some(Duration::from_millis(5));
        queue.submit(RequestId(1), inputs(&[10, 10]), deadline).unwrap();
        assert!(queue.plan(&mut batch));
        queue.submit(RequestId(2), inputs(&[10]), deadline).unwrap();
        let refusal = queue.submit(RequestId(3), inputs(&[1]), None);

        assert_eq!(refusal, Err(Refusal::QueueFull { max_queue: 2 }));
        assert_eq!(queue.expire(Duration::from_millis(4)), []);
        assert_eq!(queue.expire(Duration::from_millis(5)), [RequestId(2)]);
        assert!(queue.plan(&mut batch));
        assert!(queue.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_has_the_steps_that_others_leave_and_they_are_short() {
        let mut queue = EmbedQueue::new(3, 40);
        queue.submit(RequestId(1), background(&[5; 4]), None).unwrap();
        queue.submit(RequestId(2), background(&[5]), Some(Duration::ZERO)).unwrap();
        assert_eq!(planned(&mut queue), [1, 2]);

        for id in 3..6 {
            queue.submit(RequestId(id), inputs(&[20]), None).unwrap();
        }

        assert!(queue.submit(RequestId(6), background(&[1]), None).is_err());
        assert!(queue.submit(RequestId(6), inputs(&[1]), None).is_err());
        assert_eq!(planned(&mut queue), [3, 4]);
        assert_eq!(planned(&mut queue), [5]);
        assert_eq!(planned(&mut queue), [1, 1]);
        assert_eq!(planned(&mut queue), [1]);
        assert!(queue.is_empty());
        assert_eq!(Urgency::of(BACKGROUND_PRIORITY - 1), Urgency::Interactive);
        assert_eq!(Urgency::of(BACKGROUND_PRIORITY), Urgency::Background);
    }

    #[test]
    fn what_nobody_waits_for_is_cancelled_and_expires_as_well() {
        let mut queue = EmbedQueue::new(3, 40);
        queue.submit(RequestId(1), background(&[5]), None).unwrap();
        queue.submit(RequestId(2), background(&[5]), Some(Duration::ZERO)).unwrap();
        assert_eq!(queue.num_waiting(), 2);

        queue.cancel(RequestId(1));

        assert_eq!(queue.expire(Duration::ZERO), [RequestId(2)]);
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn every_input_is_planned_once_and_no_batch_has_too_many_tokens(
            requests in proptest::collection::vec(proptest::collection::vec(1_usize..30, 1..9), 1..9),
        ) {
            let mut queue = EmbedQueue::new(100, 20);
            for (id, lens) in requests.iter().enumerate() {
                queue.submit(RequestId(id as u64), inputs(lens), None).unwrap();
            }
            let mut planned = vec![Vec::new(); requests.len()];
            let mut batch = EmbedBatch::default();

            while queue.plan(&mut batch) {
                prop_assert!(batch.token_ids.len() <= 20 || batch.lens.len() == 1);
                prop_assert_eq!(batch.lens.iter().sum::<usize>(), batch.token_ids.len());
                for input in &batch.inputs {
                    prop_assert_eq!(planned[input.request.0 as usize].len(), input.index);
                    planned[input.request.0 as usize].push(input.num_tokens);
                }
            }

            prop_assert_eq!(planned, requests);
        }
    }
}
