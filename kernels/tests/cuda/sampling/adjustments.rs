//! Biases, penalties and masks.

use super::*;

/// A greedy request and one that draws, of logits of which many are likely.
fn both(rng: &mut StdRng, vocab: usize) -> [Request; 2] {
    let logits = random_logits(rng, vocab, 2.0);
    let draw = Draw { position: rng.random_range(0..1000), ..PLAIN };
    [Request::new(logits.clone(), GREEDY), Request::new(logits, draw)]
}

fn tokens(rng: &mut StdRng, vocab: usize, num: usize) -> Vec<u32> {
    (0..num).map(|_| rng.random_range(0..vocab as u32 + 3)).collect()
}

fn random_bits(rng: &mut StdRng, vocab: usize) -> Vec<u32> {
    (0..vocab.div_ceil(32)).map(|_| rng.random::<u32>() & rng.random::<u32>()).collect()
}

#[test]
fn biases_are_added_in_order_also_twice_and_not_beyond_the_vocabulary() {
    let device = device();
    for vocab in VOCABS {
        let mut rng = rng(vocab as u64);
        let mut requests = Vec::new();
        for mut request in (0..4).flat_map(|_| both(&mut rng, vocab)).collect::<Vec<_>>() {
            let biased = tokens(&mut rng, vocab, 300);
            let biases = biased.into_iter().chain([u32::MAX, vocab as u32]);
            let mut biases: Vec<_> =
                biases.map(|token| Bias { token, bias: rng.random_range(-100.0..7.0) }).collect();
            biases.sort_by_key(|bias| bias.token);
            request.biases = biases;
            requests.push(request);
        }
        assert_sampled(&device, &requests);
    }
}

#[test]
fn penalties_are_those_of_the_definitions() {
    let device = device();
    for vocab in [1, 31, 1000, 2049, 49_152] {
        let mut rng = rng(vocab as u64);
        let mut requests = Vec::new();
        for mut request in (0..8).flat_map(|_| both(&mut rng, vocab)).collect::<Vec<_>>() {
            request.penalties = Some([
                rng.random_range(0.5..2.0),
                rng.random_range(-2.0..2.0),
                rng.random_range(-2.0..2.0),
            ]);
            request.prompt = tokens(&mut rng, vocab, 50);
            request.completion = tokens(&mut rng, vocab.min(40), 60);
            requests.push(request);
        }
        assert_sampled(&device, &requests);
    }
}

#[test]
fn drafts_are_penalized_as_if_they_were_counted() {
    let device = device();
    for vocab in [31, 2049] {
        let mut rng = rng(vocab as u64);
        let mut requests = Vec::new();
        for mut request in (0..8).flat_map(|_| both(&mut rng, vocab)).collect::<Vec<_>>() {
            request.penalties = Some([1.4, 0.8, -0.7]);
            request.prompt = tokens(&mut rng, vocab, 5);
            request.completion = tokens(&mut rng, vocab.min(20), 12);
            request.num_drafts = rng.random_range(1..8);
            requests.push(request);
        }
        assert_sampled(&device, &requests);
    }
}

#[test]
fn a_row_that_names_more_drafts_than_there_are_inputs_is_passed_over() {
    let device = device();
    let mut request = Request::new(vec![1.0, 3.0, 2.0], GREEDY);
    (request.penalties, request.completion, request.num_drafts) =
        (Some([1.0, 1.5, 0.0]), vec![1], 1);
    let mut batch = Batch::new(&device, &[request]);
    assert_eq!(batch.sample(&device, Stages::Greedy), [2]);

    batch.rows[0].num_uncounted = 2;
    assert_eq!(batch.sample(&device, Stages::Greedy), [NO_TOKEN]);
    (batch.rows[0].num_uncounted, batch.rows[0].input) = (1, 1);
    assert_eq!(batch.sample(&device, Stages::Greedy), [NO_TOKEN]);
}

#[test]
fn what_is_forbidden_or_not_allowed_is_not_sampled() {
    let device = device();
    for vocab in VOCABS {
        let mut rng = rng(vocab as u64);
        let mut requests = Vec::new();
        for (i, mut request) in
            (0..6).flat_map(|_| both(&mut rng, vocab)).collect::<Vec<_>>().into_iter().enumerate()
        {
            if i % 3 != 0 {
                request.masked = tokens(&mut rng, vocab, 200);
                request.masked.push(u32::MAX);
            }
            if i % 3 != 1 {
                request.allowed = Some(random_bits(&mut rng, vocab));
            }
            requests.push(request);
        }
        let mut nothing = Request::new(random_logits(&mut rng, vocab, 1.0), PLAIN);
        nothing.allowed = Some(vec![0; vocab.div_ceil(32)]);
        requests.push(nothing);
        let mut all = Request::new(random_logits(&mut rng, vocab, 1.0), PLAIN);
        all.allowed = Some(vec![u32::MAX; vocab.div_ceil(32)]);
        requests.push(all);

        assert_sampled(&device, &requests);
    }
}

#[test]
fn all_adjustments_together_are_made_in_the_processors_order() {
    let device = device();
    let (vocab, mut rng) = (3000, rng(9));
    let mut requests = Vec::new();
    for (i, mut request) in
        (0..60).flat_map(|_| both(&mut rng, vocab)).collect::<Vec<_>>().into_iter().enumerate()
    {
        let mut biased = tokens(&mut rng, vocab, 30);
        biased.sort_unstable();
        request.biases =
            biased.iter().map(|&token| Bias { token, bias: rng.random_range(0.0..9.0) }).collect();
        request.penalties = Some([1.3, 0.4, 0.2]);
        request.prompt = biased[..10].to_vec();
        request.completion = [&biased[5..20], &biased[5..12]].concat();
        request.masked = biased[25..].to_vec();
        request.allowed = (i % 2 == 0).then(|| random_bits(&mut rng, vocab));
        request.draw.top_p = if i % 3 == 0 { 0.9 } else { 1.0 };
        requests.push(request);
    }
    assert_sampled(&device, &requests);
}

#[test]
fn the_end_of_a_bad_word_is_impossible_only_after_what_it_follows() {
    let device = device();
    let mut requests = Vec::new();
    for (last, after) in [(5, Some(5)), (5, Some(6)), (6, None)] {
        let mut request = Request::new(vec![1.0, 3.0, 2.0], GREEDY);
        (request.bad, request.last) = (vec![(1, after), (9, None)], Some(last));
        requests.push(request);
    }

    assert_eq!(sample(&device, &requests), [2, 1, 2]);
    assert_sampled(&device, &requests);
}

/// End tokens come again, and what is forbidden or not allowed does not.
#[test]
fn where_nothing_is_left_the_models_own_likeliest_allowed_token_is_taken() {
    let device = device();
    for vocab in [3, 1000, 2049, 5000] {
        let mut rng = rng(vocab as u64);
        let mut requests = Vec::new();
        for mut request in (0..12).flat_map(|_| both(&mut rng, vocab)).collect::<Vec<_>>() {
            request.allowed = Some(random_bits(&mut rng, vocab));
            request.masked = (0..vocab as u32).collect();
            request.bad =
                tokens(&mut rng, vocab, vocab / 3).into_iter().map(|t| (t, None)).collect();
            request.last = Some(1);
            if rng.random_bool(0.3) {
                request.logits.fill(if rng.random() { f32::NAN } else { f32::NEG_INFINITY });
            }
            if rng.random_bool(0.2) {
                request.bad = (0..vocab as u32).map(|token| (token, Some(1))).collect();
            }
            requests.push(request);
        }
        assert_sampled(&device, &requests);
    }
}

#[test]
fn the_models_own_logits_are_kept() {
    let device = device();
    let mut request = Request::new(vec![1.0, 2.0, 3.0, 0.5], GREEDY);
    request.biases = vec![Bias { token: 0, bias: 9.0 }];
    request.masked = vec![2];
    let mut batch = Batch::new(&device, std::slice::from_ref(&request));

    assert_eq!(batch.sample(&device, Stages::Greedy), [0]);
    assert_eq!(device.download::<f32>(batch.logits.slice()).unwrap(), request.logits);
}

/// Sampled tokens are counted without the host: the presence penalty makes them take turns.
#[test]
fn sampled_tokens_are_counted_on_the_device() {
    let device = device();
    let mut request = Request::new(vec![1.0, 3.0, 2.0], GREEDY);
    request.penalties = Some([1.0, 0.0, 1.5]);
    let mut batch = Batch::new(&device, &[request]);

    let tokens: Vec<_> = (0..4).flat_map(|_| batch.sample(&device, Stages::Greedy)).collect();
    assert_eq!(tokens, [1, 2, 1, 1]);

    batch.counts.clear(&device, 0).unwrap();
    assert_eq!(batch.sample(&device, Stages::Greedy), [1]);
}

/// A count stays at the most that it can hold, and its neighbors are not touched.
#[test]
fn counts_are_saturated() {
    let device = device();
    let mut request = Request::new(vec![0.0, 40_000.0, 0.0], GREEDY);
    request.penalties = Some([1.0, 1.0, 0.0]);
    request.completion = vec![1; 33_000];
    let mut batch = Batch::new(&device, &[request]);

    // 40,000 less 32,767.
    assert_eq!(batch.sample(&device, Stages::Greedy), [1]);
    let logits = device.buffer_of(&[0.0f32, 32_766.0, -1.0]).unwrap();
    batch.logits = logits;
    assert_eq!(batch.sample(&device, Stages::Greedy), [0]);
}
