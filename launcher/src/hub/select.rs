//! Which files of a repository make up the model.

use super::Error;
use super::client::Remote;

/// Configuration and tokenizer files are small; what is larger is something else.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// How sentence-transformers make one vector of many: the one file that a model has elsewhere.
const POOLING: &str = "1_Pooling/config.json";

/// Chooses the files of the model: its safetensors with their configuration and tokenizer, or else
/// its one GGUF file.
pub(crate) fn select_files(files: Vec<Remote>) -> Result<Vec<Remote>, Error> {
    let mut files = files;
    files.retain(|remote| remote.file.is_at_root() || remote.file.as_ref() == POOLING);
    let has_weights = files.iter().any(|remote| remote.file.kind() == "safetensors");
    if has_weights {
        return Ok(safetensors_model(files));
    }
    files.retain(|remote| remote.file.kind() == "gguf");
    match files.len() {
        0 => Err(Error::NoWeights),
        1 => Ok(files),
        _ => Err(Error::Ambiguous(files.iter().map(|remote| remote.file.to_string()).collect())),
    }
}

/// Some repositories carry the same weights twice (`consolidated.safetensors` beside `model-*`):
/// the ones that the index or the usual name speaks of are taken.
fn safetensors_model(mut files: Vec<Remote>) -> Vec<Remote> {
    let name = |remote: &Remote| remote.file.as_ref().to_owned();
    let is_usual = |name: &str| name == "model.safetensors" || name.starts_with("model-0");
    let has_usual =
        files.iter().any(|remote| remote.file.kind() == "safetensors" && is_usual(&name(remote)));
    files.retain(|remote| match remote.file.kind() {
        "gguf" => false,
        "safetensors" => !has_usual || is_usual(&name(remote)),
        _ => remote.size <= MAX_TEXT_BYTES,
    });
    files
}

/// Whether files that happen to be here make up a model: the configuration, and every shard that
/// the shards' names speak of.
pub(crate) fn is_whole(files: &[Remote]) -> bool {
    let has = |name: &str| files.iter().any(|remote| remote.file.as_ref() == name);
    if !files.iter().any(|remote| remote.file.kind() == "safetensors") {
        return true;
    }
    let shards = files.iter().filter_map(|remote| {
        let stem = remote.file.as_ref().strip_suffix(".safetensors")?;
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
