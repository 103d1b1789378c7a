//! Lines of JSON, checked as they come in pieces.

/// What the lines of a file keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineLimits {
    pub(crate) max_lines: usize,
    pub(crate) max_line_bytes: usize,
}

/// Why a file is not such lines. Says nothing of what is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadLines {
    #[error("line {line} is not UTF-8")]
    NotUtf8 { line: usize },
    #[error("line {line} is not a JSON object (column {column})")]
    NotObject { line: usize, column: usize },
    #[error("line {line} has more than {max} bytes")]
    LongLine { line: usize, max: usize },
    #[error("the file has more than {max} lines")]
    ManyLines { max: usize },
    #[error("the file has no lines")]
    Empty,
}

/// Checks that every line is a JSON object. Lines of white space alone are none.
pub(crate) struct Lines {
    limits: LineLimits,
    /// The line that has begun.
    line: Vec<u8>,
    /// Lines so far, as an editor numbers them.
    num_read: usize,
    /// Of those, lines with something in them.
    num_full: usize,
    bad: Option<BadLines>,
}

impl Lines {
    pub(crate) fn new(limits: LineLimits) -> Self {
        Self { limits, line: Vec::new(), num_read: 0, num_full: 0, bad: None }
    }

    /// Takes the next piece, and says what was wrong first.
    pub(crate) fn push(&mut self, mut piece: &[u8]) -> Result<(), BadLines> {
        if let Some(bad) = &self.bad {
            return Err(bad.clone());
        }
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = piece.split_at(end);
            self.gather(line)?;
            self.end_line()?;
            piece = rest.get(1..).unwrap_or_default();
        }
        self.gather(piece)
    }

    /// Says whether all of it was as it should be. The last line needs no end.
    pub(crate) fn finish(mut self) -> Result<(), BadLines> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        self.end_line()?;
        if self.num_full == 0 { Err(BadLines::Empty) } else { Ok(()) }
    }

    fn gather(&mut self, piece: &[u8]) -> Result<(), BadLines> {
        let max = self.limits.max_line_bytes;
        if self.line.len() + piece.len() > max {
            return self.fail(BadLines::LongLine { line: self.num_read + 1, max });
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), BadLines> {
        self.num_read += 1;
        let checked = check(&self.line, self.num_read);
        self.line.clear();
        match checked {
            Ok(false) => Ok(()),
            Ok(true) if self.num_full == self.limits.max_lines => {
                self.fail(BadLines::ManyLines { max: self.limits.max_lines })
            }
            Ok(true) => {
                self.num_full += 1;
                Ok(())
            }
            Err(bad) => self.fail(bad),
        }
    }

    fn fail(&mut self, bad: BadLines) -> Result<(), BadLines> {
        self.line = Vec::new();
        self.bad = Some(bad.clone());
        Err(bad)
    }
}

/// Whether there is something in the line.
fn check(bytes: &[u8], line: usize) -> Result<bool, BadLines> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadLines::NotUtf8 { line })?;
    // Some editors begin a file so.
    let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { text };
    if text.trim().is_empty() {
        return Ok(false);
    }
    let is_object = text.trim_start().starts_with('{');
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) if is_object => Ok(true),
        Ok(_) => Err(BadLines::NotObject { line, column: 1 }),
        Err(error) => Err(BadLines::NotObject { line, column: error.column() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: LineLimits = LineLimits { max_lines: 3, max_line_bytes: 16 };

    fn checked(text: &[u8], piece: usize) -> Result<(), BadLines> {
        let mut lines = Lines::new(LIMITS);
        for piece in text.chunks(piece) {
            lines.push(piece)?;
        }
        lines.finish()
    }

    #[test]
    fn lines_are_objects_and_numbered_as_editors_do() {
        let cases: [(&[u8], Result<(), BadLines>); 12] = [
            (b"{}\n{\"a\": 1}\r\n", Ok(())),
            (b"{}", Ok(())),
            ("\u{feff}{}\n".as_bytes(), Ok(())),
            (b"{}\n\n  \n{}\n{}\n\n", Ok(())),
            (b"{}\n{}\n{}\n{}\n", Err(BadLines::ManyLines { max: 3 })),
            (b"", Err(BadLines::Empty)),
            (b"\n \n", Err(BadLines::Empty)),
            (b"{}\n\n[]\n", Err(BadLines::NotObject { line: 3, column: 1 })),
            (b"{}\n{\"a\"}\n", Err(BadLines::NotObject { line: 2, column: 5 })),
            (b"{}\n{} {}", Err(BadLines::NotObject { line: 2, column: 4 })),
            (b"{}\n{\"a\":\"\xff\"}\n", Err(BadLines::NotUtf8 { line: 2 })),
            (b"{\"a\":\"12345678901\"}", Err(BadLines::LongLine { line: 1, max: 16 })),
        ];
        for (text, expected) in cases {
            for piece in [1, 2, 5, 100] {
                assert_eq!(checked(text, piece), expected, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_was_wrong_first_stays() {
        let mut lines = Lines::new(LIMITS);
        let bad = BadLines::NotObject { line: 1, column: 1 };

        assert_eq!(lines.push(b"1\n"), Err(bad.clone()));
        assert_eq!(lines.push(b"{}\n"), Err(bad.clone()));
        assert_eq!(lines.finish(), Err(bad));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in prop::collection::vec(
            prop::sample::select(b"{}[]\"a\n \xff\xc3\xa9".to_vec()), 0..40), piece in 1usize..9)
        {
            prop_assert_eq!(checked(&text, piece), checked(&text, 1000));
        }
    }
}
