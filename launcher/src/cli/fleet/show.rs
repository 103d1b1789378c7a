//! Commands that tell what is served.

use std::fmt::Write;

use clap::Args;
use sconce_proto::fleet as proto;
use serde_json::{Value, json};

use super::ServerArgs;
use super::client::lower;
use crate::cli::Fault;
use crate::cli::output::{Output, ago, print, table};

/// Tells what is served: names, versions, workers, and what is on its way
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce status
  sconce status --watch
  sconce status --server smollm2:prod --output json")]
pub struct Status {
    /// Go on, whenever something changes
    #[arg(short, long)]
    watch: bool,

    /// Also versions of the store that nothing serves
    #[arg(short, long)]
    all: bool,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    output: Output,
}

/// Tells what was started, promoted, rolled back and scaled: when, by whom and why
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sconce history\n  sconce history smollm2:prod --limit 5")]
pub struct History {
    /// A name, or all
    name: Option<String>,

    /// Entries at most, the newest first
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    output: Output,
}

impl Status {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut fleet = self.server.connect().await?;
        if !self.watch {
            let status = fleet.status(proto::StatusRequest {}).await.map_err(Fault::Call)?;
            return self.print(status.into_inner());
        }
        let events = fleet.events(proto::StatusRequest {}).await.map_err(Fault::Call)?;
        let mut events = events.into_inner();
        while let Some(status) = events.message().await.map_err(Fault::Call)? {
            self.print(status)?;
            if !self.output.is_json() {
                print("\n")?;
            }
        }
        Ok(())
    }

    fn print(&self, mut status: proto::FleetStatus) -> anyhow::Result<()> {
        if !self.all {
            let is_served = |model: &proto::Model| {
                let in_route = |route: &proto::Route| {
                    route.shares.iter().any(|share| share.version == model.version)
                };
                model.state() != proto::VersionState::Unloaded || status.routes.iter().any(in_route)
            };
            status.models = status.models.iter().filter(|it| is_served(it)).cloned().collect();
        }
        if self.watch && self.output.is_json() {
            // One object a line, for programs that read it as it comes.
            return print(&(serde_json::to_string(&of_status(&status))? + "\n"));
        }
        self.output.print(&of_status(&status), || page(&status))
    }
}

fn of_status(status: &proto::FleetStatus) -> Value {
    let models = status.models.iter().map(|model| {
        json!({
            "version": model.version, "name": model.name, "aliases": model.aliases,
            "source": model.source, "bytes": model.bytes, "created": model.created,
            "state": state(model.state()), "error": model.error,
        })
    });
    let routes = status.routes.iter().map(|route| {
        let shares = route.shares.iter();
        let shares = shares.map(|it| json!({ "version": it.version, "weight": it.weight }));
        json!({
            "name": route.name, "shares": shares.collect::<Vec<_>>(), "shadow": route.shadow,
            "shadow_weight": route.shadow_share, "hidden": route.hidden,
        })
    });
    let replicas = status.replicas.iter().map(|replica| {
        json!({
            "version": replica.version, "address": replica.address, "pid": replica.pid,
            "state": state(replica.state()), "started": replica.started,
            "num_restarts": replica.num_restarts, "num_in_flight": replica.num_in_flight,
            "adopted": replica.adopted, "outdated": replica.outdated,
        })
    });
    let rollouts = status.rollouts.iter().map(|rollout| {
        json!({
            "name": rollout.name, "from": rollout.from, "to": rollout.to, "weight": rollout.share,
            "shadow": rollout.shadow, "state": rollout.state,
        })
    });
    json!({
        "models": models.collect::<Vec<_>>(), "routes": routes.collect::<Vec<_>>(),
        "replicas": replicas.collect::<Vec<_>>(), "rollouts": rollouts.collect::<Vec<_>>(),
    })
}

fn state(state: proto::VersionState) -> &'static str {
    lower(state.as_str_name())
}

fn replica_state(replica: &proto::ReplicaStatus) -> String {
    let outdated = if replica.outdated { ", outdated" } else { "" };
    format!("{}{outdated}", state(replica.state()))
}

fn page(status: &proto::FleetStatus) -> String {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut names = vec![row(&["NAME", "VERSION", "TRAFFIC"])];
    for route in status.routes.iter().filter(|route| !route.hidden) {
        for share in &route.shares {
            names.push(row(&[&route.name, &share.version, &percent(share.weight)]));
        }
        if !route.shadow.is_empty() {
            let copies = format!("a copy of {}", percent(route.shadow_share));
            names.push(row(&[&route.name, &route.shadow, &copies]));
        }
    }
    let mut versions =
        vec![row(&["VERSION", "STATE", "WORKER", "REQUESTS", "RESTARTS", "STARTED"])];
    for model in &status.models {
        let mut replicas =
            status.replicas.iter().filter(|it| it.version == model.version).peekable();
        if replicas.peek().is_none() {
            versions.push(row(&[&model.version, state(model.state())]));
        }
        for replica in replicas {
            let started = u64::try_from(replica.started).unwrap_or_default();
            versions.push(row(&[
                &model.version,
                &replica_state(replica),
                &replica.pid.to_string(),
                &replica.num_in_flight.to_string(),
                &replica.num_restarts.to_string(),
                &ago(started),
            ]));
        }
    }
    let mut page = table(&names) + "\n" + &table(&versions);
    // A text for people: writing to it can't fail.
    for model in status.models.iter().filter(|model| !model.error.is_empty()) {
        let _ = writeln!(page, "\n{}: {}", model.version, model.error);
    }
    for rollout in &status.rollouts {
        let proto::Rollout { name, to, state, .. } = rollout;
        let _ = writeln!(page, "\n{name} is on its way to {to}: {state}");
    }
    page
}

fn percent(weight: u32) -> String {
    let (whole, rest) = (weight / 100, weight % 100);
    if rest == 0 { format!("{whole}%") } else { format!("{whole}.{rest:02}%") }
}

impl History {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut fleet = self.server.connect().await?;
        let request =
            proto::HistoryRequest { name: self.name.unwrap_or_default(), limit: self.limit };
        let reply = fleet.history(request).await.map_err(Fault::Call)?;
        let entries = reply.into_inner().entries;
        let value: Vec<_> = entries.iter().map(of_entry).collect();
        self.output.print(&value, || {
            let head = ["WHEN", "NAME", "WHAT", "FROM", "TO", "WHO", "WHY", "RESULT"];
            let rows = entries.iter().map(|entry| {
                let reason = entry.reason.clone().unwrap_or_default();
                let when = ago(u64::try_from(entry.time).unwrap_or_default());
                let proto::HistoryEntry { name, action, from, to, result, .. } = entry.clone();
                vec![when, name, action, from, to, reason.who, reason.why, result]
            });
            let head = head.map(str::to_owned).to_vec();
            table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
        })
    }
}

fn of_entry(entry: &proto::HistoryEntry) -> Value {
    let reason = entry.reason.clone().unwrap_or_default();
    json!({
        "time": entry.time, "name": entry.name, "action": entry.action, "from": entry.from,
        "to": entry.to, "who": reason.who, "why": reason.why, "result": entry.result,
    })
}
