//! Requests whose grammars are being compiled: by threads of their own, while the session goes on.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::submit::Checked;
use crate::grammar::{Compiler, Invalid, Source};

/// Grammars that are compiled at once, of all sessions.
const MAX_COMPILED_AT_ONCE: usize = 2;

/// Compiles the grammars of all sessions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Grammars {
    /// `None`: the model follows no grammar.
    compiler: Option<Arc<Compiler>>,
    permits: Arc<Semaphore>,
}

/// A request with its grammar, or why it has none.
pub(super) struct Compiled {
    pub(super) id: u64,
    pub(super) result: Result<Checked, Invalid>,
}

/// One session's requests whose grammars are being compiled.
#[derive(Default)]
pub(super) struct Compiling {
    tasks: JoinSet<Compiled>,
    /// Whether they were cancelled.
    cancelled: HashMap<u64, bool>,
}

impl Grammars {
    pub(super) fn new(compiler: Option<Arc<Compiler>>) -> Self {
        Self { compiler, permits: Arc::new(Semaphore::new(MAX_COMPILED_AT_ONCE)) }
    }

    /// Compiles a request's grammar, if it has one.
    async fn compile(self, mut checked: Checked) -> Compiled {
        let id = checked.id;
        let Some(source) = checked.grammar.take() else {
            return Compiled { id, result: Ok(checked) };
        };
        let Some(compiler) = self.compiler else {
            let invalid = Invalid::new("the model follows no grammars");
            return Compiled { id, result: Err(invalid) };
        };
        let _permit = self.permits.acquire().await;
        let result = on_a_thread(compiler, source).await.map(|grammar| {
            checked.request.sampling.grammar = Some(grammar);
            checked
        });
        Compiled { id, result }
    }
}

async fn on_a_thread(
    compiler: Arc<Compiler>,
    source: Source,
) -> Result<crate::grammar::Grammar, Invalid> {
    let (say, compiled) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("compiler".to_owned())
        .stack_size(Compiler::STACK_BYTES)
        .spawn(move || drop(say.send(compiler.compile(&source))));
    match thread {
        Ok(_) => compiled.await.unwrap_or_else(|_| Err(Invalid::new("it can't be compiled"))),
        Err(_) => Err(Invalid::new("no thread could be started to compile it")),
    }
}

impl Compiling {
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn push(&mut self, grammars: Grammars, checked: Checked) {
        self.cancelled.insert(checked.id, false);
        self.tasks.spawn(grammars.compile(checked));
    }

    /// Remembers that a request was cancelled. False when it is not here.
    pub(super) fn cancel(&mut self, id: u64) -> bool {
        self.cancelled.get_mut(&id).map(|cancelled| *cancelled = true).is_some()
    }

    /// The next request whose grammar is compiled, and whether it was cancelled meanwhile. `None`
    /// when there are no more. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<(Compiled, bool)> {
        // A task that panicked has ended the process.
        let compiled = self.tasks.join_next().await?.ok()?;
        let is_cancelled = self.cancelled.remove(&compiled.id).unwrap_or(false);
        Some((compiled, is_cancelled))
    }
}
