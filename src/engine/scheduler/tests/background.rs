//! Requests that nobody waits for beside those of people who do.

use super::*;

/// A request that nobody waits for.
fn background(prompt: Vec<TokenId>, max_tokens: u32) -> Request {
    Request { cache_salt: 7, priority: 10_000, ..request(prompt, max_tokens) }
}

#[test]
fn what_nobody_waits_for_rests_while_someone_waits_for_a_first_token() {
    let mut engine = Engine::warm(|_| {});
    engine.submit(1, background(prompt(1, 8), 50));
    engine.step();
    assert_eq!(engine.step(), [1]);

    engine.submit(2, request(prompt(2, 120), 3));
    let mut num_computed = 0;
    while num_computed < 120 {
        let rows = engine.step();
        assert_eq!(rows.len(), 1, "the prompt alone");
        num_computed += rows[0];
    }

    // Both have streams now.
    assert_eq!(engine.step(), [1, 1]);
}

#[test]
fn a_step_for_those_that_nobody_waits_for_is_short() {
    let mut engine = Engine::warm(|config| config.max_itl = Duration::from_millis(160));
    engine.submit(1, background(prompt(1, 100), 5));

    // 34 ms of the quarter of 160, from the first step on, and beside someone's stream.
    assert_eq!(engine.step(), [34]);
    engine.submit(2, request(prompt(2, 4), 5));
    assert_eq!(engine.step(), [4]);
    assert_eq!(engine.step(), [1, 33]);
    assert_eq!(engine.step(), [1, 33]);
}

#[test]
fn what_nobody_waits_for_is_admitted_last_whoever_it_is_from() {
    let mut engine = Engine::warm(|config| config.max_num_seqs = 1);
    engine.submit(1, request(prompt(1, 4), 2));
    engine.step();
    engine.submit(2, background(prompt(2, 4), 1));
    engine.submit(3, request(prompt(3, 4), 1));

    while engine.finishes().len() < 3 {
        engine.step();
    }

    let ids: Vec<_> = engine.finishes().iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 3, 2]);
}

#[test]
fn what_nobody_waits_for_gives_up_its_blocks_to_whoever_comes() {
    let mut engine = Engine::warm(|config| config.num_blocks = 16);
    engine.submit(1, background(prompt(1, 24), 24));
    engine.submit(2, background(prompt(2, 24), 4));
    engine.step();
    engine.step();

    engine.submit(3, request(prompt(3, 48), 1));
    while !engine.finishes().iter().any(|(id, _)| *id == 3) {
        assert!(!engine.step().is_empty());
    }
    assert!(engine.finishes().iter().all(|(id, _)| *id == 3), "it came first");

    while engine.finishes().len() < 3 {
        assert!(!engine.step().is_empty());
    }
}
