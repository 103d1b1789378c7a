//! Log-probabilities.

use sconce_kernels::cuda::{MAX_TOP_LOGPROBS, Score, TokenScore};

use super::*;

/// In 64 bits: of `token`, its rank, and the likeliest, best first.
fn reference(logits: &[f32], token: u32, n: usize) -> (f64, u32, Vec<(u32, f64)>) {
    let capped = |logit: f32| f64::from(logit.min(f32::MAX));
    let numbers = logits.iter().filter(|logit| !logit.is_nan());
    let max = numbers.clone().fold(f64::NEG_INFINITY, |max, &logit| max.max(capped(logit)));
    let sum: f64 = numbers.map(|&logit| (capped(logit) - max).exp()).sum();
    let logprob = |logit: f32| {
        let logprob = capped(logit) - (max + sum.ln());
        if logit.is_nan() || logprob.is_nan() { f64::NEG_INFINITY } else { logprob.min(0.0) }
    };
    let own = logits[token as usize];
    let rank = 1 + logits.iter().filter(|logit| **logit > own).count() as u32;
    let number = |logit: f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit };
    let mut top: Vec<_> = (0..).zip(logits.iter().map(|logit| number(*logit))).collect();
    top.sort_by(|a: &(u32, f32), b| b.1.partial_cmp(&a.1).unwrap());
    top.truncate(n);
    let top = top.into_iter().map(|(id, _)| (id, logprob(logits[id as usize]))).collect();
    (logprob(own), rank, top)
}

fn score(device: &Device, rows: &[SampleRow], logits: &[f32], sampled: &[u32]) -> Vec<TokenScore> {
    let mut sampling = Sampling::new(device, rows.len(), logits.len() / sampled.len()).unwrap();
    let buffers = [device.buffer_of(rows).unwrap(), device.buffer_of(logits).unwrap()];
    let sampled = device.buffer_of(sampled).unwrap();
    let mut scores = device.alloc(rows.len() * size_of::<TokenScore>()).unwrap();
    device.fill(&mut scores.slice_mut(), 0xab).unwrap();
    let [rows, logits] = &buffers;
    let args = Score {
        rows: rows.slice(),
        logits: logits.slice(),
        sampled: sampled.slice(),
        scores: scores.slice_mut(),
    };
    sampling.score(device, args).unwrap();
    let words: Vec<[u32; 42]> = device
        .download::<u32>(scores.slice())
        .unwrap()
        .chunks_exact(42)
        .map(|words| words.try_into().unwrap())
        .collect();
    words
        .into_iter()
        .map(|words| TokenScore {
            logprob: f32::from_bits(words[0]),
            rank: words[1],
            top: words[2..22].try_into().unwrap(),
            top_logprobs: std::array::from_fn(|i| f32::from_bits(words[22 + i])),
        })
        .collect()
}

fn scored(logits_row: u32, num_logprobs: u32) -> SampleRow {
    let greedy = SampleRow::greedy(logits_row);
    SampleRow { flags: greedy.flags | SampleRow::LOGPROBS, num_logprobs, ..greedy }
}

#[track_caller]
fn assert_close(given: f32, expected: f64) {
    let given = f64::from(given);
    let error = (given - expected).abs() / expected.abs().max(1.0);
    assert!(given == expected || error < 2e-6, "{given}, not {expected}");
}

#[test]
fn scores_equal_their_reference() {
    let device = device();
    for vocab in VOCABS {
        let mut rng = rng(vocab as u64);
        let rows: Vec<_> = [0, 1, 5, 20, 20, 20, 20]
            .into_iter()
            .enumerate()
            .map(|(i, num)| scored(i as u32, num))
            .collect();
        let mut values: Vec<Vec<f32>> =
            rows.iter().map(|_| random_logits(&mut rng, vocab, 8.0)).collect();
        values[3].iter_mut().for_each(|logit| *logit = logit.round());
        values[4][vocab / 2] = f32::NAN;
        values[4][vocab / 3] = f32::INFINITY;
        values[5].fill(f32::NEG_INFINITY);
        values[6].fill(f32::NAN);
        let tokens: Vec<u32> = rows.iter().map(|_| rng.random_range(0..vocab as u32)).collect();

        let scores = score(&device, &rows, &values.concat(), &tokens);

        for ((score, row), (logits, token)) in
            scores.iter().zip(&rows).zip(values.iter().zip(&tokens))
        {
            let n = row.num_logprobs as usize;
            let (logprob, rank, top) = reference(logits, *token, n);
            assert_close(score.logprob, logprob);
            assert_eq!(score.rank, rank);
            let ids: Vec<_> = top.iter().map(|(id, _)| *id).collect();
            assert_eq!(score.top[..top.len()], ids);
            for (given, (_, expected)) in score.top_logprobs.iter().zip(&top) {
                assert_close(*given, *expected);
            }
            assert!(score.top[top.len()..n].iter().all(|id| *id == NO_TOKEN));
        }
    }
}

#[test]
fn rows_that_want_nothing_are_left_alone_and_tokens_may_be_given() {
    let device = device();
    let logits: Vec<f32> = (0..4 * 50).map(|i| (i % 50) as f32 * 0.1).collect();
    let given = SampleRow { token: 48, ..scored(1, MAX_TOP_LOGPROBS as u32 + 9) };
    let rows = [
        SampleRow::greedy(0),
        SampleRow { flags: given.flags | SampleRow::GIVEN, ..given },
        scored(4, 1),
        SampleRow { token: 48, ..scored(3, 1) },
    ];

    let scores = score(&device, &rows, &logits, &[0, 0, 0, NO_TOKEN]);

    assert_eq!([scores[0].rank, scores[2].rank], [0xabab_abab; 2]);
    assert_eq!([scores[1].rank, scores[1].top[0], scores[1].top[19]], [2, 49, 30]);
    // A token that there is not has no probability; the others have theirs.
    assert_eq!((scores[3].logprob, scores[3].top[0]), (f32::NEG_INFINITY, 49));
}

#[test]
fn scores_are_the_same_bit_for_bit_in_every_batch() {
    let device = device();
    let mut rng = rng(4);
    let logits: Vec<_> = (0..12).map(|_| random_logits(&mut rng, 5000, 6.0)).collect();
    let rows: Vec<_> = (0..12).map(|i| scored(i, 7)).collect();
    let tokens: Vec<u32> = (0..12).map(|_| rng.random_range(0..5000)).collect();

    let together = score(&device, &rows, &logits.concat(), &tokens);

    for ((together, logits), token) in together.iter().zip(&logits).zip(tokens) {
        let alone = score(&device, &[scored(0, 7)], logits, &[token])[0];
        let bits = |score: &TokenScore| {
            (score.logprob.to_bits(), score.rank, score.top_logprobs[..7].to_vec())
        };
        assert_eq!(bits(&alone), bits(together));
    }
}
