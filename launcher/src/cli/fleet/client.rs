//! Calls to a server's launcher.

use anyhow::Context;
use sconce_proto::fleet as proto;
use sconce_proto::fleet::fleet_client::FleetClient;
use sconce_proto::fleet::launcher_client::LauncherClient;
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use super::super::Fault;
use super::super::output::{Output, print};
use super::ServerArgs;
use crate::servers::{Server, Servers, Standing};
use crate::settings::Settings;

/// A way to a server's launcher.
#[derive(Clone)]
pub(super) struct Client(Channel);

impl ServerArgs {
    /// The launcher of the server that is meant.
    pub(super) async fn connect(&self) -> anyhow::Result<FleetClient<Channel>> {
        let servers = Servers::new(&Settings::from_env()?.home);
        let server = match &self.server {
            Some(name) => servers.get(name)?,
            None => {
                let mut listed = servers.list()?;
                match (listed.pop(), listed.len()) {
                    (Some(server), 0) => server,
                    (Some(last), _) => {
                        listed.push(last);
                        let names = listed.into_iter().map(|server| server.name);
                        return Err(Fault::WhichServer(names.collect()).into());
                    }
                    (None, _) => return Err(Fault::NoServer.into()),
                }
            }
        };
        Ok(FleetClient::new(Client::of(&server).await?.0))
    }
}

impl Client {
    /// Connects to the launcher of a server.
    pub(super) async fn of(server: &Server) -> anyhow::Result<Self> {
        let name = &server.name;
        let control = match (&server.control, server.state) {
            (Some(control), Standing::Running) => control,
            _ => return Err(Fault::NoLauncher(name.clone()).into()),
        };
        let endpoint = Endpoint::from_shared(format!("unix:{}", control.display()))
            .with_context(|| control.display().to_string())?;
        let channel = endpoint.connect().await;
        Ok(Self(channel.with_context(|| format!("connecting to the launcher of {name}"))?))
    }

    pub(super) fn launcher(self) -> LauncherClient<Channel> {
        LauncherClient::new(self.0)
    }
}

/// What a command prints of an operation, as JSON a line.
#[derive(Serialize)]
struct Line<'a> {
    message: &'a str,
    state: &'static str,
    done: bool,
}

/// Prints how an operation goes, to its end.
pub(super) async fn follow(
    call: Result<Response<Streaming<proto::Progress>>, Status>,
    output: Output,
) -> anyhow::Result<()> {
    let mut updates = call.map_err(Fault::Call)?.into_inner();
    let mut is_done = false;
    while let Some(progress) = updates.message().await.map_err(Fault::Call)? {
        is_done = progress.done;
        let state = progress.state().as_str_name();
        let proto::Progress { message, done, .. } = &progress;
        match output.is_json() {
            true => {
                let line = Line { message, state: lower(state), done: *done };
                print(&(serde_json::to_string(&line)? + "\n"))?;
            }
            false => print(&format!("{message}\n"))?,
        }
    }
    match is_done {
        true => Ok(()),
        false => Err(Fault::Call(Status::unavailable("the launcher ended first")).into()),
    }
}

/// A state as JSON has it.
pub(super) fn lower(state: &str) -> &'static str {
    match state {
        "PULLING" => "pulling",
        "LOADING" => "loading",
        "READY" => "ready",
        "DRAINING" => "draining",
        "FAILED" => "failed",
        _ => "unloaded",
    }
}
