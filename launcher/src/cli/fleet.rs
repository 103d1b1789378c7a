//! `sconce start`, `unload`, `promote`, `rollback`, `scale`, `status` and `history`: what a server in
//! the background serves, while it serves.

mod client;
mod orders;
mod show;

pub use orders::{Promote, Rollback, Scale, Start, Unload};
pub use show::{History, Status};

use clap::Args;
use sconce_proto::fleet as proto;

use crate::servers::Server;
use client::{Client, follow};

use super::output::Output;

/// Which server is meant.
#[derive(Args, Clone, Debug, Default)]
struct ServerArgs {
    /// The server, as `sconce ps` shows it. Needed where several run
    #[arg(long, env = "SCONCE_SERVER", value_name = "NAME")]
    server: Option<String>,
}

/// Why something is done.
#[derive(Args, Clone, Debug, Default)]
struct ReasonArgs {
    /// Why, for `sconce history`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl From<ReasonArgs> for proto::Reason {
    fn from(args: ReasonArgs) -> Self {
        let names = ["SUDO_USER", "USER", "LOGNAME"];
        let who =
            names.iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
        let number = || format!("uid {}", rustix::process::getuid().as_raw());
        Self { who: who.unwrap_or_else(number), why: args.reason.unwrap_or_default() }
    }
}

/// Has the router of a server exchanged for another.
pub(super) async fn restart_router(server: &Server, output: Output) -> anyhow::Result<()> {
    let mut launcher = Client::of(server).await?.launcher();
    let progress = launcher.restart_router(proto::RestartRouterRequest {}).await;
    follow(progress, output).await
}
