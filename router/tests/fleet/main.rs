//! The router as a launcher's: tables of versions, names, waits, reports.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod balance;
mod ending;
mod handover;
mod holding;
#[path = "../support/tokenizers.rs"]
mod json;
mod launcher;
mod manage;
mod names;
mod reports;
mod resend;
mod service;
mod shadow;
mod tables;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../support/worker.rs"]
mod worker;
