//! What a grammar may ask for before anything of it is compiled.
//!
//! The compiler descends into what it reads, so that depth costs stack, and takes time that grows
//! faster than a grammar's length. Here both are bounded in one pass over the text.

use super::{Invalid, Source};

/// Most bytes of a grammar.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Most rules of a Lark grammar.
pub(super) const MAX_RULES: usize = 1000;
/// Most parentheses, brackets and braces that open, of a grammar or an expression: none is nested
/// deeper. That of JSON is bounded by its reader.
pub(super) const MAX_OPENED: usize = 10_000;

pub(super) fn check(source: &Source) -> Result<(), Invalid> {
    let text = source.text();
    at_most("bytes", text.len(), MAX_BYTES)?;
    if let Source::Lark(text) = source {
        at_most("rules", text.lines().filter(|line| line.contains(':')).count(), MAX_RULES)?;
    }
    match source {
        Source::JsonSchema(_) => Ok(()),
        Source::Regex(text) | Source::Lark(text) => {
            let opened = text.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count();
            at_most("parentheses and brackets", opened, MAX_OPENED)
        }
    }
}

fn at_most(what: &str, given: usize, max: usize) -> Result<(), Invalid> {
    if given <= max {
        return Ok(());
    }
    Err(Invalid(format!("it has {given} {what} and may have at most {max}")))
}
