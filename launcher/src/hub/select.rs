//! Which files of a repository make up the model.

use super::Error;
use super::client::Remote;
use crate::name::RepoPath;

/// Configuration and tokenizer files are small; what is larger is something else.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// How sentence-transformers make one vector of many: the one file that a model has elsewhere.
const POOLING: &str = "1_Pooling/config.json";

/// A file that may be part of a model: of a repository, or of a folder of this machine.
pub(crate) trait Candidate {
    /// Its path in the repository or folder.
    fn file(&self) -> &RepoPath;
    /// Its length in bytes.
    fn size(&self) -> u64;
}

impl Candidate for Remote {
    fn file(&self) -> &RepoPath {
        &self.file
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Chooses the files of the model: its safetensors with their configuration and tokenizer, or else
/// its one GGUF file.
pub(crate) fn select_files<T: Candidate>(files: Vec<T>) -> Result<Vec<T>, Error> {
    let mut files = files;
    files.retain(|it| it.file().is_at_root() || it.file().as_ref() == POOLING);
    let has_weights = files.iter().any(|it| it.file().kind() == "safetensors");
    if has_weights {
        return Ok(safetensors_model(files));
    }
    files.retain(|it| it.file().kind() == "gguf");
    match files.len() {
        0 => Err(Error::NoWeights),
        1 => Ok(files),
        _ => Err(Error::Ambiguous(files.iter().map(|it| it.file().to_string()).collect())),
    }
}

/// Some repositories carry the same weights twice (`consolidated.safetensors` beside `model-*`):
/// the ones that the index or the usual name speaks of are taken.
fn safetensors_model<T: Candidate>(mut files: Vec<T>) -> Vec<T> {
    let is_usual = |name: &RepoPath| {
        let name = name.as_ref();
        name == "model.safetensors" || name.starts_with("model-0")
    };
    let has_usual = files.iter().any(|it| it.file().kind() == "safetensors" && is_usual(it.file()));
    files.retain(|it| match it.file().kind() {
        "gguf" => false,
        "safetensors" => !has_usual || is_usual(it.file()),
        _ => it.size() <= MAX_TEXT_BYTES,
    });
    files
}

/// Whether files that happen to be here make up a model: the configuration, and every shard that
/// the shards' names speak of.
pub(crate) fn is_whole<T: Candidate>(files: &[T]) -> bool {
    let has = |name: &str| files.iter().any(|it| it.file().as_ref() == name);
    if !files.iter().any(|it| it.file().kind() == "safetensors") {
        return true;
    }
    let shards = files.iter().filter_map(|it| {
        let stem = it.file().as_ref().strip_suffix(".safetensors")?;
        let (first, total) = stem.rsplit_once("-of-")?;
        let (prefix, _) = first.rsplit_once('-')?;
        Some((prefix, total))
    });
    let are_all_there = shards.clone().all(|(prefix, total)| {
        total.parse() == Ok(shards.clone().filter(|shard| *shard == (prefix, total)).count())
    });
    has("config.json") && are_all_there
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{ContentId, Sha256Hash};

    fn remotes(names: &[&str]) -> Vec<Remote> {
        let remote = |name: &&str| Remote {
            repo: "o/r".parse().unwrap(),
            commit: "main".parse().unwrap(),
            file: name.parse().unwrap(),
            id: ContentId::Sha256(Sha256Hash::of(b"")),
            size: 1,
        };
        names.iter().map(remote).collect()
    }

    fn select(names: &[&str]) -> Result<Vec<String>, Error> {
        let chosen = select_files(remotes(names))?;
        Ok(chosen.iter().map(|remote| remote.file.to_string()).collect())
    }

    #[test]
    fn a_safetensors_model_is_its_weights_and_text_files_once() {
        let chosen = select(&[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
            "model.Q4_0.gguf",
            "onnx/config.json",
            "1_Pooling/config.json",
            "tokenizer.model",
        ]);

        assert_eq!(
            chosen.unwrap(),
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "1_Pooling/config.json",
                "tokenizer.model"
            ]
        );
    }

    #[test]
    fn one_gguf_file_is_the_model_and_several_are_a_question() {
        assert_eq!(select(&["a.gguf", "README.txt"]).unwrap(), ["a.gguf"]);
        let error = select(&["a.Q4_0.gguf", "a.Q8_0.gguf"]).unwrap_err();
        assert!(error.to_string().ends_with("a.Q4_0.gguf, a.Q8_0.gguf"), "{error}");
        assert!(matches!(select(&["config.json"]), Err(Error::NoWeights)));
    }

    #[test]
    fn a_model_that_lacks_a_shard_or_its_configuration_is_not_whole() {
        let one = "model-00001-of-00002.safetensors";
        let two = "model-00002-of-00002.safetensors";
        assert!(is_whole(&remotes(&["config.json", one, two])));
        assert!(is_whole(&remotes(&["config.json", "model.safetensors"])));
        assert!(is_whole(&remotes(&["a.gguf"])));
        assert!(!is_whole(&remotes(&["config.json", two])));
        assert!(!is_whole(&remotes(&[one, two])));
    }
}
