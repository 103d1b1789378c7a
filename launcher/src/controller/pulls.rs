//! Models that are being pulled for somebody who watches, and the pulls that failed last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sconce_proto::fleet as proto;
use tokio::sync::watch;

use crate::progress::Amount;

/// Pulls that failed and are still told of.
const MAX_FAILED: usize = 16;

/// So long a pull is told of that is over.
const TOLD_FOR: Duration = Duration::from_secs(5);

/// The pulls, by what was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulls(Arc<watch::Sender<BTreeMap<String, Pull>>>);

/// How a pull stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pull {
    Going(Amount),
    /// What it brought is a version of its own.
    Done(Amount),
    Failed(String),
}

/// A pull that goes on. Dropping it has it be told of no more.
#[derive(Debug)]
pub(super) struct Going {
    pulls: Pulls,
    name: String,
}

impl Pulls {
    /// Tells of a pull. `None`: the same is being pulled already.
    pub(super) fn begin(&self, name: &str) -> Option<Going> {
        let is_new = self.0.send_if_modified(|pulls| {
            let is_new = !matches!(pulls.get(name), Some(Pull::Going(_)));
            if is_new {
                pulls.insert(name.to_owned(), Pull::Going(Amount::default()));
            }
            is_new
        });
        is_new.then(|| Going { pulls: self.clone(), name: name.to_owned() })
    }

    /// Tells when one begins, goes on or ends.
    pub(super) fn changes(&self) -> watch::Receiver<BTreeMap<String, Pull>> {
        self.0.subscribe()
    }

    /// As the launcher's status has them.
    pub(super) fn models(&self) -> Vec<proto::Model> {
        let pulls = self.0.borrow();
        let model = |(name, pull): (&String, &Pull)| {
            let (state, amount, error) = match pull {
                Pull::Going(amount) => (proto::VersionState::Pulling, *amount, String::new()),
                Pull::Done(amount) => (proto::VersionState::Unloaded, *amount, String::new()),
                Pull::Failed(why) => (proto::VersionState::Failed, Amount::default(), why.clone()),
            };
            proto::Model {
                version: name.clone(),
                name: name.clone(),
                source: name.clone(),
                bytes: amount.total,
                pulled_bytes: amount.done,
                state: state.into(),
                error,
                ..proto::Model::default()
            }
        };
        pulls.iter().map(model).collect()
    }
}

impl Going {
    /// Tells how far it is. Returns whether that is news.
    pub(super) fn set(&self, amount: Amount) -> bool {
        self.pulls.0.send_if_modified(|pulls| {
            let now = Pull::Going(amount);
            pulls.insert(self.name.clone(), now.clone()) != Some(now)
        })
    }

    /// Tells that all is here, until those who watch have seen it.
    pub(super) fn finish(self, amount: Amount) {
        let done = Pull::Done(amount);
        self.pulls.0.send_modify(|pulls| {
            pulls.insert(self.name.clone(), done.clone());
        });
        let (pulls, name) = (self.pulls.clone(), self.name.clone());
        tokio::spawn(async move {
            #[expect(clippy::disallowed_methods, reason = "nobody says that he has seen it")]
            tokio::time::sleep(TOLD_FOR).await;
            pulls.0.send_if_modified(|pulls| {
                let is_same = pulls.get(&name) == Some(&done);
                if is_same {
                    pulls.remove(&name);
                }
                is_same
            });
        });
    }

    /// Tells why it failed, for a while.
    pub(super) fn fail(self, why: &str) {
        self.pulls.0.send_modify(|pulls| {
            let is_failed = |pull: &Pull| matches!(pull, Pull::Failed(_));
            if pulls.values().filter(|pull| is_failed(pull)).count() >= MAX_FAILED
                && let Some(first) = pulls.iter().find(|(_, pull)| is_failed(pull))
            {
                let first = first.0.clone();
                pulls.remove(&first);
            }
            pulls.insert(self.name.clone(), Pull::Failed(why.to_owned()));
        });
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.pulls.0.send_if_modified(|pulls| {
            let is_going = matches!(pulls.get(&self.name), Some(Pull::Going(_)));
            if is_going {
                pulls.remove(&self.name);
            }
            is_going
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pull_is_told_of_while_it_goes_on_and_after_it_failed() {
        let pulls = Pulls::default();
        let going = pulls.begin("a").unwrap();
        assert!(pulls.begin("a").is_none());
        assert!(going.set(Amount { done: 1, total: 2 }));
        assert!(!going.set(Amount { done: 1, total: 2 }));
        let [model] = &pulls.models()[..] else { panic!("not one") };
        assert_eq!((model.pulled_bytes, model.bytes), (1, 2));

        going.fail("no room");
        assert_eq!(pulls.models()[0].error, "no room");
        drop(pulls.begin("a").unwrap());
        assert!(pulls.models().is_empty());

        let mut changes = pulls.changes();
        pulls.begin("a").unwrap().finish(Amount { done: 2, total: 2 });
        assert_eq!(pulls.models()[0].state(), proto::VersionState::Unloaded);
        changes.wait_for(BTreeMap::is_empty).await.unwrap();
    }
}
