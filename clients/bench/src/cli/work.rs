//! What is asked.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::length::Length;
use crate::request::{Endpoint, Shape};
use crate::units::{seconds, share};
use crate::workload::{Format, Synthetic, Trace, Workload};

/// Most conversations that a trace is read for.
const MAX_RECORDS: usize = 10_000_000;

/// What is asked.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Requests")]
pub(super) struct WorkArgs {
    /// What is called
    #[arg(long, value_enum, default_value_t = Endpoint::Chat)]
    endpoint: Endpoint,

    /// Words of a prompt, each about one token: 128, uniform:LOW:HIGH, normal:MEAN:STD,
    /// lognormal:MEAN:STD or exponential:MEAN
    #[arg(long, value_name = "LENGTH", default_value = "128")]
    input_tokens: Length,

    /// Most tokens of an answer, in the same words
    #[arg(long, value_name = "LENGTH", default_value = "64")]
    output_tokens: Length,

    /// Have answers be as long as they may. An extension that Sconce, vLLM, SGLang and others know
    #[arg(long)]
    ignore_eos: bool,

    /// Requests of a conversation, each with the answers before it
    #[arg(long, value_name = "LENGTH", default_value = "1")]
    turns: Length,

    /// Between an answer and the next request of its conversation
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds)]
    pub(super) think_time: Duration,

    /// How many prefixes there are, of which each conversation begins with one
    #[arg(long, value_name = "COUNT")]
    shared_prefixes: Option<NonZeroUsize>,

    /// Words of such a prefix
    #[arg(long, value_name = "LENGTH", default_value = "512", requires = "shared_prefixes")]
    prefix_tokens: Length,

    /// Share of the requests that offer tools
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    tools_share: f64,

    /// Share of the requests that ask for JSON of a schema
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    schema_share: f64,

    /// Texts of a request for embeddings
    #[arg(long, value_name = "COUNT", default_value = "1")]
    texts: NonZeroUsize,

    /// Conversations of a file: ShareGPT, Mooncake, BurstGPT (JSON lines, an array, or CSV), or lines
    /// of {"prompt": …} or {"messages": …}. Replayed at its times if it has them and no load is given
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// The file's format; told by its first record otherwise
    #[arg(long, value_enum, value_name = "FORMAT", requires = "trace")]
    trace_format: Option<Format>,

    /// Requests that are taken of a conversation of a trace
    #[arg(long, value_name = "COUNT", default_value = "1", requires = "trace")]
    max_turns: NonZeroUsize,

    /// Ask for whole answers: there is no first token then
    #[arg(long)]
    no_stream: bool,

    /// Ask for the usage so far in each chunk, to know how many tokens it carries. An extension that
    /// Sconce and vLLM know
    #[arg(long, conflicts_with = "no_stream")]
    continuous_usage: bool,

    /// Further fields of every body: '{"temperature": 0}'
    #[arg(long, value_name = "JSON")]
    extra_body: Option<String>,
}

impl WorkArgs {
    /// The workload. A trace is read for `most` conversations.
    pub(super) fn workload(&self, seed: u64, most: Option<usize>) -> anyhow::Result<Workload> {
        if let Some(path) = &self.trace {
            let most = most.unwrap_or(MAX_RECORDS).min(MAX_RECORDS);
            let trace = Trace::read(path, self.trace_format, most, self.max_turns.get())?;
            return Ok(Workload::Trace(trace));
        }
        if self.tools_share + self.schema_share > 1.0 {
            bail!("--tools-share and --schema-share are more than 1 together");
        }
        let is_chat = self.endpoint == Endpoint::Chat;
        if self.tools_share + self.schema_share > 0.0 && !is_chat {
            bail!("--tools-share and --schema-share are for --endpoint chat");
        }
        let is_embeddings = self.endpoint == Endpoint::Embeddings;
        if self.texts.get() > 1 && !is_embeddings {
            bail!("--texts is for --endpoint embeddings");
        }
        if is_embeddings && (self.turns != Length::Fixed(1) || self.shared_prefixes.is_some()) {
            bail!("--turns and --shared-prefixes are not for --endpoint embeddings");
        }
        let prefixes = self.shared_prefixes.map(|count| (count.get(), self.prefix_tokens));
        Ok(Workload::Synthetic(Synthetic {
            seed,
            input: self.input_tokens,
            output: self.output_tokens,
            turns: self.turns,
            texts: self.texts.get(),
            prefixes,
            tools: self.tools_share,
            schema: self.schema_share,
        }))
    }

    /// What all requests have in common.
    pub(super) fn shape(&self, model: String) -> anyhow::Result<Shape> {
        let extra: Map<String, Value> = match &self.extra_body {
            Some(json) => serde_json::from_str(json).context("--extra-body is no JSON object")?,
            None => Map::new(),
        };
        Ok(Shape {
            endpoint: self.endpoint,
            model,
            is_streamed: !self.no_stream && self.endpoint != Endpoint::Embeddings,
            ignore_eos: self.ignore_eos,
            continuous_usage: self.continuous_usage,
            extra,
        })
    }
}
