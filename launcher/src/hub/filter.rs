//! Which files of a repository a person wants, by patterns as `huggingface_hub` reads them.

use glob::{MatchOptions, Pattern, PatternError};

/// As Python's `fnmatch`: a `*` goes over folders too.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

/// Which files of a repository are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// Text that is no pattern.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is no pattern of file names")]
pub struct BadPattern {
    pattern: String,
    #[source]
    source: PatternError,
}

impl Filter {
    /// Files that one of `include` fits, or all where there is none, but none of `exclude`. A
    /// pattern that ends in `/` means all of a folder.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, BadPattern> {
        let patterns = |texts: &[String]| -> Result<Vec<_>, _> {
            texts.iter().map(|text| parse(text)).collect()
        };
        Ok(Self { include: patterns(include)?, exclude: patterns(exclude)? })
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether the file at `path` is wanted.
    pub fn wants(&self, path: &str) -> bool {
        let fits = |pattern: &Pattern| pattern.matches_with(path, OPTIONS);
        (self.include.is_empty() || self.include.iter().any(fits)) && !self.exclude.iter().any(fits)
    }
}

fn parse(text: &str) -> Result<Pattern, BadPattern> {
    // Where `*` goes over folders, more of them mean the same.
    let mut glob = text.to_owned();
    while glob.contains("**") {
        glob = glob.replace("**", "*");
    }
    if glob.ends_with('/') {
        glob.push('*');
    }
    Pattern::new(&glob).map_err(|source| BadPattern { pattern: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(include: &[&str], exclude: &[&str]) -> Vec<&'static str> {
        let owned =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let filter = Filter::new(&owned(include), &owned(exclude)).unwrap();
        let files = ["config.json", "m.Q4_0.gguf", "m.Q8_0.gguf", "int4/a.safetensors"];
        files.into_iter().filter(|file| filter.wants(file)).collect()
    }

    #[test]
    fn patterns_mean_what_the_hubs_own_tools_take_them_for() {
        assert_eq!(wanted(&[], &[]).len(), 4);
        assert_eq!(wanted(&["*.gguf"], &[]), ["m.Q4_0.gguf", "m.Q8_0.gguf"]);
        assert_eq!(wanted(&["*.gguf"], &["*Q8*"]), ["m.Q4_0.gguf"]);
        assert_eq!(wanted(&["m.Q[48]_0.gguf", "*.json"], &[]).len(), 3);
        assert_eq!(wanted(&["int4/"], &[]), ["int4/a.safetensors"]);
        assert_eq!(wanted(&["*.safetensors"], &[]), ["int4/a.safetensors"]);
        assert_eq!(wanted(&["**/*.safetensors"], &[]), ["int4/a.safetensors"]);
        assert_eq!(wanted(&["M.*"], &[]).len(), 0);
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        let error = Filter::new(&["[".to_owned()], &[]).unwrap_err();

        assert_eq!(error.to_string(), "`[` is no pattern of file names");
    }
}
