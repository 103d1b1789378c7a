//! `sconce keys create|list|revoke`.

use std::io::{self, Write};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::database::DatabaseArgs;
use crate::app::Scope;
use crate::keys;

/// Manages the API keys of a router's database.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce keys create --name laptop
  sconce keys list --output json
  sconce keys revoke 0123456789ab")]
pub struct Keys {
    #[command(flatten)]
    database: DatabaseArgs,

    /// How the result is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text, global = true)]
    output: Format,

    /// As --output json
    #[arg(long, conflicts_with = "output", global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Makes a key and prints it. It can't be shown again
    #[command(after_help = "\
Examples:
  sconce keys create --name laptop
  sconce keys create --name ops --admin --output json")]
    Create {
        /// What the key is for
        #[arg(long, default_value = "unnamed")]
        name: String,

        /// Let its holder also load, unload, pull and remove models over HTTP
        #[arg(long)]
        admin: bool,
    },
    /// Lists every key, without its secret
    #[command(after_help = "Examples:\n  sconce keys list\n  sconce keys list --output json")]
    List,
    /// Makes a key worthless within seconds
    #[command(after_help = "Example:\n  sconce keys revoke 0123456789ab")]
    Revoke {
        /// The key's id: the twelve characters after `sk-sconce-`
        id: String,
    },
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The keys can't be read or changed.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Nobody reads the output.
    #[error("can't print the result")]
    Print(#[from] io::Error),
}

impl Keys {
    /// Runs the command and prints its result to `out`.
    pub async fn run(self, out: &mut impl Write) -> Result<(), KeysError> {
        let keys = keys::Keys::open(self.database).await?;
        let is_json = self.json || self.output == Format::Json;
        match self.command {
            Command::Create { name, admin } => {
                let scope = if admin { Scope::Admin } else { Scope::Use };
                let created = keys.create_with(&name, scope).await?;
                let key = created.key.expose();
                match is_json {
                    true => {
                        let scope = word(scope);
                        let id = created.id.to_string();
                        let key = json!({ "id": id, "key": key, "name": name, "scope": scope });
                        writeln!(out, "{key:#}")?;
                    }
                    false => writeln!(out, "{key}")?,
                }
            }
            Command::List if is_json => {
                let listed = keys.list().await?;
                writeln!(out, "{:#}", listed.iter().map(value).collect::<Value>())?;
            }
            Command::List => print(&keys.list().await?, out)?,
            Command::Revoke { id } => {
                keys.revoke(&id).await?;
                match is_json {
                    true => writeln!(out, "{:#}", json!({ "revoked": id }))?,
                    false => writeln!(out, "revoked {id}")?,
                }
            }
        }
        out.flush()?;
        Ok(())
    }
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Use => "use",
        Scope::Admin => "admin",
    }
}

/// A key as programs read it: times are seconds since 1970.
fn value(key: &keys::Listed) -> Value {
    json!({
        "id": key.id, "name": key.name, "scope": word(key.scope),
        "created": key.created_at, "revoked": key.revoked_at,
    })
}

fn print(keys: &[keys::Listed], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<12}  {:<20}  {:<20}  {:<5}  NAME", "ID", "CREATED", "REVOKED", "SCOPE")?;
    for key in keys {
        let created = utc(key.created_at);
        let revoked = key.revoked_at.map_or_else(|| "-".to_owned(), utc);
        let scope = word(key.scope);
        writeln!(out, "{:<12}  {created:<20}  {revoked:<20}  {scope:<5}  {}", key.id, key.name)?;
    }
    Ok(())
}

/// Unix seconds as `2026-01-31T23:59:59Z`, by Howard Hinnant's `civil_from_days`.
fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_491_045), "2026-11-24T03:30:45Z");
    }
}
