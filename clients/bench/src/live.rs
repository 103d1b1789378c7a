//! What is seen while a run goes on: counts that any task may add to, and a screen that shows them,
//! on a thread of its own so that drawing delays no measurement.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal};

use crate::measure::Record;
use crate::schedule::Until;
use crate::stats::Samples;
use crate::units::ms;

/// Between two pictures.
const REFRESH: Duration = Duration::from_millis(200);

/// Pictures whose token rates are shown.
const HISTORY: usize = 300;

/// Counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Live {
    started: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    tokens: AtomicU64,
    stage: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    title: String,
    until: Until,
    since: Option<Instant>,
    ttft: Samples,
    e2e: Samples,
}

impl Live {
    /// Another stage begins, which is called `title`.
    pub(crate) fn begin(&self, title: String, until: Until) {
        for count in [&self.started, &self.ended, &self.failed, &self.tokens] {
            count.store(0, Ordering::Relaxed);
        }
        let since = Some(Instant::now());
        *self.shown() = Shown { title, until, since, ..Shown::default() };
    }

    pub(crate) fn started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn arrived(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, record: &Record) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if record.error.is_some() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut shown = self.shown();
        if let Some(ttft) = record.ttft {
            shown.ttft.push(ms(ttft));
        }
        shown.e2e.push(ms(record.e2e));
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The screen. Dropping it gives the terminal back.
#[derive(Debug)]
pub(crate) struct Screen {
    /// Hung up on when the screen is to go.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    /// Shows `live` on standard error, if that is a terminal.
    pub(crate) fn open(live: &Arc<Live>) -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let live = Arc::clone(live);
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("screen".to_owned()).spawn(move || {
            // The terminal keeps its mode: an interrupt is a signal as ever. What can't be drawn
            // is not missed by the measurement.
            let _ = execute!(io::stderr(), EnterAlternateScreen);
            if let Ok(mut terminal) = Terminal::new(CrosstermBackend::new(io::stderr())) {
                show(&mut terminal, &live, || stopped.recv_timeout(REFRESH));
            }
            let _ = execute!(io::stderr(), LeaveAlternateScreen);
        });
        Some(Self { stop: Some(stop), thread: thread.ok() })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn show(
    terminal: &mut Terminal<CrosstermBackend<Stderr>>,
    live: &Live,
    wait: impl Fn() -> Result<(), RecvTimeoutError>,
) {
    let mut rates = VecDeque::with_capacity(HISTORY);
    let (mut tokens, mut then) = (0, Instant::now());
    while let Err(RecvTimeoutError::Timeout) = wait() {
        let (all, now) = (live.tokens.load(Ordering::Relaxed), Instant::now());
        // A new stage counts from zero again.
        let new = all.checked_sub(tokens).unwrap_or(all) as f64;
        rates.push_front((new / (now - then).as_secs_f64()) as u64);
        rates.truncate(HISTORY);
        (tokens, then) = (all, now);
        if terminal.draw(|frame| draw(frame, live, rates.make_contiguous())).is_err() {
            return;
        }
    }
}

/// `rates`: tokens a second, newest first.
fn draw(frame: &mut Frame<'_>, live: &Live, rates: &[u64]) {
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (started, ended, failed) = (count(&live.started), count(&live.ended), count(&live.failed));
    let shown = live.shown();
    let elapsed = shown.since.map(|since| since.elapsed()).unwrap_or_default();
    let by_count = shown.until.num_requests.map(|all| ended as f64 / all.max(1) as f64);
    let by_time = shown.until.duration.map(|all| elapsed.as_secs_f64() / all.as_secs_f64());
    let progress = by_count.unwrap_or(0.0).max(by_time.unwrap_or(0.0)).clamp(0.0, 1.0);
    let [head, numbers, graph] =
        Layout::vertical([Constraint::Length(3), Constraint::Length(7), Constraint::Min(4)])
            .areas(frame.area());
    let gauge = Gauge::default().ratio(progress).gauge_style(Style::new().cyan());
    let title = format!(" {} · {:.0} s ", shown.title, elapsed.as_secs_f64());
    frame.render_widget(gauge.block(Block::bordered().title(title)), head);
    let latency = |name: &str, samples: &Samples| match samples.distribution() {
        Some(d) => format!("{name:<6}{:>10.1}{:>10.1}{:>10.1}", d.p50, d.p90, d.p99),
        None => format!("{name:<6}{:>10}{:>10}{:>10}", "–", "–", "–"),
    };
    let rate = rates.first().copied().unwrap_or(0);
    let running = started.saturating_sub(ended);
    let lines = [
        format!("running {running}   done {ended}   errors {failed}   tokens/s {rate}"),
        String::new(),
        format!("{:<6}{:>10}{:>10}{:>10}", "ms", "p50", "p90", "p99"),
        latency("TTFT", &shown.ttft),
        latency("E2E", &shown.e2e),
    ];
    let text: Vec<_> = lines.into_iter().map(Line::from).collect();
    let block = Block::bordered().title(" sconce bench · Ctrl-C ends and reports ");
    frame.render_widget(Paragraph::new(text).block(block), numbers);
    let width = usize::from(graph.width.saturating_sub(2)).min(rates.len());
    let recent: Vec<_> = rates[..width].iter().rev().copied().collect();
    let sparkline = Sparkline::default().data(&recent).style(Style::new().green());
    frame.render_widget(sparkline.block(Block::bordered().title(" tokens/s ")), graph);
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_screen_tells_what_was_counted() {
        let live = Live::default();
        live.begin("concurrency 4".to_owned(), Until { num_requests: Some(4), duration: None });
        (0..3).for_each(|_| live.started());
        let ms = Duration::from_millis;
        live.ended(&Record { ttft: Some(ms(20)), e2e: ms(50), ..Record::default() });
        live.ended(&Record { error: Some("timeout".to_owned()), ..Record::default() });

        let mut terminal = Terminal::new(TestBackend::new(60, 20)).unwrap();
        terminal.draw(|frame| draw(frame, &live, &[123, 4])).unwrap();

        let shown = terminal.backend().to_string();
        assert!(shown.contains("concurrency 4"), "{shown}");
        assert!(shown.contains("running 1   done 2   errors 1   tokens/s 123"), "{shown}");
        assert!(shown.contains("TTFT        20.0"), "{shown}");
        assert!(shown.contains("50%"), "{shown}");
    }
}
