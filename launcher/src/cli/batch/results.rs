//! The files that a batch's answers are written to.

use std::path::{Path, PathBuf};

use anyhow::Context;
use sconce_client::{Batch, Client};
use tokio::io::AsyncWriteExt;

use crate::cli::Fault;

/// Where answers go, and requests that failed.
pub(super) struct Results {
    pub(super) out: PathBuf,
    pub(super) errors: PathBuf,
    /// Whether the user said where.
    pub(super) is_named: bool,
}

impl Results {
    /// Refuses to write over what is there.
    pub(super) fn check_free(&self) -> Result<(), Fault> {
        let there = [&self.out, &self.errors].into_iter().find(|path| path.exists());
        there.map_or(Ok(()), |path| Err(Fault::Exists(path.clone())))
    }

    /// What a command line needs to write to the same place.
    pub(super) fn arguments(&self) -> String {
        match self.is_named {
            true => format!(" -o {}", self.out.display()),
            false => String::new(),
        }
    }

    /// Writes what the batch has made, each file once it is whole.
    pub(super) async fn fetch(&self, client: &Client, batch: &Batch) -> anyhow::Result<()> {
        let files = [(&batch.output_file_id, &self.out), (&batch.error_file_id, &self.errors)];
        for (id, path) in files {
            let Some(id) = id else { continue };
            fetch(client, id, path).await.with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Which files there are now.
    pub(super) fn told(&self, batch: &Batch) -> String {
        let files = [
            (&batch.output_file_id, "answers", &self.out),
            (&batch.error_file_id, "failures", &self.errors),
        ];
        let line = |(id, what, path): (&Option<String>, &str, &PathBuf)| {
            id.as_ref().map(|_| format!("  {what}: {}\n", path.display()))
        };
        files.into_iter().filter_map(line).collect()
    }
}

async fn fetch(client: &Client, id: &str, path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let whole = tempfile::Builder::new().prefix(".sconce-batch-").tempfile_in(folder)?;
    let mut file = tokio::fs::File::from_std(whole.reopen()?);
    let mut content = client.file_content(id).await?;
    while let Some(piece) = content.next().await {
        file.write_all(&piece?).await?;
    }
    file.sync_all().await?;
    whole.persist(path)?;
    Ok(())
}
