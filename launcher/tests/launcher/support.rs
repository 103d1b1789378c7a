//! What the tests stand on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sconce_launcher::catalogue::Catalogue;
use sconce_launcher::digest::Sha256Hash;
use sconce_launcher::progress::Progress;
use sconce_launcher::pull::{Error, Pulled, Puller};
use sconce_launcher::settings::{HubSettings, Network, Parallel, Retries, Settings, Token};
use sconce_launcher::store::{Check, Manifest};
use sconce_stand_in_hub::{COMMIT, StandIn};
use tempfile::TempDir;

/// A machine with an empty home, and a hub that it talks to.
pub(crate) struct Site {
    pub(crate) hub: StandIn,
    pub(crate) settings: Settings,
    pub(crate) catalogue: String,
    _home: TempDir,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let hub = StandIn::start().await;
        let home = tempfile::tempdir().unwrap();
        let retries = Retries {
            max_attempts: 4,
            base_delay: Duration::from_millis(1),
            max_delay: Duration::from_secs(2),
            max_pause: Duration::from_secs(2),
        };
        let settings = Settings {
            home: home.path().join("sconce"),
            runtime_dir: None,
            hub: HubSettings {
                endpoint: hub.url().parse().unwrap(),
                cache: home.path().join("hub"),
                token: Token::new("hf_secret"),
                token_source: None,
                network: Network::Online,
                read_timeout: Duration::from_millis(500),
                connect_timeout: Duration::from_secs(5),
                retries,
                parallel: Parallel::default(),
            },
            path: None,
        };
        Self { hub, settings, catalogue: "model = []".to_owned(), _home: home }
    }

    /// A site whose hub has `file` of [`REPO`] with `content`.
    pub(crate) async fn with(file: &str, content: &[u8]) -> Self {
        let site = Self::new().await;
        site.hub.put(REPO, file, content);
        site
    }

    pub(crate) fn puller(&self) -> Puller {
        let catalogue = Catalogue::from_toml(&self.catalogue).unwrap();
        Puller::new(self.settings.clone(), catalogue, Progress::Silent)
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<Pulled, Error> {
        self.puller().pull(&name.parse().unwrap(), Check::IfTouched).await
    }

    /// Pulls what must be pulled, and not be there yet.
    pub(crate) async fn fetch(&self, name: &str) -> Manifest {
        match self.pull(name).await.unwrap_or_else(|error| panic!("{error}")) {
            Pulled::Fetched(manifest) => manifest,
            other => panic!("not fetched: {other:?}"),
        }
    }

    /// The message of a pull that must fail.
    pub(crate) async fn refuse(&self, name: &str) -> String {
        self.pull(name).await.unwrap_err().to_string()
    }

    pub(crate) fn repo_dir(&self) -> PathBuf {
        self.settings.hub.cache.join(format!("models--{}", REPO.replace('/', "--")))
    }

    /// Files below the blobs of [`REPO`].
    pub(crate) fn blobs(&self) -> Vec<String> {
        list(&self.repo_dir().join("blobs"))
    }
}

/// The repository of most tests.
pub(crate) const REPO: &str = "owner/repo";

/// `hf:` with [`REPO`] and a file.
pub(crate) fn hf(file: &str) -> String {
    format!("hf:{REPO}:{file}")
}

/// Bytes that do not repeat soon.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

/// An entry of a catalogue for one file of [`REPO`].
pub(crate) fn entry(file: &str, content: &[u8]) -> String {
    format!(
        "[[model]]\nname = \"tiny:1\"\ndescription = \"\"\nlicense = \"Apache-2.0\"\n\
         hub = {{ repo = \"{REPO}\", revision = \"{}\" }}\n\
         files = [{{ name = \"{file}\", size = {}, sha256 = \"{}\" }}]\n",
        COMMIT,
        content.len(),
        Sha256Hash::of(content)
    )
}

pub(crate) fn list(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
