//! Which files of a repository make up the model.

use std::collections::BTreeSet;

use super::Error;
use super::filter::Filter;
use super::listing::{Listing, Remote};
use crate::name::RepoPath;

/// Weights that run code when they are opened.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// Most files that a message names.
const MAX_NAMED: usize = 20;

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

/// Chooses the files of the model in a repository, among those that `filter` wants.
pub(crate) fn choose(listing: Listing, filter: &Filter) -> Result<Vec<Remote>, Error> {
    let Listing { files, pickle } = listing;
    let chosen = if filter.is_empty() { select_files(files) } else { filtered(files, filter) };
    chosen.map_err(|error| match (error, pickle) {
        (Error::NoWeights, Some(pickle)) => Error::OnlyPickles(pickle),
        (error, _) => error,
    })
}

/// The files that `filter` wants: a whole model, which may lie in a folder.
fn filtered(mut files: Vec<Remote>, filter: &Filter) -> Result<Vec<Remote>, Error> {
    let all = named(files.iter());
    files.retain(|it| filter.wants(it.file.as_ref()));
    if files.is_empty() {
        return Err(Error::NoMatch(all));
    }
    let weights = files.iter().filter(|it| matches!(it.file.kind(), "safetensors" | "gguf"));
    let folders: BTreeSet<_> = weights.map(|it| it.file.folder().to_owned()).collect();
    let chosen = match folders.iter().collect::<Vec<_>>()[..] {
        [folder] if !folder.is_empty() => {
            files.retain(|it| it.file.folder() == folder);
            select(files)?
        }
        [] | [_] => select_files(files)?,
        _ if folders.contains("") => select_files(files)?,
        _ => return Err(Error::Ambiguous(folders.iter().map(|it| format!("{it}/")).collect())),
    };
    if is_whole(&chosen) { Ok(chosen) } else { Err(Error::NotWhole(named(chosen.iter()))) }
}

fn named<'a>(files: impl ExactSizeIterator<Item = &'a Remote>) -> Vec<String> {
    let more = files.len().saturating_sub(MAX_NAMED);
    let mut names: Vec<_> = files.take(MAX_NAMED).map(|it| it.file.to_string()).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names
}

/// Whether the file at `path` holds weights in a format that can run code.
pub(crate) fn is_pickle(path: &str) -> bool {
    PICKLES.iter().any(|kind| path.ends_with(kind))
}

/// Chooses the files of the model at the root: its safetensors with their configuration and
/// tokenizer, or else its one GGUF file.
pub(crate) fn select_files<T: Candidate>(mut files: Vec<T>) -> Result<Vec<T>, Error> {
    files.retain(|it| it.file().is_at_root() || it.file().as_ref() == POOLING);
    select(files)
}

fn select<T: Candidate>(mut files: Vec<T>) -> Result<Vec<T>, Error> {
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
        let name = name.name();
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
    let has = |name: &str| files.iter().any(|it| it.file().name() == name);
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

    fn chosen(names: &[&str], include: &[&str], exclude: &[&str]) -> Result<Vec<String>, Error> {
        let owned =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let filter = Filter::new(&owned(include), &owned(exclude)).unwrap();
        let pickle = names.iter().find(|name| is_pickle(name)).map(|name| (*name).to_owned());
        let names: Vec<_> = names.iter().copied().filter(|name| !is_pickle(name)).collect();
        let listing = Listing { files: remotes(&names), pickle };
        Ok(choose(listing, &filter)?.iter().map(|remote| remote.file.to_string()).collect())
    }

    #[test]
    fn a_filter_chooses_a_model_where_there_are_several() {
        let quantized = ["README.txt", "m.Q4_0.gguf", "m.Q8_0.gguf"];
        assert_eq!(chosen(&quantized, &["*Q4*"], &[]).unwrap(), ["m.Q4_0.gguf"]);
        assert_eq!(chosen(&quantized, &[], &["*Q4*"]).unwrap(), ["m.Q8_0.gguf"]);

        let folders = [
            "int4/config.json",
            "int4/model.safetensors",
            "int8/config.json",
            "int8/model.safetensors",
            "tokenizer.json",
        ];
        let one = chosen(&folders, &["int4/"], &[]).unwrap();
        assert_eq!(one, ["int4/config.json", "int4/model.safetensors"]);
        let several = chosen(&folders, &["*.safetensors"], &[]).unwrap_err();
        assert!(several.to_string().ends_with("int4/, int8/"), "{several}");
    }

    #[test]
    fn a_filter_that_leaves_no_whole_model_is_refused_with_the_names() {
        let shards =
            ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        for (include, exclude) in [(&["*.safetensors"], &[][..]), (&["*"], &["*-00002-of*"])] {
            let error = chosen(&shards, include, exclude).unwrap_err();
            assert!(matches!(error, Error::NotWhole(_)), "{error}");
        }
        let error = chosen(&shards, &["*.gguf"], &[]).unwrap_err().to_string();
        assert!(error.ends_with(shards[2]), "{error}");
    }

    #[test]
    fn a_repository_of_pickles_is_refused_by_name() {
        let error = chosen(&["config.json", "pytorch_model.bin"], &[], &[]).unwrap_err();
        assert!(error.to_string().contains("pytorch_model.bin"), "{error}");
        assert!(matches!(error, Error::OnlyPickles(_)));
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
