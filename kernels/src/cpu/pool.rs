//! A pool of threads for many short loops.
//!
//! A loop's units are cut into ranges, one for each thread, which takes its own from the front, one
//! by one, and when there are none left those of others from the back. So a thread walks through
//! neighboring units, which lets the processor fetch memory ahead, and the caller takes part: a
//! worker that the system has put aside is simply not waited for, unless it holds a unit. An idle
//! worker spins for a moment, since the next loop of a forward pass follows in microseconds, then
//! sleeps.

use std::any::Any;
use std::hint;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Error;

/// How long an idle worker, or a caller waiting for the last unit, spins before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// `state`: the loop's number in the upper half, then `OPEN`, then how many workers are inside.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const NEXT_LOOP: u64 = 1 << 32;

/// Ranges of a loop at most. More threads share them, so that a thread that looks for work need
/// not look into many places.
const MAX_RANGES: usize = 8;
/// Steps of a range at most: two such numbers and a loop's fit into a word.
const MAX_STEPS: usize = u16::MAX as usize;

/// What is left of a range: the loop's number in the upper half, then the first step that is not
/// taken, then the last one's successor. Of an earlier loop, all of the range is left.
#[repr(align(128))]
struct Range(AtomicU64);

/// How the units of a loop are cut.
#[derive(Clone, Copy)]
struct Cut {
    num_units: usize,
    num_ranges: usize,
    /// Units of a step.
    step: usize,
}

impl Cut {
    fn new(num_units: usize, num_ranges: usize) -> Self {
        let step = num_units.div_ceil(num_ranges).div_ceil(MAX_STEPS).max(1);
        Self { num_units, num_ranges, step }
    }

    /// A range's first unit and how many it has.
    fn range(self, index: usize) -> (usize, usize) {
        let (each, more) = (self.num_units / self.num_ranges, self.num_units % self.num_ranges);
        (index * each + index.min(more), each + usize::from(index < more))
    }
}

/// A loop's body and its units. Written only while no worker can be inside.
#[derive(Clone, Copy)]
struct Loop {
    body: *const (dyn Fn(usize) + Sync),
    cut: Cut,
}

struct Shared {
    state: AtomicU64,
    ranges: Box<[Range]>,
    current: std::cell::UnsafeCell<Loop>,
    num_sleeping: AtomicUsize,
    caller_waits: AtomicBool,
    stopping: AtomicBool,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
    sleep: Mutex<()>,
    wake_workers: Condvar,
    wake_caller: Condvar,
}

// SAFETY: `current` is written by the one caller (which holds `Pool::calling`) while the loop is
// closed and nobody is inside, and read only by workers that entered an open loop; `state`
// orders the two. The body it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `current` is only followed while the caller keeps it alive.
unsafe impl Send for Shared {}

/// The threads. Dropping it ends them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    calling: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts a pool of `num_threads`, the caller's among them.
    pub(crate) fn new(num_threads: NonZeroUsize) -> Result<Self, Error> {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| ();
        let num_ranges = num_threads.get().min(MAX_RANGES);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            ranges: (0..num_ranges).map(|_| Range(AtomicU64::new(0))).collect(),
            current: std::cell::UnsafeCell::new(Loop {
                body: nothing,
                cut: Cut::new(0, num_ranges),
            }),
            num_sleeping: AtomicUsize::new(0),
            caller_waits: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            panicked: Mutex::new(None),
            sleep: Mutex::new(()),
            wake_workers: Condvar::new(),
            wake_caller: Condvar::new(),
        });
        let mut pool = Self { shared, calling: Mutex::new(()), workers: Vec::new() };
        for index in 1..num_threads.get() {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("cpu-{index}"))
                .spawn(move || shared.work(index))
                .map_err(Error::Thread)?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// How many threads take part, the caller's included.
    pub(crate) fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` once for each of `0..num_units`, in parallel, and returns when all are done.
    /// A call from inside a body, or while another thread's loop runs, runs its units alone.
    pub(crate) fn run(&self, num_units: usize, body: &(dyn Fn(usize) + Sync)) {
        let alone = self.workers.is_empty() || num_units <= 1;
        let calling = if alone { None } else { self.calling.try_lock().ok() };
        let Some(_calling) = calling else {
            (0..num_units).for_each(body);
            return;
        };
        // SAFETY: only the lifetime is changed; `open.close()` below, which also runs when the
        // body panics here, returns only when no worker can follow the pointer any more.
        let body_ptr = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(body)
        };
        let cut = Cut::new(num_units, self.shared.ranges.len());
        let number = self.shared.open(Loop { body: body_ptr, cut });
        let open = OpenLoop(&self.shared);
        self.shared.take_units(body, cut, number, 0);
        drop(open);
        if let Some(payload) = lock(&self.shared.panicked).take() {
            panic::resume_unwind(payload);
        }
    }

    /// Where in a list, the most work first, the unit is to be found that is to run as the `unit`th:
    /// each thread gets its share of the long ones, and begins with them.
    pub(crate) fn dealt(&self, unit: usize, num_units: usize) -> usize {
        let cut = Cut::new(num_units, self.shared.ranges.len());
        let (each, more) = (num_units / cut.num_ranges, num_units % cut.num_ranges);
        let range = if unit < more * (each + 1) {
            unit / (each + 1)
        } else {
            more + (unit - more * (each + 1)) / each.max(1)
        };
        (unit - cut.range(range).0) * cut.num_ranges + range
    }

    /// As `run`; alone where the loop is too short for waking the pool to pay.
    pub(crate) fn run_if(&self, is_long: bool, num_units: usize, body: &(dyn Fn(usize) + Sync)) {
        if is_long {
            self.run(num_units, body);
        } else {
            (0..num_units).for_each(body);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.state.fetch_add(NEXT_LOOP, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake_workers.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic was caught and handed to the caller already.
            let _ = worker.join();
        }
    }
}

/// Closes the loop and waits for those inside, also when the caller's own unit panics.
struct OpenLoop<'a>(&'a Shared);

impl Drop for OpenLoop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Shared {
    /// Returns the loop's number.
    fn open(&self, next: Loop) -> u32 {
        // SAFETY: the loop before was closed and left by all, and the caller holds `calling`.
        unsafe { *self.current.get() = next };
        let state = self.state.load(Ordering::Relaxed) & !(OPEN | INSIDE);
        let state = state.wrapping_add(NEXT_LOOP);
        let number = (state / NEXT_LOOP) as u32;
        if number == 0 {
            // Numbers begin again: what has been left by a loop that had the same must go.
            for (index, range) in self.ranges.iter().enumerate() {
                let num_steps = next.cut.range(index).1.div_ceil(next.cut.step);
                range.0.store(num_steps as u64, Ordering::Relaxed);
            }
        }
        self.state.store(state | OPEN, Ordering::SeqCst);
        if self.num_sleeping.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake_workers.notify_all();
        }
        number
    }

    fn close(&self) {
        if self.state.fetch_and(!OPEN, Ordering::SeqCst) & INSIDE == 0 {
            return;
        }
        let is_empty = || self.state.load(Ordering::SeqCst) & INSIDE == 0;
        if spin_until(is_empty) {
            return;
        }
        let mut sleeping = lock(&self.sleep);
        self.caller_waits.store(true, Ordering::SeqCst);
        while !is_empty() {
            sleeping = self.wake_caller.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
        drop(sleeping);
    }

    /// Runs units of a thread's own range, then of the others.
    fn take_units(&self, body: &(dyn Fn(usize) + Sync), cut: Cut, number: u32, thread: usize) {
        for turn in 0..cut.num_ranges {
            let index = (thread + turn) % cut.num_ranges;
            let (first, len) = cut.range(index);
            let num_steps = len.div_ceil(cut.step);
            while let Some(step) = self.ranges[index].take(number, num_steps, turn == 0) {
                let start = step * cut.step;
                (first + start..first + len.min(start + cut.step)).for_each(body);
            }
        }
    }

    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_loop(seen);
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            if self.enter() {
                // SAFETY: we are inside an open loop, so its caller waits for us before it
                // changes `current` or lets the body go.
                let (body, cut) = unsafe {
                    let current = *self.current.get();
                    (&*current.body, current.cut)
                };
                let number = (self.state.load(Ordering::Relaxed) / NEXT_LOOP) as u32;
                let units = AssertUnwindSafe(|| self.take_units(body, cut, number, thread));
                if let Err(payload) = panic::catch_unwind(units) {
                    *lock(&self.panicked) = Some(payload);
                }
                self.leave();
            }
        }
    }

    /// Returns the number of a loop later than `seen`.
    fn wait_for_loop(&self, seen: u64) -> u64 {
        let number = || self.state.load(Ordering::SeqCst) / NEXT_LOOP;
        if !spin_until(|| number() != seen) {
            let mut sleeping = lock(&self.sleep);
            self.num_sleeping.fetch_add(1, Ordering::SeqCst);
            while number() == seen {
                sleeping = self.wake_workers.wait(sleeping).unwrap_or_else(PoisonError::into_inner);
            }
            self.num_sleeping.fetch_sub(1, Ordering::SeqCst);
        }
        number()
    }

    /// Enters the current loop, unless its caller has closed it.
    fn enter(&self) -> bool {
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                (state & OPEN != 0).then_some(state + 1)
            })
            .is_ok()
    }

    fn leave(&self) {
        let last = self.state.fetch_sub(1, Ordering::SeqCst) & INSIDE == 1;
        if last && self.caller_waits.load(Ordering::SeqCst) {
            drop(lock(&self.sleep));
            self.wake_caller.notify_one();
        }
    }
}

impl Range {
    /// Takes the first step that is left of a loop's range, or the last one.
    fn take(&self, number: u32, num_steps: usize, first: bool) -> Option<usize> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let is_current = word >> 32 == u64::from(number);
            let (start, end) = if is_current {
                (word >> 16 & 0xffff, word & 0xffff)
            } else {
                (0, num_steps as u64)
            };
            if start >= end {
                return None;
            }
            let (step, start, end) =
                if first { (start, start + 1, end) } else { (end - 1, start, end - 1) };
            let left = u64::from(number) << 32 | start << 16 | end;
            // The loop's state orders what its units read and write.
            match self.0.compare_exchange_weak(word, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(step as usize),
                Err(now) => word = now,
            }
        }
    }
}

/// Spins until the condition holds, for a moment; says whether it held.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    loop {
        for _ in 0..64 {
            if condition() {
                return true;
            }
            hint::spin_loop();
        }
        if started.elapsed() > SPIN {
            return false;
        }
    }
}

/// Nothing is left half-done under these locks, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interpreter that looks for races is slow.
    const NUM_LOOPS: usize = if cfg!(miri) { 20 } else { 2000 };

    fn pool(num_threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(num_threads).unwrap()).unwrap()
    }

    #[test]
    fn every_unit_runs_exactly_once() {
        for num_threads in [1, 2, 5] {
            let pool = pool(num_threads);
            for round in 0..NUM_LOOPS {
                let counts: Vec<_> = (0..round % 50).map(|_| AtomicUsize::new(0)).collect();
                pool.run(counts.len(), &|unit| {
                    counts[unit].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn loops_of_many_units_and_with_numbers_that_begin_again() {
        let pool = pool(3);
        let all = [1_usize, 2, 4, 3 * MAX_STEPS, 3 * MAX_STEPS + 1, 1_000_000];
        for &num_units in if cfg!(miri) { &all[..3] } else { &all } {
            pool.shared.state.store((u64::from(u32::MAX) - 1) * NEXT_LOOP, Ordering::SeqCst);
            for _ in 0..4 {
                let counts: Vec<_> = (0..num_units).map(|_| AtomicUsize::new(0)).collect();
                pool.run(num_units, &|unit| {
                    counts[unit].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn dealing_gives_every_thread_of_the_first() {
        let pool = pool(3);
        let dealt = |num| (0..num).map(|unit| pool.dealt(unit, num)).collect::<Vec<_>>();

        assert_eq!(dealt(8), [0, 3, 6, 1, 4, 7, 2, 5]);
        assert_eq!(dealt(2), [0, 1]);
        assert_eq!(dealt(0), [0; 0]);
    }

    #[test]
    fn a_loop_inside_a_loop_runs_alone() {
        let pool = pool(3);
        let total = AtomicUsize::new(0);

        pool.run(10, &|_| {
            pool.run(10, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });

        assert_eq!(total.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(3);
        for _ in 0..20 {
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|unit| assert!(unit != 5, "unit five"));
            }));
            assert!(outcome.is_err());
        }
        let total = AtomicUsize::new(0);

        pool.run(100, &|unit| {
            total.fetch_add(unit, Ordering::Relaxed);
        });

        assert_eq!(total.load(Ordering::Relaxed), 4950);
    }

    #[test]
    fn sleeping_workers_are_woken() {
        let pool = pool(2);
        for _ in 0..20 {
            let deadline = Instant::now() + 10 * SPIN;
            while Instant::now() < deadline {
                hint::spin_loop();
            }
            let barrier = std::sync::Barrier::new(2);
            // Both units must be running at once for either to end.
            pool.run(2, &|_| {
                barrier.wait();
            });
        }
    }
}
