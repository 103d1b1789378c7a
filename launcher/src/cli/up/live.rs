//! A live view of what is served, below the log lines of a terminal, redrawn in place.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::controller::{Overview, VersionOverview};
use crate::fleet::VersionState;
use crate::terminal;

/// Lines that the view has at most: the rest is told by `sconce status`.
const MAX_LINES: usize = 12;

/// Over how long tokens are counted.
const RATE_OVER: Duration = Duration::from_secs(2);

/// A live view. Dropping it takes it from the terminal.
pub(super) struct Live {
    view: MultiProgress,
    _task: AbortOnDropHandle<()>,
}

/// Whether there is a terminal that a view may redraw.
pub(super) fn is_possible() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

impl Live {
    /// Shows what is said from now on.
    pub(super) fn start(overviews: watch::Receiver<Overview>) -> Self {
        let view = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        terminal::show(view.clone());
        let task = tokio::spawn(follow(view.clone(), overviews));
        Self { view, _task: AbortOnDropHandle::new(task) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        terminal::hide();
        // A closed terminal shows nothing anyway.
        let _ = self.view.clear();
    }
}

async fn follow(view: MultiProgress, mut overviews: watch::Receiver<Overview>) {
    let mut screen = Screen { view, bars: Vec::new() };
    let mut rates = Rates::default();
    loop {
        let overview = overviews.borrow_and_update().clone();
        rates.take(&overview);
        screen.draw(&lines(&overview, &rates));
        if overviews.changed().await.is_err() {
            return;
        }
    }
}

/// Lines on a terminal: each is cut where the terminal ends.
struct Screen {
    view: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl Screen {
    fn draw(&mut self, lines: &[String]) {
        while self.bars.len() > lines.len() {
            if let Some(bar) = self.bars.pop() {
                bar.finish_and_clear();
                self.view.remove(&bar);
            }
        }
        let style = || {
            ProgressStyle::with_template("{wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner())
        };
        while self.bars.len() < lines.len() {
            self.bars.push(self.view.add(ProgressBar::new_spinner().with_style(style())));
        }
        for (bar, line) in self.bars.iter().zip(lines) {
            if bar.message() != *line {
                bar.set_message(line.clone());
            }
        }
    }
}

/// Tokens per second of versions, from one look to another.
#[derive(Default)]
struct Rates(Vec<(Instant, Vec<(String, u64)>)>);

impl Rates {
    fn take(&mut self, overview: &Overview) {
        let counts = overview.versions.iter().map(|it| (it.version.clone(), it.num_tokens));
        self.0.push((overview.at, counts.collect()));
        let is_old = |at: &Instant| overview.at.saturating_duration_since(*at) > RATE_OVER;
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.0.remove(0);
        }
    }

    fn of(&self, version: &str) -> f64 {
        let count = |(_, counts): &(Instant, Vec<(String, u64)>)| {
            counts.iter().find(|(name, _)| name == version).map_or(0, |(_, count)| *count)
        };
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return 0.0 };
        let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
        count(last).saturating_sub(count(first)) as f64 / seconds.max(0.25)
    }
}

fn lines(overview: &Overview, rates: &Rates) -> Vec<String> {
    let mut lines = vec![String::new()];
    for version in &overview.versions {
        lines.push(version_line(overview, version, rates.of(&version.version)));
        lines.extend(version.error.iter().map(|error| format!("    {error}")));
    }
    lines.extend(overview.rollouts.iter().map(|rollout| format!("  moving {rollout}")));
    let memory = overview.memory.iter().filter(|(_, _, most)| *most != u64::MAX);
    lines.extend(memory.map(|(device, used, most)| {
        format!("  memory of {device}: {} of {}", BinaryBytes(*used), BinaryBytes(*most))
    }));
    for (time, event) in &overview.events {
        lines.push(format!("  {} {event}", super::super::output::ago(time.unix_ms() / 1000)));
    }
    let num_more = lines.len().saturating_sub(MAX_LINES);
    if num_more > 0 {
        lines.truncate(MAX_LINES - 1);
        lines.push(format!("  and {} lines more: sconce status", num_more + 1));
    }
    lines
}

fn version_line(overview: &Overview, it: &VersionOverview, rate: f64) -> String {
    let names = overview.routes.iter().filter_map(|route| {
        let (_, share) = route.shares.iter().find(|(id, _)| id.to_string() == it.version)?;
        Some(match f64::from(*share) / 100.0 {
            100.0 => route.name.clone(),
            percent => format!("{} {percent}%", route.name),
        })
    });
    let names = names.collect::<Vec<_>>().join(", ");
    let state = match it.state {
        VersionState::Unloaded => "unloaded",
        VersionState::Loading => "loading",
        VersionState::Ready => "ready",
        VersionState::Draining => "draining",
        VersionState::Failed => "failed",
    };
    format!(
        "  {} {state}  {}/{} workers  {} running  {} waiting  {rate:.0} tok/s  {}  {names}",
        it.version,
        it.num_ready,
        it.num_wanted,
        it.num_running,
        it.num_waiting,
        BinaryBytes(it.memory_bytes),
    )
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;
    use crate::fleet::{TableRoute, Time, WHOLE};

    fn overview(at: Instant, num_tokens: u64) -> Overview {
        let version = VersionOverview {
            version: "m@1".to_owned(),
            state: VersionState::Ready,
            num_ready: 1,
            num_wanted: 2,
            num_running: 3,
            num_waiting: 4,
            num_tokens,
            memory_bytes: 1 << 30,
            error: None,
        };
        let route = TableRoute {
            name: "m:prod".to_owned(),
            shares: vec![("m@1".parse().unwrap(), WHOLE)],
            shadow: None,
            hidden: false,
            max_hold_ms: 0,
            max_held: 0,
        };
        Overview {
            at,
            routes: vec![route],
            versions: vec![version],
            rollouts: Vec::new(),
            memory: vec![("cpu".to_owned(), 1 << 30, 4 << 30)],
            events: vec![(Time::default(), "promote m:prod m@1: done".to_owned())],
        }
    }

    #[test]
    fn the_view_says_what_runs_how_fast_and_what_was_done() {
        let mut rates = Rates::default();
        let start = Instant::now();
        rates.take(&overview(start, 100));
        let now = overview(start + Duration::from_secs(2), 300);
        rates.take(&now);

        let text = lines(&now, &rates).join("\n");

        let expected = "m@1 ready  1/2 workers  3 running  4 waiting  100 tok/s  1.00 GiB  m:prod";
        for part in [expected, "memory of cpu: 1.00 GiB of 4.00 GiB", "promote m:prod m@1: done"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn lines_end_where_a_narrow_terminal_does_and_are_taken_away_again() {
        let terminal = InMemoryTerm::new(10, 20);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let view = MultiProgress::with_draw_target(target);
        let mut screen = Screen { view: view.clone(), bars: Vec::new() };

        screen.draw(&["a line that is longer than that".to_owned(), "b".to_owned()]);
        view.suspend(|| ());
        assert_eq!(terminal.contents(), "a line that is longe\nb");
        screen.draw(&["c".to_owned()]);
        view.suspend(|| ());
        assert_eq!(terminal.contents(), "c");
        view.clear().unwrap();
        assert_eq!(terminal.contents(), "");
    }
}
