//! The standard error stream, where log lines and a live view meet: lines go above the view, which is
//! drawn again below them.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::MultiProgress;

/// The view that is shown now. One process has one terminal.
static VIEW: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Where log lines go: each is written whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let view = VIEW.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let write = || io::stderr().lock().write_all(bytes);
        match view {
            Some(view) => view.suspend(write)?,
            None => write()?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows a view below the lines.
pub(crate) fn show(view: MultiProgress) {
    *VIEW.lock().unwrap_or_else(PoisonError::into_inner) = Some(view);
}

/// Shows none any more.
pub(crate) fn hide() {
    *VIEW.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
