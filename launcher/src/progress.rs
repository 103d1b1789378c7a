//! Tells a person how a pull goes: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Bars, redrawn in place.
    Bars(MultiProgress),
    /// Plain lines on the standard error stream.
    Lines,
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
            Self::Silent => {}
        }
    }

    /// Starts to show a transfer of `total` bytes, `position` of which are here already.
    pub fn start(&self, label: &str, position: u64, total: u64) -> Transfer {
        let view = match self {
            Self::Bars(bars) => View::Bar(bars.add(new_bar(label, position, total))),
            Self::Lines => View::Lines(Mutex::new(Lines::new(label, position, total))),
            Self::Silent => View::Silent,
        };
        Transfer { view }
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
