//! What the environment says: where the store is, where the hub is and how to reach it.
//!
//! Read once, at the start of a command; nothing else of the launcher looks at the environment.
//! The hub's variables are those of its own tools, so that files and logins are shared.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

/// Everything that the launcher takes from the environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `$SCONCE_HOME`: manifests, files from mirrors, the database.
    pub home: PathBuf,
    /// `$XDG_RUNTIME_DIR`, where sockets go if there is one.
    pub runtime_dir: Option<PathBuf>,
    /// The hub and its cache.
    pub hub: HubSettings,
    /// `$PATH`, where Python is looked for.
    pub path: Option<OsString>,
}

/// The hub and its cache.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// `$HF_ENDPOINT`.
    pub endpoint: Url,
    /// `$HF_HUB_CACHE`, or `hub` in `$HF_HOME`.
    pub cache: PathBuf,
    /// `$HF_TOKEN`, or the one that a login left behind.
    pub token: Option<Token>,
    /// Where the token was found.
    pub token_source: Option<TokenSource>,
    /// `$HF_HUB_OFFLINE`, or `--offline`: no network, mirrors included.
    pub network: Network,
    /// Longest silence of a server before a request is tried again.
    pub read_timeout: Duration,
    /// Longest time for a connection, and for the answer to a small request.
    pub connect_timeout: Duration,
    /// How often and how patiently failed requests are repeated.
    pub retries: Retries,
    /// How large files are fetched.
    pub parallel: Parallel,
}

/// How large files are fetched: in parts, several at once.
#[derive(Clone, Copy, Debug)]
pub struct Parallel {
    /// Bytes of a part. A file of less than two parts is fetched as a whole.
    pub part_bytes: u64,
    /// Most transfers at once, of all files together.
    pub max_connections: usize,
}

impl Default for Parallel {
    fn default() -> Self {
        Self { part_bytes: 32 << 20, max_connections: 8 }
    }
}

/// Where a token was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// `$HF_TOKEN`.
    Variable,
    /// The file that a login left behind.
    File(PathBuf),
}

/// Whether the network may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It may.
    Online,
    /// Only what is on this machine already.
    Offline,
}

/// How often and how patiently failed requests are repeated.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Attempts in a row that bring nothing. Progress starts the count again.
    pub max_attempts: u32,
    /// Delay after the first failure; it doubles with each further one.
    pub base_delay: Duration,
    /// Longest delay of our own.
    pub max_delay: Duration,
    /// Longest delay that a server may ask for. The hub counts in windows of five minutes.
    pub max_pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(60),
            max_pause: Duration::from_secs(330),
        }
    }
}

/// A secret for the hub. Never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes `text` for a token, if there is anything in it.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Whether it has what no header can carry. Nothing else is said of it.
    pub fn is_malformed(&self) -> bool {
        !self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why the environment makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither `SCONCE_HOME` nor a home directory.
    #[error("no place for the model store: set SCONCE_HOME or HOME")]
    NoHome,
    /// `HF_ENDPOINT` is not a URL of a web server.
    #[error("HF_ENDPOINT is `{0}`, which is not an http or https URL")]
    Endpoint(String),
    /// A number that isn't one.
    #[error("{variable} is `{value}`, which is not a number of seconds")]
    Seconds {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        value: String,
    },
}

impl Settings {
    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_lookup(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// Reads the variables that `lookup` knows.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let path = |name: &str| lookup(name).map(PathBuf::from);
        let user = path("HOME");
        let home = path("SCONCE_HOME")
            .or_else(|| path("XDG_DATA_HOME").map(|data| data.join("sconce")))
            .or_else(|| user.as_ref().map(|user| user.join(".local/share/sconce")))
            .ok_or(Error::NoHome)?;
        let hub = HubSettings::from_lookup(lookup, user.as_deref().unwrap_or(&home))?;
        Ok(Self {
            home: std::path::absolute(&home).unwrap_or(home),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            hub,
            path: lookup("PATH"),
        })
    }
}

impl HubSettings {
    fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>, user: &Path) -> Result<Self, Error> {
        let text = |name: &str| lookup(name).map(|value| value.to_string_lossy().into_owned());
        let path = |name: &str| lookup(name).map(|value| expand_user(&value, user));
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| user.join(".cache/huggingface"));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| hf_home.join("hub"));
        let is_on = |name: &str| text(name).is_some_and(|value| is_true(&value));
        let found = if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            let typed = text("HF_TOKEN").as_deref().and_then(Token::new);
            typed.map(|token| (token, TokenSource::Variable)).or_else(|| {
                let file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
                let token = std::fs::read_to_string(&file).ok().as_deref().and_then(Token::new)?;
                Some((token, TokenSource::File(file)))
            })
        };
        let (token, token_source) = found.unzip();
        let offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
        let seconds = |variable, default| match text(variable) {
            None => Ok(Duration::from_secs(default)),
            Some(value) => parse_seconds(&value).ok_or(Error::Seconds { variable, value }),
        };
        Ok(Self {
            endpoint: parse_endpoint(text("HF_ENDPOINT").as_deref())?,
            cache: std::path::absolute(&cache).unwrap_or(cache),
            token,
            token_source,
            network: if offline { Network::Offline } else { Network::Online },
            read_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT", 30)?,
            connect_timeout: seconds("HF_HUB_ETAG_TIMEOUT", 10)?,
            retries: Retries::default(),
            parallel: Parallel::default(),
        })
    }
}

fn parse_endpoint(text: Option<&str>) -> Result<Url, Error> {
    let text = text.unwrap_or("https://huggingface.co");
    let url = Url::parse(text.trim_end_matches('/')).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
        .ok_or_else(|| Error::Endpoint(text.chars().take(200).collect()))
}

fn parse_seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn expand_user(value: &OsString, user: &Path) -> PathBuf {
    match Path::new(value).strip_prefix("~") {
        Ok(rest) => user.join(rest),
        Err(_) => PathBuf::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::from_lookup(&|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_most_specific_variable_wins() {
        let plain = settings(&[("HOME", "/u")]).unwrap();
        assert_eq!(plain.home, Path::new("/u/.local/share/sconce"));
        assert_eq!(plain.hub.cache, Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(plain.hub.endpoint.as_str(), "https://huggingface.co/");

        let xdg = [("HOME", "/u"), ("XDG_DATA_HOME", "/d"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(settings(&xdg).unwrap().home, Path::new("/d/sconce"));
        assert_eq!(settings(&xdg).unwrap().hub.cache, Path::new("/c/huggingface/hub"));

        let all = [&xdg[..], &[("SCONCE_HOME", "/s"), ("HF_HOME", "~/hf")]].concat();
        assert_eq!(settings(&all).unwrap().home, Path::new("/s"));
        assert_eq!(settings(&all).unwrap().hub.cache, Path::new("/u/hf/hub"));

        let cache = [&all[..], &[("HF_HUB_CACHE", "/h")]].concat();
        assert_eq!(settings(&cache).unwrap().hub.cache, Path::new("/h"));
    }

    #[test]
    fn the_token_of_a_login_is_found_and_never_printed() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_secret\n").unwrap();
        let hf_home = home.path().to_str().unwrap();

        let found = settings(&[("HOME", "/u"), ("HF_HOME", hf_home)]).unwrap();
        let disabled = settings(&[
            ("HOME", "/u"),
            ("HF_HOME", hf_home),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ]);

        let elsewhere = home.path().join("elsewhere");
        std::fs::write(&elsewhere, "hf_other").unwrap();
        let named = [("HOME", "/u"), ("HF_TOKEN_PATH", elsewhere.to_str().unwrap())];
        let typed = [&named[..], &[("HF_TOKEN", "hf_typed")]].concat();

        let secret = |found: Settings| found.hub.token.unwrap().secret().to_owned();
        assert_eq!(secret(settings(&named).unwrap()), "hf_other");
        assert_eq!(secret(settings(&typed).unwrap()), "hf_typed");
        assert_eq!(found.hub.token.as_ref().unwrap().secret(), "hf_secret");
        assert!(!format!("{found:?}").contains("secret"));
        assert!(disabled.unwrap().hub.token.is_none());
    }

    #[test]
    fn nonsense_is_named() {
        assert!(matches!(settings(&[]), Err(Error::NoHome)));
        for endpoint in ["huggingface.co", "file:///etc", "ftp://x"] {
            let error = settings(&[("HOME", "/u"), ("HF_ENDPOINT", endpoint)]).unwrap_err();
            assert!(matches!(error, Error::Endpoint(_)), "{endpoint}");
        }
        let error = settings(&[("HOME", "/u"), ("HF_HUB_ETAG_TIMEOUT", "soon")]).unwrap_err();
        assert!(matches!(error, Error::Seconds { .. }));
    }
}
