//! The server that a chat uses: one that is there, or one of its own that ends with it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use sconce_client::Client;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::cli::up::{Access, Ready, last_lines};
use crate::name::ModelName;
use crate::servers::{Mode, Servers};
use crate::settings::{Network, Settings};
use crate::store::Check;

/// How long a server of our own may take to end: nobody but us used it.
const PATIENCE: Duration = Duration::from_secs(15);

/// A server, and how to get in.
pub(super) struct Server {
    url: String,
    key: Option<String>,
    /// What it calls the model, where that is known.
    model: Option<String>,
    own: Option<Own>,
}

/// A server that was started for this chat.
struct Own {
    child: Child,
    /// Its database of one key, and its log.
    _folder: TempDir,
}

impl Server {
    /// The one at `url`.
    pub(super) fn remote(url: &str, key: Option<String>) -> Self {
        Self { url: url.to_owned(), key, model: None, own: None }
    }

    /// The one in the background that serves `name`, or a new one.
    pub(super) async fn find_or_start(
        settings: &Settings,
        name: &ModelName,
        key: Option<String>,
    ) -> anyhow::Result<Self> {
        let typed = name.to_string();
        let listed = Servers::new(&settings.home).list()?;
        let mut found = listed
            .into_iter()
            .filter(|server| server.name == typed && server.mode != Mode::Foreground);
        if let Some(url) = found.find_map(|server| server.url) {
            return Ok(Self { url, key, model: Some(typed), own: None });
        }
        // Pulled here, where its progress is seen.
        let pulled = super::super::puller(settings.clone())?.pull(name, Check::IfTouched).await?;
        let model = pulled.into_model(name).name;
        Self::start(settings, typed, model).await
    }

    /// Starts `sconce up` where only this process gets in, with a key that nobody else has.
    async fn start(settings: &Settings, typed: String, model: String) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for the server")?;
        let log = folder.path().join("log");
        let file = std::fs::File::create(&log).context("making the server's log")?;
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(&program);
        command.args([
            "up",
            "--unlisted",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--drain-timeout",
            "1",
        ]);
        if settings.hub.network == Network::Offline {
            command.arg("--offline");
        }
        command.args(["--output", "json", "--served-model-name", &model, "--database"]);
        command.arg(folder.path().join("keys.db")).arg(typed);
        // A group of its own: Ctrl-C in this terminal stops an answer, not the server.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child =
            command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let stdout = child.stdout.take().context("reading what the server prints")?;
        // Until it is up, whoever interrupts wants none of this.
        let started = tokio::select! {
            started = until_ready(stdout) => started?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let own = Own { child, _folder: folder };
        match started {
            Some((url, key)) => {
                Ok(Self { url, key: Some(key), model: Some(model), own: Some(own) })
            }
            None => {
                own.stop().await;
                let end = last_lines(&log);
                bail!("the server ended before it was ready; the end of its log:\n{end}")
            }
        }
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let key = self.key.clone().unwrap_or_default();
        Ok(Client::builder(&self.url).api_key(key).build()?)
    }

    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// What to say when it does not answer as it should.
    pub(super) fn complaint(&self) -> String {
        let url = &self.url;
        match self.key {
            Some(_) => format!("asking the server at {url} which models it has"),
            None => format!(
                "asking the server at {url} which models it has, without a key: SCONCE_API_KEY gives one"
            ),
        }
    }

    /// Ends a server that was started for this chat. Others go on.
    pub(super) async fn stop(self) {
        if let Some(own) = self.own {
            own.stop().await;
        }
    }
}

impl Own {
    async fn stop(mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // One that has ended is not waited for yet, so that its number is nobody else's.
            let _ = kill_process(id, Signal::TERM);
        }
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            // It kills its own children when it goes.
            let _ = self.child.kill().await;
        }
    }
}

/// Where the server is, and its key, once it says that it is ready. `None`: it has ended.
async fn until_ready(stdout: ChildStdout) -> anyhow::Result<Option<(String, String)>> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.context("reading what the server prints")? {
        let Ok(Ready { url, access, .. }) = serde_json::from_str(&line) else { continue };
        // What else it prints is for nobody, but must find a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        return Ok(match access {
            Access::NewKey { api_key } => Some((url, api_key)),
            Access::KnownKey | Access::None => None,
        });
    }
    Ok(None)
}
