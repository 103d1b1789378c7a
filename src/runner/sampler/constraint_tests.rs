//! Sampling under a grammar, and of allowed tokens.

use std::num::NonZeroUsize;
use std::sync::Arc;

use sconce_kernels::cpu::{Cpu, Isa};

use super::*;
use crate::grammar::tests::tokenizers_json;
use crate::grammar::{Compiler, Source};

const VOCAB: usize = 300;

fn cpu() -> Cpu {
    Cpu::new(NonZeroUsize::MIN, Isa::Portable).unwrap()
}

fn id_of(token: &str) -> TokenId {
    let json = tokenizers_json::byte_level().to_string();
    tokenizers::Tokenizer::from_bytes(json).unwrap().token_to_id(token).unwrap()
}

fn under(source: &Source) -> SamplingParams {
    let json = tokenizers_json::byte_level().to_string();
    let compiler = Compiler::new(json.as_bytes().into(), vec![id_of("<|im_end|>")], VOCAB as u32);
    SamplingParams {
        grammar: Some(compiler.compile(source).unwrap()),
        max_tokens: 100,
        ..SamplingParams::default()
    }
}

/// One step's sample of a sequence that is admitted with it.
fn run(
    sampling: SamplingParams,
    values: &[f32],
    (drafts, steps): (&[TokenId], usize),
) -> Vec<Sampled> {
    let (cpu, mut sampler) = (cpu(), Sampler::new(vec![id_of("<|im_end|>")], 1));
    let admission = Admission {
        sequence: SequenceId(0),
        index: 0,
        sampling: Arc::new(sampling),
        prompt: [0].into(),
    };
    let plan = StepPlan { admitted: vec![admission], ..StepPlan::default() };
    sampler.update(&plan).unwrap();
    let mut sampled = Vec::new();
    for step in 0..steps {
        let sample = Sample {
            sequence: SequenceId(0),
            token_index: 0,
            position: 1 + step as u32,
            num_generated: step as u32,
            num_drafts: drafts.len() as u32,
        };
        let token_ids = [&[0], drafts].concat();
        let plan = StepPlan { samples: vec![sample], token_ids, ..StepPlan::default() };
        let logits = Logits { values, vocab_size: VOCAB, rows: &[0], argmax: &[] };
        sampler.sample(&cpu, &plan, logits, &mut sampled).unwrap();
    }
    sampled
}

fn rows(likeliest: &[TokenId]) -> Vec<f32> {
    let mut rows = vec![0.0; VOCAB * likeliest.len()];
    for (row, token) in rows.chunks_mut(VOCAB).zip(likeliest) {
        row[*token as usize] = 9.0;
    }
    rows
}

#[test]
fn the_likeliest_allowed_token_is_taken_until_the_text_is_complete() {
    let sampled = run(under(&Source::Regex("ab".into())), &rows(&[id_of("z")]), (&[], 2));
    let tokens: Vec<_> = sampled.iter().map(|one| (one.token, one.end)).collect();
    assert_eq!(tokens, [(id_of("a"), None), (id_of("b"), Some(ConstraintEnd::Complete))]);
}

#[test]
fn drafts_follow_the_grammar_and_end_with_it() {
    let (a, b) = (id_of("a"), id_of("b"));
    let grammar = || under(&Source::Regex("ab".into()));
    // What is drafted after the end is sampled without a grammar, and is nobody's.
    let sampled = run(grammar(), &rows(&[a, b, b]), (&[a, b], 1));
    let ends: Vec<_> = sampled.iter().map(|one| (one.token, one.end)).collect();
    let complete = Some(ConstraintEnd::Complete);
    assert_eq!(ends, [(a, None), (b, complete), (b, complete)]);

    let sampled = run(grammar(), &rows(&[a, a, a]), (&[b, b], 1));
    assert_eq!(sampled.iter().map(|one| one.token).collect::<Vec<_>>(), [a]);
}

#[test]
fn an_end_token_that_may_come_is_one_of_the_candidates() {
    let end = id_of("<|im_end|>");
    let sampled = run(under(&Source::Regex("a+".into())), &rows(&[end]), (&[], 2));
    assert_eq!(sampled[0].token, id_of("a"));
    assert_eq!(sampled[1].token, end);
}

#[test]
fn nothing_is_sampled_that_is_not_allowed_whatever_the_logits_are() {
    for logit in [f32::NAN, f32::NEG_INFINITY, 0.0, f32::INFINITY] {
        for temperature in [0.0, 1.0] {
            let allowed = vec![70, 7, 250];
            let sampling = SamplingParams {
                temperature,
                allowed_token_ids: allowed.clone(),
                ..SamplingParams::default()
            };
            let sampled = run(sampling, &vec![logit; VOCAB], (&[], 4));
            assert!(sampled.iter().all(|one| allowed.contains(&one.token)), "{logit}");

            let sampling =
                SamplingParams { temperature, ..under(&Source::Regex("[b-d]{9}".into())) };
            let sampled = run(sampling, &vec![logit; VOCAB], (&[], 4));
            let (first, last) = (id_of("b"), id_of("d"));
            assert!(sampled.iter().all(|one| (first..=last).contains(&one.token)), "{logit}");
        }
    }
}

#[test]
fn a_bias_chooses_among_what_is_allowed() {
    let (b, c) = (id_of("b"), id_of("c"));
    let grammar = under(&Source::Regex("a|b|c".into()));
    let sampling = SamplingParams { logit_bias: vec![(c, 5.0), (90, 100.0)], ..grammar };
    assert_eq!(run(sampling, &rows(&[id_of("z")]), (&[], 1))[0].token, c);
    assert_ne!(b, c);
}

#[test]
fn a_bad_word_is_not_completed() {
    let [a, b, c] = ["a", "b", "c"].map(id_of);
    let bad = |words: &[&[TokenId]], sampling: SamplingParams| SamplingParams {
        bad_words: words.iter().map(|word| word.to_vec()).collect(),
        ..sampling
    };
    // The likeliest token is `a`, then `b`.
    let mut values = rows(&[a]);
    values[b as usize] = 5.0;
    values[c as usize] = 4.0;
    let tokens = |sampling, steps| {
        let sampled = run(sampling, &values, (&[], steps));
        assert!(sampled.iter().all(|one| one.end.is_none_or(|e| e == ConstraintEnd::Complete)));
        sampled.iter().map(|one| one.token).collect::<Vec<_>>()
    };
    let any = SamplingParams::default;

    assert_eq!(tokens(bad(&[&[a]], any()), 2), [b, b]);
    assert_eq!(tokens(bad(&[&[a, a]], any()), 4), [a, b, a, b]);
    assert_eq!(tokens(bad(&[&[a, a, a], &[b, a]], any()), 5), [a, a, b, b, b]);
    assert_eq!(tokens(bad(&[&[a, a], &[a, b]], any()), 2), [a, c]);
    let grammar = under(&Source::Regex("[ab]{2}|c{3}".into()));
    assert_eq!(tokens(bad(&[&[a, a]], grammar.clone()), 2), [a, b]);
    assert_eq!(tokens(bad(&[&[a], &[b]], grammar), 3), [c, c, c]);
    let warm = SamplingParams { temperature: 1.0, seed: 3, ..any() };
    assert!(!tokens(bad(&[&[a], &[b], &[c]], warm), 50).iter().any(|it| [a, b, c].contains(it)));
}

#[test]
fn drafts_are_part_of_a_bad_word() {
    let [a, b] = ["a", "b"].map(id_of);
    let mut values = rows(&[a, a, a]);
    values.chunks_mut(VOCAB).for_each(|row| row[b as usize] = 5.0);
    let sampling = SamplingParams { bad_words: vec![vec![a, a, a]], ..Default::default() };

    let sampled = run(sampling, &values, (&[a, a], 1));

    assert_eq!(sampled.iter().map(|one| one.token).collect::<Vec<_>>(), [a, a, b]);
}

#[test]
fn a_completion_ends_where_only_bad_words_could_follow() {
    let [a, b] = ["a", "b"].map(id_of);
    let ends = |sampling, values: &[f32]| {
        let sampled = run(sampling, values, (&[], 2));
        sampled.iter().map(|one| one.end).collect::<Vec<_>>()
    };
    let bad_words = vec![vec![a, b]];
    for logit in [0.0, f32::NAN, f32::NEG_INFINITY] {
        let grammar = under(&Source::Regex("abc".into()));
        let sampling = SamplingParams { bad_words: bad_words.clone(), ..grammar };
        let values = vec![logit; VOCAB];
        assert_eq!(ends(sampling, &values), [None, Some(ConstraintEnd::BadWord)]);
        let sampling = SamplingParams {
            bad_words: vec![vec![a]],
            allowed_token_ids: vec![a],
            ..SamplingParams::default()
        };
        assert_eq!(ends(sampling, &values), [Some(ConstraintEnd::BadWord); 2]);
    }
}
