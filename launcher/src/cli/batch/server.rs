//! Which server a batch is for.

use std::time::Duration;

use clap::Args;
use sconce_client::{Client, Retries};

use crate::cli::Fault;
use crate::servers::Servers;
use crate::settings::Settings;

/// For the upload of the largest file.
const PATIENCE: Duration = Duration::from_secs(3600);
/// A server that is started again meanwhile is waited for.
const RETRIES: Retries = Retries {
    max_retries: 5,
    base_delay: Duration::from_millis(500),
    max_delay: Duration::from_secs(60),
};

/// Which server, and how to get in.
#[derive(Args, Clone, Debug)]
pub(super) struct ServerArgs {
    /// A server to use; the one in the background otherwise (`sconce ps`)
    #[arg(long, env = "SCONCE_URL")]
    url: Option<String>,

    /// The server, as `sconce ps` shows it, where several run
    #[arg(long, env = "SCONCE_SERVER", value_name = "NAME")]
    server: Option<String>,

    /// The API key of the server
    #[arg(long, env = "SCONCE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
}

impl ServerArgs {
    /// A client of it.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => self.find()?,
        };
        let builder = Client::builder(url).api_key(self.api_key.clone().unwrap_or_default());
        Ok(builder.retries(RETRIES).timeout(PATIENCE).idle_timeout(PATIENCE).build()?)
    }

    /// The address of the server in the background.
    fn find(&self) -> anyhow::Result<String> {
        let listed = Servers::new(&Settings::from_env()?.home).list()?;
        let is_meant = |name: &str| self.server.as_deref().is_none_or(|wanted| wanted == name);
        let mut found = listed
            .into_iter()
            .filter(|server| is_meant(&server.name))
            .filter_map(|server| Some((server.name, server.url?)));
        let Some((name, url)) = found.next() else {
            return Err(match &self.server {
                Some(name) => crate::servers::Error::Absent(name.clone()).into(),
                None => Fault::NoServer.into(),
            });
        };
        let others: Vec<_> = found.map(|(name, _)| name).collect();
        match others.is_empty() {
            true => Ok(url),
            false => Err(Fault::WhichServer([vec![name], others].concat()).into()),
        }
    }
}
