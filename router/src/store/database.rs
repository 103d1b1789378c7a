//! Which database a router uses: an SQLite file of its own, or a PostgreSQL server that it shares.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// A database, as a command line names it. What shows it leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    place: Place,
    pepper: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// SQLite's file.
    File(PathBuf),
    /// PostgreSQL's URL, perhaps with a password.
    Server(String),
}

impl Database {
    /// The database of this name: a URL of the scheme `postgres` or `postgresql`, else a file.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        let url = name.to_str().filter(|name| scheme(name).is_some());
        let place = match url {
            Some(url) => Place::Server(url.to_owned()),
            None => Place::File(name.into()),
        };
        Self { place, pepper: None }
    }

    /// The same, with the pepper of its API keys in this file.
    #[must_use]
    pub fn with_pepper(self, pepper: Option<PathBuf>) -> Self {
        Self { pepper, ..self }
    }

    /// Where the pepper of the API keys lies: beside an SQLite file, unless it was said. Nothing
    /// where it must be said, because no router would find that of another one.
    pub(crate) fn pepper(&self) -> Option<PathBuf> {
        match (&self.pepper, &self.place) {
            (Some(pepper), _) => Some(pepper.clone()),
            (None, Place::File(file)) => {
                let mut name = file.as_os_str().to_owned();
                name.push(".pepper");
                Some(PathBuf::from(name))
            }
            (None, Place::Server(_)) => None,
        }
    }

    /// The SQLite file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(file) => Some(file),
            Place::Server(_) => None,
        }
    }

    /// Whether its name tells a password to whoever sees the name.
    pub fn has_password(&self) -> bool {
        match &self.place {
            Place::File(_) => false,
            Place::Server(url) => {
                let in_authority = authority(url).rsplit_once('@');
                in_authority.is_some_and(|(user, _)| user.contains(':'))
                    || query(url).split('&').any(|pair| pair.starts_with("password="))
            }
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl From<PathBuf> for Database {
    fn from(path: PathBuf) -> Self {
        Self::new(path)
    }
}

impl From<&PathBuf> for Database {
    fn from(path: &PathBuf) -> Self {
        Self::new(path)
    }
}

impl From<&Path> for Database {
    fn from(path: &Path) -> Self {
        Self::new(path)
    }
}

impl From<&Self> for Database {
    fn from(database: &Self) -> Self {
        database.clone()
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(file) => file.display().fmt(f),
            Place::Server(url) => {
                let scheme = scheme(url).unwrap_or_default();
                let authority = authority(url);
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                let rest = &url[scheme.len() + 3 + authority.len()..];
                let path = rest.split(['?', '#']).next().unwrap_or_default();
                write!(f, "{scheme}://{host}{path}")
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

/// The scheme of a URL of PostgreSQL.
fn scheme(name: &str) -> Option<&str> {
    let (scheme, _) = name.split_once("://")?;
    matches!(scheme, "postgres" | "postgresql").then_some(scheme)
}

/// What is between the scheme and the path.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    // A password may hold what would end it, if it was not encoded: nothing of it may be shown.
    let end = match rest.rfind('@') {
        Some(at) => at + rest[at..].find(['/', '?', '#']).unwrap_or(rest.len() - at),
        None => rest.find(['/', '?', '#']).unwrap_or(rest.len()),
    };
    &rest[..end]
}

fn query(url: &str) -> &str {
    url.split_once('?').map_or("", |(_, query)| query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_or_a_url() {
        assert_eq!(Database::new("a/sconce.db").file(), Some(Path::new("a/sconce.db")));
        assert_eq!(Database::new("mysql://host/db").file(), Some(Path::new("mysql://host/db")));
        assert_eq!(Database::new("postgres://host/db").file(), None);
        assert_eq!(Database::new("postgresql:///db?host=/run").file(), None);
    }

    #[test]
    fn what_shows_it_has_neither_user_nor_password() {
        for url in [
            "postgres://me:secret@host:5432/db?sslmode=require",
            "postgres://me:sec/r@et?x@host:5432/db",
            "postgres://host:5432/db?user=me&password=secret",
        ] {
            let database = Database::new(url);
            assert_eq!(format!("{database}"), "postgres://host:5432/db");
            assert_eq!(format!("{database:?}"), "Database(postgres://host:5432/db)");
            assert!(database.has_password(), "{url}");
        }
        for url in ["postgres://me@host/db", "postgres:///db?host=/run", "a:b@c.db"] {
            assert!(!Database::new(url).has_password(), "{url}");
        }
    }

    #[test]
    fn the_pepper_lies_beside_a_file_and_must_be_named_for_a_server() {
        let file = Database::new("a/sconce.db");
        let server = Database::new("postgres://host/db");

        assert_eq!(file.pepper(), Some("a/sconce.db.pepper".into()));
        assert_eq!(file.with_pepper(Some("b".into())).pepper(), Some("b".into()));
        assert_eq!(server.pepper(), None);
        assert_eq!(server.with_pepper(Some("b".into())).pepper(), Some("b".into()));
    }
}
