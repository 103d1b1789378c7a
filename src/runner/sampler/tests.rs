use std::collections::BTreeSet;

use proptest::prelude::*;
use sconce_kernels::cpu::Isa;

use super::*;

const STOP: TokenId = 2;

fn params() -> SamplingParams {
    SamplingParams { temperature: 1.0, seed: 11, ..SamplingParams::default() }
}

fn state(sampling: SamplingParams, prompt: &[TokenId]) -> SequenceState {
    SequenceState::new(&Admission {
        sequence: SequenceId(0),
        index: 0,
        sampling: Arc::new(sampling),
        prompt: prompt.into(),
    })
}

fn sample_at(state: &SequenceState, logits: &[f32], position: u32) -> Sampled {
    let sample = sample_of(0, position);
    One::new(state, &[STOP], sample).sample((logits, None), &mut Scratch::default())
}

/// Probabilities in double precision, likeliest first, of equal ones the lower ids.
fn softmax(logits: &[f32], temperature: f32) -> Vec<(u32, f64)> {
    let scaled = |logit: f32| f64::from(logit) / f64::from(temperature);
    let max = logits.iter().map(|&logit| scaled(logit)).fold(f64::MIN, f64::max);
    let mut tokens: Vec<_> =
        (0u32..).zip(logits).map(|(id, &logit)| (id, (scaled(logit) - max).exp())).collect();
    normalize(&mut tokens);
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    tokens
}

fn normalize(tokens: &mut [(u32, f64)]) {
    let total: f64 = tokens.iter().map(|token| token.1).sum();
    tokens.iter_mut().for_each(|token| token.1 /= total);
}

fn keep_mass(tokens: &mut Vec<(u32, f64)>, mass: f64) {
    let mut before = 0.0;
    let kept = tokens.iter().position(|token| {
        before += token.1;
        before >= mass
    });
    tokens.truncate(kept.map_or(tokens.len(), |last| last + 1));
    normalize(tokens);
}

/// The filters by the book: sort, cut, renormalize. `slack` widens or narrows each cut.
fn reference(logits: &[f32], params: &SamplingParams, slack: f64) -> BTreeSet<u32> {
    let mut tokens = softmax(logits, params.temperature);
    let least = f64::from(params.min_p) * tokens[0].1 * (1.0 - slack);
    tokens.retain(|token| token.1 >= least);
    if let Some(k) = params.top_k {
        tokens.truncate(k as usize);
    }
    normalize(&mut tokens);
    if params.top_p < 1.0 {
        keep_mass(&mut tokens, f64::from(params.top_p) * (1.0 + slack));
    }
    if params.typical_p < 1.0 {
        let entropy: f64 = -tokens.iter().map(|token| token.1 * token.1.ln()).sum::<f64>();
        tokens.sort_by(|a, b| {
            let distance = |p: f64| ((-p.ln() - entropy).abs()) as f32;
            distance(a.1).total_cmp(&distance(b.1)).then(a.0.cmp(&b.0))
        });
        keep_mass(&mut tokens, f64::from(params.typical_p) * (1.0 + slack));
    }
    tokens.into_iter().map(|token| token.0).collect()
}

fn filtered(logits: &[f32], params: &SamplingParams) -> BTreeSet<u32> {
    let mut candidates = Candidates::default();
    filter(params, logits, &mut candidates);
    assert!(candidates.ids().is_sorted(), "the draw walks ids in order");
    candidates.ids().iter().copied().collect()
}

fn logits(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    // A coarse grid, so that there are ties.
    prop::collection::vec((-60i32..60).prop_map(|step| step as f32 / 8.0), len)
}

proptest! {
    #[test]
    fn top_k_keeps_what_sorting_keeps(logits in logits(1..1500), k in 1u32..100) {
        let params = SamplingParams { top_k: Some(k), ..params() };
        prop_assert_eq!(filtered(&logits, &params), reference(&logits, &params, 0.0));
    }

    #[test]
    fn top_p_keeps_what_sorting_keeps(
        logits in logits(1..1500), top_p in 0.01f32..1.0, temperature in 0.1f32..5.0,
    ) {
        let params = SamplingParams { top_p, temperature, ..params() };
        let kept = filtered(&logits, &params);
        prop_assert!(kept.is_superset(&reference(&logits, &params, -1e-5)));
        prop_assert!(kept.is_subset(&reference(&logits, &params, 1e-5)));
    }

    #[test]
    fn min_p_keeps_what_comparing_keeps(
        logits in logits(1..1500), min_p in 0.001f32..1.0, temperature in 0.1f32..5.0,
    ) {
        let params = SamplingParams { min_p, temperature, ..params() };
        let kept = filtered(&logits, &params);
        prop_assert!(kept.is_superset(&reference(&logits, &params, -1e-4)));
        prop_assert!(kept.is_subset(&reference(&logits, &params, 1e-4)));
    }

    #[test]
    fn filters_compose_as_documented(
        logits in prop::collection::vec(-6f32..6.0, 1..300),
        k in 1u32..100, top_p in 0.3f32..1.0, min_p in 0f32..0.05,
    ) {
        let params = SamplingParams { top_k: Some(k), top_p, min_p, ..params() };
        let kept = filtered(&logits, &params);
        prop_assert!(kept.is_superset(&reference(&logits, &params, -1e-4)));
        prop_assert!(kept.is_subset(&reference(&logits, &params, 1e-4)));
    }

    #[test]
    fn typical_p_keeps_the_mass_nearest_to_the_entropy(
        logits in prop::collection::vec(-6f32..6.0, 1..300), typical_p in 0.05f32..0.99,
    ) {
        let params = SamplingParams { typical_p, ..params() };
        let kept = filtered(&logits, &params);
        let reference = reference(&logits, &params, 0.0);
        // Two candidates can be equally near but for rounding: then either may be kept.
        prop_assert!(kept.symmetric_difference(&reference).count() <= 2);
        prop_assert!(kept.len().abs_diff(reference.len()) <= 1);
    }

    #[test]
    fn penalties_are_those_of_the_definitions(
        logits in logits(8..64),
        prompt in prop::collection::vec(0u32..64, 0..20),
        completion in prop::collection::vec(0u32..64, 0..20),
        (repetition, frequency, presence) in (0.5f32..2.0, -2f32..2.0, -2f32..2.0),
    ) {
        let sampling = SamplingParams {
            repetition_penalty: repetition,
            frequency_penalty: frequency,
            presence_penalty: presence,
            ..params()
        };
        let mut state = state(sampling, &prompt);
        for &token in &completion {
            state.token_counts.as_mut().unwrap().add(token);
        }
        let sample = sample_of(0, 9);

        let mut adjusted = logits.clone();
        One::new(&state, &[], sample).adjust(&mut adjusted);

        for (token, (&before, &after)) in (0u32..).zip(logits.iter().zip(&adjusted)) {
            let count = completion.iter().filter(|&&other| other == token).count();
            let mut expected = before;
            if count > 0 || prompt.contains(&token) {
                expected = if before > 0.0 { before / repetition } else { before * repetition };
            }
            if count > 0 {
                expected = expected - frequency * count as f32 - presence;
            }
            prop_assert_eq!(after, expected);
        }
    }

    #[test]
    fn odd_logits_never_panic_and_never_win(
        logits in prop::collection::vec(
            prop_oneof![
                Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX),
                Just(f32::MIN), Just(0.0), -10f32..10.0,
            ],
            1..50,
        ),
        temperature in prop_oneof![Just(0.0f32), Just(1e-45), Just(1e-3), Just(1.0), Just(1e30)],
        (top_p, typical_p, min_p) in (0.1f32..=1.0, 0.1f32..=1.0, 0f32..0.5),
        top_k in prop::option::of(1u32..60),
        position in 0u32..1000,
    ) {
        let sampling = SamplingParams {
            temperature, top_p, typical_p, min_p, top_k, num_logprobs: Some(5), ..params()
        };

        let sampled = sample_at(&state(sampling, &[]), &logits, position);

        let winner = logits[sampled.token as usize];
        let hopeless = logits.iter().all(|logit| logit.is_nan() || *logit == f32::NEG_INFINITY);
        prop_assert!(hopeless || winner > f32::NEG_INFINITY);
        let logprobs = sampled.logprobs.unwrap();
        prop_assert!(logprobs.top.len() == logits.len().min(5));
        prop_assert!(logprobs.logprob <= 0.0 && logprobs.top.iter().all(|top| top.1 <= 0.0));
    }
}

/// Compares 40,000 draws with the softmax of what `reference` keeps.
fn assert_distribution(logits: &[f32], sampling: &SamplingParams) {
    const DRAWS: u32 = 40_000;
    let kept = reference(logits, sampling, 0.0);
    let mut expected = softmax(logits, sampling.temperature);
    expected.retain(|token| kept.contains(&token.0));
    normalize(&mut expected);
    let state = state(sampling.clone(), &[]);
    let mut counts = vec![0u32; logits.len()];

    for position in 0..DRAWS {
        counts[sample_at(&state, logits, position).token as usize] += 1;
    }

    let mut chi_square = 0.0;
    for &(id, probability) in &expected {
        let expected = probability * f64::from(DRAWS);
        chi_square += (f64::from(counts[id as usize]) - expected).powi(2) / expected;
    }
    assert_eq!(expected.iter().map(|token| counts[token.0 as usize]).sum::<u32>(), DRAWS);
    // Above the 99.9th percentile for up to 9 degrees of freedom.
    assert!(chi_square < 27.9, "{chi_square} for {sampling:?}");
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [1.0, 0.5, -0.3, 2.0, 0.0, 1.7, -1.0, 0.9, 1.1, -0.5];

    assert_distribution(&logits, &params());
    assert_distribution(&logits, &SamplingParams { temperature: 0.7, ..params() });
    assert_distribution(&logits, &SamplingParams { temperature: 3.0, ..params() });
    assert_distribution(&logits, &SamplingParams { top_k: Some(4), ..params() });
    assert_distribution(&logits, &SamplingParams { top_p: 0.8, ..params() });
    assert_distribution(&logits, &SamplingParams { min_p: 0.2, ..params() });
    assert_distribution(&logits, &SamplingParams { typical_p: 0.6, ..params() });
    let all = SamplingParams { top_k: Some(6), top_p: 0.9, min_p: 0.05, seed: 3, ..params() };
    assert_distribution(&logits, &all);
}

#[test]
fn greedy_takes_the_likeliest_and_the_first_of_equals() {
    let state = state(SamplingParams::default(), &[]);

    assert_eq!(sample_at(&state, &[0.0, 3.0, 1.0, 3.0], 0).token, 1);
    assert_eq!(sample_at(&state, &[f32::NAN, -3.0, f32::NEG_INFINITY, -4.0], 0).token, 1);
    assert_eq!(sample_at(&state, &[f32::NAN; 4], 0).token, 0);
}

#[test]
fn end_tokens_are_masked_until_min_tokens() {
    let sampling =
        SamplingParams { min_tokens: 3, stop_token_ids: vec![1, 999], ..SamplingParams::default() };
    let logits = [0.0, 9.0, 8.0, 7.0];

    let state_of = |sampling: &SamplingParams| state(sampling.clone(), &[]);
    assert_eq!(sample_at(&state_of(&sampling), &logits, 0).token, 3);
    assert_eq!(sample_at(&state_of(&sampling), &logits, 2).token, 3);
    assert_eq!(sample_at(&state_of(&sampling), &logits, 3).token, 1);

    let ignoring = SamplingParams { ignore_eos: true, ..sampling };
    assert_eq!(sample_at(&state_of(&ignoring), &logits, 0).token, STOP);
}

#[test]
fn masked_tokens_are_never_drawn() {
    let sampling = SamplingParams { min_tokens: u32::MAX, temperature: 5.0, ..params() };
    let state = state(sampling, &[]);

    for position in 0..2000 {
        assert_ne!(sample_at(&state, &[0.0, 1.0, 5.0, 1.0], position).token, STOP);
    }
}

#[test]
fn logit_bias_forces_and_forbids() {
    let biased = |bias: Vec<(TokenId, f32)>| {
        let sampling = SamplingParams { logit_bias: bias, ..SamplingParams::default() };
        sample_at(&state(sampling, &[]), &[1.0, 3.0, 0.0, 2.0], 0).token
    };

    assert_eq!(biased(vec![(0, 100.0), (9_999, 100.0)]), 0);
    assert_eq!(biased(vec![(1, -100.0)]), 3);
}

#[test]
fn logprobs_are_the_models_own_distribution() {
    let sampling = SamplingParams {
        logit_bias: vec![(2, 100.0)],
        num_logprobs: Some(2),
        ..SamplingParams::default()
    };
    let logits = [1.0f32, 3.0, 0.0, 3.0];

    let sampled = sample_at(&state(sampling, &[]), &logits, 0);

    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let logprob = |logit: f64| (logit - total.ln()) as f32;
    let logprobs = sampled.logprobs.unwrap();
    assert_eq!(sampled.token, 2);
    assert!((logprobs.logprob - logprob(0.0)).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 3]);
    assert!((logprobs.top[0].1 - logprob(3.0)).abs() < 1e-6);
}

#[test]
fn a_draw_depends_on_seed_completion_and_position_alone() {
    let logits = [0.0; 64];
    let draws = |seed, index| {
        let state = SequenceState { index, ..state(SamplingParams { seed, ..params() }, &[]) };
        (0..20).map(|position| sample_at(&state, &logits, position).token).collect::<Vec<_>>()
    };

    assert_eq!(draws(1, 0), draws(1, 0));
    assert_ne!(draws(1, 0), draws(2, 0));
    assert_ne!(draws(1, 0), draws(1, 1));
}

fn admission(sequence: u32, sampling: SamplingParams) -> Admission {
    Admission {
        sequence: SequenceId(sequence),
        index: 0,
        sampling: Arc::new(sampling),
        prompt: [].into(),
    }
}

fn admit(sampler: &mut Sampler, admitted: Vec<Admission>) -> Result<(), Error> {
    sampler.update(&StepPlan { admitted, ..StepPlan::default() })
}

fn sample_of(sequence: u32, position: u32) -> Sample {
    Sample {
        sequence: SequenceId(sequence),
        token_index: 0,
        position,
        num_generated: position,
        num_drafts: 0,
    }
}

fn cpu(num_threads: usize) -> Cpu {
    Cpu::new(num_threads.try_into().unwrap(), Isa::Portable).unwrap()
}

/// Samples with a row of logits each.
fn sample_rows(
    sampler: &mut Sampler,
    cpu: &Cpu,
    samples: &[Sample],
    values: &[f32],
) -> Result<Vec<TokenId>, Error> {
    let rows: Vec<u32> = (0..samples.len() as u32).collect();
    let logits =
        Logits { values, vocab_size: values.len() / samples.len(), rows: &rows, argmax: &[] };
    let mut sampled = Vec::new();
    let plan = StepPlan { samples: samples.to_vec(), ..StepPlan::default() };
    sampler.sample(cpu, &plan, logits, &mut sampled)?;
    Ok(sampled.into_iter().map(|one| one.token).collect())
}

#[test]
fn threads_and_neighbors_change_nothing() {
    const NUM_SEQS: u32 = 40;
    let values: Vec<f32> =
        (0..NUM_SEQS * 300).map(|i| (philox::uniform(5, 0, i) * 8.0) as f32).collect();
    let sampling = |i: u32| SamplingParams {
        seed: i.into(),
        temperature: (i % 3) as f32,
        top_p: if i.is_multiple_of(2) { 0.9 } else { 1.0 },
        ..params()
    };
    let samples: Vec<Sample> = (0..NUM_SEQS).map(|i| sample_of(i, i)).collect();
    let admitted: Vec<_> = (0..NUM_SEQS).map(|i| admission(i, sampling(i))).collect();

    let (mut together, mut alone) = (Sampler::new(vec![], 3), Sampler::new(vec![], 1));
    admit(&mut together, admitted.clone()).unwrap();
    admit(&mut alone, admitted).unwrap();

    let together = sample_rows(&mut together, &cpu(3), &samples, &values).unwrap();
    for ((sample, row), token) in samples.iter().zip(values.chunks(300)).zip(together) {
        let one = sample_rows(&mut alone, &cpu(1), &[*sample], row).unwrap();
        assert_eq!(one, [token]);
    }
}

#[test]
fn penalties_count_what_was_sampled_until_the_sequence_is_released() {
    let sampling = SamplingParams { presence_penalty: 1.5, ..SamplingParams::default() };
    let (cpu, mut sampler) = (cpu(1), Sampler::new(vec![], 1));
    let next = |sampler: &mut Sampler, position| {
        sample_rows(sampler, &cpu, &[sample_of(0, position)], &[1.0, 3.0, 2.0]).unwrap()[0]
    };
    admit(&mut sampler, vec![admission(0, sampling.clone())]).unwrap();

    assert_eq!([next(&mut sampler, 0), next(&mut sampler, 1), next(&mut sampler, 2)], [1, 2, 1]);

    let readmitted = StepPlan {
        released: vec![SequenceId(0)],
        admitted: vec![admission(0, sampling)],
        ..StepPlan::default()
    };
    sampler.update(&readmitted).unwrap();
    assert_eq!(next(&mut sampler, 0), 1);
    assert_eq!(sampler.num_sequences(), 1);
}

/// Sampled step by step from rows that follow each other, and with drafts all at once.
#[test]
fn drafts_that_are_right_change_nothing_but_the_number_of_steps() {
    const VOCAB: usize = 40;
    let sampling = SamplingParams {
        temperature: 0.8,
        seed: 3,
        repetition_penalty: 1.3,
        frequency_penalty: 0.7,
        presence_penalty: 0.4,
        min_tokens: 3,
        num_logprobs: Some(2),
        ..SamplingParams::default()
    };
    let values: Vec<f32> = (0..8 * VOCAB as u32)
        .map(|i| (philox::uniform(9, 0, i % (2 * VOCAB as u32)) * 5.0) as f32)
        .collect();
    let (cpu, eos) = (cpu(1), vec![1]);
    let fresh = || {
        let mut sampler = Sampler::new(eos.clone(), 1);
        admit(&mut sampler, vec![admission(0, sampling.clone())]).unwrap();
        sampler
    };
    let mut one_by_one = fresh();
    let mut expected = Vec::new();
    for (position, row) in (0..).zip(values.chunks(VOCAB)) {
        let plan = StepPlan { samples: vec![sample_of(0, position)], ..StepPlan::default() };
        let logits = Logits { values: row, vocab_size: VOCAB, rows: &[0], argmax: &[] };
        one_by_one.sample(&cpu, &plan, logits, &mut expected).unwrap();
    }
    let tokens: Vec<TokenId> = expected.iter().map(|one| one.token).collect();

    for num_right in 0..=7 {
        let mut token_ids = [vec![0], tokens[..7].to_vec()].concat();
        if num_right < 7 {
            token_ids[num_right + 1] += 1;
        }
        let sample = Sample { num_drafts: 7, ..sample_of(0, 0) };
        let plan = StepPlan { samples: vec![sample], token_ids, ..StepPlan::default() };
        let logits = Logits { values: &values, vocab_size: VOCAB, rows: &[0], argmax: &[] };
        let (mut sampler, mut sampled) = (fresh(), Vec::new());
        sampler.sample(&cpu, &plan, logits, &mut sampled).unwrap();
        assert_eq!(sampled, expected[..num_right + 1]);

        // What was counted is what was sampled: the next token is the same too.
        for position in num_right + 1..8 {
            let sample = sample_of(0, position as u32);
            let plan = StepPlan { samples: vec![sample], ..StepPlan::default() };
            let logits = Logits {
                values: &values,
                vocab_size: VOCAB,
                rows: &[position as u32],
                argmax: &[],
            };
            sampler.sample(&cpu, &plan, logits, &mut sampled).unwrap();
        }
        assert_eq!(sampled, expected);
    }
}

#[test]
fn plans_that_name_sequences_wrongly_are_refused() {
    let (cpu, mut sampler) = (cpu(1), Sampler::new(vec![], 1));
    admit(&mut sampler, vec![admission(0, params())]).unwrap();

    assert!(admit(&mut sampler, vec![admission(0, params())]).is_err());
    assert!(sample_rows(&mut sampler, &cpu, &[sample_of(1, 0)], &[0.0]).is_err());
    let twice = [sample_of(0, 0), sample_of(0, 0)];
    assert!(sample_rows(&mut sampler, &cpu, &twice, &[0.0, 0.0]).is_err());
    assert!(sample_rows(&mut sampler, &cpu, &[sample_of(0, 0)], &[0.0]).is_ok());
}

#[test]
fn a_draw_inverts_the_cumulated_distribution_of_a_large_vocabulary() {
    let logits: Vec<f32> =
        (0..3000).map(|i| (philox::uniform(1, 0, i) * 6.0 - 3.0) as f32).collect();
    let mut by_id = softmax(&logits, 1.0);
    by_id.sort_by_key(|token| token.0);
    let state = state(params(), &[]);

    for position in 0..2000 {
        let token = sample_at(&state, &logits, position).token;

        let uniform = philox::uniform(params().seed, 0, position);
        let before: f64 = by_id[..token as usize].iter().map(|token| token.1).sum();
        let after = before + by_id[token as usize].1;
        assert!((before - 1e-6..after + 1e-6).contains(&uniform), "{token}");
    }
}

#[test]
fn rows_of_which_only_the_likeliest_token_is_wanted_need_no_logits() {
    let params = |change: fn(&mut SamplingParams)| {
        let mut params = SamplingParams { temperature: 0.0, ..params() };
        change(&mut params);
        params
    };
    let all: [fn(&mut SamplingParams); 7] = [
        |_| {},
        |params| params.temperature = 0.5,
        |params| params.num_logprobs = Some(0),
        |params| params.min_tokens = 5,
        |params| params.logit_bias = vec![(1, 1.0)],
        |params| params.presence_penalty = 1.0,
        |params| params.allowed_token_ids = vec![1],
    ];
    let mut sampler = Sampler::new(vec![], 1);
    let admitted = (0..).zip(all).map(|(i, change)| admission(i, params(change))).collect();
    admit(&mut sampler, admitted).unwrap();
    let (first, second) = (sample_of(0, 0), sample_of(3, 5));
    let samples: Vec<_> = (0..7).map(|i| Sample { num_drafts: 1, ..sample_of(i, 0) }).collect();
    let find = |samples: Vec<Sample>, rows: &[u32], num_rows: usize| {
        let mut input = Input::default();
        (input.logits_tokens, input.logits_rows) = (vec![0; num_rows], rows.to_vec());
        sampler.find_greedy_rows(&StepPlan { samples, ..StepPlan::default() }, &mut input);
        input.greedy_rows
    };

    let rows: Vec<u32> = (0..7).map(|i| 2 * i).collect();
    let expected: Vec<_> = (0..14).map(|row| row < 2).collect();
    assert_eq!(find(samples, &rows, 14), expected);
    // Its end tokens are masked no more.
    assert_eq!(find(vec![first, second], &[0, 1], 2), [true, true]);
    // One row for two, one of whom draws.
    assert_eq!(find(vec![first, sample_of(1, 0)], &[0, 0], 1), [false]);
}

#[test]
fn what_was_found_without_logits_is_taken() {
    let mut sampler = Sampler::new(vec![], 1);
    admit(&mut sampler, vec![admission(0, params()), admission(1, params())]).unwrap();
    let argmax = [Argmax::new(false), Argmax::new(true)];
    let values = [0.0, 0.0, 9.0, 5.0, 4.0, 4.0];
    let logits = Logits { values: &values, vocab_size: 3, rows: &[0, 1], argmax: &argmax };
    let samples = vec![sample_of(0, 0), sample_of(1, 0)];
    let mut sampled = Vec::new();

    let plan = StepPlan { samples, ..StepPlan::default() };
    sampler.sample(&cpu(1), &plan, logits, &mut sampled).unwrap();

    // The second row's logits are not looked at: nothing was above negative infinity.
    assert_eq!(sampled[1].token, 0);
    assert_eq!(sampled[0].token, 2);
}
