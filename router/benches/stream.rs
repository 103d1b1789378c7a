//! What a streamed token costs the router: its text, its event. The unit is one token.

#![expect(clippy::unwrap_used, reason = "a bench that can't be set up should stop")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sconce_router::detokenizer::{Detokenizer, TokenTable};
use sconce_router::generation::{Delta, TokenUsage};
use sconce_router::stop::scan;
use sconce_router::stream::{Dialect, Events, Frames, Head, Merge, ReportUsage};
use tokenizers::Tokenizer;

#[path = "../tests/support/tokenizers.rs"]
mod json;

const NUM_TOKENS: u64 = 1024;

fn tokens() -> (TokenTable, Vec<u32>) {
    let tokenizer = Tokenizer::from_bytes(json::byte_level().to_string()).unwrap();
    let table = TokenTable::new(&tokenizer, 280).unwrap();
    let text = "hello world, \"é\" 漢字\n".repeat(100);
    let ids = tokenizer.encode_fast(&*text, false).unwrap().get_ids().to_vec();
    (table, ids.into_iter().cycle().take(NUM_TOKENS as usize).collect())
}

fn detokenize(c: &mut Criterion) {
    let (table, ids) = tokens();
    let mut group = c.benchmark_group("detokenize");
    group.throughput(Throughput::Elements(NUM_TOKENS));
    group.bench_function("1024_tokens", |b| {
        let mut text = String::new();
        b.iter(|| {
            let mut detokenizer = Detokenizer::default();
            for id in &ids {
                text.clear();
                detokenizer.push(table.text(*id), &mut text);
                black_box(&text);
            }
        });
    });
    let stops = ["</answer>", "\n\nUser:", "STOP", "###"].map(String::from);
    group.bench_function("1024_tokens_4_stops", |b| {
        let mut sent = String::new();
        b.iter(|| {
            let (mut detokenizer, mut held) = (Detokenizer::default(), String::new());
            for id in &ids {
                sent.clear();
                detokenizer.push(table.text(*id), &mut held);
                black_box(scan(&stops, &mut held, &mut sent));
            }
        });
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    let usage = TokenUsage::default();
    let delta = Delta { text: " hello\n".into(), ..Delta::default() };
    let mut group = c.benchmark_group("frames");
    group.throughput(Throughput::Elements(NUM_TOKENS));
    for (name, merge) in [("1024_events", Merge::Never), ("1024_merged", Merge::IfOpen)] {
        group.bench_function(name, |b| {
            let head = Head {
                id: "chatcmpl-0190aabbccddeeff0011223344556677",
                object: "chat.completion.chunk",
                created: 1_790_000_000,
                model: "smollm2:135m",
                system_fingerprint: None,
            };
            let frames = || Frames::new(Dialect::Chat, &head, (ReportUsage::Never, None));
            b.iter_batched_ref(
                || (frames(), Vec::with_capacity(512 << 10)),
                |(frames, out)| {
                    for _ in 0..NUM_TOKENS {
                        frames.delta(out, black_box(&delta), (usage, merge));
                    }
                    frames.close(out, usage);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, detokenize, frames);
criterion_main!(benches);
