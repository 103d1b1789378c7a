//! `sconce alias set|rm|list`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Fault;
use super::output::{Output, table};
use crate::catalogue::Catalogue;
use crate::name::{ModelName, Tag};
use crate::settings::Settings;
use crate::store::Store;

/// Names versions, such as `smollm2:prod`. What has a name stays
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce alias set smollm2:prod smollm2@2
  sconce up smollm2:prod
  sconce alias list --output json
  sconce alias rm smollm2:prod")]
pub struct Alias {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Has a name stand for a version, and no longer for another
    #[command(after_help = "Example:\n  sconce alias set smollm2:prod smollm2@2")]
    Set {
        /// The name: `name:tag`
        alias: Tag,
        /// What it stands for. Of a model, the version that is the newest now
        target: ModelName,

        #[command(flatten)]
        output: Output,
    },
    /// Forgets a name; the version stays
    #[command(after_help = "Example:\n  sconce alias rm smollm2:prod")]
    Rm {
        /// The name
        alias: Tag,

        #[command(flatten)]
        output: Output,
    },
    /// Lists every name and its version
    #[command(after_help = "Examples:\n  sconce alias list\n  sconce alias list --output json")]
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Alias {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let store = Store::new(Settings::from_env()?.home);
        tokio::task::spawn_blocking(move || self.command.run(&store)).await?
    }
}

impl Command {
    fn run(self, store: &Store) -> anyhow::Result<()> {
        match self {
            Self::Set { alias, target, output } => {
                if Catalogue::built_in()?.find(alias.as_ref()).is_ok() {
                    return Err(Fault::Catalogue(alias).into());
                }
                if let ModelName::Path(path) = &target {
                    return Err(Fault::Path(path.display().to_string()).into());
                }
                let (id, before) = store.set_alias(alias.clone(), &target)?;
                let before = before.filter(|before| *before != id);
                let value = json!({ "alias": alias, "id": id, "before": before });
                output.print(&value, || match &before {
                    Some(before) => format!("{alias} stands for {id}, no longer for {before}\n"),
                    None => format!("{alias} stands for {id}\n"),
                })
            }
            Self::Rm { alias, output } => {
                let id = store.remove_alias(&alias)?;
                let value = json!({ "alias": alias, "id": id });
                output.print(&value, || format!("{alias} no longer stands for {id}\n"))
            }
            Self::List { output } => {
                let aliases = store.lock()?.aliases;
                let rows = aliases.iter().map(|(alias, id)| json!({ "alias": alias, "id": id }));
                output.print(&rows.collect::<Vec<_>>(), || {
                    let rows =
                        aliases.iter().map(|(alias, id)| vec![alias.to_string(), id.to_string()]);
                    table(&rows.collect::<Vec<_>>())
                })
            }
        }
    }
}
