//! Tells a person how a pull goes: a bar on a terminal, a line now and then elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Bars, redrawn in place.
    Bars(MultiProgress),
    /// Plain lines on the standard error stream.
    Lines,
    /// To whoever asks.
    Told(Transfers),
    /// Nowhere.
    Silent,
}

impl Progress {
    /// Bars if the standard error stream is a terminal, lines otherwise.
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Bars(MultiProgress::new()) } else { Self::Lines }
    }

    /// Says one thing.
    pub fn note(&self, text: &str) {
        match self {
            Self::Bars(bars) => {
                // A closed terminal is no reason to stop a pull.
                let _ = bars.println(text);
            }
            Self::Lines => write_line(text),
            Self::Told(_) | Self::Silent => {}
        }
    }

    /// Says what a pull takes before it begins, to those who are told of the whole.
    pub fn expect(&self, label: &str, total: u64) {
        if let Self::Told(transfers) = self {
            transfers.set(label, Amount { done: 0, total });
        }
    }

    /// Says that all of a transfer is here already.
    pub fn have(&self, label: &str, total: u64) {
        if let Self::Told(transfers) = self {
            transfers.set(label, Amount { done: total, total });
        }
    }

    /// Starts to show a transfer of `total` bytes, `position` of which are here already.
    pub fn start(&self, label: &str, position: u64, total: u64) -> Transfer {
        let view = match self {
            Self::Bars(bars) => View::Bar(bars.add(new_bar(label, position, total))),
            Self::Lines => View::Lines(Mutex::new(Lines::new(label, position, total))),
            Self::Told(transfers) => {
                transfers.set(label, Amount { done: position, total });
                View::Told { transfers: transfers.clone(), label: label.to_owned(), total }
            }
            Self::Silent => View::Silent,
        };
        Transfer { view }
    }
}

/// The transfers of a pull, for whoever asks how far it is. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Transfers(Arc<Mutex<BTreeMap<String, Amount>>>);

/// Bytes of a transfer, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Those that are here.
    pub done: u64,
    /// All of them.
    pub total: u64,
}

impl Transfers {
    /// All transfers together.
    pub fn sum(&self) -> Amount {
        let amounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        amounts.values().fold(Amount::default(), |sum, amount| Amount {
            done: sum.done.saturating_add(amount.done),
            total: sum.total.saturating_add(amount.total),
        })
    }

    fn set(&self, label: &str, amount: Amount) {
        let mut amounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        amounts.insert(label.to_owned(), amount);
    }
}

/// One transfer under way.
#[derive(Debug)]
pub struct Transfer {
    view: View,
}

#[derive(Debug)]
enum View {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
    Told { transfers: Transfers, label: String, total: u64 },
    Silent,
}

impl Transfer {
    /// Shows that `position` bytes are here.
    pub fn set(&self, position: u64) {
        match &self.view {
            View::Bar(bar) => bar.set_position(position),
            View::Lines(lines) => {
                if let Ok(mut lines) = lines.lock()
                    && let Some(text) = lines.advance(position, Instant::now())
                {
                    write_line(&text);
                }
            }
            View::Told { transfers, label, total } => {
                transfers.set(label, Amount { done: position, total: *total });
            }
            View::Silent => {}
        }
    }

    /// Shows that all of it is here.
    pub fn finish(&self) {
        match &self.view {
            View::Bar(bar) => bar.finish(),
            View::Lines(lines) => {
                if let Ok(lines) = lines.lock() {
                    write_line(&lines.summary(Instant::now()));
                }
            }
            View::Told { transfers, label, total } => {
                transfers.set(label, Amount { done: *total, total: *total });
            }
            View::Silent => {}
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let View::Bar(bar) = &self.view
            && !bar.is_finished()
        {
            bar.abandon();
        }
    }
}

fn new_bar(label: &str, position: u64, total: u64) -> ProgressBar {
    let template =
        "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style).with_prefix(label.to_owned());
    bar.set_position(position);
    // The rate and the time left are those of this run, not of what an earlier one left.
    bar.reset_eta();
    bar
}

/// Says a line every few seconds, or every tenth, whichever is rarer.
#[derive(Debug)]
struct Lines {
    label: String,
    first: u64,
    position: u64,
    total: u64,
    started: Instant,
    said_at: Instant,
    said: u64,
}

impl Lines {
    const EVERY: Duration = Duration::from_secs(2);

    fn new(label: &str, position: u64, total: u64) -> Self {
        let now = Instant::now();
        let label = label.to_owned();
        Self { label, first: position, position, total, started: now, said_at: now, said: position }
    }

    fn advance(&mut self, position: u64, now: Instant) -> Option<String> {
        self.position = position;
        let rare = now.duration_since(self.said_at) >= Self::EVERY
            && position.abs_diff(self.said) >= self.total / 10;
        if !rare || position >= self.total {
            return None;
        }
        (self.said_at, self.said) = (now, position);
        let rate = self.rate(now);
        let left = (self.total - position) as f64 / rate.max(1.0);
        Some(format!(
            "{}: {} of {} ({}%), {}/s, {} left",
            self.label,
            BinaryBytes(position),
            BinaryBytes(self.total),
            position * 100 / self.total.max(1),
            BinaryBytes(rate as u64),
            HumanDuration(Duration::from_secs_f64(left.min(1e9))),
        ))
    }

    fn summary(&self, now: Instant) -> String {
        let rate = self.rate(now) as u64;
        format!("{}: {} done, {}/s", self.label, BinaryBytes(self.position), BinaryBytes(rate))
    }

    /// Bytes a second since the start of this run.
    fn rate(&self, now: Instant) -> f64 {
        let seconds = now.duration_since(self.started).as_secs_f64();
        self.position.saturating_sub(self.first) as f64 / seconds.max(1e-3)
    }
}

fn write_line(text: &str) {
    // A closed stream is no reason to stop a pull.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;

    #[test]
    fn lines_are_rare_and_carry_rate_and_time_left() {
        let mut lines = Lines::new("model.gguf", 0, 100 << 20);
        let start = lines.started;

        assert_eq!(lines.advance(50 << 20, start + Duration::from_secs(1)), None);
        let text = lines.advance(50 << 20, start + Duration::from_secs(5)).unwrap();
        assert_eq!(text, "model.gguf: 50.00 MiB of 100.00 MiB (50%), 10.00 MiB/s, 5 seconds left");
        assert_eq!(lines.advance(51 << 20, start + Duration::from_secs(9)), None);
    }

    #[test]
    fn who_asks_is_told_of_all_transfers_together() {
        let transfers = Transfers::default();
        let progress = Progress::Told(transfers.clone());
        progress.expect("a", 10);
        progress.expect("b", 90);
        assert_eq!(transfers.sum(), Amount { done: 0, total: 100 });

        progress.have("a", 10);
        let transfer = progress.start("b", 20, 90);
        assert_eq!(transfers.sum(), Amount { done: 30, total: 100 });
        transfer.set(50);
        assert_eq!(transfers.sum(), Amount { done: 60, total: 100 });
        transfer.finish();
        assert_eq!(transfers.sum(), Amount { done: 100, total: 100 });
    }

    #[test]
    fn a_bar_shows_what_is_here_how_fast_it_comes_and_how_long_it_takes() {
        let terminal = InMemoryTerm::new(5, 120);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let progress = Progress::Bars(MultiProgress::with_draw_target(target));

        let transfer = progress.start("model.gguf", 1 << 20, 4 << 20);
        transfer.set(2 << 20);
        transfer.finish();
        progress.note("waiting for another pull");

        let shown = terminal.contents();
        for part in ["model.gguf", "4.00 MiB/4.00 MiB", "iB/s", "0s", "waiting for another pull"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
