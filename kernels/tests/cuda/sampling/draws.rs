//! Greedy sampling, and draws with all filters.

use super::*;

#[test]
fn greedy_takes_the_likeliest_and_the_first_of_equals() {
    let device = device();
    for vocab in VOCABS {
        let mut rng = rng(vocab as u64);
        let plain = random_logits(&mut rng, vocab, 5.0);
        let ties: Vec<_> = plain.iter().map(|logit| logit.round().min(3.0)).collect();
        let mut odd = plain.clone();
        odd[vocab / 2] = f32::NAN;
        odd[vocab - 1] = f32::INFINITY;
        let mut last = vec![f32::NEG_INFINITY; vocab];
        last[vocab - 1] = f32::MIN;
        let zeros: Vec<_> = (0..vocab).map(|i| if i % 2 == 0 { -0.0 } else { 0.0 }).collect();
        let hopeless = [vec![f32::NEG_INFINITY; vocab], vec![f32::NAN; vocab]];
        let rows = [plain, ties, odd, last, zeros].into_iter().chain(hopeless);
        let requests: Vec<_> = rows.map(|logits| Request::new(logits, GREEDY)).collect();

        assert_sampled(&device, &requests);
    }
}

fn random_draw(rng: &mut StdRng, vocab: usize) -> Draw {
    let temperatures = [0.05, 0.3, 0.7, 1.0, 1.5, 4.0];
    let mut some = |of: f64| rng.random_bool(of);
    let (by_k, by_p, by_min) = (some(0.5), some(0.5), some(0.3));
    Draw {
        temperature: temperatures[rng.random_range(0..temperatures.len())],
        top_k: by_k.then(|| rng.random_range(1..=vocab.min(200) as u32 + 1)),
        top_p: if by_p { rng.random_range(0.01..1.0) } else { 1.0 },
        typical_p: 1.0,
        min_p: if by_min { rng.random_range(0.0..0.3) } else { 0.0 },
        seed: rng.random(),
        index: rng.random_range(0..4),
        position: rng.random_range(0..100_000),
    }
}

#[test]
fn thousands_of_draws_equal_the_reference() {
    let device = device();
    let mut rng = rng(1);
    for vocab in [31, 777, 1000, 2100] {
        for ties in [false, true] {
            let requests: Vec<_> = (0..400)
                .map(|_| {
                    let mut logits = random_logits(&mut rng, vocab, 4.0);
                    if ties {
                        logits.iter_mut().for_each(|logit| *logit = logit.round());
                    }
                    Request::new(logits, random_draw(&mut rng, vocab))
                })
                .collect();
            assert_sampled(&device, &requests);
        }
    }
}

#[test]
fn typical_draws_equal_the_reference_also_after_other_filters() {
    let device = device();
    let mut rng = rng(11);
    for vocab in [1, 31, 777, 2100] {
        for ties in [false, true] {
            let requests: Vec<_> = (0..40)
                .map(|_| {
                    let mut logits = random_logits(&mut rng, vocab, 4.0);
                    if ties {
                        logits.iter_mut().for_each(|logit| *logit = logit.round());
                    }
                    let typical_p = rng.random_range(0.01..1.0);
                    Request::new(logits, Draw { typical_p, ..random_draw(&mut rng, vocab) })
                })
                .collect();
            assert_sampled(&device, &requests);
        }
    }
}

#[test]
fn draws_of_large_vocabularies_equal_the_reference() {
    let device = device();
    for vocab in [49_152, 128_256] {
        let mut rng = rng(vocab as u64);
        let filters = [
            PLAIN,
            Draw { min_p: 0.05, ..PLAIN },
            Draw { top_k: Some(50), ..PLAIN },
            Draw { top_k: Some(20_000), ..PLAIN },
            Draw { top_k: Some(20_000), top_p: 0.7, ..PLAIN },
            Draw { top_k: Some(u32::MAX), ..PLAIN },
            Draw { top_p: 0.9, ..PLAIN },
            Draw { top_p: 0.9, temperature: 5.0, ..PLAIN },
            Draw { top_p: 0.999_999, temperature: 0.5, ..PLAIN },
            Draw { top_k: Some(40), top_p: 0.95, min_p: 0.01, temperature: 0.8, ..PLAIN },
        ];
        for spread in [0.5, 6.0] {
            let requests: Vec<_> = (0..)
                .zip(filters)
                .map(|(position, draw)| {
                    let logits = random_logits(&mut rng, vocab, spread);
                    Request::new(logits, Draw { position, ..draw })
                })
                .collect();
            assert_sampled(&device, &requests);
        }
    }
}

/// Ties at the cut of more tokens than are gathered, so that the row itself is searched.
#[test]
fn cuts_among_equals_keep_the_lower_ids() {
    let device = device();
    let vocab = 20_000;
    let mut logits = vec![1.0; vocab];
    for id in (0..vocab).step_by(3) {
        logits[id] = 2.0;
    }
    let draws = (0..40).flat_map(|position| {
        let draw = Draw { position, ..PLAIN };
        [
            Draw { top_k: Some(3), ..draw },
            Draw { top_k: Some(6000), ..draw },
            Draw { top_k: Some(9000), ..draw },
            Draw { top_k: Some(9000), top_p: 0.8, ..draw },
            Draw { top_k: Some(9000), top_p: 0.999, ..draw },
            Draw { top_p: 0.1, ..draw },
            Draw { top_p: 0.7, ..draw },
        ]
    });
    let requests: Vec<_> = draws.map(|draw| Request::new(logits.clone(), draw)).collect();

    assert_sampled(&device, &requests);
}

#[test]
fn odd_logits_and_extreme_parameters_are_sampled_as_by_the_reference() {
    let device = device();
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1.0];
    let mut rng = rng(3);
    for vocab in [1, 32, 500] {
        let mut requests = Vec::new();
        for (i, temperature) in
            (0..240).zip([1e-45, 1e-30, 1e-3, 1.0, 1e5, 1e30].into_iter().cycle())
        {
            let pick = |rng: &mut StdRng| match rng.random_range(0..3) {
                0 => odd[rng.random_range(0..odd.len())],
                _ => rng.random_range(-9.0..9.0),
            };
            let logits = (0..vocab).map(|_| pick(&mut rng)).collect();
            let draw = Draw {
                temperature,
                top_k: [None, Some(1), Some(0), Some(vocab as u32)][i % 4],
                top_p: [1.0, 0.0, 1e-6, 0.5, 0.999_999_9][i % 5],
                typical_p: [1.0, 0.0, 0.5][i % 11 % 3],
                min_p: [0.0, 1.0, 1e-30, 0.5][i % 7 % 4],
                position: i as u32,
                ..PLAIN
            };
            requests.push(Request::new(logits, draw));
        }
        assert_sampled(&device, &requests);
    }
}

#[test]
fn a_row_is_the_same_in_every_batch() {
    let device = device();
    let mut rng = rng(5);
    let requests: Vec<_> = (0..40)
        .map(|_| {
            let logits = random_logits(&mut rng, 5000, 3.0);
            Request::new(logits, random_draw(&mut rng, 5000))
        })
        .collect();

    let together = sample(&device, &requests);
    let mut reversed = requests.clone();
    reversed.reverse();
    let mut backwards = sample(&device, &reversed);
    backwards.reverse();

    assert_eq!(together, backwards);
    assert_eq!(together, sample(&device, &requests));
    for (request, token) in requests.iter().zip(together) {
        assert_eq!(sample(&device, std::slice::from_ref(request)), [token]);
    }
}

/// Compares draws at many positions with the softmax of what the filters keep.
#[test]
fn draws_follow_the_distribution() {
    const DRAWS: u32 = 1000;
    let device = device();
    let logits = vec![1.0, 0.5, -0.3, 2.0, 0.0, 1.7, -1.0, 0.9, 1.1, -0.5];
    let draws = [
        PLAIN,
        Draw { temperature: 0.7, ..PLAIN },
        Draw { top_k: Some(4), ..PLAIN },
        Draw { top_p: 0.8, ..PLAIN },
        Draw { min_p: 0.2, seed: u64::MAX - 5, ..PLAIN },
        Draw { top_k: Some(6), top_p: 0.9, min_p: 0.05, index: 3, ..PLAIN },
    ];
    for draw in draws {
        let rows = (0..DRAWS).map(|position| Draw { position, ..draw });
        let rows: Vec<_> = rows.map(|draw| SampleRow::draw(0, draw)).collect();
        let mut batch = Batch::new(&device, &[Request::new(logits.clone(), draw)]);
        batch.rows = rows;

        let sampled = batch.sample(&device, Stages::Filters);

        let kept = reference::kept(&logits, &draw);
        let total: f64 = kept.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mut chi_square = 0.0;
        let mut counted = 0;
        for (id, weight) in kept {
            let expected = f64::from(weight) / total * f64::from(DRAWS);
            let count = sampled.iter().filter(|token| **token == id).count();
            chi_square += (count as f64 - expected).powi(2) / expected;
            counted += count;
        }
        assert_eq!(counted, DRAWS as usize, "{draw:?}");
        // Above the 99.9th percentile for up to 9 degrees of freedom.
        assert!(chi_square < 27.9, "{chi_square} for {draw:?}");
    }
}
