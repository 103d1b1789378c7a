//! Finds markers in text that arrives in pieces.
//!
//! Everything behind it sees the same tokens however the text was cut, so nothing behind it has to
//! think about pieces. A beginning of a marker is held back until it is decided what it is; each
//! character is looked at a number of times that depends on the markers alone.

/// What text is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A character that belongs to no marker.
    Char(char),
    /// A whole marker.
    Marker(&'static str),
}

/// Cuts text into tokens. No marker may be the beginning of another.
pub(super) struct Lexer {
    markers: &'static [&'static str],
    held: String,
}

impl Lexer {
    pub(super) fn new(markers: &'static [&'static str]) -> Self {
        Self { markers, held: String::new() }
    }

    /// Takes the next character and says which tokens are known now.
    pub(super) fn push(&mut self, c: char, mut each: impl FnMut(Token)) {
        if self.held.is_empty() && !self.markers.iter().any(|marker| marker.starts_with(c)) {
            each(Token::Char(c));
            return;
        }
        self.held.push(c);
        while !self.held.is_empty() {
            let held = self.held.as_str();
            let Some(marker) = self.markers.iter().find(|marker| marker.starts_with(held)) else {
                each(Token::Char(self.held.remove(0)));
                continue;
            };
            if *marker == held {
                self.held.clear();
                each(Token::Marker(marker));
            }
            return;
        }
    }

    /// Ends the text: a beginning of a marker was no marker.
    pub(super) fn finish(&mut self, each: impl FnMut(Token)) {
        std::mem::take(&mut self.held).chars().map(Token::Char).for_each(each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        let mut lexer = Lexer::new(&["<a>", "<<b"]);
        let mut tokens = Vec::new();
        for c in text.chars() {
            lexer.push(c, |token| tokens.push(token));
        }
        lexer.finish(|token| tokens.push(token));
        tokens
    }

    #[test]
    fn a_marker_may_follow_a_beginning_of_one() {
        use Token::{Char, Marker};
        assert_eq!(tokens("<<a>"), [Char('<'), Marker("<a>")]);
        assert_eq!(tokens("<<<b"), [Char('<'), Marker("<<b")]);
        assert_eq!(tokens("<a<a>"), [Char('<'), Char('a'), Marker("<a>")]);
    }

    #[test]
    fn text_that_ends_like_a_marker_begins_is_not_lost() {
        assert_eq!(tokens("é<a"), ['é', '<', 'a'].map(Token::Char));
    }
}
