//! A thread that finds what grammars allow next, while the model computes.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Walk;

/// A walk that a sampler and the thread share.
#[derive(Clone, Debug)]
pub struct SharedWalk(Arc<Mutex<Walk>>);

/// The thread. It starts with the first walk.
#[derive(Debug, Default)]
pub struct Ahead(Option<Sender<SharedWalk>>);

impl SharedWalk {
    /// Shares a walk.
    pub fn new(walk: Walk) -> Self {
        Self(Arc::new(Mutex::new(walk)))
    }

    /// Waits for the thread, if it is just finding what comes next.
    pub fn lock(&self) -> MutexGuard<'_, Walk> {
        // A walk on which another thread panicked was left as it was, or says that it failed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ahead {
    /// Has what may come next found. Whoever asks the walk before that is done waits, or does it.
    pub fn prepare(&mut self, walk: &SharedWalk) {
        let sender = self.0.get_or_insert_with(|| {
            let (sender, walks) = mpsc::channel::<SharedWalk>();
            let work = move || walks.into_iter().for_each(|walk| walk.lock().prepare());
            // Without the thread the sampler does its work.
            let _ = std::thread::Builder::new().name("grammar".to_owned()).spawn(work);
            sender
        });
        let _ = sender.send(walk.clone());
    }
}
