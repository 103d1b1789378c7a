//! The engine's outputs as the protocol's.

use std::time::Duration;

use sconce_proto::worker::{self as wire, PromptLogprob, TokenOutput, TopLogprob};

use crate::engine::output::{Finish, Output};
use crate::engine::plan::{Scored, TokenLogprobs};
use crate::engine::request::TokenId;

/// `output` for the router that calls its request `id`, which came at this time.
pub(super) fn output(output: &Output, (id, arrived): (u64, Duration)) -> TokenOutput {
    let queue_us = |begun: Duration| {
        u32::try_from(begun.saturating_sub(arrived).as_micros()).unwrap_or(u32::MAX)
    };
    TokenOutput {
        request_id: id,
        index: output.index,
        token: output.token,
        finish: output.finish.map_or(wire::Finish::NotFinished, finish).into(),
        logprobs: output.logprobs.as_deref().map(logprobs),
        num_cached: output.num_cached,
        queue_us: output.begun.map(queue_us),
        num_computed: output.num_computed,
        prompt_logprobs: output.scored.iter().map(scored).collect(),
    }
}

fn finish(finish: Finish) -> wire::Finish {
    match finish {
        Finish::StopToken => wire::Finish::StopToken,
        Finish::Length => wire::Finish::Length,
        Finish::Cancelled => wire::Finish::Cancelled,
        Finish::Deadline => wire::Finish::Deadline,
        Finish::GrammarEnd => wire::Finish::GrammarEnd,
        Finish::GrammarLimit => wire::Finish::GrammarLimit,
        Finish::BadWord => wire::Finish::BadWord,
    }
}

fn logprobs(logprobs: &TokenLogprobs) -> wire::TokenLogprobs {
    wire::TokenLogprobs { logprob: logprobs.logprob, top: top(&logprobs.top) }
}

fn scored(scored: &Scored) -> PromptLogprob {
    PromptLogprob {
        token: scored.token,
        logprob: scored.logprobs.logprob,
        rank: scored.rank,
        top: top(&scored.logprobs.top),
    }
}

fn top(top: &[(TokenId, f32)]) -> Vec<TopLogprob> {
    top.iter().map(|(token, logprob)| TopLogprob { token: *token, logprob: *logprob }).collect()
}
