//! What a repository has: the commit that a revision stands for, its files, and their content's
//! names and sizes.

use reqwest::Method;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;

use super::Error;
use super::client::{Client, Follow, header, plain};
use super::select::is_pickle;
use crate::digest::ContentId;
use crate::name::{RepoId, RepoPath, Revision};

const MAX_PAGES: usize = 100;

/// A file as the hub announces it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) repo: RepoId,
    pub(crate) commit: Revision,
    pub(crate) file: RepoPath,
    pub(crate) id: ContentId,
    pub(crate) size: u64,
}

/// What a repository has at a commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// Files of a kind that is fetched.
    pub(crate) files: Vec<Remote>,
    /// Whether there are weights that can run code.
    pub(crate) pickle: Option<String>,
}

impl Client {
    /// Asks what `file` is at `revision`.
    pub(crate) async fn announce(
        &self,
        repo: &RepoId,
        revision: &Revision,
        file: &RepoPath,
    ) -> Result<Remote, Error> {
        let url = self.resolve_url(repo, revision, file);
        let response = self.small(Method::HEAD, &url, Follow::SameHost).await?;
        let headers = response.headers();
        let protocol = |what| Error::Protocol { url: plain(&url), what };
        let commit: Revision = header(headers, "x-repo-commit")
            .and_then(|commit| commit.parse().ok())
            .filter(Revision::is_commit)
            .ok_or_else(|| protocol("X-Repo-Commit"))?;
        check_commit(revision, &commit)?;
        let id = header(headers, "x-linked-etag")
            .or_else(|| header(headers, "etag"))
            .and_then(|etag| unquote(etag).parse().ok())
            .ok_or_else(|| protocol("content hash (X-Linked-Etag or ETag)"))?;
        let size = header(headers, "x-linked-size")
            .or_else(|| {
                response.status().is_success().then(|| header(headers, "content-length"))?
            })
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| protocol("size (X-Linked-Size or Content-Length)"))?;
        Ok(Remote { repo: repo.clone(), commit, file: file.clone(), id, size })
    }

    /// Lists the files at `revision` that are of a kind that is fetched.
    pub(crate) async fn list(&self, repo: &RepoId, revision: &Revision) -> Result<Listing, Error> {
        #[derive(Deserialize)]
        struct Model {
            sha: String,
        }
        let url = self.url(&["api", "models"], repo, &["revision", revision.as_ref()]);
        let (model, _) = self.json::<Model>(&url).await?;
        let commit: Revision = model
            .sha
            .parse()
            .ok()
            .filter(Revision::is_commit)
            .ok_or_else(|| Error::Protocol { url: plain(&url), what: "commit" })?;
        check_commit(revision, &commit)?;

        let mut url = self.url(&["api", "models"], repo, &["tree", commit.as_ref()]);
        url.set_query(Some("recursive=true&expand=false"));
        let mut listing = Listing::default();
        for _ in 0..MAX_PAGES {
            let (entries, headers) = self.json::<Vec<TreeEntry>>(&url).await?;
            let pickle = entries.iter().find(|entry| is_pickle(&entry.path));
            for entry in &entries {
                let nameless = || Error::Protocol { url: plain(&url), what: "content hash" };
                let Some(file) = entry.file() else { continue };
                let (oid, size) = entry.content();
                let id = oid.parse().map_err(|_| nameless())?;
                let (repo, commit) = (repo.clone(), commit.clone());
                listing.files.push(Remote { repo, commit, file, id, size });
            }
            listing.pickle = listing.pickle.or_else(|| pickle.map(TreeEntry::shown));
            match next_page(&headers).and_then(|next| url.join(next).ok()) {
                None => return Ok(listing),
                Some(next) if self.is_hub(&next) => url = next,
                Some(next) => {
                    let reason = "the next page is on another host";
                    return Err(Error::Redirect { url: plain(&next), reason });
                }
            }
        }
        Err(Error::Protocol { url: plain(&url), what: "end of its list of files" })
    }
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<LfsEntry>,
}

#[derive(Deserialize)]
struct LfsEntry {
    oid: String,
    size: u64,
}

impl TreeEntry {
    /// Its name, for a terminal.
    fn shown(&self) -> String {
        self.path.chars().take(100).filter(|c| !c.is_control()).collect()
    }

    /// Its path, if it is a file of a kind that is fetched.
    fn file(&self) -> Option<RepoPath> {
        (self.kind == "file").then(|| self.path.parse().ok())?
    }

    /// Its content's name and length.
    fn content(&self) -> (&str, u64) {
        match &self.lfs {
            Some(lfs) => (lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid), lfs.size),
            None => (&self.oid, self.size),
        }
    }
}

fn check_commit(asked: &Revision, got: &Revision) -> Result<(), Error> {
    if asked.is_commit() && asked != got {
        return Err(Error::WrongCommit { asked: asked.clone(), got: got.clone() });
    }
    Ok(())
}

fn unquote(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

fn next_page(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).find_map(|link| {
        let (url, parameters) = link.strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then_some(url)
    })
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn the_next_page_is_found_in_the_link_header() {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, HeaderValue::from_static("</tree?cursor=x>; rel=\"next\""));

        assert_eq!(next_page(&headers), Some("/tree?cursor=x"));
    }
}
