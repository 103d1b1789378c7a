use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::engine::plan::{Sampled, Scored};
use crate::engine::request::{Request, SamplingParams};
use crate::engine::scheduler::{Scheduler, SchedulerConfig, Speculation};
use crate::engine::sequence::RequestId;
use crate::runner::hash::HashModel;
use crate::runner::{Executor, ExecutorLimits};

/// The hash model, and what was asked of it: `b` for the beginning of a step, `f` for its end.
struct Recorder {
    model: HashModel,
    calls: Arc<Mutex<String>>,
}

impl Executor for Recorder {
    fn limits(&self) -> ExecutorLimits {
        self.model.limits()
    }

    fn depth(&self) -> usize {
        self.model.depth()
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<(), crate::runner::Error> {
        self.calls.lock().unwrap().push('b');
        self.model.begin(plan)
    }

    fn finish(
        &mut self,
        plan: &StepPlan,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), crate::runner::Error> {
        self.calls.lock().unwrap().push('f');
        self.model.finish(plan, sampled)
    }

    fn take_scored(&mut self) -> Vec<Scored> {
        self.model.take_scored()
    }
}

/// What a completion of five tokens asks of an executor.
fn calls(depth: usize) -> String {
    let limits = ExecutorLimits {
        block_size: 4,
        num_blocks: 8,
        max_num_batched_tokens: 32,
        max_num_seqs: 2,
        max_model_len: 32,
        vocab_size: 1000,
    };
    let mut scheduler = Scheduler::new(SchedulerConfig {
        block_size: limits.block_size,
        num_blocks: limits.num_blocks,
        max_num_batched_tokens: limits.max_num_batched_tokens,
        max_num_seqs: limits.max_num_seqs,
        max_model_len: limits.max_model_len,
        max_queue: 1,
        max_itl: Duration::from_secs(1),
        depth,
        eos_token_ids: Vec::new(),
        speculation: Speculation::Off,
        hash_key: (1, 2),
    });
    let sampling = SamplingParams { max_tokens: 5, ignore_eos: true, ..Default::default() };
    let (n, cache_salt, priority, report_progress) = (1, 0, 0, false);
    let request = Request { prompt: vec![1], n, sampling, cache_salt, priority, report_progress };
    scheduler.submit(RequestId(7), request, None).unwrap();
    let calls = Arc::new(Mutex::new(String::new()));
    let model = HashModel::new(limits, 0).with_depth(depth);
    let executor = Box::new(Recorder { model, calls: Arc::clone(&calls) });
    let (_commands, inbox) = mpsc::channel(1);
    let mut engine = Engine::new(scheduler, executor, inbox, Arc::new(AtomicU32::new(0)));
    while !engine.scheduler.is_idle() {
        assert!(engine.step().unwrap());
        engine.report();
    }
    calls.lock().unwrap().clone()
}

#[test]
fn the_next_step_is_begun_before_this_one_is_waited_for() {
    assert_eq!(calls(1), "bfbfbfbfbf");
    assert_eq!(calls(2), "bbfbfbfbff");
}
