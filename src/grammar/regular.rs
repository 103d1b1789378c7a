//! What is wrong with a regular expression, said better than its compiler says it.

use regex_syntax::hir::{Hir, HirKind};

/// Parses an expression, and refuses repetitions of repetitions: they say nothing that one of them
/// does not, in more ways than can be counted.
pub(super) fn check(regex: &str) -> anyhow::Result<()> {
    let hir = regex_syntax::parse(regex).map_err(|error| {
        // The last line of several: the others show where.
        let text = error.to_string();
        let line = text.lines().next_back().unwrap_or_default();
        anyhow::anyhow!("{}", line.trim_start_matches("error: "))
    })?;
    anyhow::ensure!(!repeats_repetition(&hir), "it repeats without end what repeats without end");
    Ok(())
}

fn repeats_repetition(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(repetition) => {
            repetition.max.is_none() && is_endless(&repetition.sub)
                || repeats_repetition(&repetition.sub)
        }
        HirKind::Capture(capture) => repeats_repetition(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().any(repeats_repetition)
        }
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => false,
    }
}

/// Whether it is nothing but a repetition without end.
fn is_endless(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(repetition) => repetition.max.is_none(),
        HirKind::Capture(capture) => is_endless(&capture.sub),
        HirKind::Empty
        | HirKind::Literal(_)
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Concat(_)
        | HirKind::Alternation(_) => false,
    }
}
