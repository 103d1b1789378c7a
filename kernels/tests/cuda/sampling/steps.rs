//! What makes steps follow each other: idle rows, shared rows of logits, graphs, drafts, and tokens that
//! stay on the device.

use sconce_kernels::cuda::{AcceptDrafts, Drafted, FeedTokens};

use super::*;

const GIVEN_LOGITS: [f32; 8] = [1.0, 3.0, 2.0, 0.0, 9.0, 4.0, 4.0, 9.0];

/// Two rows of logits of four tokens, and these rows to sample.
fn sample_rows(rows: &[SampleRow], stages: Stages) -> Vec<u32> {
    let device = device();
    let [first, second] = [0, 4].map(|at| GIVEN_LOGITS[at..at + 4].to_vec());
    let mut batch = Batch::new(&device, &[first, second].map(|row| Request::new(row, GREEDY)));
    batch.rows = rows.to_vec();
    batch.sample(&device, stages)
}

#[test]
fn rows_share_logits_and_idle_rows_sample_nothing() {
    let rows = [1, 0, 1].map(SampleRow::greedy);
    let idle = SampleRow::default();

    let sampled = sample_rows(&[rows[0], idle, rows[1], rows[2], idle], Stages::Filters);

    assert_eq!(sampled, [0, NO_TOKEN, 1, 0, NO_TOKEN]);
}

#[test]
fn rows_that_name_more_than_there_is_are_passed_over() {
    let row = SampleRow::draw(0, PLAIN);
    let adjusted = SampleRow { flags: row.flags | SampleRow::ADJUSTED, ..row };
    let rows = [
        SampleRow { logits_row: 2, ..row },
        SampleRow { first_bias: u32::MAX, num_biases: 2, ..adjusted },
        SampleRow { first_masked: 1, num_masked: 1, ..adjusted },
        SampleRow { allowed_row: 0, ..adjusted },
        SampleRow { counts_slot: 0, flags: adjusted.flags | SampleRow::COUNTED, ..adjusted },
        SampleRow { min_p_distance: f32::INFINITY, ..row },
    ];

    assert_eq!(sample_rows(&rows, Stages::Filters), [NO_TOKEN; 6]);
}

#[test]
fn rows_that_need_more_stages_than_were_asked_for_sample_nothing() {
    let rows = [
        SampleRow::greedy(0),
        SampleRow::draw(0, Draw { min_p: 1.0, ..PLAIN }),
        SampleRow::draw(0, Draw { top_k: Some(1), ..PLAIN }),
        SampleRow::draw(0, Draw { top_p: 0.1, ..PLAIN }),
        SampleRow::draw(0, Draw { typical_p: 0.1, ..PLAIN }),
    ]
    .map(|row| SampleRow { flags: row.flags | SampleRow::FALLS_BACK, ..row });

    let none = NO_TOKEN;
    assert_eq!(sample_rows(&rows, Stages::Greedy), [1, none, none, none, none]);
    assert_eq!(sample_rows(&rows, Stages::Draws), [1, 1, none, none, none]);
    assert_eq!(sample_rows(&rows, Stages::Filters), [1, 1, 1, 1, none]);
    // The most typical token is the second likeliest.
    assert_eq!(sample_rows(&rows, Stages::Typical), [1, 1, 1, 1, 2]);
}

/// Some rows of a batch, sampled after the others and put where they belong.
#[test]
fn a_row_with_a_target_leaves_the_others_as_they_were() {
    let to = |row: u32, target| SampleRow { target, ..SampleRow::greedy(row) };
    let device = device();
    let [first, second] = [0, 4].map(|at| GIVEN_LOGITS[at..at + 4].to_vec());
    let mut batch = Batch::new(&device, &[first, second].map(|row| Request::new(row, GREEDY)));
    let rows = device.buffer_of(&[to(1, 3), to(0, 0), to(0, 9)]).unwrap();
    let mut sampling = Sampling::new(&device, 3, 4).unwrap();
    let mut sampled = device.buffer_of(&[7u32; 5]).unwrap();

    batch.ask(&device, &mut sampling, (rows.slice(), sampled.slice_mut(), Stages::Greedy));

    assert_eq!(device.download::<u32>(sampled.slice()).unwrap(), [1, 7, 7, 0, 7]);
}

/// One graph, with other rows and logits at each launch, whose tokens become the next step's.
#[test]
fn a_captured_step_samples_what_is_in_its_buffers() {
    let device = device();
    let vocab = 3000;
    let mut rng = rng(11);
    let steps: Vec<Vec<Request>> = (0..4)
        .map(|step| {
            let draws = [
                GREEDY,
                PLAIN,
                Draw { top_k: Some(9 + step), ..PLAIN },
                Draw { top_p: 0.8, temperature: 2.0, ..PLAIN },
            ];
            let request = |draw| {
                Request::new(random_logits(&mut rng, vocab, 3.0), Draw { position: step, ..draw })
            };
            draws.map(request).to_vec()
        })
        .collect();
    let mut batch = Batch::new(&device, &steps[0]);
    let mut sampling = Sampling::new(&device, 4, vocab).unwrap();
    let mut rows = device.buffer_of(&batch.rows).unwrap();
    let [mut sampled, mut next] = [[0u32; 4]; 2].map(|zeros| device.buffer_of(&zeros).unwrap());
    let from = device.buffer_of(&[2i32, -1, 0, 3]).unwrap();
    let given = device.buffer_of(&[7u32, 8, 9, 10]).unwrap();
    let graph = device
        .capture(|| {
            batch.ask(&device, &mut sampling, (rows.slice(), sampled.slice_mut(), Stages::Filters));
            device.feed_tokens(FeedTokens {
                from: from.slice(),
                given: given.slice(),
                sampled: sampled.slice(),
                out: next.slice_mut(),
                vocab,
            })
        })
        .unwrap();

    for requests in &steps {
        let step = Batch::new(&device, requests);
        device.copy(step.logits.slice(), &mut batch.logits.slice_mut()).unwrap();
        device.upload(&mut rows.slice_mut(), &step.rows).unwrap();

        graph.launch().unwrap();

        let expected: Vec<_> =
            requests.iter().map(|request| reference::sample(request).unwrap()).collect();
        assert_eq!(device.download::<u32>(sampled.slice()).unwrap(), expected);
        let next = device.download::<u32>(next.slice()).unwrap();
        assert_eq!(next, [expected[2], 8, expected[0], expected[3]]);
    }
}

#[test]
fn what_cannot_be_fed_becomes_the_first_token() {
    let device = device();
    let from = device.buffer_of(&[0i32, 1, 2, -1, -7, i32::MAX]).unwrap();
    let given = device.buffer_of(&[5u32, 5, 5, 5, 100, 5]).unwrap();
    let sampled = device.buffer_of(&[NO_TOKEN, 99]).unwrap();
    let mut out = device.buffer_of(&[0xabu32; 6]).unwrap();

    device
        .feed_tokens(FeedTokens {
            from: from.slice(),
            given: given.slice(),
            sampled: sampled.slice(),
            out: out.slice_mut(),
            vocab: 100,
        })
        .unwrap();

    assert_eq!(device.download::<u32>(out.slice()).unwrap(), [0, 99, 0, 5, 0, 0]);
}

#[test]
fn drafts_count_until_the_first_that_is_wrong() {
    let device = device();
    let sampled = device.buffer_of(&[4u32, 5, 6, 7, 8, NO_TOKEN, 1]).unwrap();
    let drafts = device.buffer_of(&[4u32, 5, 6, 4, 9, 6, 8, 1]).unwrap();
    let drafted =
        |first_row, first_draft, num_drafts| Drafted { first_row, first_draft, num_drafts };
    let samples = [
        drafted(0, 0, 3),
        drafted(0, 3, 3),
        drafted(1, 3, 1),
        drafted(3, 0, 0),
        drafted(4, 6, 2),
        // Beyond what there is.
        drafted(6, 7, 1),
        drafted(9, 0, 2),
        drafted(0, 9, 2),
    ];
    let samples = device.buffer_of(&samples).unwrap();
    let mut valid = device.buffer_of(&[0xabu32; 8]).unwrap();

    device
        .accept_drafts(AcceptDrafts {
            samples: samples.slice(),
            drafts: drafts.slice(),
            sampled: sampled.slice(),
            valid: valid.slice_mut(),
        })
        .unwrap();

    assert_eq!(device.download::<u32>(valid.slice()).unwrap(), [4, 2, 1, 1, 2, 1, 1, 1]);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = device();
    assert!(Sampling::new(&device, 1, 0).is_err());
    assert!(Sampling::new(&device, 1, 2048 * 1024 + 1).is_err());
    let mut sampling = Sampling::new(&device, 2, 4).unwrap();
    let buffer = device.alloc_zeroed(1024).unwrap();
    let mut out = device.alloc_zeroed(12).unwrap();
    let mut with = |rows: usize, logits: usize, num: usize| {
        sampling.sample(
            &device,
            Sample {
                rows: buffer.slice().at(0, rows * size_of::<SampleRow>()),
                logits: buffer.slice().at(0, logits),
                biases: None,
                masked: None,
                inputs: None,
                allowed: None,
                counts: None,
                sampled: out.slice_mut().at(0, num * 4),
                stages: Stages::Filters,
            },
        )
    };

    assert!(with(2, 32, 2).is_ok());
    // Rows may name the tokens that they are.
    assert!(with(1, 32, 2).is_ok());
    assert!(with(3, 32, 3).is_err());
    assert!(with(2, 30, 2).is_err());
    assert!(with(2, 0, 2).is_err());
    assert!(TokenCounts::new(&device, 2, 4).unwrap().clear(&device, 2).is_err());
    assert_eq!(SampleRow::default().counts_slot, NONE);
}
