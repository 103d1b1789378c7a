//! `sconce bench`: load for any server that speaks OpenAI's API, and what its users would feel.
//!
//! A [`workload`] says what is asked, a [`schedule`] when, fixed before the first request is sent;
//! [`run`] sends, [`measure`] takes the times of one request, [`summary`] is what comes of them all,
//! and `report` shows it. Nothing here knows how Sconce is built, and no tokenizer is needed: the
//! server's `usage` counts the tokens, which [`tokens`] compares with a tokenizer's where one is given.

mod assertion;
mod cli;
mod compare;
mod length;
mod live;
mod machine;
mod measure;
mod report;
mod request;
mod run;
mod schedule;
mod slo;
mod stats;
mod summary;
mod sweep;
mod tokens;
mod units;
mod workload;

pub use cli::Bench;
