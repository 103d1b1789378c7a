use super::*;
use crate::store::PutBatch;
use crate::store::testing::{Fresh, databases};

fn batch(id: &str) -> BatchRow {
    BatchRow {
        id: id.into(),
        owner: "a".into(),
        endpoint: "/v1/completions".into(),
        input_file: "file-1".into(),
        metadata: Some(r#"{"k":"v"}"#.into()),
        status: "validating".into(),
        outcome: "completed".into(),
        models: "[]".into(),
        created_at: 1,
        expires_at: 100,
        ..BatchRow::default()
    }
}

fn line(position: i64) -> NewLine {
    NewLine {
        position,
        custom_id: format!("id {position}"),
        model: if position % 2 == 1 { "odd".into() } else { "even".into() },
        first_byte: position * 10,
        num_bytes: 10,
    }
}

fn lease(holder: &str, now: i64) -> Lease<'_> {
    Lease { holder, now, until: now + 10 }
}

fn answer(text: &str) -> LineResult {
    let usage = BatchUsage { input_tokens: 3, output_tokens: 2, ..BatchUsage::default() };
    LineResult { is_error: false, text: text.into(), usage }
}

/// A batch in progress, with lines 1 to 4.
async fn begun(fresh: &Fresh) -> Store {
    let store = fresh.open().await;
    assert_eq!(store.put_batch(&batch("b"), 9).await.unwrap(), PutBatch::Stored);
    let taken = store.lease_batch(lease("r", 0)).await.unwrap().unwrap();
    assert_eq!(taken, batch("b"));
    let lines: Vec<_> = (1..=4).map(line).collect();
    assert!(store.add_lines(("b", "r"), &lines).await.unwrap());
    // A step that is taken again.
    assert!(store.add_lines(("b", "r"), &lines[..2]).await.unwrap());
    assert!(store.begin_batch(("b", "r"), (4, r#"["even","odd"]"#), 2).await.unwrap());
    store
}

async fn row(store: &Store) -> BatchRow {
    store.batch(("a", "b")).await.unwrap().unwrap()
}

fn positions(lines: &[LeasedLine]) -> Vec<i64> {
    lines.iter().map(|line| line.position).collect()
}

#[tokio::test]
async fn a_key_has_so_many_unfinished_batches_and_sees_its_own() {
    for fresh in databases() {
        let store = fresh.open().await;
        assert_eq!(store.put_batch(&batch("1"), 2).await.unwrap(), PutBatch::Stored);
        let newer = BatchRow { created_at: 2, ..batch("2") };
        assert_eq!(store.put_batch(&newer, 2).await.unwrap(), PutBatch::Stored);
        assert_eq!(store.put_batch(&batch("3"), 2).await.unwrap(), PutBatch::TooMany);

        assert_eq!(store.batches("a", None, 9).await.unwrap(), [newer.clone(), batch("1")]);
        assert_eq!(store.batches("a", Some(&newer), 9).await.unwrap(), [batch("1")]);
        assert_eq!(store.batches("b", None, 9).await.unwrap(), []);
        assert_eq!(store.batch(("b", "1")).await.unwrap(), None);
        assert!(!store.cancel_batch(("b", "1"), 3).await.unwrap());
    }
}

#[tokio::test]
async fn every_line_is_leased_once_and_by_model() {
    for fresh in databases() {
        let store = begun(&fresh).await;

        let odd = store.lease_lines(("b", "odd"), 9, lease("r", 0)).await.unwrap();
        let first = store.lease_lines(("b", "even"), 1, lease("s", 0)).await.unwrap();
        let rest = store.lease_lines(("b", "even"), 9, lease("r", 0)).await.unwrap();

        assert_eq!(positions(&odd), [1, 3]);
        assert_eq!(positions(&first), [2]);
        assert_eq!(positions(&rest), [4]);
        assert_eq!((odd[0].first_byte, odd[0].custom_id.as_str()), (10, "id 1"));
        assert_eq!(store.lease_lines(("b", "odd"), 9, lease("s", 0)).await.unwrap(), []);
        assert_eq!(store.num_waiting_lines().await.unwrap(), 4);
    }
}

#[tokio::test]
async fn many_routers_never_get_the_same_line() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        let stores = [fresh.open().await, fresh.open().await];
        let lease_one = |i: usize| {
            let store = stores[i % 2].clone();
            tokio::spawn(async move {
                let model = if i < 4 { "odd" } else { "even" };
                let holder = format!("r{i}");
                store.lease_lines(("b", model), 1, lease(&holder, 0)).await.unwrap()
            })
        };

        let leased = futures::future::join_all((0..8).map(lease_one)).await;

        let mut all: Vec<_> = leased.into_iter().flat_map(|it| positions(&it.unwrap())).collect();
        // What is being taken by another is passed over, and there the next time.
        for model in ["odd", "even"] {
            all.extend(positions(
                &store.lease_lines(("b", model), 9, lease("x", 0)).await.unwrap(),
            ));
        }
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn who_has_lost_a_line_records_nothing() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        store.lease_lines(("b", "odd"), 1, lease("dead", 0)).await.unwrap();
        let id = ("b".to_owned(), 1);
        store.renew_lines(lease("dead", 5)).await.unwrap();
        assert_eq!(store.wanted_lines("dead").await.unwrap(), std::slice::from_ref(&id));
        assert_eq!(store.reclaim_lines(14).await.unwrap(), 0);

        assert_eq!(store.reclaim_lines(15).await.unwrap(), 1);
        let again = store.lease_lines(("b", "odd"), 1, lease("r", 15)).await.unwrap();

        assert_eq!((again[0].position, again[0].num_tries), (1, 1));
        assert_eq!(store.wanted_lines("dead").await.unwrap(), []);
        assert!(!store.record_line((&id, "dead"), &answer("late"), 3).await.unwrap());
        assert!(store.record_line((&id, "r"), &answer("one"), 3).await.unwrap());
        assert!(!store.record_line((&id, "r"), &answer("two"), 3).await.unwrap());
        let lines = store.ended_lines(("b", false), 0, 9).await.unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].result.as_deref(), Some("one"));
        assert_eq!((row(&store).await.num_completed, row(&store).await.usage.input_tokens), (1, 3));
    }
}

#[tokio::test]
async fn a_line_that_was_given_back_waits_its_time() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        store.lease_lines(("b", "odd"), 1, lease("r", 0)).await.unwrap();

        store.release_line((&("b".to_owned(), 1), "r"), (1, 50)).await.unwrap();

        let early = store.lease_lines(("b", "odd"), 9, lease("r", 49)).await.unwrap();
        let later = store.lease_lines(("b", "odd"), 9, lease("r", 50)).await.unwrap();
        assert_eq!((positions(&early), positions(&later)), (vec![3], vec![1]));
        store.release_all("r").await.unwrap();
        assert_eq!(store.lease_lines(("b", "odd"), 9, lease("s", 50)).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn the_last_answer_has_the_files_written_and_the_lines_forgotten() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        for model in ["odd", "even"] {
            store.lease_lines(("b", model), 9, lease("r", 0)).await.unwrap();
        }
        let refused = LineResult { is_error: true, ..answer("refused") };
        for (position, result) in [(4, answer("4")), (2, refused), (1, answer("1"))] {
            store.record_line((&("b".to_owned(), position), "r"), &result, 7).await.unwrap();
        }
        assert_eq!(row(&store).await.status, "in_progress");
        assert_eq!(store.lease_batch(lease("r", 0)).await.unwrap(), None);

        store.record_line((&("b".to_owned(), 3), "r"), &answer("3"), 8).await.unwrap();

        let batch = store.lease_batch(lease("r", 0)).await.unwrap().unwrap();
        assert_eq!((batch.status.as_str(), batch.finalizing_at), ("finalizing", Some(8)));
        assert_eq!((batch.num_completed, batch.num_failed), (3, 1));
        assert!(store.close_lines(("b", "r")).await.unwrap());
        let answers = store.ended_lines(("b", false), 0, 9).await.unwrap();
        let order: Vec<_> = answers.iter().map(|line| line.position).collect();
        assert_eq!(order, [1, 3, 4]);
        // Someone else has taken the step over meanwhile.
        assert!(!store.end_batch(("b", "s"), (None, None), 9).await.unwrap());
        assert!(store.end_batch(("b", "r"), (Some("out"), Some("err")), 9).await.unwrap());

        let ended = row(&store).await;
        assert_eq!((ended.status.as_str(), ended.ended_at), ("completed", Some(9)));
        assert_eq!(ended.output_file.as_deref(), Some("out"));
        assert_eq!(store.ended_lines(("b", false), 0, 9).await.unwrap(), []);
        assert_eq!(store.forget_batches(9).await.unwrap(), 0);
        assert_eq!(store.forget_batches(10).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn what_a_cancelled_batch_had_under_way_is_not_recorded() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        store.lease_lines(("b", "odd"), 9, lease("r", 0)).await.unwrap();
        store.record_line((&("b".to_owned(), 1), "r"), &answer("1"), 3).await.unwrap();

        assert!(store.cancel_batch(("a", "b"), 4).await.unwrap());
        assert!(!store.cancel_batch(("a", "b"), 5).await.unwrap());
        assert_eq!(store.lease_lines(("b", "even"), 9, lease("r", 0)).await.unwrap(), []);
        let batch = store.lease_batch(lease("s", 0)).await.unwrap().unwrap();
        assert_eq!((batch.status.as_str(), batch.cancelling_at), ("cancelling", Some(4)));
        assert!(store.close_lines(("b", "s")).await.unwrap());
        // A step that is taken again.
        assert!(store.close_lines(("b", "s")).await.unwrap());

        let late = store.record_line((&("b".to_owned(), 3), "r"), &answer("3"), 6).await.unwrap();
        assert!(!late);
        assert_eq!((row(&store).await.num_completed, row(&store).await.num_failed), (1, 3));
        let unanswered = store.ended_lines(("b", true), 0, 9).await.unwrap();
        assert_eq!(unanswered.len(), 3);
        assert!(unanswered.iter().all(|line| line.result.is_none()));
        assert!(store.end_batch(("b", "s"), (None, None), 7).await.unwrap());
        assert_eq!(row(&store).await.status, "cancelled");
    }
}

#[tokio::test]
async fn a_batch_expires_in_whatever_state_it_is() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        store.put_batch(&batch("c"), 9).await.unwrap();
        store.lease_batch(lease("r", 0)).await.unwrap().unwrap();
        store.add_lines(("c", "r"), &[line(1)]).await.unwrap();

        assert_eq!(store.expire_batches(99).await.unwrap(), 0);
        assert_eq!(store.expire_batches(100).await.unwrap(), 2);

        assert!(!store.add_lines(("c", "r"), &[line(2)]).await.unwrap());
        assert!(!store.begin_batch(("c", "r"), (1, "[]"), 101).await.unwrap());
        for id in ["b", "c"] {
            let taken = store.lease_batch(lease("s", 0)).await.unwrap().unwrap();
            assert_eq!((taken.id.as_str(), taken.outcome.as_str()), (id, "expired"));
            assert!(store.close_lines((id, "s")).await.unwrap());
            assert!(store.end_batch((id, "s"), (None, None), 102).await.unwrap());
        }
        let never_begun = store.batch(("a", "c")).await.unwrap().unwrap();
        assert_eq!((never_begun.status.as_str(), never_begun.num_failed), ("expired", 0));
        assert_eq!(row(&store).await.num_failed, 4);
    }
}

#[tokio::test]
async fn what_a_dead_router_had_is_free_before_its_lease_ends() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        store.put_batch(&batch("c"), 9).await.unwrap();
        let (alive, dead) =
            (store.appear("alive").await.unwrap(), store.appear("dead").await.unwrap());
        store.lease_batch(lease("dead", 0)).await.unwrap().unwrap();
        store.lease_lines(("b", "odd"), 1, lease("dead", 0)).await.unwrap();
        store.lease_lines(("b", "even"), 1, lease("alive", 0)).await.unwrap();
        let other = fresh.open().await;
        let watching = other.appear("other").await.unwrap();
        assert_eq!(other.free_dead("other").await.unwrap(), 0);

        drop(dead);
        // A server notices in its own time that a session has ended.
        let mut num_freed = 0;
        while num_freed == 0 {
            num_freed = other.free_dead("other").await.unwrap();
        }

        assert_eq!(num_freed, 1);
        let lines = other.lease_lines(("b", "odd"), 1, lease("other", 1)).await.unwrap();
        assert_eq!((positions(&lines), lines[0].num_tries), (vec![1], 1));
        assert_eq!(other.lease_batch(lease("other", 1)).await.unwrap().unwrap().id, "c");
        let id = ("b".to_owned(), 1);
        assert!(!store.record_line((&id, "dead"), &answer("late"), 3).await.unwrap());
        let kept = [("b".to_owned(), 2)];
        assert_eq!(store.wanted_lines("alive").await.unwrap(), kept);
        alive.end().await;
        watching.end().await;
    }
}

#[tokio::test]
async fn nobody_wants_the_lines_of_a_batch_that_is_cancelled() {
    for fresh in databases() {
        let store = begun(&fresh).await;
        store.lease_lines(("b", "odd"), 9, lease("r", 0)).await.unwrap();
        assert_eq!(store.wanted_lines("r").await.unwrap().len(), 2);

        assert!(store.cancel_batch(("a", "b"), 4).await.unwrap());

        assert_eq!(store.wanted_lines("r").await.unwrap(), []);
    }
}
