//! Copies of requests to a version that is being tried out: how often does it answer otherwise?
//!
//! A copy is made after the original was sent, as an own task that nobody waits for, and only a few
//! at a time. Of the answers only digests meet; of what they say, nothing is kept or logged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::app::{App, Principal};
use crate::error::ApiError;
use crate::generation::{CallDelta, Delta, FinishReason, Reading, TextStream};
use crate::metrics::{self, ModelMetrics, Totals};
use crate::prompt;
use crate::routing::{Shadow, Target};
use crate::validate::{GenerateRequest, Reports};

/// Copies that are on their way at most. More are left out.
const MAX_COPIES: usize = 32;
/// The longest that a copy may take, its original included.
const MAX_TIME: Duration = Duration::from_secs(300);
/// Behind everything that a client may ask for, of the same key.
const PRIORITY: i32 = 1001;

/// The copies that are on their way. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shadows {
    places: Arc<Semaphore>,
    /// They end by themselves, and with the last clone at the latest.
    copies: Arc<Mutex<JoinSet<()>>>,
}

/// What the original's answer is for its copy: dropped early, there is nothing to compare with.
pub(crate) struct Original {
    answer: Answer,
    sender: Option<oneshot::Sender<[u8; 32]>>,
}

/// An answer as a number: equal for equal answers, in however many pieces they came.
struct Answer(Vec<Completion>);

#[derive(Default)]
struct Completion {
    text: Sha256,
    reasoning: Sha256,
    calls: Sha256,
    finish: Option<FinishReason>,
}

/// What a copy is made of.
struct Copied {
    request: GenerateRequest,
    reading: Option<Reading>,
    num_choices: usize,
}

impl Default for Shadows {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_COPIES)), copies: Arc::default() }
    }
}

/// Sends a copy of a request to the target's shadow, if this one is to have one. The original's
/// deltas must be shown to what is returned.
pub(crate) fn begin(
    (app, principal): (&App, &Principal),
    target: &Target,
    request: &GenerateRequest,
    (reading, num_choices): (Option<&Reading>, usize),
) -> Option<Original> {
    let shadow = target.shadow.as_ref()?;
    // What comes before a suffix is written in the tokens of one version.
    if request.suffix.is_some() || rand::random_range(0..10_000) >= shadow.share {
        return None;
    }
    let copied = Copied { request: copy(request), reading: reading.cloned(), num_choices };
    app.shadows.spawn((app, principal), shadow, copied)
}

impl Shadows {
    fn spawn(
        &self,
        (app, principal): (&App, &Principal),
        shadow: &Shadow,
        copied: Copied,
    ) -> Option<Original> {
        let totals = app.dispatcher.totals(&shadow.version);
        let Some((target, place)) = self.target(app, shadow) else {
            metrics::shadow_skipped();
            return None;
        };
        let metrics = metrics::of(&target.model.info.model, target.model.version_name());
        let (sender, original) = oneshot::channel();
        let answer = Answer::new(copied.num_choices);
        let (app, principal) = (app.clone(), principal.clone());
        let run = async move {
            let _place = place;
            let both = compare((&app, &principal), (target, copied), original);
            match timeout(MAX_TIME, both).await {
                Ok(Ok(Some(is_different))) => tell((&totals, &metrics), is_different),
                // The original ended without an answer.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(code = error.report().code, "a copy was not answered");
                    metrics::shadow_skipped();
                }
                Err(_) => metrics::shadow_skipped(),
            }
        };
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        while copies.try_join_next().is_some() {}
        copies.spawn(run);
        Some(Original { answer, sender: Some(sender) })
    }

    /// A replica of the shadow, and a place for one more copy.
    fn target(&self, app: &App, shadow: &Shadow) -> Option<(Target, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some((app.routing.shadow_target(shadow)?, place))
    }
}

fn tell((totals, metrics): (&Totals, &ModelMetrics), is_different: bool) {
    totals.shadowed(is_different);
    metrics.shadowed(is_different);
}

/// The request, as a copy is sent.
fn copy(request: &GenerateRequest) -> GenerateRequest {
    let mut copy = request.clone();
    copy.priority = PRIORITY;
    copy.reports = Reports::default();
    copy
}

/// Whether both answers differ; nothing where the original has none.
async fn compare(
    who: (&App, &Principal),
    (target, copied): (Target, Copied),
    mut original: oneshot::Receiver<[u8; 32]>,
) -> Result<Option<bool>, ApiError> {
    let answered = answer(who, &target, copied);
    tokio::pin!(answered);
    tokio::select! {
        biased;
        original = &mut original => match original {
            Ok(original) => Ok(Some(answered.await? != original)),
            Err(_) => Ok(None),
        },
        copy = &mut answered => {
            let copy = copy?;
            Ok(original.await.ok().map(|original| original != copy))
        }
    }
}

/// What the shadow answers.
async fn answer(
    (app, principal): (&App, &Principal),
    target: &Target,
    Copied { request, reading, num_choices }: Copied,
) -> Result<[u8; 32], ApiError> {
    let fuel = app.config.limits.template_fuel;
    let encoded = prompt::encode(&target.model, request, fuel).await?;
    let mut stream = TextStream::start((app, principal), target, encoded, reading.as_ref())?;
    let mut answer = Answer::new(num_choices);
    while let Some(delta) = stream.next().await {
        answer.add(&delta?);
    }
    answer.digest().ok_or(ApiError::Internal)
}

impl Original {
    /// More of the answer has come.
    pub(crate) fn add(&mut self, delta: &Delta) {
        self.answer.add(delta);
        if delta.finish.is_some()
            && let Some(digest) = self.answer.digest()
            && let Some(sender) = self.sender.take()
        {
            // The copy may have failed already.
            let _ = sender.send(digest);
        }
    }
}

impl Answer {
    fn new(num_choices: usize) -> Self {
        Self((0..num_choices).map(|_| Completion::default()).collect())
    }

    fn add(&mut self, delta: &Delta) {
        if delta.report.is_some() {
            return;
        }
        let Some(completion) = self.0.get_mut(delta.choice as usize) else { return };
        completion.text.update(&delta.text);
        completion.reasoning.update(&delta.reasoning);
        for call in &delta.calls {
            match call {
                // A byte that is in no text keeps names and arguments apart.
                CallDelta::Start { name, .. } => {
                    completion.calls.update([0xff]);
                    completion.calls.update(name);
                    completion.calls.update([0xff]);
                }
                CallDelta::Arguments { fragment, .. } => completion.calls.update(fragment),
            }
        }
        completion.finish = delta.finish.or(completion.finish);
    }

    /// The number, once every completion has ended.
    fn digest(&self) -> Option<[u8; 32]> {
        let mut whole = Sha256::new();
        for completion in &self.0 {
            let finish = completion.finish?.as_str();
            for part in [&completion.text, &completion.reasoning, &completion.calls] {
                whole.update(part.clone().finalize());
            }
            whole.update(finish);
        }
        Some(whole.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(choice: u32, text: &str, finish: Option<FinishReason>) -> Delta {
        Delta { choice, text: text.into(), finish, ..Delta::default() }
    }

    fn digest(deltas: &[Delta]) -> Option<[u8; 32]> {
        let mut answer = Answer::new(2);
        deltas.iter().for_each(|delta| answer.add(delta));
        answer.digest()
    }

    #[test]
    fn answers_are_equal_however_they_came() {
        let stop = Some(FinishReason::Stop);
        let whole = digest(&[delta(0, "abc", stop), delta(1, "x", stop)]);
        let pieces = digest(&[
            delta(1, "", None),
            delta(0, "a", None),
            delta(1, "x", stop),
            delta(0, "bc", None),
            delta(0, "", stop),
        ]);

        assert!(whole.is_some());
        assert_eq!(whole, pieces);
        assert_ne!(whole, digest(&[delta(0, "abd", stop), delta(1, "x", stop)]));
        assert_ne!(
            whole,
            digest(&[delta(0, "abc", Some(FinishReason::Length)), delta(1, "x", stop)])
        );
        assert_ne!(whole, digest(&[delta(1, "abc", stop), delta(0, "x", stop)]));
        assert_eq!(digest(&[delta(0, "abc", stop)]), None);
    }
}
