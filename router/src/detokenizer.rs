//! Tokens to text, one at a time.
//!
//! Every token of the tokenizers served here stands for a fixed string of bytes, whatever its
//! neighbours are. So the bytes are looked up in a table that is built once per model, and text is
//! whatever of them is whole characters: no window is ever decoded again.

pub use sconce_proto::token_table::{Error, TokenTable};

/// The text of one completion, from the bytes of its tokens.
#[derive(Debug, Default)]
pub struct Detokenizer {
    /// The beginning of a character, at most three bytes between calls.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Takes the bytes of the next token and appends the characters that are whole now. Bytes that
    /// can't become a character are replaced by U+FFFD, as `String::from_utf8_lossy` does.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        if self.pending.is_empty()
            && let Ok(whole) = std::str::from_utf8(bytes)
        {
            text.push_str(whole);
            return;
        }
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        let num_kept = loop {
            let (whole, invalid) = match std::str::from_utf8(rest) {
                Ok(whole) => (whole, None),
                Err(error) => {
                    let (whole, _) = rest.split_at(error.valid_up_to());
                    (std::str::from_utf8(whole).unwrap_or_default(), Some(error.error_len()))
                }
            };
            text.push_str(whole);
            rest = rest.get(whole.len()..).unwrap_or_default();
            match invalid {
                None => break 0,
                Some(None) => break rest.len(),
                Some(Some(num_invalid)) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = rest.get(num_invalid..).unwrap_or_default();
                }
            }
        };
        self.pending.drain(..self.pending.len() - num_kept);
    }

    /// Ends the text: a character that never became whole is replaced by U+FFFD.
    pub fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests;
