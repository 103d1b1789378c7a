//! Copies weights to a device: several threads read and convert, and copies run meanwhile.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use sconce_kernels::cuda::{Device, SliceMut, Staging};

use super::LoadError;

/// Bytes of a job at most: small enough that threads share the work of one tensor.
pub(super) const PIECE: usize = 8 << 20;

/// Fills the bytes.
pub(super) type Make<'a> = Box<dyn FnOnce(&mut [u8]) -> io::Result<()> + Send + 'a>;

/// A piece of the device's memory, and what makes its bytes.
pub(super) struct Job<'a> {
    pub(super) to: SliceMut<'a>,
    pub(super) make: Make<'a>,
}

/// Does all jobs on `num_threads` threads.
pub(super) fn run(
    device: &Device,
    jobs: Vec<Job<'_>>,
    num_threads: NonZeroUsize,
) -> Result<(), LoadError> {
    let piece = jobs.iter().map(|job| job.to.len()).max().unwrap_or(0);
    let staging = || Ok(Staging::new(device, piece)?);
    share_out(device, jobs, num_threads, staging, |staging, Job { to, make }| {
        let bytes = &mut staging.begin()?[..to.len()];
        make(bytes).map_err(LoadError::Read)?;
        Ok(staging.send(device, &to)?)
    })?;
    Ok(device.synchronize()?)
}

/// Has threads, each with what `begin` makes for it, `work` on the items until none is left.
pub(super) fn share_out<T: Send, S>(
    device: &Device,
    items: Vec<T>,
    num_threads: NonZeroUsize,
    begin: impl Fn() -> Result<S, LoadError> + Sync,
    work: impl Fn(&mut S, T) -> Result<(), LoadError> + Sync,
) -> Result<(), LoadError> {
    let num_threads = num_threads.get().min(items.len());
    let items = Mutex::new(items.into_iter());
    let take = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || -> Result<(), LoadError> {
        device.bind()?;
        let mut own = begin()?;
        while let Some(item) = take() {
            work(&mut own, item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..num_threads).map(|_| scope.spawn(run)).collect();
        let mut results = threads.into_iter().map(|thread| thread.join());
        results.try_for_each(|result| result.unwrap_or(Err(LoadError::Panicked)))
    })
}
